"""The cache of decoded splits: a .npy for each, and behind it what else is known, such as labels and captions.

The images of edits are followed by their sources, in the same array.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import uuid
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from image_transformer.data.decode import Request, write_images
from image_transformer.data.images import DataError, ImageData, first_line
from image_transformer.data.sources import Origin, Pool

CACHE_FORMAT = 4  # raise it when decoding changes: what was cached before is then no longer found


def cache_file(found: Origin, ask: Request) -> Path:
    """Where the decoded split is cached: a digest of the files' paths, sizes and times and of the options."""
    files = [(str(file), stat.st_size, stat.st_mtime_ns) for file in found.files for stat in [file.stat()]]
    channels = ask.shape and ask.shape[0]
    key = json.dumps([CACHE_FORMAT, found.root, files, ask.split, channels, ask.size, ask.skip_bad])
    name = Path(found.root).name.encode()[:100].decode(errors="ignore")
    return cache_folder() / f"{name}-{ask.split}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.npy"


def cache_folder() -> Path:
    own = os.environ.get("IMAGE_TRANSFORMER_CACHE")
    try:
        return Path(own) if own else Path.home() / ".cache" / "image-transformer"
    except RuntimeError:  # of a user without a home, as in some containers
        raise DataError("there is no home folder: set IMAGE_TRANSFORMER_CACHE to a folder for decoded images") from None


def recall(cache: Path, ask: Request) -> ImageData | None:
    """The split that a cache file holds; None where there is no file or a damaged one."""
    try:
        return _map(cache, ask)
    except Exception:  # OSError, ValueError, KeyError, ...: whatever is wrong, decoding again puts it right
        return None


def save(pool: Pool, rows: NDArray[np.int64], ask: Request, cache: Path) -> ImageData:
    """The rows decoded into the cache file, or into a nameless file where that fails, and mapped."""
    try:
        return _save(pool, rows, ask, cache)
    except OSError as error:  # a read-only or full disk; whatever is wrong with the images is a DataError
        why = f"the cache cannot be written ({first_line(error)}), so images are decoded again each time"
        warnings.warn(why, stacklevel=2)
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            return _save(pool, rows, ask, Path(folder) / cache.name)  # the mapping outlives the file's name


def _save(pool: Pool, rows: NDArray[np.int64], ask: Request, cache: Path) -> ImageData:
    """The rows decoded into a cache file, which appears at once and whole, and mapped."""
    cache.parent.mkdir(parents=True, exist_ok=True)
    temporary = cache.with_name(f"{cache.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            paired = pool.sources is not None
            if paired:  # one that cannot be read cannot be left out alone
                both = [*(pool.items[row] for row in rows), *(pool.sources[row] for row in rows)]
                write_images(both, np.arange(len(both)), replace(ask, skip_bad=False), file)
            kept = rows.tolist() if paired else write_images(pool.items, rows, ask, file)
            labels = None if pool.labels is None else pool.labels[kept].tolist()
            captions = None if pool.captions is None else [pool.captions[row] for row in kept]
            tail = {
                "labels": labels, "classes": pool.classes, "skipped": len(rows) - len(kept), "captions": captions,
                "paired": paired,
            }  # fmt: skip
            file.seek(0, os.SEEK_END)
            file.write(json.dumps(tail).encode())
        os.replace(temporary, cache)
    finally:
        temporary.unlink(missing_ok=True)
    return _map(cache, ask)


def _map(cache: Path, ask: Request) -> ImageData:
    """The split that a cache file holds."""
    images = np.lib.format.open_memmap(cache, mode="r")  # `np.load` would also try archives and pickles
    with cache.open("rb") as file:
        file.seek(images.offset + images.nbytes)
        tail = json.load(file)
    labels = None if tail["labels"] is None else np.array(tail["labels"], dtype=np.int64)
    captions = None if tail["captions"] is None else tuple(map(tuple, tail["captions"]))
    n = len(images) // 2 if tail.get("paired") else len(images)
    known = labels, tuple(tail["classes"]), tail["skipped"], captions
    return ImageData(ask.source, ask.split, images[:n], *known, images[n:] if n < len(images) else None)
