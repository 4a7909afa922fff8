"""Loading one split of a data set, and single image files. Sources, decoding and the cache lie beside this file."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from image_transformer.data.cache import cache_file, recall, save
from image_transformer.data.decode import Request, check_shape, read_image, write_images
from image_transformer.data.edits import Kind, edited
from image_transformer.data.images import DataError, ImageData, NoSplitError
from image_transformer.data.sources import SPLITS, Origin, Pool, locate


def load_data(
    source: str,
    split: str = "train",
    *,
    shape: tuple[int, int, int] | None = None,
    size: tuple[int, int] | None = None,
    skip_bad: bool = False,
    edits: Kind = "none",
) -> ImageData:
    """One split of a data set: decoded once, from then on memory-mapped from `$IMAGE_TRANSFORMER_CACHE`.

    `source` is `cifar10-mini`; `cifar10` or another name of a folder in `$IMAGE_TRANSFORMER_DATA` (`cifar10` also from
    the hub); a folder of images, whose train/validation/test sub-folders are splits and whose class sub-folders are
    labels, and where `metadata.jsonl` may hold captions; packages of emoji; Parquet file(s) in the Hugging Face image
    layout; a uint8 `.npy` or `.npz`, or a folder of `train.npy`, ...; a hub id; or one of the made data sets: shapes,
    shapes-unseen, shapes-edits, shapes-edits-unseen, mirror, twins, bar.
    A source without validation images has some carved off its training images, and test images too if it has nothing
    but training images: see `carve`; "all" is the whole of such a source.
    A `.npy` that needs no carving or conversion is mapped where it lies.

    `shape=(c, h, w)` is what the model wants: grey becomes RGB, or the reverse; another h or w is refused. Without it,
    files come as RGB and arrays as they are. `size=(h, w)` crops centrally to that aspect, then resizes: by block
    means (Pillow's `reduce`) when shrinking by a whole factor, by Lanczos otherwise. Palettes become RGB, what
    is transparent lies on white, the EXIF orientation is applied. The cache is keyed by the files' paths, sizes and
    times and these options; for a hub id, by the id instead of files.
    `edits` makes each image into a pair: a photograph, and how it looks after an edit that the caption names; "local"
    ones, those of the "whole" image, or "all": see `data/edits.py`. They are held in memory, and data that
    consist of pairs already stay as they are.
    Raises DataError for what is missing, unreadable (unless `skip_bad`), not 8-bit, of mixed sizes or another shape.

    >>> it.load_data("cifar10-mini", "test").images.shape
    (1000, 3, 32, 32)
    """
    if split not in (*SPLITS, "all"):
        raise DataError(f"unknown split {split!r}: expected train, validation, test or all")
    ask, found = Request(source, split, shape, size, skip_bad, whole=True), locate(source)
    cache = cache_file(found, ask)
    data = recall(cache, ask)
    if data is None:
        data = _read(found, ask, cache)
    check_shape(data.images.shape[1:], ask)
    return data if edits == "none" or data.sources is not None else edited(data, edits)


def load_files(
    files: Sequence[Path], *, shape: tuple[int, int, int] | None = None, size: tuple[int, int] | None = None
) -> NDArray[np.uint8]:
    """The named image files, in their order, as uint8 (n, c, h, w), converted and checked as in `load_data`."""
    memory = io.BytesIO()
    write_images(list(files), np.arange(len(files)), Request(str(files[0]), shape=shape, size=size), memory)
    return np.load(io.BytesIO(memory.getbuffer()))


def load_file(file: Path, channels: int, *, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """One image file of any size as uint8 (channels, h, w), converted as in `load_data`."""
    return read_image(file, str(file), channels, Request(str(file), size=size).size)


def has_splits(source: str) -> bool:
    """Whether a source comes divided into splits, so that "all" of it has no meaning. DataError if it is not there."""
    found = locate(source)
    return set(found.read(found)) != {"train"}


def carve(n: int, held_out: Sequence[str]) -> dict[str, NDArray[np.int64]]:
    """Sorted rows of each `held_out` split and of "train" among n images: disjoint, exhaustive, a function of n alone.

    A held-out split takes a pseudo-random 5 %, at least 1 and at most 2,000 images; the first one's rows are the same
    whether or not there is a second.
    """
    order = np.argsort(np.random.PCG64(0).random_raw(n), kind="stable")  # raw streams never change between versions
    count = max(1, min(n // 20, 2000))
    rows = {name: order[i * count : (i + 1) * count] for i, name in enumerate(held_out)}
    return {name: np.sort(part) for name, part in {**rows, "train": order[len(held_out) * count :]}.items()}


def _read(found: Origin, ask: Request, cache: Path) -> ImageData:
    """The split decoded into the cache; a fitting .npy as it is."""
    pool, rows = choose(found.read(found), ask)
    if _fits(pool, rows, ask):  # of a file of NumPy, which has no captions
        return ImageData(ask.source, ask.split, pool.items, pool.labels, pool.classes)
    return save(pool, rows, ask, cache)


def choose(pools: Mapping[str, Pool], ask: Request) -> tuple[Pool, NDArray[np.int64]]:
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
        raise NoSplitError(f"{ask.source}: no {ask.split} split, only {', '.join(pools) or 'others'}")
    n = len(pools[home].items)
    if n == 0:
        raise DataError(f"{ask.source}: the {home} split holds no images")
    if home != "train":
        return pools[home], np.arange(n)
    if n <= len(held_out):
        raise DataError(f"{ask.source}: {n} image(s) are too few to split into train, {', '.join(held_out)}")
    return pools[home], carve(n, held_out)[ask.split]


def _fits(pool: Pool, rows: NDArray[np.int64], ask: Request) -> bool:
    """Whether the pool is the answer already: a mapped array, wanted whole and as it is."""
    if not isinstance(pool.items, np.memmap) or len(rows) < len(pool.items):
        return False
    _, c, h, w = pool.items.shape
    return ask.size in (None, (h, w)) and (ask.shape is None or ask.shape[0] == c)
