"""Whether a model's own images are as likely to it as photographs are, and whether its conditionals are as wide as
they should be.

A perfect model spends as many bits on its samples as on photographs: both are its entropy. One whose samples cost more
drifts: small errors make contexts that training never showed, in which it expects more, and draws worse (Braverman et
al., 2019, *Calibration, entropy rates, and memory in language models*).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from image_transformer.conditions.base import select
from image_transformer.data.images import ImageData
from image_transformer.inference.sampling import Progress, generate
from image_transformer.inference.scoring import Images, bits, standard_error
from image_transformer.model import ImageModel, evaluating
from image_transformer.show.records import Table

BANDS = 8  # of rows, in the table
MOST_TRIES = 5  # temperatures
USUAL_SLOPE, SLOPES = 10.0, (1.0, 30.0)  # by how many bits/dim the gap falls, for a temperature that falls by 1
LOWEST, HIGHEST = 0.5, 1.5  # temperatures that can close a gap


@dataclass(frozen=True)
class EntropyGap:
    """bits/dim of each row of photographs (n, h) and of samples (m, h)."""

    photographs: NDArray[np.float64]
    samples: NDArray[np.float64]
    paired: bool
    """Whether sample i is told what photograph i is, so that both are about the same thing."""

    def of_rows(self, rows: slice = slice(None)) -> tuple[float, float, float, float]:
        """bits/dim of photographs, of samples, their difference, and its standard error, over some rows."""
        photographs, samples = (x[:, rows].mean(1) for x in (self.photographs, self.samples))
        if self.paired:
            error = standard_error(samples - photographs)
        else:
            error = math.hypot(standard_error(samples), standard_error(photographs))
        a, b = float(photographs.mean()), float(samples.mean())
        return a, b, b - a, float(error)

    def table(self) -> Table:
        """All rows, then bands of them."""
        height = self.photographs.shape[1]
        ends = np.linspace(0, height, min(BANDS, height) + 1).round().astype(int).tolist()
        bands = {"all rows": slice(None)}
        bands |= {f"rows {a + 1} to {b}" if b > a + 1 else f"row {b}": slice(a, b) for a, b in pairwise(ends)}
        rows = [
            [name, *("" if math.isnan(x) else f"{x:.3f}" for x in self.of_rows(part))]  # no error of a single image
            for name, part in bands.items()
        ]
        caption = (
            f"The entropy gap, bits/dim: what the model spends on {len(self.samples):,} images that it drew itself, "
            f"and on {len(self.photographs):,} test images. A perfect model spends the same on both."
        )
        return Table(caption, ["", "test images", "samples", "gap", "±"], rows)


def entropy_gap(
    model: ImageModel,
    data: ImageData,
    *,
    photographs: NDArray[np.float64] | None = None,
    seed: int = 0,
    batch: int = 32,
    progress: Progress | None = None,
) -> EntropyGap:
    """The gap between a sample for each image of `data`, told what that one is, and these images.

    photographs: bits/dim of the rows of these images (n, h), if they are known already. If the model is told nothing
    they may be others, or whole images (n, 1): more than are drawn make the error smaller.
    """
    given = model.of(data)
    drawn = generate(model, len(data), seed=seed, progress=progress, **given)
    samples = bits_of_rows(model, drawn, batch=batch, **given)
    if photographs is None:
        photographs = bits_of_rows(model, data.images, batch=batch, **given)
    return EntropyGap(photographs, samples, paired=bool(given))


def bits_of_rows(model: ImageModel, images: Images, **options: Any) -> NDArray[np.float64]:
    """bits/dim of each row of uint8 `images` (n, c, h, w), (n, h); options as in `bits`."""
    return bits(model, images, **options).mean((1, 3))


def calibrate(
    model: ImageModel,
    data: ImageData,
    *,
    seed: int = 0,
    tell: Callable[[float, EntropyGap], None] | None = None,
    progress: Progress | None = None,
) -> tuple[float, EntropyGap]:
    """The built-in temperature at which samples cost the model as much as photographs do, and the gap that is left.

    A sample is drawn for each image of `data` and at each of a few temperatures (`tell` is called with each): the more
    images, the nearer. bits/dim have their minimum near temperature 1, where the gap falls steeply: to close a gap of
    0.4 costs about 0.001 bits/dim. ValueError for fewer than 2 images.
    """
    if len(data) < 2:
        raise ValueError(f"calibration needs at least 2 images, got {len(data)}")
    tried: list[tuple[float, float]] = []
    found: dict[float, EntropyGap] = {}
    temperature = model.config.temperature
    for _ in range(MOST_TRIES):
        gap = entropy_gap(with_temperature(model, temperature), data, seed=seed, progress=progress)
        found[temperature] = gap
        if tell is not None:
            tell(temperature, gap)
        *_, difference, error = gap.of_rows()
        tried = sorted([*tried, (temperature, difference)], key=lambda one: abs(one[1]))
        if abs(difference) < error / 2:
            break
        slope = USUAL_SLOPE
        if len(tried) > 1:
            (a, gap_a), (b, gap_b) = tried[:2]
            slope = float(np.clip((gap_a - gap_b) / (a - b), *SLOPES))
        temperature = float(np.clip(round(tried[0][0] - tried[0][1] / slope, 4), LOWEST, HIGHEST))
        if temperature in found:
            break
    return tried[0][0], found[tried[0][0]]


def with_temperature(model: ImageModel, temperature: float) -> ImageModel:
    """The model with another temperature built in; the weights are shared."""
    other = ImageModel(replace(model.config, temperature=temperature))
    other.load_state_dict(model.state_dict(), assign=True)
    return other.to(model.device).eval()


def overconfidence(model: ImageModel, data: ImageData, *, batch: int = 4) -> NDArray[np.float64]:
    """Surprise minus expected surprise, bits/dim of each image of `data`, (n,): 0 on average if conditionals are right.

    Above 0 the conditionals are too narrow, below 0 too wide, where the context is a photograph's.
    """
    given, found = model.of(data), []
    with evaluating(model):
        for first in range(0, len(data), batch):
            rows = slice(first, first + batch)
            images = torch.from_numpy(data.images[rows].copy()).to(model.device)
            params, values = model(images, select(given, rows)), images.flatten(1)[:, model.values]
            surprise = -model.likelihood.log_prob(params, values)
            expected = torch.stack([_entropy(model, params, values[..., :i]) for i in range(values.shape[-1])], -1)
            found.append((surprise - expected).flatten(1).double().mean(1).cpu() / math.log(2))
    return torch.cat(found).numpy()


def _entropy(model: ImageModel, params: Tensor, given: Tensor) -> Tensor:
    """The entropy in nats `(b, l)` of the value after the `given` ones of each position."""
    parts = []
    for some, values in zip(params.split(256, 1), given.split(256, 1), strict=True):  # 256 masses of each at a time
        log_mass = model.likelihood.conditional(some, values)
        parts.append(-(log_mass.exp() * log_mass.clamp(min=-1e4)).sum(-1))
    return torch.cat(parts, 1)
