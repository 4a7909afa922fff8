"""Lossless codecs side by side: real bytes with headers, on images that are there and those that can be made.

python benchmarks/compare_codecs.py [--cifar10 2000] [--kodak 24] [--models small]
python benchmarks/compare_codecs.py --only CIFAR --cost [RUN --models EXPORT.safetensors]

Each codec at its best setting; one file an image, and all images of a set as one: one sheet for the others, one archive
for ours. CIFAR-10, faces and Kodak are looked for in $IMAGE_TRANSFORMER_DATA; without it there is cifar10-mini. A model
of photographs has never seen the drawings and the pages of text. Every result is decoded and compared.

--cost instead prints what is lost on the way from a model's likelihoods to bytes: bits/dim of the trained model in RUN,
in floating-point numbers; what its export says they are in whole numbers; and those of the archive.
"""

from __future__ import annotations

import argparse
import io
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
import oxipng
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

import image_transformer as it

Pixels = NDArray[np.uint8]  # (h, w, c)


@dataclass
class Codec:
    name: str
    encode: Callable[[Pixels], bytes]
    decode: Callable[[bytes], Pixels]


def pillow(name: str, kind: str, **options: object) -> Codec:
    def encode(image: Pixels) -> bytes:
        file = io.BytesIO()
        Image.fromarray(image).save(file, kind, **options)
        return file.getvalue()

    return Codec(name, encode, lambda data: np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


PNG = pillow("PNG, optimised", "png", optimize=True)
CODECS = [
    PNG,
    Codec("PNG, oxipng 6", lambda x: oxipng.optimize_from_memory(PNG.encode(x), level=6), PNG.decode),
    pillow("WebP", "webp", lossless=True, quality=100, method=6),
    Codec(
        "JPEG XL, effort 9", lambda x: imagecodecs.jpegxl_encode(x, lossless=True, effort=9), imagecodecs.jpegxl_decode
    ),
    Codec(
        "AVIF",
        lambda x: imagecodecs.avif_encode(x, level=100, speed=0, pixelformat="444", codec="aom", matrix=0),
        imagecodecs.avif_decode,
    ),
    Codec("JPEG-LS", imagecodecs.jpegls_encode, imagecodecs.jpegls_decode),
    Codec("QOI", imagecodecs.qoi_encode, imagecodecs.qoi_decode),
]


def sets(args: argparse.Namespace) -> Iterator[tuple[str, list[Pixels]]]:
    data = Path(os.environ.get("IMAGE_TRANSFORMER_DATA", "nowhere"))

    def of(source: str, count: int) -> list[Pixels]:
        return list(it.load_data(source, "test").images[:count].transpose(0, 2, 3, 1))

    if (data / "cifar10").is_dir():
        yield "CIFAR-10 test", of("cifar10", args.cifar10)
    else:
        yield "cifar10-mini test", of("cifar10-mini", args.cifar10)
    if (data / "celeba32").is_dir():
        yield "faces (CelebA, 32 x 32)", of("celeba32", args.faces)
    photographs = [Image.open(path).convert("RGB") for path in sorted((data / "kodak").glob("*.png"))[: args.kodak]]
    for side in (32, 64, 128, 256, 512) if photographs else ():
        yield f"Kodak, shrunk and cropped to {side}", [np.asarray(square(one, side)) for one in photographs[:6]]
    if photographs:
        yield "Kodak photographs", [np.asarray(one) for one in photographs]
    yield "drawings, 256 x 256", [drawing(seed) for seed in range(8)]
    yield "text, 256 x 256", [page(seed) for seed in range(8)]


def square(image: Image.Image, side: int) -> Image.Image:
    edge = min(image.size)
    left, top = ((length - edge) // 2 for length in image.size)
    box = (left, top, left + edge, top + edge)
    return image.crop(box).resize((side, side), Image.Resampling.LANCZOS)


def drawing(seed: int) -> Pixels:
    """Lines, discs and boxes in a few colours."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (256, 256), "white")
    draw = ImageDraw.Draw(image)
    for _ in range(25):
        x, y, w, h = (int(v) for v in rng.integers(0, 200, 4))
        colour = tuple(int(v) for v in rng.integers(0, 256, 3))
        shape = rng.choice(["line", "ellipse", "rectangle"])
        if shape == "line":
            draw.line((x, y, x + w, y + h), colour, 2)
        else:
            getattr(draw, shape)((x, y, x + w // 2, y + h // 2), fill=colour, outline="black")
    return np.asarray(image)


def page(seed: int) -> Pixels:
    rng, words = np.random.default_rng(seed), (Path(__file__).parent.parent / "README.md").read_text().split()
    image = Image.new("RGB", (256, 256), "white")
    lines = [" ".join(rng.choice(words, 6)) for _ in range(18)]
    ImageDraw.Draw(image).multiline_text((6, 4), "\n".join(lines), "black", ImageFont.load_default(11))
    return np.asarray(image)


def sheet(images: list[Pixels]) -> Pixels:
    h, w, c = images[0].shape
    across = math.ceil(math.sqrt(len(images) * h / w))
    down = math.ceil(len(images) / across)
    found = np.zeros((down * across, h, w, c), np.uint8)
    found[: len(images)] = images
    return found.reshape(down, across, h, w, c).transpose(0, 2, 1, 3, 4).reshape(down * h, across * w, c)


def tried(
    images: list[Pixels], encode: Callable[[Pixels], bytes], decode: Callable[[bytes], Pixels]
) -> tuple[float, float, float]:
    """Bits/dim of one file for each image, and pixels a second of both ways."""
    began = time.perf_counter()
    files = [encode(np.ascontiguousarray(image)) for image in images]
    between = time.perf_counter()
    back = [decode(data) for data in files]
    ended = time.perf_counter()
    if not all(np.array_equal(a, b) for a, b in zip(images, back, strict=True)):
        raise SystemExit("not lossless")
    values = sum(image.size for image in images)
    return 8 * sum(map(len, files)) / values, values / 3 / (between - began), values / 3 / (ended - between)


def ours(name: str) -> tuple[Callable[..., bytes], Callable[[bytes], list[Pixels]]]:
    model = it.load_coding_model(name)

    def encode(*images: Pixels) -> bytes:
        return it.compress([np.ascontiguousarray(one.transpose(2, 0, 1)) for one in images], model)

    return encode, lambda data: [one.numpy().transpose(1, 2, 0) for one in it.decompress(data)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", type=int, default=2000, help="images of CIFAR-10's test set")
    parser.add_argument("--faces", type=int, default=500)
    parser.add_argument("--kodak", type=int, default=24)
    parser.add_argument("--singles", type=int, default=100, help="images of a set that are tried one file each")
    parser.add_argument("--models", nargs="*", default=it.coding_model_names())
    parser.add_argument("--codecs", nargs="*", default=[codec.name for codec in CODECS], help="of the others")
    parser.add_argument("--only", default="", help="sets whose names begin so")
    parser.add_argument("--cost", nargs="?", const="", metavar="RUN", help="what whole numbers and the archive cost")
    args = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n", flush=True)
    for what, images in sets(args):
        if not what.startswith(args.only):
            continue
        if args.cost is not None:
            cost(what, np.stack(images).transpose(0, 3, 1, 2), args.models, args.cost)
            continue
        together = len({image.shape for image in images}) == 1
        few = images[: args.singles]
        print(f"**{what}**, {len(images):,} images (files: {len(few)})\n")
        print("| codec | a file each, bits/dim | all as one, bits/dim | written, pixels/s | read, pixels/s |")
        print("|---|--:|--:|--:|--:|", flush=True)
        for codec in (codec for codec in CODECS if codec.name in args.codecs):
            single = tried(few, codec.encode, codec.decode)
            whole = tried([sheet(images)], codec.encode, codec.decode) if together else (math.nan, *single[1:])
            whole = (whole[0] * (sheet(images).size if together else 1) / sum(x.size for x in images), *whole[1:])
            report(codec.name, single, whole)
        for name in args.models:
            encode, decode = ours(name)
            single = tried(few, encode, lambda data, decode=decode: decode(data)[0])
            report(f"ours, {name}", single, archive(images, encode, decode))
        print(flush=True)


def cost(what: str, images: NDArray[np.uint8], names: list[str], run: str) -> None:
    for name in names:
        model = it.load_coding_model(name)
        bits = model.bits(images).sum() / images.size
        written = 8 * len(it.compress(images, model)) / images.size
        floats = f"{it.evaluate(it.load(run), images).bits_per_dim:.4f} in floating-point numbers, " if run else ""
        print(f"{what}, {len(images):,} images, {name}: {floats}{bits:.4f} in whole numbers, {written:.4f} as one file")


def archive(
    images: list[Pixels], encode: Callable[..., bytes], decode: Callable[[bytes], list[Pixels]]
) -> tuple[float, float, float]:
    """`tried`, of one file for all images."""
    ordered = sorted(images, key=lambda image: image.shape)
    began = time.perf_counter()
    data = encode(*ordered)
    between = time.perf_counter()
    back = decode(data)
    ended = time.perf_counter()
    if not all(np.array_equal(a, b) for a, b in zip(ordered, back, strict=True)):
        raise SystemExit("not lossless")
    values = sum(image.size for image in images)
    return 8 * len(data) / values, values / 3 / (between - began), values / 3 / (ended - between)


def report(name: str, single: tuple[float, float, float], whole: tuple[float, float, float]) -> None:
    sheet_bits = "" if math.isnan(whole[0]) else f"{whole[0]:.3f}"
    print(f"| {name} | {single[0]:.3f} | {sheet_bits} | {whole[1]:,.0f} | {whole[2]:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
