"""What a model for super-resolution draws, beside plainer ways to enlarge: figures in tables, and pictures."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from image_transformer.conditions.base import Given, repeated, select
from image_transformer.config.sampling import Plan
from image_transformer.data.images import ImageData, Images
from image_transformer.geometry.boxes import box_mean, nearest
from image_transformer.inference.sampling import generate
from image_transformer.inference.tiled import model_factor
from image_transformer.measures import quality
from image_transformer.measures.enlargers import fit_gan, fit_regression
from image_transformer.measures.found import Assessment, Say
from image_transformer.measures.two_sample import two_sample_test
from image_transformer.model import ImageModel
from image_transformer.show import grids
from image_transformer.show.progress import bar
from image_transformer.show.records import Table

SHOWN = 8  # images in a picture
FEWEST = 100  # images for which a two-sample test is worth its time


def enlargements(model: ImageModel, train_data: ImageData, test: ImageData, plan: Plan, say: Say = print) -> Assessment:
    """What a model for super-resolution draws, beside plainer ways: tables and pictures.

    ValueError if it is not for super-resolution, ImportError without torchmetrics; both before any work.
    """
    factor, found = model_factor(model), Assessment()
    quality.torchmetrics()
    train, test = train_data.images, test.some(plan.images)
    images, given = test.images, model.of(test)
    low = box_mean(images, factor)
    say(f"a regression network, trained on {len(train):,} images")
    regression = fit_regression(train, factor, seed=plan.seed)
    once = _Timed()
    once.add("nearest", lambda: nearest(low, factor))
    once.add("bicubic", lambda: quality.bicubic(low, factor))
    once.add("L2 regression", lambda: regression(low))
    plain = dict(once)
    gan = None
    if plan.gan:
        say(f"a GAN, trained for {plan.gan:g} CPU-minutes")
        gan = fit_gan(train, factor, minutes=plan.gan, seed=plan.seed)
        once.add("sample of the GAN", lambda: gan(low, seed=plan.seed))
    for temperature in plan.temperatures:
        say(f"one sample of each of {len(images):,} images at temperature {temperature}")
        once.add(f"sample at {temperature}", partial(_draw, model, given, temperature, plan.seed))
    say(f"one consistent sample of each at temperature {plan.temperatures[0]}")
    once.add("sample, consistent", lambda: _draw(model, given, plan.temperatures[0], plan.seed, consistent=True))
    say("figures, and classifiers that try to tell them from photographs")
    found.tables.append(_table_of_single_ones(once, images, low, factor, plan.seed))

    few = slice(0, plan.several)
    several: dict[str, NDArray[np.uint8]] = {}
    for temperature in plan.temperatures:
        say(f"{plan.samples} samples of each of {len(images[few])} images at temperature {temperature}")
        drawn = _draw(model, repeated(select(given, few), plan.samples), temperature, plan.seed + 1)
        several[f"at {temperature}"] = drawn.reshape(-1, plan.samples, *images.shape[1:])
    if gan is not None:
        several["of the GAN"] = np.stack([gan(low[few], seed=plan.seed + 1 + i) for i in range(plan.samples)], 1)
    found.tables.append(_table_of_means(several, {name: x[few] for name, x in plain.items()}, images[few]))

    say(f"the nearest of {len(train):,} training images")
    table, picture = _copies(once, images, train)
    found.tables.append(table)
    found.pictures["nearest-training-images"] = picture
    found.pictures["enlargements"] = _picture_of_enlargements(plain, several, images)
    return found


class _Timed(dict[str, Images]):
    """Enlargements by the name of what made them, and the time that it took for each image."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: dict[str, float] = {}

    def add(self, name: str, make: Callable[[], Images]) -> None:
        began = time.perf_counter()
        self[name] = make()
        self.seconds[name] = (time.perf_counter() - began) / len(self[name])


def _draw(model: ImageModel, given: Given, temperature: float, seed: int, consistent: bool = False) -> Images:
    count = len(next(iter(given.values())))
    with bar("steps") as progress:
        drawn = generate(
            model, count, seed=seed, temperature=temperature, consistent=consistent, progress=progress, **given
        )
    return drawn.numpy()


