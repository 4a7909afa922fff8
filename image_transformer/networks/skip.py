"""The values of a position's neighbours; a linear skip from features to means, and its fit in closed form."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from image_transformer.geometry.neighbours import neighbour_table
from image_transformer.geometry.order import Layout
from image_transformer.likelihoods.base import Likelihood, to_unit

FIT_PIXELS = 20_000  # enough for the scales, whose fit needs more memory than the regression
RIDGE = 1e-4  # relative to the variance of values on [-1, 1]


class Neighbours(nn.Module):
    """The values of the generated pixels near each position, `num_features` of them."""

    places: Tensor
    present: Tensor

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.table = neighbour_table(layout)  # flat places in the image, -1 for none, (l, f)
        self.num_features = self.table.shape[1]
        self.register_buffer("places", torch.from_numpy(self.table.clip(0)), persistent=False)
        self.register_buffer("present", torch.from_numpy(self.table >= 0), persistent=False)

    def forward(self, image: Tensor, at: Tensor | slice, dtype: torch.dtype) -> Tensor:
        """Values on [-1, 1] at positions `at`, `(b, l, f)`, of `image` (b, c, h, w); 0 where there are none."""
        return to_unit(image.flatten(1)[:, self.places[at]], dtype) * self.present[at]


class LinearSkip(nn.Module):
    """From the features straight to a likelihood's means; biases for all of its parameters, at first its flat ones.

    phase: which of several such maps each position has, `(l,)`; one for all if not given.
    """

    phase: Tensor

    def __init__(self, num_features: int, likelihood: Likelihood, channels: int, phase: Tensor | None = None) -> None:
        super().__init__()
        self.mean_params = likelihood.mean_params
        self.start = likelihood.start
        self.phases = 1 if phase is None else int(phase.max()) + 1
        self.register_buffer("phase", phase, persistent=False)
        self.means = nn.Linear(num_features, self.phases * channels)
        nn.init.zeros_(self.means.weight)
        nn.init.zeros_(self.means.bias)
        self.bias = nn.Parameter(likelihood.flat().repeat(self.phases))

    def forward(self, features: Tensor, at: Tensor | slice) -> Tensor:
        """Parameters `(b, l, p)` from the `features` `(b, l, f)` of positions `at`."""
        means, bias = self.means(features), self.bias
        if self.phases > 1:
            phase = self.phase[at]
            bias = bias.unflatten(0, (self.phases, -1))[phase]
            means = means.unflatten(-1, (self.phases, -1))  # (b, l, phases, c)
            means = means.gather(2, phase[:, None, None].expand(*means.shape[:2], 1, means.shape[-1]))[:, :, 0]
        return bias + self.mean_params(means)

    def fit(self, features: Tensor, x: Tensor) -> None:
        """Ridge regression of `x` `(b, l, c)` on `features` `(b, l, f)` and the channels before; then the rest."""
        of_phase = [self.phase == i for i in range(self.phases)] if self.phases > 1 else [slice(None)]
        parts = [(features[:, own].flatten(0, 1), x[:, own].flatten(0, 1)) for own in of_phase]
        parts = [(torch.cat([inputs, torch.ones_like(inputs[:, :1])], 1), target) for inputs, target in parts]
        predictors = [_ridge(inputs, target) for inputs, target in parts]
        residual = torch.cat([target - inputs @ w for (inputs, target), w in zip(parts, predictors, strict=True)])
        coupling = torch.zeros(x.shape[-1], x.shape[-1], dtype=x.dtype)
        for i in range(1, len(coupling)):
            # what the residuals of the channels before say of this one's: the same regression, in two steps
            coupling[i, :i] = torch.linalg.lstsq(residual[:, :i], residual[:, i]).solution.clamp(-0.99, 0.99)
        weights = [predict - predict @ coupling.T for predict in predictors]
        self.means.weight.copy_(torch.cat([w[:-1].T for w in weights]))
        self.means.bias.copy_(torch.cat([w[-1] for w in weights]))
        few = FIT_PIXELS // self.phases
        starts = [
            self.start(inputs[:few] @ w, target[:few], coupling)
            for (inputs, target), w in zip(parts, weights, strict=True)
        ]
        self.bias.copy_(torch.cat(starts))


def _ridge(inputs: Tensor, target: Tensor) -> Tensor:
    """The weights `(f, c)` that predict `target` `(n, c)` from `inputs` `(n, f)`, shrunk a little."""
    penalty = RIDGE * len(inputs) * torch.eye(inputs.shape[1], dtype=inputs.dtype)
    return torch.linalg.solve(inputs.T @ inputs + penalty, inputs.T @ target)
