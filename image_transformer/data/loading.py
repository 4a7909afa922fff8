"""Images as memory-mapped uint8 arrays with fixed splits: names, folders, Parquet, NumPy files, the hub; never torch.

Batching, shuffling and flips live in train.py.
"""

from __future__ import annotations

import difflib
import glob
import hashlib
import importlib
import io
import json
import os
import re
import tempfile
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

NAMES = ("cifar10", "cifar10-mini")
SPLITS = ("train", "validation", "test")
ALIASES = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation", "test": "test"}
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif"}
MINI = Path(__file__).parent / "cifar10_mini"
CACHE_FORMAT = 1  # raise it when decoding changes: what was cached before is then no longer found


class DataError(ValueError):
    """A data set that cannot be had or does not fit: one line that names what was expected and what came."""


class _Unreadable(DataError):
    """A broken image file: the only fault that `skip_bad` forgives."""


@dataclass(frozen=True)
class ImageData:
    """uint8 images (n, c, h, w) of one split, memory-mapped where they came from disk, with labels if there are any."""

    name: str  # what the user asked for
    split: str
    images: NDArray[np.uint8]  # (n, c, h, w)
    labels: NDArray[np.int64] | None  # (n,)
    classes: tuple[str, ...]  # class names, or ()
    skipped: int = 0  # unreadable files left out (only with skip_bad)

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class _Request:
    """The arguments of `load`."""

    source: str
    split: str
    shape: tuple[int, int, int] | None
    size: tuple[int, int] | None
    skip_bad: bool
    whole: bool = True  # a data set, of which bad files can be left out, not files that were named one by one


@dataclass(frozen=True)
class _Pool:
    """One split as its source has it, not decoded yet."""

    items: Any  # a list of paths, a column of Arrow structs {bytes, path}, or an array (n, c, h, w)
    labels: NDArray[np.int64] | None = None
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Source:
    """Where a data set lies: its root, its files (none for a hub id), and what reads them into pools by split."""

    root: str
    files: tuple[Path, ...]
    read: Callable[[_Source], dict[str, _Pool]]


def load(
    source: str,
    split: str = "train",
    *,
    shape: tuple[int, int, int] | None = None,
    size: tuple[int, int] | None = None,
    skip_bad: bool = False,
) -> ImageData:
    """One split of a data set: decoded once, from then on memory-mapped from `$IMAGE_TRANSFORMER_CACHE`.

    `source` is `cifar10-mini`; `cifar10` or another name of a folder in `$IMAGE_TRANSFORMER_DATA` or `../shared/data`
    (`cifar10` also from the hub); a folder of images, whose train/validation/test sub-folders are splits and whose
    class sub-folders are labels; Parquet file(s) in the Hugging Face image layout; a uint8 `.npy` or `.npz`, or a
    folder of `train.npy`, ...; or a hub id.
    A source without validation images has some carved off its training images, and test images too if it has nothing
    but training images: see `carve`; "all" is the whole of such a source.
    A `.npy` that needs no carving or conversion is mapped where it lies.

    `shape=(c, h, w)` is what the model wants: grey becomes RGB, or the reverse; another h or w is refused. Without it,
    files come as RGB and arrays as they are. `size=(h, w)` crops centrally to that aspect, then resizes: by block
    means (Pillow's `reduce`) when shrinking by a whole factor, by Lanczos otherwise. Palettes become RGB, alpha is
    dropped, the EXIF orientation is applied. The cache is keyed by the files' paths, sizes and times and these
    options; for a hub id, by the id instead of files.
    Raises DataError for what is missing, unreadable (unless `skip_bad`), not 8-bit, of mixed sizes or another shape.
    """
    if split not in (*SPLITS, "all"):
        raise DataError(f"unknown split {split!r}: expected train, validation, test or all")
    if shape is not None and shape[0] not in (1, 3):
        raise DataError(f"shape {shape}: expected (channels, height, width) with 1 or 3 channels")
    if size is not None and min(size) < 1:
        raise DataError(f"size {size}: expected a positive height and width")
    ask, found = _Request(source, split, shape, size, skip_bad), _locate(source)
    cache = _cache_path(found, ask)
    try:
        data = _map(cache, ask) if cache.exists() else _read(found, ask, cache)
    except DataError:
        raise
    except ValueError:  # a damaged cache file
        cache.unlink(missing_ok=True)
        data = _read(found, ask, cache)
    _check_shape(data.images.shape[1:], ask)
    return data


