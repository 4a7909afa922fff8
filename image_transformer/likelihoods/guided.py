"""Guidance: a likelihood's masses pushed further in the direction in which a text has moved them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from image_transformer.likelihoods.base import ByTable, Likelihood


class Guided(ByTable):
    """What is drawn from with guidance g: log q(v) = log p(v) + g (log p(v | told) - log p(v)) + const, value by value.

    The 256 masses of q are renormalised given the values before, so q is a distribution over images: for g = 1 it is
    the model's p(image | told), for g = 0 its p(image), else neither. Parameters `(..., 2 p)` are those of both.
    Source: Ho and Salimans (2022), classifier-free guidance, in logs of masses instead of scores.
    """

    def __init__(self, likelihood: Likelihood, guidance: float) -> None:
        self.likelihood, self.guidance = likelihood, guidance

    def conditional(self, params: Tensor, given: Tensor, temperature: float = 1.0) -> Tensor:
        halves = params.chunk(2, -1)
        told, untold = (self.likelihood.conditional(half, given, temperature) for half in halves)
        return log_softmax(torch.lerp(untold, told, self.guidance), -1)
