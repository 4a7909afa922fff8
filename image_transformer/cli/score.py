"""`image-transformer score`: which images do not belong to the others."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from image_transformer.cli.flags import Sized, arguments, at_least, refuse, say

if TYPE_CHECKING:
    from image_transformer.codec.models import CodingModel
    from image_transformer.model import ImageModel

WEBP_SIDE = 16_383  # rows and columns that a WebP file may have


@dataclass(frozen=True)
class Score(Sized):
    """Print bits/dim of each image file as CSV, and with --against its rank among images of a data set.

    Few bits/dim alone do not mean that an image is an ordinary one: smooth images take few bits under every model. So
    the column `relative` is bits/dim minus those of something that knows less: of a lossless WebP file of the same
    image, or for an ordinary model, those of the coding model small. `relative_rank` is the one to sort by: the share
    of the data set's images with less. Near 1, an image is unlike those that the model was trained on.
    """

    model: str = "small"
    """A coding model that comes with the package (small, fast), the file of one, or a model that was trained on what
    the images should be like, by its name or run folder: for images of its shape. That one also tells other kinds of
    photographs apart."""
    against: str | None = None
    """A data set, of which training images are scored, too: what `train --data` takes. --size and --skip-bad are for
    it. The files keep their own size, and are read in RGB where its images are."""
    count: int | None = None
    """How many of them, 500 if not given."""
    skip_bad: bool = False
    """Leave out images of the data set that cannot be read."""


def run(args: list[str]) -> None:
    files, chosen = arguments(Score, "score IMAGE...", args)
    at_least(2, count=chosen.count)
    if chosen.against is None:
        refuse("the data set --against", size=chosen.size, count=chosen.count, skip_bad=chosen.skip_bad)

    from image_transformer.checkpoint import load
    from image_transformer.codec.models import CodingModel, coding_model_names, load_coding_model
    from image_transformer.data.decode import read_image
    from image_transformer.data.loading import load_data

    coding = chosen.model in coding_model_names() or Path(chosen.model).is_file()
    model = load_coding_model(chosen.model) if coding else load(chosen.model)
    shape, than = (None, "webp") if isinstance(model, CodingModel) else (model.config.shape, "small")
    data = None
    if chosen.against is not None:
        data = load_data(chosen.against, "train", shape=shape, size=chosen.size, skip_bad=chosen.skip_bad)
    channels = data.images.shape[1] if data is not None else shape[0] if shape is not None else None
    seen = [read_image(file, str(file), channels, None) for file in files]
    for file, image in zip(files, seen, strict=True):
        if shape not in (None, image.shape):
            raise ValueError(f"{file}: an image {image.shape}, but {chosen.model} takes {shape} alone")
        if shape is None and max(image.shape) > WEBP_SIDE:
            raise ValueError(
                f"{file}: it is compared with a WebP file, which has at most {WEBP_SIDE:,} rows and columns"
            )
    scores = scored(model, seen)
    columns = ["file", "bits_per_dim", f"{than}_bits_per_dim", "relative"]
    ranks = np.zeros((len(files), 0))
    if data is not None:
        say(f"scoring images of {chosen.against}")
        others = scored(model, list(data.some(chosen.count or 500).images))
        columns += ["rank", "relative_rank"]
        ranks = np.stack([(others[:, i] < scores[:, i, None]).mean(1) for i in (0, 2)], 1)
    table = csv.writer(sys.stdout)
    table.writerow(columns)
    for file, row in zip(files, np.concatenate([scores, ranks], 1), strict=True):
        table.writerow([file, *(f"{value:.4f}" for value in row)])


def scored(model: CodingModel | ImageModel, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float64]:
    """Bits/dim of each image, those of a WebP or, for an ordinary model, of `small`, and the difference, `(n, 3)`."""
    from image_transformer.codec.models import CodingModel, load_coding_model
    from image_transformer.inference.scoring import evaluate
    from image_transformer.measures.files import webp_bits_per_dim

    if isinstance(model, CodingModel):
        bits, than = coded(model, images), np.array([webp_bits_per_dim(image[None]) for image in images])
    else:
        bits = evaluate(model, np.stack(images)).per_image
        than = coded(load_coding_model(), images)
    return np.stack([bits, than, bits - than], 1)


def coded(model: CodingModel, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float64]:
    """Bits/dim of each image under a coding model."""
    from image_transformer.codec.archive import alike_together

    order = sorted(range(len(images)), key=lambda i: images[i].shape)
    bits = np.concatenate([model.bits(several) for several in alike_together([images[i] for i in order])])
    return bits[np.argsort(order)] / [image.size for image in images]
