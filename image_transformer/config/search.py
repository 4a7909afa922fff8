"""How plans are made in a world model."""

from __future__ import annotations

from dataclasses import dataclass


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
        if self.candidates < 1:
            raise ValueError(f"candidates must be at least 1, got {self.candidates}")
        if not 1 <= self.every <= self.horizon:
            raise ValueError(f"every must lie between 1 and horizon, got {self.every} and {self.horizon}")
