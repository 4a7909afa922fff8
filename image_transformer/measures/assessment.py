"""What a trained model can do, measured on images that it never saw: figures in tables, and pictures.

Everything lands in the run's folder (`measures.json`, `pictures/*.png`), from where `report.py` makes a page of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from image_transformer.config.model import Plan
from image_transformer.data.loading import ImageData, class_labels
from image_transformer.geometry.boxes import box_mean, nearest
from image_transformer.inference.enlarging import model_factor
from image_transformer.inference.sampling import generate, generate_by_class
from image_transformer.inference.scoring import classify, evaluate, standard_error
from image_transformer.measures import quality as measures
from image_transformer.measures.quality import Images, Regression, fit_regression
from image_transformer.model import ImageTransformer
from image_transformer.show import grids as pictures
from image_transformer.show.page import Table, save_tables
from image_transformer.show.progress import bar

SHOWN = 8  # images in a picture
FEWEST = 100  # images for which a two-sample test is worth its time
BAYES = 500  # images that the Bayes classifier is tried on: it scores each under every class


@dataclass
class Assessment:
    """Tables and pictures as they come."""

    tables: list[Table] = field(default_factory=list)
    pictures: dict[str, Image.Image] = field(default_factory=dict)

    def add(self, more: Assessment) -> None:
        self.tables += more.tables
        self.pictures |= more.pictures

    def save(self, run: Path) -> None:
        """Write `measures.json` and the pictures into the folder of a run."""
        (run / "pictures").mkdir(parents=True, exist_ok=True)
        for name, picture in self.pictures.items():
            pictures.save_png(picture, run / "pictures" / f"{name}.png")
        save_tables(self.tables, run)


Say = Callable[[str], None]  # tells the user what is being measured


def assess(model: ImageTransformer, train: ImageData, test: ImageData, plan: Plan, say: Say = print) -> Assessment:
    """Measure a model on test images: its likelihood, and what its conditions do. `train` is what it learned from."""
    found, (images, label) = Assessment(), images_and_labels(model, test, plan.images)
    say(f"bits/dim of {len(images):,} images of {test.name}, {test.split} split")
    rows = _likelihoods(model, images, label)
    if label is not None:
        count = min(len(images), BAYES)
        say(f"the likeliest class of {count} of them")
        with bar("scores") as progress:
            right = classify(model, images[:count], progress=progress) == label[:count].numpy()
        accuracy, error = mean_and_error(100 * right, 1)
        rows.append([f"Bayes classifier, accuracy on {count}, %", accuracy, error])
    found.tables.append(Table(f"{len(images):,} images of the {test.split} split", ["", "figure", "±"], rows))
    if model.config.factor:
        found.add(enlargements(model, train, test, plan, say))
    elif model.config.classes:
        say("new images of each class")
        names = model.config.classes[:10]
        with bar("steps") as progress:
            drawn = generate_by_class(model, names, SHOWN, seed=plan.seed, progress=progress).numpy()
        found.pictures["classes"] = pictures.labelled_rows(list(zip(names, drawn, strict=True)))
    return found


def images_and_labels(model: ImageTransformer, data: ImageData, count: int | None) -> tuple[Images, Tensor | None]:
    """The first `count` images, and their classes, if the model is class-conditional."""
    classes = model.config.classes
    return data.images[:count], torch.from_numpy(class_labels(data, classes)[:count]) if classes else None


def mean_and_error(values: NDArray[Any], digits: int = 4) -> list[str]:
    """The mean and its standard error, as they stand in a table; no error of a single value."""
    return [f"{values.mean():.{digits}f}", f"{standard_error(values):.{digits}f}" if len(values) > 1 else ""]


def _likelihoods(model: ImageTransformer, images: Images, label: Tensor | None) -> list[list[str]]:
    with bar("images") as progress:
        free = evaluate(model, images, label=label, progress=progress).per_image
    told = ["the class"] * (label is not None) + ["the box means"] * bool(model.config.factor)
    rows = [["bits/dim" + (f" given {' and '.join(told)}" if told else ""), *mean_and_error(free)]]
    if model.config.factor:
        with bar("images") as progress:
            held = evaluate(model, images, label=label, consistent=True, progress=progress).per_image
        rows.append(["bits/dim of the consistent model", *mean_and_error(held)])
        rows.append(["gained by consistency", *mean_and_error(free - held)])
    return rows


def enlargements(
    model: ImageTransformer, train_data: ImageData, test: ImageData, plan: Plan, say: Say = print
) -> Assessment:
    """What a model for super-resolution draws, beside plainer ways: tables and pictures.

    ValueError if it is not for super-resolution, ImportError without torchmetrics; both before any work.
    """
    factor, found = model_factor(model), Assessment()
    measures.torchmetrics()
    train, (images, label) = train_data.images, images_and_labels(model, test, plan.images)
    low = box_mean(images, factor)
    say(f"a regression network, trained on {len(train):,} images")
    regression = fit_regression(train, factor, seed=plan.seed)
    plain = _plain_ways(low, factor, regression)

    once: dict[str, Images] = dict(plain)
    for temperature in plan.temperatures:
        say(f"one sample of each of {len(images):,} images at temperature {temperature}")
        once[f"sample at {temperature}"] = _draw(model, low, label, temperature, plan.seed)
    say(f"one consistent sample of each at temperature {plan.temperatures[0]}")
    once["sample, consistent"] = _draw(model, low, label, plan.temperatures[0], plan.seed, consistent=True)
    say("figures, and classifiers that try to tell them from photographs")
    found.tables.append(_table_of_single_ones(once, images, low, factor, plan.seed))

    few = slice(0, plan.several)
    several: dict[str, NDArray[np.uint8]] = {}
    for temperature in plan.temperatures:
        say(f"{plan.samples} samples of each of {len(images[few])} images at temperature {temperature}")
        again = None if label is None else label[few].repeat_interleave(plan.samples)
        drawn = _draw(model, low[few].repeat(plan.samples, 0), again, temperature, plan.seed + 1)
        several[f"at {temperature}"] = drawn.reshape(-1, plan.samples, *images.shape[1:])
    found.tables.append(_table_of_means(several, {name: x[few] for name, x in plain.items()}, images[few]))

    say(f"the nearest of {len(train):,} training images")
    table, picture = _copies(once, images, train)
    found.tables.append(table)
    found.pictures["nearest-training-images"] = picture
    found.pictures["enlargements"] = _picture_of_enlargements(plain, several, images)
    return found


def _plain_ways(low: Images, factor: int, regression: Regression) -> dict[str, Images]:
    return {
        "nearest": nearest(low, factor),
        "bicubic": measures.bicubic(low, factor),
        "L2 regression": regression(low),
    }


def _draw(
    model: ImageTransformer,
    low: Images,
    label: Tensor | None,
    temperature: float,
    seed: int,
    consistent: bool = False,
) -> Images:
    given = torch.from_numpy(np.ascontiguousarray(low))
    with bar("steps") as progress:
        return generate(
            model, len(low), seed=seed, temperature=temperature, label=label, low=given, consistent=consistent,
            progress=progress,
        ).numpy()  # fmt: skip


def _table_of_single_ones(ways: dict[str, Images], images: Images, low: Images, factor: int, seed: int) -> Table:
    rows = []
    for name, enlarged in ways.items():
        inconsistency = f"{measures.inconsistency(enlarged, low, factor):.2f}"
        rows.append([name, *_likeness(enlarged, images), inconsistency, _two_samples(images, enlarged, seed)])
    columns = ["one enlargement", "PSNR, dB", "SSIM", "inconsistency, levels²", "mistaken for a photograph, %"]
    caption = (
        f"{len(images):,} test images, enlarged once. Inconsistency: mean squared error between the box means of the "
        f"enlargement and what was given. The last column is the error of a classifier trained to tell enlargements "
        f"from photographs on one half, on the other: 50 is indistinguishable."
    )
    return Table(caption, columns, rows)


def _likeness(enlarged: Images, images: Images) -> list[str]:
    """PSNR and SSIM, the latter nothing for images that are smaller than its window."""
    large_enough = min(images.shape[2:]) >= measures.SSIM_WINDOW
    return [
        f"{measures.psnr(enlarged, images):.2f}",
        f"{measures.ssim(enlarged, images):.3f}" if large_enough else "",
    ]


def _two_samples(images: Images, enlarged: Images, seed: int) -> str:
    if len(images) < FEWEST:
        return ""
    error, standard_error = measures.two_sample_test(images, enlarged, seed=seed)
    return f"{100 * error:.1f} ± {100 * standard_error:.1f}"


def _table_of_means(several: dict[str, Images], plain: dict[str, Images], images: Images) -> Table:
    rows = [[name, *_likeness(enlarged, images), ""] for name, enlarged in plain.items()]
    for name, drawn in several.items():
        rows.append([f"one sample {name}", *_likeness(drawn[:, 0], images), f"{measures.diversity(drawn):.1f}"])
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
    rows, columns = [], []
    for name, drawn in {"photographs of the test split": images, **samples}.items():
        index, distance = measures.nearest_neighbours(drawn, train)
        rows.append([name, f"{np.median(distance):.1f}", f"{distance.min():.1f}"])
        columns.append((drawn[:SHOWN], train[index[:SHOWN]]))
    (photographs, near_photographs), (drawn, near_drawn) = columns[:2]
    shown = np.stack([drawn, near_drawn, photographs, near_photographs], 1)
    headers = ["sample", "nearest in training", "photograph", "nearest in training"]
    picture = pictures.labelled_rows([("", row) for row in shown], headers)
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
    return pictures.labelled_rows(rows, headers)


def chain_rule(
    high_given_low: ImageTransformer, low: ImageTransformer, high: ImageTransformer, images: Images
) -> Table:
    """-log p(low) - log p(high | low) against -log p(high), in bits/dim of the high resolution.

    A low-resolution image follows from its image, so both are codes of the image, by other models. `images` uint8
    (n, c, h, w). ValueError if the models are not for such images.
    """
    factor = check_chain(high_given_low, low, high)
    share = low.layout.num_dims / high.layout.num_dims
    with bar("images") as progress:
        given = evaluate(high_given_low, images, progress=progress).per_image
    with bar("images") as progress:
        first = evaluate(low, box_mean(images, factor), progress=progress).per_image * share
    with bar("images") as progress:
        whole = evaluate(high, images, progress=progress).per_image

    parts = {
        "p(low)": first,
        "p(high given low)": given,
        "p(low) p(high given low)": first + given,
        "p(high), unconditional": whole,
        "difference": first + given - whole,
    }
    rows = [[name, *mean_and_error(values)] for name, values in parts.items()]
    caption = f"The chain rule, bits/dim of the high resolution, {len(images):,} images"
    return Table(caption, ["", "bits/dim", "±"], rows)


def check_chain(high_given_low: ImageTransformer, low: ImageTransformer, high: ImageTransformer) -> int:
    """The factor of models that go together in `chain_rule`; ValueError if they do not."""
    factor = high_given_low.config.factor
    plain = not (low.config.factor or high.config.factor or low.config.classes or high.config.classes)
    fitting = low.config.shape == high_given_low.config.low_shape and high.config.shape == high_given_low.config.shape
    if not (factor and plain and fitting) or high_given_low.config.classes:
        raise ValueError(
            "the chain rule needs a model for super-resolution, an unconditional one of its low-resolution images and "
            f"an unconditional one of its images, got shapes {high_given_low.config.shape}, {low.config.shape} and "
            f"{high.config.shape}, of which the first should be enlarged to, the second enlarged"
        )
    return factor