def _table_of_single_ones(ways: _Timed, images: Images, low: Images, factor: int, seed: int) -> Table:
    rows = []
    for name, enlarged in ways.items():
        inconsistency = f"{quality.inconsistency(enlarged, low, factor):.2f}"
        fooled, milliseconds = _two_samples(images, enlarged, seed), f"{1000 * ways.seconds[name]:.1f}"
        rows.append([name, *_likeness(enlarged, images), inconsistency, fooled, milliseconds])
    columns = [
        "one enlargement", "PSNR, dB", "SSIM", "inconsistency, levels²", "mistaken for a photograph, %", "ms an image"
    ]  # fmt: skip
    caption = (
        f"{len(images):,} test images, enlarged once. Inconsistency: mean squared error between the box means of the "
        f"enlargement and what was given. Mistaken: the error of a classifier trained to tell enlargements "
        f"from photographs on one half, on the other: 50 is indistinguishable. The time is that of a batch of all."
    )
    return Table(caption, columns, rows)


def _likeness(enlarged: Images, images: Images) -> list[str]:
    """PSNR and SSIM, the latter nothing for images that are smaller than its window."""
    large_enough = min(images.shape[2:]) >= quality.SSIM_WINDOW
    return [
        f"{quality.psnr(enlarged, images):.2f}",
        f"{quality.ssim(enlarged, images):.3f}" if large_enough else "",
    ]


def _two_samples(images: Images, enlarged: Images, seed: int) -> str:
    if len(images) < FEWEST:
        return ""
    error, standard_error = two_sample_test(images, enlarged, seed=seed)
    return f"{100 * error:.1f} ± {100 * standard_error:.1f}"


def _table_of_means(several: dict[str, Images], plain: dict[str, Images], images: Images) -> Table:
    rows = [[name, *_likeness(enlarged, images), ""] for name, enlarged in plain.items()]
    for name, drawn in several.items():
        rows.append([f"one sample {name}", *_likeness(drawn[:, 0], images), f"{quality.diversity(drawn):.1f}"])
    count = 0
    for name, drawn in several.items():
        count = drawn.shape[1]
        mean = drawn.mean(1).round().astype(np.uint8)
        rows.append([f"mean of {count} samples {name}", *_likeness(mean, images), ""])
    caption = (
        f"{len(images)} test images, each drawn {count} times. Diversity: the standard deviation between the samples "
        "of an image, in levels of 0..255."
    )
    return Table(caption, ["", "PSNR, dB", "SSIM", "diversity"], rows)


def _copies(ways: dict[str, Images], images: Images, train: Images) -> tuple[Table, Image.Image]:
    """How far samples are from the nearest training image, beside how far photographs are; and some of them."""
    samples = {name: drawn for name, drawn in ways.items() if name.startswith("sample")}
    rows, pairs = [], {}
    for name, drawn in {"test images": images, **samples}.items():
        index, distance = quality.nearest_neighbours(drawn, train)
        rows.append([name, f"{np.median(distance):.1f}", f"{distance.min():.1f}"])
        pairs[name] = drawn[:SHOWN], train[index[:SHOWN]]
    own = next(name for name in samples if "GAN" not in name)
    shown = np.stack([*pairs[own], *pairs["test images"]], 1)
    headers = ["sample", "nearest in training", "photograph", "nearest in training"]
    picture = grids.labelled_rows([("", row) for row in shown], headers)
    caption = (
        "Distance to the nearest training image, root mean squared error in levels of 0..255. A model that copied "
        "would be nearer to them than new photographs are."
    )
    return Table(caption, ["", "median", "smallest"], rows), picture


def _picture_of_enlargements(plain: dict[str, Images], several: dict[str, Images], images: Images) -> Image.Image:
    first = next(iter(several.values()))
    shown = slice(0, min(SHOWN, len(first)))
    columns, headers = [], []
    for name, enlarged in plain.items():
        columns.append(enlarged[shown, None])
        headers.append("given" if name == "nearest" else name)
    for name, drawn in several.items():
        columns.append(drawn[shown, :2])
        headers += [f"samples {name}"] * 2
    columns += [first[shown].mean(1, keepdims=True).round().astype(np.uint8), images[shown, None]]
    headers += ["mean", "original"]
    rows = [("", row) for row in np.concatenate(columns, 1)]
    return grids.labelled_rows(rows, headers)
