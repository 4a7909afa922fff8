"""What an assessment finds: tables and pictures, on their way into a run's folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from PIL import Image

from image_transformer.inference.scoring import standard_error
from image_transformer.show import grids
from image_transformer.show.records import Table, save_tables

Say = Callable[[str], None]  # tells the user what is being measured


@dataclass
class Assessment:
    """Tables and pictures as they come."""

    tables: list[Table] = field(default_factory=list)
    pictures: dict[str, Image.Image] = field(default_factory=dict)

    def add(self, more: Assessment) -> None:
        self.tables += more.tables
        self.pictures |= more.pictures

    def save(self, run: Path) -> None:
        """Write `measures.json` and the pictures into the folder of a run."""
        for name, picture in self.pictures.items():
            grids.save_png(picture, run / "pictures" / f"{name}.png")
        save_tables(self.tables, run)


def mean_and_error(values: NDArray[Any], digits: int = 4) -> list[str]:
    """The mean and its standard error, as they stand in a table; no error of a single value."""
    return [f"{values.mean():.{digits}f}", f"{standard_error(values):.{digits}f}" if len(values) > 1 else ""]
