"""How much is measured of a model."""

from __future__ import annotations

from dataclasses import dataclass


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
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.gan < 0:
            raise ValueError(f"gan must be at least 0 minutes, got {self.gan}")
        if not self.temperatures or min(self.temperatures) <= 0:
            raise ValueError(f"temperatures must be some positive numbers, got {self.temperatures}")
