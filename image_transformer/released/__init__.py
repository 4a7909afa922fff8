"""Released models: trained weights that come with the package and load by name.

released/cifar10/
    model.safetensors    weights, rounded to 16 bits
    config.yaml, state.json, SHA256SUMS    as in every checkpoint
    card.json            what was measured, see `Card`

docs/models/NAME.md tells the rest. `benchmarks/release.py` makes these files of a run.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

HOME = Path(__file__).parent


@dataclass(frozen=True)
class Card:
    """What is known of a released model. bits/dim are those of its rounded weights, exact, in float32."""

    summary: str
    """What it is, in one line."""
    parameters: int
    images_seen: int
    bits_per_dim: float
    """On `images` of the test set."""
    standard_error: float
    """Of that mean, over images."""
    images: int
    """All of the test set, or a fixed random subset."""
    mini_bits_per_dim: float
    """On the 1,000 test images that come with the package."""
    mini_30_bits_per_dim: float
    """On the first 30 of these."""
    lost_by_rounding: float
    """bits/dim that rounding the weights cost, on 1,000 test images."""
    entropy_gap: float
    """bits/dim of its samples minus bits/dim of the test set."""
    entropy_gap_error: float
    commit: str
    date: str
    accuracy: float | None = None
    """Class-conditional: the share of test images that are likeliest under their own class."""


def model_names() -> list[str]:
    """The names of the released models, which every verb and `it.load` take.

    >>> "cifar10" in it.model_names()
    True
    """
    return sorted(folder.parent.name for folder in HOME.glob("*/card.json"))


def folder_of(name: str) -> Path:
    """The checkpoint folder of a released model."""
    return HOME / name


def card_of(name: str) -> Card:
    """The card of a released model."""
    return Card(**json.loads((HOME / name / "card.json").read_text()))
