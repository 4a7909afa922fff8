"""Clips: frames in their order, each an image that knows the ones before it. No torch."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageSequence

from image_transformer.data.bouncing import BOUNCING, make_clips
from image_transformer.data.decode import Request, check_shape, on_white, read_image
from image_transformer.data.images import START, DataError, ImageData, Past, first_line
from image_transformer.data.loading import choose
from image_transformer.data.recording import is_recording, read_recording
from image_transformer.data.sources import ALIASES, SPLITS, SUFFIXES, Pool, Pools, files_below, in_data_folder, path_of

IntArray = NDArray[np.int64]
Images = NDArray[np.uint8]
MOVING = {".gif", ".webp", ".apng"}
LONGEST = 100  # frames that one of a file may stand for
VIDEOS = {".mp4", ".webm", ".mkv", ".avi", ".mov", ".m4v"}


class Clip(NamedTuple):
    """Frames (t, c, h, w), and the number of the action before each of them but the first, where there are actions."""

    frames: Images
    actions: IntArray | None = None  # (t - 1,)


def load_clips(
    source: str,
    split: str = "train",
    *,
    shape: tuple[int, int, int] | None = None,
    size: tuple[int, int] | None = None,
) -> ImageData:
    """One split of a data set of clips: all frames as images, in memory, each with those before it (`past`).

    `source` is `bouncing` or `bouncing-noisy`; a uint8 `.npy` (n, t, h, w, c) or a folder of `train.npy`, ...; a folder
    that `image-transformer record` has filled; animated GIF, WebP or PNG files; video files (extra `[video]`); or
    folders of frames, each a clip, in the order of their names' numbers.
    Recorded play has labels: the action before each frame, `start` before the first. Its frames have a row more, see
    `recording.py`. shape, size: as in `load_data`, which divides other sources as this does: by whole clips.
    DataError for what is missing, unreadable, of mixed sizes or another shape.

    >>> data = it.load_clips("bouncing", "test")
    >>> data.images.shape, data.past.before(2).shape
    ((2000, 1, 16, 16), (2000, 2, 1, 16, 16))
    """
    if split not in (*SPLITS, "all"):
        raise DataError(f"unknown split {split!r}: expected train, validation, test or all")
    ask = Request(source, split, shape, size)
    pools, actions = _find(source, ask)
    pool, rows = choose(pools, ask)
    clips = [pool.items[row] for row in rows]
    for clip in clips:
        if clip.frames.shape[1:] != clips[0].frames.shape[1:]:
            (h, w), (other_h, other_w) = clips[0].frames.shape[2:], clip.frames.shape[2:]
            raise DataError(f"{source}: mixed sizes, {h}x{w} and {other_h}x{other_w}: pass --size {h} {w}")
    images = np.concatenate([clip.frames for clip in clips])
    if actions and ask.shape is not None and images.shape[1:] != ask.shape:
        wanted = " ".join(map(str, images.shape[1:]))
        raise DataError(f"{source}: its frames, with a row for rewards and ends, need --model.shape {wanted}")
    check_shape(images.shape[1:], ask)
    lengths = np.array([len(clip.frames) for clip in clips])
    start = np.repeat(np.cumsum(lengths) - lengths, lengths)
    labels = None
    if actions:  # numbered as in the environment, and START after them
        labels = np.concatenate([[len(actions), *clip.actions] for clip in clips if clip.actions is not None])
    past = Past(images, start, np.arange(len(images)))
    return ImageData(source, split, images, labels, (*actions, START) if actions else (), past=past)


def has_splits(source: str) -> bool:
    """Whether the clips of a source are divided already. DataError as in `load_clips`."""
    return set(_find(source, Request(source))[0]) != {"train"}


def read_clip(path: Path, channels: int, size: tuple[int, int] | None = None) -> Images:
    """The frames (t, channels, h, w) of one clip: an animated picture, a video, a .npy (t, h, w, c), or a folder."""
    if path.is_dir():
        files = _stills(path)
        if any(_moves(file) for file in path.iterdir()):
            raise DataError(f"{path}: a folder of clips: name one of them")
        if not files:
            raise DataError(f"{path}: no frames in this folder")
        return _stacked([read_image(file, str(file), channels, size) for file in files], path)
    if not path.is_file():
        raise DataError(f"{path}: no such file or folder")
    if path.suffix.lower() in VIDEOS:
        return _stacked([read_image(frame, str(path), channels, size) for frame in _video(path)], path)
    if path.suffix.lower() == ".npy":
        array = _array(path)
        if array.ndim == 5 and len(array) == 1:  # as `rollout` writes it
            array = array[0]
        if array.ndim not in (3, 4) or (array.ndim == 4 and array.shape[-1] not in (1, 3)):
            raise DataError(f"{path}: expected one clip (t, h, w, c) or (t, h, w), got {array.shape}")
        return _frames(array, str(path), channels, size)
    try:
        with Image.open(path) as opened:
            shown = [
                (np.asarray(on_white(one).convert("RGB")), one.info.get("duration"))
                for one in ImageSequence.Iterator(opened)
            ]
    except Exception as error:  # as in `decode.py`: Pillow meets broken files with errors of many kinds
        raise DataError(f"{path}: unreadable as a clip ({first_line(error)})") from None
    frames = [read_image(frame.transpose(2, 0, 1), str(path), channels, size) for frame, _ in shown]
    return np.repeat(_stacked(frames, path), _times([duration for _, duration in shown]), 0)


def _times(durations: Sequence[float | None]) -> list[int]:
    """How often each frame is shown: writers of files join frames that are equal into one that lasts longer."""
    least = min((one or 0 for one in durations), default=0)
    if least:  # what lasts longer is held for the eye, not for so many frames
        durations = [min(one or 0, LONGEST * least) for one in durations]
    times = [round((one or 0) / least) if least else 1 for one in durations]
    whole = all(count * least == (one or 0) for count, one in zip(times, durations, strict=True))
    return times if whole and least else [1] * len(durations)


def _find(source: str, ask: Request) -> tuple[Pools, tuple[str, ...]]:
    """The clips of a source by split, and the names of its actions."""
    path, channels = path_of(source), ask.shape[0] if ask.shape else None
    if source in BOUNCING:
        return Pools({split: partial(_made, source, split, channels, ask.size) for split in SPLITS}), ()
    if re.fullmatch(r"[\w-]+", source) and not path.exists():
        path = in_data_folder(source) or path
    if not path.exists():
        hint = f"names are {', '.join(BOUNCING)}, and image-transformer record records others"
        raise DataError(f"{source}: no such file or folder of clips; {hint}")
    if is_recording(path):
        play, names = read_recording(path)
        if ask.size not in (None, play[0][0].shape[2:]):
            raise DataError(f"{source}: recorded frames keep their size: record them anew with --size")
        return Pools({"train": lambda: Pool([Clip(*one) for one in play])}), names
    if path.is_file():
        return Pools({"train": partial(_all_of, [path], channels, ask.size)}), ()
    groups: dict[str, list[Path]] = {}
    for file in _clips_in(path):
        parts = file.relative_to(path).parts
        named = len(parts) > 1 or file.suffix == ".npy" or (parts and file.is_dir())  # one clip may be a whole split
        first = Path(parts[0]).stem.lower() if named else ""
        groups.setdefault(ALIASES.get(first, ""), []).append(file)
    loose = groups.pop("", [])
    if loose and groups:
        raise DataError(f"{source}: {loose[0].relative_to(path)} lies beside the folders of splits")
    groups = groups or {"train": loose}
    if not any(groups.values()):
        raise DataError(f"{source}: expected animated pictures, videos, .npy or folders of frames, found none")
    return Pools({split: partial(_all_of, files, channels, ask.size) for split, files in groups.items()}), ()


def _made(name: str, split: str, channels: int | None, size: tuple[int, int] | None) -> Pool:
    clips = make_clips(name, split)  # (n, t, c, h, w)
    return Pool([Clip(_frames(one.transpose(0, 2, 3, 1), name, channels or one.shape[1], size)) for one in clips])


def _all_of(files: Sequence[Path], channels: int | None, size: tuple[int, int] | None) -> Pool:
    return Pool([clip for file in files for clip in _several(file, channels, size)])


def _clips_in(root: Path) -> Iterator[Path]:
    """The clips below a folder: files that move, and folders of stills. Stills beside files that move are left out."""
    by_folder = sorted(files_below(root), key=lambda file: (str(file.parent), file.name))
    for folder, together in groupby(by_folder, lambda file: file.parent):
        files = list(together)
        moving = [file for file in files if file.suffix.lower() == ".npy" or _moves(file)]
        if any(file.suffix.lower() == ".webp" for file in moving):  # then those of one frame are short clips
            moving = [file for file in files if file in moving or file.suffix.lower() == ".webp"]
        if not moving and any(file.suffix.lower() in SUFFIXES for file in files):
            yield folder
        yield from moving


def _moves(file: Path) -> bool:
    """Whether a file holds a clip: by its name, or, where pictures of the kind may be still, by its frames."""
    kind = file.suffix.lower()
    if kind not in (".webp", ".png"):
        return kind in MOVING | VIDEOS
    try:
        with Image.open(file) as opened:
            return getattr(opened, "n_frames", 1) > 1
    except Exception:  # whoever reads it says what is wrong
        return kind == ".webp"


def _several(path: Path, channels: int | None, size: tuple[int, int] | None) -> list[Clip]:
    """The clips of one file: of a .npy perhaps many."""
    if path.suffix.lower() == ".npy" and (array := _array(path)).ndim == 5:
        if array.shape[-1] not in (1, 3):
            raise DataError(f"{path}: expected uint8 clips (n, t, h, w, c) with c 1 or 3, got {array.shape}")
        return [Clip(_frames(one, str(path), channels or array.shape[-1], size)) for one in array]
    return [Clip(read_clip(path, channels or 3, size))]


def _array(path: Path) -> NDArray[Any]:
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # OSError, ValueError, EOFError, ...
        raise DataError(f"{path}: unreadable as a NumPy file ({first_line(error)})") from None
    if array.dtype != np.uint8:
        raise DataError(f"{path}: expected uint8 values 0..255, got {array.dtype}")
    return array


def _frames(array: NDArray[Any], name: str, channels: int, size: tuple[int, int] | None) -> Images:
    """Frames (t, h, w, c) or (t, h, w) as (t, channels, h, w)."""
    frames = array[..., None] if array.ndim == 3 else array
    frames = frames.transpose(0, 3, 1, 2)
    if not frames.size:
        raise DataError(f"{name}: no frames in it, but an array {array.shape}")
    if frames.shape[1] == channels and size in (None, frames.shape[2:]):
        return np.array(frames, order="C")
    return np.stack([read_image(frame, name, channels, size) for frame in frames])


def _video(path: Path) -> Iterator[Images]:
    try:
        av: Any = importlib.import_module("av")
    except ImportError:
        raise DataError(f"{path}: videos need `pip install 'image-transformer-pytorch[video]'`") from None
    try:
        with av.open(str(path)) as opened:
            for frame in opened.decode(video=0):
                yield frame.to_ndarray(format="rgb24").transpose(2, 0, 1)
    except Exception as error:  # of PyAV, many
        raise DataError(f"{path}: unreadable as a video ({first_line(error)})") from None


def _stacked(frames: Sequence[Images], path: Path) -> Images:
    if len({frame.shape for frame in frames}) > 1:
        sizes = sorted({f"{h}x{w}" for _, h, w in (frame.shape for frame in frames)})
        raise DataError(f"{path}: frames of mixed sizes, {' and '.join(sizes)}")
    if not frames:
        raise DataError(f"{path}: no frames in it")
    return np.stack(frames)


def _stills(folder: Path) -> list[Path]:
    """The pictures of a folder, in the order of the numbers in their names."""
    files = [file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")]
    return sorted(
        files,
        key=lambda file: ([int(p) if p.isdecimal() else p for p in re.split(r"(\d+)", file.name)], file.name),
    )
