"""What drawing, planning and measuring can be asked for; ValueError, at once, for what is out of range."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from numbers import Integral
from typing import Any

from image_transformer.config.checks import check


@dataclass(frozen=True)
class Unguided:
    """What every kind of drawing can be asked for; ValueError if out of range."""

    seed: int = 0
    """The noise follows from this: image i depends on it and on i alone."""
    temperature: float = 1.0
    """Below 1 sharper, above 1 flatter; 1 is the model."""
    top_k: int | None = None
    """Draw each value from the k likeliest only."""
    top_p: float | None = None
    """Draw each value from the likeliest that hold this probability."""

    def __post_init__(self) -> None:
        wrong = "not be negative" if self.seed < 0 else "be below 2^63"
        check(0 <= self.seed < 2**63, f"seed must {wrong}, got {self.seed}")
        for name, number in (("seed", self.seed), ("top_k", self.top_k)):
            check(number is None or isinstance(number, Integral), f"{name} must be a whole number, got {number}")
        check(self.temperature > 0, f"temperature must be positive, got {self.temperature}")
        check(self.top_k is None or self.top_k >= 1, f"top_k must be at least 1, got {self.top_k}")
        check(self.top_p is None or 0 < self.top_p <= 1, f"top_p must lie in (0, 1], got {self.top_p}")

    def options(self) -> dict[str, Any]:
        """These as keyword arguments of `generate`, or of `rollout`."""
        kind = Sampling if isinstance(self, Sampling) else Unguided
        return {f.name: getattr(self, f.name) for f in fields(kind)}


@dataclass(frozen=True)
class Sampling(Unguided):
    """How images are drawn."""

    guidance: float = 1.0
    """Text-conditional: how far to go from the masses without the text to those with it. 1 is the model; above 1, as
    often 2, images follow the text more closely and differ less, and the model's likelihoods are not theirs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(0 <= self.guidance < math.inf, f"guidance must be a number of at least 0, got {self.guidance}")


@dataclass(frozen=True)
class Search:
    """The best of many sequences of actions. ValueError for what is out of range."""

    candidates: int = 100
    """Sequences of actions to try for a plan."""
    horizon: int = 20
    """Actions of each sequence."""
    every: int = 5
    """Actions of a plan that are done before the next plan."""

    def __post_init__(self) -> None:
        check(self.candidates >= 1, f"candidates must be at least 1, got {self.candidates}")
        wrong = f"every must lie between 1 and horizon, got {self.every} and {self.horizon}"
        check(1 <= self.every <= self.horizon, wrong)


@dataclass(frozen=True)
class Plan:
    """How much to measure of a model on test images. ValueError, at once, for what cannot be measured."""

    images: int = 1000
    """Test images, and samples for the entropy gap; for super-resolution each is drawn once at each temperature, and
    with texts and edits once more. This says how long a report takes."""
    several: int = 64
    """Super-resolution: of these, images that are drawn several times, for their mean and diversity."""
    samples: int = 16
    """Super-resolution: how many times each of those is drawn."""
    temperatures: tuple[float, ...] = (1.0, 0.9, 0.8)
    """Super-resolution: temperatures to draw at."""
    gan: float = 0.0
    """Super-resolution: also train a GAN for so many CPU-minutes, to compare with; none if 0."""
    seed: int = 0
    """The noise of all samples follows from this."""

    def __post_init__(self) -> None:
        for name, least in (("images", 1), ("several", 1), ("samples", 2), ("seed", 0)):
            check(getattr(self, name) >= least, f"{name} must be at least {least}, got {getattr(self, name)}")
        check(self.gan >= 0, f"gan must be at least 0 minutes, got {self.gan}")
        wrong = f"temperatures must be some positive numbers, got {self.temperatures}"
        check(bool(self.temperatures) and min(self.temperatures) > 0, wrong)
