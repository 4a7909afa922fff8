"""What is drawn from the parameters of positions, and with which noise: images in the making."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from image_transformer.conditions.limits import BoxLimits
from image_transformer.config.sampling import Sampling
from image_transformer.likelihoods.base import Guided, draw_in_turn, leaves_out
from image_transformer.model import ImageModel


def noise(seed: int, numbers: Sequence[int], each: int) -> Tensor:
    """Uniform noise on [0, 1), float64 (n, each), of the images with these numbers."""
    keys = [np.array([seed, number], np.uint64) for number in numbers]  # a list would pass through floats
    rows = [np.random.Generator(np.random.Philox(key=key)).random(each) for key in keys]
    return torch.from_numpy(np.stack(rows))


def noise_places(model: ImageModel) -> Tensor:
    """Which of an image's uniform numbers each position takes, `(l, n)`: those of its sub-pixels, then its own."""
    lay = model.layout
    own = model.likelihood.num_noise - lay.values_per_position
    pixel = torch.from_numpy(lay.positions.row * lay.width + lay.positions.col)[:, None]
    extra = lay.num_dims + pixel * own + torch.arange(own)
    return torch.cat([torch.from_numpy(lay.values), extra], 1)


class Drawing:
    """The visitor that draws: images in the making, their noise, and what is known of them."""

    def __init__(
        self,
        model: ImageModel,
        known: Tensor,
        known_mask: Tensor,
        uniform: Tensor,
        sampling: Sampling,
        limits: BoxLimits | None = None,
    ) -> None:
        self.model, self.sampling, self.limits = model, sampling, limits
        guided = sampling.guidance != 1
        self.likelihood = Guided(model.likelihood, sampling.guidance) if guided else model.likelihood
        self.in_turn = guided or limits is not None or leaves_out(sampling.top_k, sampling.top_p)
        self.fixed = known_mask.flatten(1).to(model.device)
        self.image = torch.where(known_mask, known, 0).contiguous().to(model.device)
        self.flat = self.image.view(len(self.image), -1)  # the same values as (b, c h w), written in place
        self.uniform = uniform.to(model.device)
        self.noise_places = noise_places(model).to(model.device)
        fixed = self.fixed[:, model.values]
        self.partly = fixed.any(-1, keepdim=True) & ~fixed.all(-1, keepdim=True)  # (b, l, 1)
        self.any_partly = bool(self.partly.any())
        if limits is not None:
            limits.begin(self.flat, self.fixed)

    def __call__(self, params: Tensor, at: Tensor) -> None:
        """Write values of the positions `at` (f,), drawn from their parameters `(b, f, p)`, where none are known."""
        if self.limits is None:
            return self._write(at, self.drawn(params, at))
        for turn in self.limits.turns(self.model.values[at, 0]):
            places = self.model.values[at[turn]]
            drawn = self.drawn(params[:, turn], at[turn], self.limits.at(places))
            self._write(at[turn], drawn)
            self.limits.add(places, drawn, self.fixed[:, places])

    def drawn(self, params: Tensor, at: Tensor, bounds: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Values `(b, f, v)` of the positions `at` (f,) for their parameters `(b, f, p)`, known or not.

        bounds: the smallest and largest value that each may have, `(b, f, v)`.
        """
        likelihood, how, places = self.likelihood, self.sampling, self.model.values[at]  # (f, v)
        if not self.in_turn:
            drawn = likelihood.draw(params, self.uniform[:, self.noise_places[at]], how.temperature)
            if not self.any_partly:
                return drawn
        known = self.flat[:, places], self.fixed[:, places]  # a known channel says something of those after it
        one_by_one = draw_in_turn(
            likelihood, params, self.uniform[:, places], how.temperature, how.top_k, how.top_p, known, bounds
        )
        return one_by_one if self.in_turn else torch.where(self.partly[:, at], one_by_one, drawn)

    def draw_all(self, params: Tensor, at: Tensor, rows: Tensor) -> NDArray[np.bool_]:
        """Draw all positions `at` of the images `rows` (m,) anew from `params` (m, l, p); which changed, (m, l)."""
        part = self.of_rows(rows)
        bounds = None
        if part.limits is not None:
            lowest, highest = part.limits.of_images(part.image)  # of a guess that fits no box they may cross
            lowest = lowest.clamp(max=255)
            places = self.model.values[at]
            bounds = lowest[:, places], highest.maximum(lowest)[:, places]
        before = part.image.clone()
        part._write(at, part.drawn(params, at, bounds))
        self.image[rows] = part.image
        changed: NDArray[np.bool_] = (part.image != before).flatten(1)[:, self.model.values].any(-1).cpu().numpy()
        return changed

    def of_rows(self, rows: Tensor) -> Drawing:
        """That of some of the images, on copies of them."""
        part = copy(self)
        part.image = self.image[rows].contiguous()
        part.flat = part.image.view(len(rows), -1)
        part.fixed, part.partly, part.uniform = self.fixed[rows], self.partly[rows], self.uniform[rows]
        if self.limits is not None:
            part.limits = copy(self.limits)
            part.limits.low = self.limits.low[rows]
        return part

    def _write(self, at: Tensor, drawn: Tensor) -> None:
        places = self.model.values[at]
        self.flat[:, places] = torch.where(self.fixed[:, places], self.flat[:, places], drawn)
