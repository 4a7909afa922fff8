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
        if self.candidates < 1 or not 1 <= self.every <= self.horizon:
            came = f"{self.candidates} candidates, every {self.every}, horizon {self.horizon}"
            raise ValueError(f"a search needs candidates and 1 <= every <= horizon, got {came}")
