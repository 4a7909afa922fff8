"""How values are drawn from a model's distributions."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any


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
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must {'not be negative' if self.seed < 0 else 'be below 2^63'}, got {self.seed}")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1], got {self.top_p}")

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
        if not 0 <= self.guidance < math.inf:
            raise ValueError(f"guidance must be a number of at least 0, got {self.guidance}")
