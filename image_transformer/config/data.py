"""The configuration of the data: where the images come from, and in which orientations they are seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from image_transformer.config.checks import check_choices, check_lists
from image_transformer.geometry.orientation import AS_IT_IS, EIGHT, LEFT_RIGHT, Orientation


@dataclass(frozen=True)
class DataConfig:
    """Where the images come from."""

    source: str = "cifar10-mini"
    """cifar10-mini, cifar10 or another folder in $IMAGE_TRANSFORMER_DATA, a folder of images, Parquet file(s), a .npy
    or .npz of uint8, or a hub id; made: shapes, shapes-edits, mirror, twins, bar (a folder called so is ./shapes). Of
    clips: a folder of videos, animated pictures or frames, what record wrote, a .npy, or bouncing."""
    stream: bool = False
    """Read shards (.tar as of WebDataset, or .parquet; a folder, a pattern, or an address such as hf://...) while they
    are needed, for more data than a disk holds."""
    size: tuple[int, int] | None = None
    """Resize every image to this height and width."""
    skip_bad: bool = False
    """Leave out images that cannot be read, instead of stopping."""
    edits: Literal["none", "local", "whole", "all"] = "none"
    """Turn each image into a pair, the photograph and its edited version, with a caption that names the edit: darker,
    warmer, ... (local: a pixel follows from those around it), mirrored, turned, framed, ... (whole)."""
    flips: bool = False
    """Augment training with horizontal flips (reported wherever bits/dim are)."""
    orientations: bool = False
    """Augment training with all eight orientations (square images only), so that completion can start from any side."""

    def __post_init__(self) -> None:
        check_lists(self, "data")
        check_choices(self, "data")

    @property
    def trained_orientations(self) -> tuple[Orientation, ...]:
        """The orientations in which a model sees its training images, equally often."""
        return EIGHT if self.orientations else (AS_IT_IS, LEFT_RIGHT) if self.flips else (AS_IT_IS,)

    @property
    def augmentation(self) -> str | None:
        """What is done to the training images, in one word: "orientations" (flips among them), "flips", or None."""
        return "orientations" if self.orientations else "flips" if self.flips else None