def class_names(data: ImageData) -> tuple[str, ...]:
    """The names of the classes of labelled images; their numbers where they have none. DataError without labels."""
    if data.labels is None:
        raise DataError(
            f"{data.name}: the images have no labels, which a class-conditional model needs: expected a folder for "
            "each class, a column label, or an array of labels"
        )
    names = data.classes or tuple(str(i) for i in range(int(data.labels.max()) + 1))
    if data.labels.min() < 0 or data.labels.max() >= len(names):
        wrong = data.labels[(data.labels < 0) | (data.labels >= len(names))][0]
        raise DataError(f"{data.name}: expected labels from 0 to {len(names) - 1}, got {wrong}")
    return names


def class_labels(data: ImageData, classes: Sequence[str]) -> NDArray[np.int64]:
    """The class of each image, `(n,)`, as its number in `classes`. DataError for images of other classes."""
    names = class_names(data)
    unknown = [name for name in names if name not in classes]
    if unknown or data.labels is None:
        raise DataError(f"{data.name}: its class {unknown[0]!r} is not one of the model's: {', '.join(classes)}")
    return np.array([classes.index(name) for name in names])[data.labels]


def has_splits(source: str) -> bool:
    """Whether a source comes divided into splits, so that "all" of it has no meaning. DataError if it is not there."""
    found = _locate(source)
    return set(found.read(found)) != {"train"}


def load_files(
    files: Sequence[Path], *, shape: tuple[int, int, int] | None = None, size: tuple[int, int] | None = None
) -> NDArray[np.uint8]:
    """The named image files, in their order, as uint8 (n, c, h, w), converted and checked as in `load`; not cached."""
    memory = io.BytesIO()
    _decode(_Pool(list(files)), np.arange(len(files)), _Request(str(files[0]), "", shape, size, False, False), memory)
    return np.load(io.BytesIO(memory.getbuffer()))


