"""Whether a model's own images are as likely to it as photographs are, and whether its conditionals are as wide as
they should be.

A perfect model spends as many bits on its samples as on photographs: both are its entropy. One whose samples cost more
drifts: small errors make contexts that training never showed, in which it expects more, and draws worse (Braverman et
al., 2019, *Calibration, entropy rates, and memory in language models*).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from image_transformer.conditions.base import select
from image_transformer.data.images import ImageData
from image_transformer.inference.sampling import Progress, generate
from image_transformer.inference.scoring import bits, standard_error
from image_transformer.model import ImageModel
from image_transformer.show.records import Table

BANDS = 8  # of rows, in the table


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
        return photographs.mean(), samples.mean(), samples.mean() - photographs.mean(), error

    def table(self) -> Table:
        """All rows, then bands of them."""
        height = self.photographs.shape[1]
        ends = np.linspace(0, height, min(BANDS, height) + 1).round().astype(int).tolist()
        bands = {"all rows": slice(None)}
        bands |= {f"rows {a + 1} to {b}" if b > a + 1 else f"row {b}": slice(a, b) for a, b in pairwise(ends)}
        rows = [[name, *(f"{x:.3f}" for x in self.of_rows(part))] for name, part in bands.items()]
        caption = (
            f"The entropy gap, bits/dim: what the model spends on {len(self.samples):,} images that it drew itself, "
            f"and on {len(self.photographs):,} photographs. A perfect model spends the same on both."
        )
        return Table(caption, ["", "photographs", "samples", "gap", "±"], rows)


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

    photographs: bits/dim of other images (n, 1) to compare with instead, if the model is told nothing: more than are
    drawn make the error smaller.
    """
    given = model.of(data)
    drawn = generate(model, len(data), seed=seed, progress=progress, **given)
    told = {name: value for name, value in given.items() if name in model.untold}
    follow = {name: value for name, value in given.items() if name not in told}  # samples keep what they were told
    samples = bits(model, drawn, batch=batch, **told, **follow).mean((1, 3))
    if photographs is None or given:
        photographs = bits(model, data.images, batch=batch, **told).mean((1, 3))
    return EntropyGap(photographs, samples, paired=bool(given))


@torch.inference_mode()
def overconfidence(model: ImageModel, data: ImageData, *, batch: int = 4) -> NDArray[np.float64]:
    """Surprise minus expected surprise, bits/dim of each image of `data`, (n,): 0 on average if conditionals are right.

    Above 0 the conditionals are too narrow, below 0 too wide, where the context is a photograph's.
    """
    model.eval()
    given, found = model.of(data), []
    for first in range(0, len(data), batch):
        rows = slice(first, first + batch)
        images = torch.from_numpy(data.images[rows].copy()).to(model.device)
        part = select(given, rows)
        params, values = model(images, part), images.flatten(1)[:, model.values]
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
