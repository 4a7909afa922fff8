"""Builds image_transformer/data/cifar10_mini from the Parquet files of CIFAR-10: the same input gives the same bytes.

Run it as `python tools/make_cifar10_mini.py FOLDER`, where FOLDER holds train-*.parquet and test-*.parquet in the
layout of the hub's uoft-cs/cifar10. It needs pyarrow, and takes about six minutes on one core, nearly all of it WebP's.
Another version of libwebp may pack the same pixels into other bytes; the digests in index.json are of the pixels.
"""

import argparse
import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

# (split of CIFAR-10, first image of each class, images of each class). 4,300 training images fill about 9.5 MB.
PARTS = {"train": ("train", 0, 430), "validation": ("train", 430, 50), "test": ("test", 0, 100)}
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
# Images a sheet. Bytes per image on the test part: single files 1,737, strips of 100 1,632, of 200 1,649, of 10 1,698,
# 10 x 10 mosaics of 100 1,639, one 32 x 32 mosaic 1,668. Grouping by class saved 0.1 %, not worth a permutation.
STRIP = 100
ABOUT = (
    "A fixed, class-balanced part of CIFAR-10 (Alex Krizhevsky, Learning Multiple Layers of Features from Tiny Images, "
    "2009), a labelled subset of the 80 Million Tiny Images collected by Alex Krizhevsky, Vinod Nair and Geoffrey "
    "Hinton. Its authors declare no licence; it is used freely in research. Pixels are unchanged. Every sheet is a "
    "strip of images one above the other, in the order of `labels` and `rows`; each ten in a row hold one image of "
    "every class. `rows` are positions in CIFAR-10's training set (train, validation) or test set (test). `sha256` is "
    "that of the uint8 pixels, (images, channels, height, width), `labels_sha256` that of the labels as uint8."
)


def pick_rows(labels: np.ndarray, first: int, count: int) -> np.ndarray:
    """Rows of images first .. first + count - 1 of every class, in file order; each ten hold every class, shuffled."""
    by_class = np.stack([np.flatnonzero(labels == label)[first : first + count] for label in range(10)])
    shuffle = np.argsort(np.random.PCG64(0).random_raw((count, 10)), axis=1)  # a raw stream, frozen across versions
    return np.take_along_axis(by_class.T, shuffle, axis=1).ravel()


def read_parquet(folder: Path, split: str) -> tuple[list[bytes], np.ndarray]:
    """The image files and the labels of one split of CIFAR-10, in its own order."""
    table = pq.read_table(sorted(folder.glob(f"{split}-*.parquet")))
    blobs = table["img"].combine_chunks().field("bytes").to_pylist()
    return blobs, table["label"].to_numpy()


def decode(blob: bytes) -> np.ndarray:
    """Pixels of one image file, (h, w, c)."""
    return np.asarray(Image.open(io.BytesIO(blob)).convert("RGB"))


def write_strips(folder: Path, part: str, pixels: np.ndarray) -> None:
    """Write images (n, h, w, c) as lossless strips PART-00.webp, PART-01.webp, ..."""
    for i, start in enumerate(range(0, len(pixels), STRIP)):
        strip = np.concatenate(pixels[start : start + STRIP])  # (n h, w, c)
        path = folder / f"{part}-{i:02d}.webp"
        Image.fromarray(strip).save(path, "WEBP", lossless=True, exact=True, quality=100, method=6)


def make(source: Path, target: Path) -> None:
    """Write the strips and index.json of all parts into an empty or older `target`."""
    target.mkdir(parents=True, exist_ok=True)
    for old in [*target.glob("*.webp"), *target.glob("index.json")]:
        old.unlink()
    index: dict[str, object] = {"about": ABOUT, "classes": CLASSES}
    for part, (split, first, count) in PARTS.items():
        blobs, labels = read_parquet(source, split)
        rows = pick_rows(labels, first, count)
        pixels = np.stack([decode(blobs[row]) for row in rows])
        write_strips(target, part, pixels)
        index[part] = {
            "sha256": hashlib.sha256(pixels.transpose(0, 3, 1, 2).tobytes()).hexdigest(),
            "labels_sha256": hashlib.sha256(labels[rows].astype(np.uint8).tobytes()).hexdigest(),
            "labels": labels[rows].tolist(),
            "rows": rows.tolist(),
        }
    (target / "index.json").write_text(json.dumps(index, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder with the Parquet files of CIFAR-10")
    target = Path(__file__).parents[1] / "image_transformer" / "data" / "cifar10_mini"
    parser.add_argument("--out", type=Path, default=target, help="where to write (default: %(default)s)")
    arguments = parser.parse_args()
    make(arguments.folder, arguments.out)