def load_file(file: Path, channels: int, *, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """One image file of any size as uint8 (channels, h, w), converted as in `load`; not cached."""
    if size is not None and min(size) < 1:
        raise DataError(f"size {size}: expected a positive height and width")
    return _pixels(file, str(file), channels, size)


def carve(n: int, held_out: Sequence[str]) -> dict[str, NDArray[np.int64]]:
    """Sorted rows of each `held_out` split and of "train" among n images: disjoint, exhaustive, a function of n alone.

    A held-out split takes a pseudo-random 5 %, at least 1 and at most 2,000 images; the first one's rows are the same
    whether or not there is a second.
    """
    order = np.argsort(np.random.PCG64(0).random_raw(n), kind="stable")  # raw streams never change between versions
    count = max(1, min(n // 20, 2000))
    rows = {name: order[i * count : (i + 1) * count] for i, name in enumerate(held_out)}
    return {name: np.sort(part) for name, part in {**rows, "train": order[len(held_out) * count :]}.items()}


# Where a source lies


def _locate(source: str) -> _Source:
    """The files behind a source and their reader, found without opening any."""
    if source == "cifar10-mini":
        return _Source(str(MINI), tuple(sorted(MINI.iterdir())), _read_mini)
    path = Path(source).expanduser()
    if source == "cifar10" or (re.fullmatch(r"[\w-]+", source) and not path.exists()):
        path = _among_data(source) or path
    if path.is_dir():
        return _folder(path.resolve())
    if source == "cifar10":
        return _Source("uoft-cs/cifar10", (), _read_datasets)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", source) and not path.exists() and not path.parent.is_dir():
        return _Source(source, (), _read_datasets)
    files = [path] if path.exists() else [Path(name) for name in sorted(glob.glob(source, recursive=True))]
    files = [file.absolute() for file in files if file.is_file()]  # resolving could lose the suffix of a link
    if not files:
        near = difflib.get_close_matches(source, NAMES, 1)
        hint = f"did you mean {near[0]}?" if near else f"names are {' and '.join(NAMES)}"
        raise DataError(f"{source}: no such file, folder or data set; {hint}")
    return _pick_reader(Path(os.path.commonpath([file.parent for file in files])), files)


def _among_data(name: str) -> Path | None:
    """The folder of that name where data sets are kept, if there is one."""
    own, repository = os.environ.get("IMAGE_TRANSFORMER_DATA"), Path(__file__).resolve().parents[2]
    roots = [Path(own)] if own else []
    roots += [Path("../shared/data"), repository.parent / "shared" / "data"]
    return next((root / name for root in roots if (root / name).is_dir()), None)


def _folder(root: Path) -> _Source:
    """All files below a folder but the hidden ones."""
    files = [file.relative_to(root) for file in sorted(root.rglob("*")) if file.is_file()]
    return _pick_reader(root, [root / file for file in files if not any(part[0] == "." for part in file.parts)])


def _pick_reader(root: Path, files: Sequence[Path]) -> _Source:
    """The files that one reader takes, Parquet before images before NumPy."""
    readers = ((_read_datasets, {".parquet"}), (_read_images, SUFFIXES), (_read_numpy, {".npy", ".npz"}))
    for read, suffixes in readers:
        chosen = tuple(file for file in files if file.suffix.lower() in suffixes)
        if chosen:
            return _Source(str(root), chosen, read)
    what = files[0] if len(files) == 1 else root
    raise DataError(f"{what}: expected images (.png, .jpg, .webp, ...), .parquet, .npy or .npz, found none")


# Readers: from files to pools by split


def _read_mini(found: _Source) -> dict[str, _Pool]:
    """The embedded part of CIFAR-10: strips of 32x32 images, one above the other."""
    index = json.loads((MINI / "index.json").read_text())
    pools = {}
    for split in SPLITS:
        strips = [np.asarray(Image.open(file)) for file in found.files if file.name.startswith(split)]
        images = np.concatenate(strips).reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2)  # (n, c, h, w)
        pools[split] = _Pool(images, np.array(index[split]["labels"]), tuple(index["classes"]))
    return pools


def _read_images(found: _Source) -> dict[str, _Pool]:
    """A folder of images; where it has split sub-folders, only these count. All splits number the classes alike."""
    groups: dict[str, list[tuple[Path, str]]] = {}  # split, or "" -> files with their class folders, or ""
    for file in found.files:
        folders = file.relative_to(found.root).parts[:-1]
        split = ALIASES.get(folders[0].lower(), "") if folders else ""
        groups.setdefault(split, []).append((file, "".join(folders[bool(split) :][:1])))
    loose = groups.pop("", [])
    groups = groups or {"train": loose}
    classes = sorted({name for group in groups.values() for _, name in group})
    pools = {}
    for split, group in groups.items():
        files, labels = [file for file, _ in group], np.array([classes.index(name) for _, name in group])
        pools[split] = _Pool(files) if "" in classes else _Pool(files, labels, tuple(classes))
    return pools


def _read_numpy(found: _Source) -> dict[str, _Pool]:
    """Arrays of .npy (by file name) or .npz (by key), named by split or only one; labels are NAME_labels or labels."""
    arrays: dict[str, NDArray[Any]] = {}
    for file in found.files:
        try:
            with file.open("rb") as opened:
                mapped = file.suffix.lower() == ".npy"
                arrays |= {file.stem: np.load(file, mmap_mode="r")} if mapped else dict(np.load(opened))
        except Exception as error:  # OSError, ValueError, EOFError, BadZipFile, ...
            raise DataError(f"{file}: unreadable as a NumPy file ({_line(error)})") from None
    names = [name for name in arrays if name != "labels" and not name.endswith("_labels")]
    what = found.root if len(found.files) > 1 else str(found.files[0])
    if len(names) != 1 and not (names and set(names) <= set(SPLITS)):
        raise DataError(f"{what}: expected arrays train, validation, test or only one, found {', '.join(arrays)}")
    pools = {}
    for name in names:
        images = _channels_first(arrays[name], what)
        labels = arrays.get(f"{name}_labels", arrays.get("labels") if len(names) == 1 else None)
        if labels is not None and (labels.shape != (len(images),) or labels.dtype.kind not in "iu"):
            raise DataError(f"{what}: expected {len(images)} integer labels, got {labels.dtype} {labels.shape}")
        pools[name if name in SPLITS else "train"] = _Pool(
            images, labels if labels is None else labels.astype(np.int64)
        )
    return pools


def _channels_first(array: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """A view (n, c, h, w) of (n, h, w), (n, h, w, c) or (n, c, h, w); where both axes could be c, the last reading."""
    if array.dtype != np.uint8:
        raise DataError(f"{name}: expected uint8 values 0..255, got {array.dtype}")
    if array.ndim == 3:
        return array[:, None]
    if array.ndim == 4 and array.shape[1] in (1, 3):
        return array
    if array.ndim == 4 and array.shape[3] in (1, 3):
        return array.transpose(0, 3, 1, 2)
    raise DataError(f"{name}: expected (n, h, w), (n, h, w, c) or (n, c, h, w) with c 1 or 3, got {array.shape}")


def _read_datasets(found: _Source) -> dict[str, _Pool]:
    """Parquet files or a hub id, through Hugging Face `datasets`; splits other than the three are left out."""
    try:
        datasets: Any = importlib.import_module("datasets")
    except ImportError:
        need = "Parquet and the hub need `pip install 'image-transformer-pytorch[hf]'`; cifar10-mini needs nothing"
        where = "" if found.files else "no such file or folder, and as a hub id: "
        raise DataError(f"{found.root}: {where}{need}") from None
    try:
        options = {"path": "parquet", "data_files": _by_split(found)} if found.files else {"path": found.root}
        parts = datasets.load_dataset(**options)
        return {ALIASES[name]: _arrow_pool(datasets, parts[name]) for name in parts if name in ALIASES}
    except Exception as error:  # missing on the hub, no network, a broken file, another schema, ...
        kind = "cannot be read as Parquet" if found.files else "no such file or folder, nor to be had from the hub"
        raise DataError(f"{found.root}: {kind} ({_line(error)})") from None


def _by_split(found: _Source) -> dict[str, list[str]]:
    """Parquet files by the first word of their path below the root that names a split; train if none does."""
    groups: dict[str, list[str]] = {}
    for file in found.files:
        words = re.split(r"[\W_]+", str(file.relative_to(found.root)).lower())
        groups.setdefault(next((ALIASES[word] for word in words if word in ALIASES), "train"), []).append(str(file))
    return groups


def _arrow_pool(datasets: Any, part: Any) -> _Pool:
    """One split of a Hugging Face data set, its images still encoded."""
    column = next((column for column in ("img", "image") if column in part.column_names), None)
    if column is None:
        raise ValueError(f"expected a column img or image, found {', '.join(part.column_names)}")
    items = part.cast_column(column, datasets.Image(decode=False)).data.column(column)
    labels = part.data.column("label").to_numpy() if "label" in part.column_names else np.empty(0)
    if labels.dtype.kind not in "iu":  # none at all, some missing, or text
        return _Pool(items)
    return _Pool(items, labels.astype(np.int64), tuple(getattr(part.features["label"], "names", ())))


# From pools to one decoded split


def _read(found: _Source, ask: _Request, cache: Path) -> ImageData:
    """The split decoded into the cache, or into a nameless file where that fails; a fitting .npy as it is."""
    pool, rows = _choose(found.read(found), ask)
    if _fits(pool, rows, ask):
        return ImageData(ask.source, ask.split, pool.items, pool.labels, pool.classes)
    try:
        return _save(pool, rows, ask, cache)
    except OSError:  # a read-only or full disk; whatever is wrong with the images is a DataError
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            return _save(pool, rows, ask, Path(folder) / cache.name)  # the mapping outlives the file's name


def _choose(pools: dict[str, _Pool], ask: _Request) -> tuple[_Pool, NDArray[np.int64]]:
    """The pool that holds the wanted split, and its rows there."""
    if ask.split == "all":
        if set(pools) != {"train"}:
            raise DataError(f"{ask.source}: has splits of its own ({', '.join(pools)}): choose one of them")
        return pools["train"], np.arange(len(pools["train"].items))
    held_out: tuple[str, ...] = ()
    if "train" in pools and "validation" not in pools:
        held_out = ("validation",) if "test" in pools else ("validation", "test")
    home = "train" if ask.split in held_out else ask.split
    if home not in pools:
        raise DataError(f"{ask.source}: no {ask.split} split, only {', '.join(pools) or 'others'}")
    n = len(pools[home].items)
    if n == 0:
        raise DataError(f"{ask.source}: the {home} split holds no images")
    if home != "train":
        return pools[home], np.arange(n)
    if n <= len(held_out):
        raise DataError(f"{ask.source}: {n} image(s) are too few to split into train, {', '.join(held_out)}")
    return pools[home], carve(n, held_out)[ask.split]


def _fits(pool: _Pool, rows: NDArray[np.int64], ask: _Request) -> bool:
    """Whether the pool is the answer already: a mapped array, wanted whole and as it is."""
    if not isinstance(pool.items, np.memmap) or len(rows) < len(pool.items):
        return False
    _, c, h, w = pool.items.shape
    return ask.size in (None, (h, w)) and (ask.shape is None or ask.shape[0] == c)


def _decode(pool: _Pool, rows: NDArray[np.int64], ask: _Request, file: BinaryIO) -> list[int]:
    """Write the rows as a .npy of uint8 (n, c, h, w), image by image; returns the rows that could be read."""
    kept: list[int] = []
    shape, first = (0, 0, 0), ""
    channels = ask.shape[0] if ask.shape else pool.items.shape[1] if isinstance(pool.items, np.ndarray) else 3
    for row in rows.tolist():
        name = str(pool.items[row]) if isinstance(pool.items, list) else f"{ask.source}, image {row}"
        try:
            pixels = _pixels(pool.items[row], name, channels, ask.size)
        except _Unreadable as error:
            if ask.skip_bad:
                continue
            hint = "; --skip-bad (skip_bad=True) leaves such files out" if ask.whole else ""
            raise DataError(f"{error}{hint}") from None
        if not kept:
            shape, first = pixels.shape, name
            _check_shape(shape, ask)
            _write_header(file, (len(rows), *shape))
        if pixels.shape != shape:
            sizes = f"{first} is {shape[1]}x{shape[2]}, {name} is {pixels.shape[1]}x{pixels.shape[2]}"
            raise DataError(f"{ask.source}: mixed sizes, {sizes}: pass --size {shape[1]} {shape[2]}")
        file.write(pixels.tobytes())
        kept.append(row)
    if not kept:
        raise DataError(f"{ask.source}: none of {len(rows)} images is readable")
    _write_header(file, (len(kept), *shape))
    return kept


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    """Write or rewrite the head of a .npy, which numpy pads so that another n takes the same room."""
    file.seek(0)
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})


def _pixels(item: Any, name: str, channels: int, size: tuple[int, int] | None) -> NDArray[np.uint8]:
    """One image as (c, h, w): upright, grey or RGB, resized if wanted."""
    try:
        with _open(item) as opened:
            deep = opened.mode[0] in "IF" or ";16" in repr(getattr(opened, "tile", ""))  # loading would hide it
            image = ImageOps.exif_transpose(opened)
    except Exception as error:  # Pillow meets broken files with OSError, SyntaxError, ValueError, struct.error, ...
        raise _Unreadable(f"{name}: unreadable image ({_line(error)})") from None
    if deep:
        raise DataError(f"{name}: expected 8 bits a channel, got 16-bit or floating-point values")
    image.info.pop("transparency", None)  # a palette's would raise a warning
    image = image.convert("L" if channels == 1 else "RGB")
    if size is not None:
        image = _resize(image, size)
    return np.asarray(image).reshape(image.height, image.width, channels).transpose(2, 0, 1)


def _open(item: Any) -> Image.Image:
    """A path, an Arrow struct {bytes, path} or an array (c, h, w) as a Pillow image, perhaps not loaded yet."""
    if isinstance(item, np.ndarray):
        return Image.fromarray(item[0] if len(item) == 1 else item.transpose(1, 2, 0))
    if isinstance(item, Path):
        return Image.open(item)
    struct = item.as_py()
    return Image.open(struct["path"] if struct["bytes"] is None else io.BytesIO(struct["bytes"]))


def _resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The largest central box of the wanted aspect, scaled to (h, w)."""
    h, w = size
    scale = min(image.height / h, image.width / w)
    box_h, box_w = max(1, round(h * scale)), max(1, round(w * scale))
    top, left = (image.height - box_h) // 2, (image.width - box_w) // 2
    image = image.crop((left, top, left + box_w, top + box_h))
    if box_h % h == 0 and box_w % w == 0:
        return image.reduce((box_w // w, box_h // h))
    return image.resize((w, h), Image.Resampling.LANCZOS)


def _check_shape(came: Sequence[int], ask: _Request) -> None:
    """Raise DataError unless images (c, h, w) have the height and width that the model wants."""
    if ask.shape is None or tuple(came[1:]) == tuple(ask.shape[1:]):
        return
    (h, w), (want_h, want_w) = came[1:], ask.shape[1:]
    how = "to enlarge them" if h < want_h or w < want_w else "to shrink them"
    wrong = f"images are {h}x{w}, the model wants {want_h}x{want_w}"
    raise DataError(f"{ask.source}: {wrong}: pass --size {want_h} {want_w} {how}")


def _line(error: Exception) -> str:
    """An error's first line, or its name."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


# The cache: a .npy for each split, with labels, class names and the count of skipped files as JSON behind the array


def _cache_path(found: _Source, ask: _Request) -> Path:
    """Where the decoded split is cached: a digest of the files' paths, sizes and times and of the options."""
    files = [(str(file), stat.st_size, stat.st_mtime_ns) for file in found.files for stat in [file.stat()]]
    channels = ask.shape and ask.shape[0]
    key = json.dumps([CACHE_FORMAT, found.root, files, ask.split, channels, ask.size, ask.skip_bad])
    own = os.environ.get("IMAGE_TRANSFORMER_CACHE")
    folder = Path(own) if own else Path.home() / ".cache" / "image-transformer"
    return folder / f"{Path(found.root).name}-{ask.split}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.npy"


def _save(pool: _Pool, rows: NDArray[np.int64], ask: _Request, cache: Path) -> ImageData:
    """Decode the rows into a cache file, which appears at once and whole, and map it."""
    cache.parent.mkdir(parents=True, exist_ok=True)
    temporary = cache.with_name(f"{cache.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            kept = _decode(pool, rows, ask, file)
            labels = None if pool.labels is None else pool.labels[kept].tolist()
            tail = {"labels": labels, "classes": pool.classes, "skipped": len(rows) - len(kept)}
            file.seek(0, os.SEEK_END)
            file.write(json.dumps(tail).encode())
        os.replace(temporary, cache)
    finally:
        temporary.unlink(missing_ok=True)
    return _map(cache, ask)


def _map(cache: Path, ask: _Request) -> ImageData:
    """The split that a cache file holds."""
    images = np.load(cache, mmap_mode="r")
    with cache.open("rb") as file:
        file.seek(images.offset + images.nbytes)
        tail = json.load(file)
    labels = None if tail["labels"] is None else np.array(tail["labels"], dtype=np.int64)
    return ImageData(ask.source, ask.split, images, labels, tuple(tail["classes"]), tail["skipped"])
