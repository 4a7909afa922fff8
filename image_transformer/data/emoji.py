"""Emoji as the npm packages `emoji-datasource-twitter` and `emoji-datasource-google` have them: drawings with names."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from image_transformer.data.decode import read_image
from image_transformer.data.images import DataError, first_line

INDEX = "emoji.json"  # of such a package, unpacked: what lies in img/SET/64


class Emoji(NamedTuple):
    """A drawing uint8 (3, 64, 64) on white, what it is called, and its category."""

    image: NDArray[np.uint8]
    names: tuple[str, ...]
    category: str


def read_emoji(indices: Sequence[Path]) -> Iterator[Emoji]:
    """All drawings of unpacked packages, by their `emoji.json`. DataError for a missing or damaged index."""
    for index in indices:
        try:
            told = json.loads(index.read_bytes())
            folders = sorted(index.parent.glob("img/*/64"))
            found = [(folder / one["image"], _names(one), one["category"]) for one in told for folder in folders]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{index}: expected the index of an emoji-datasource package ({first_line(error)})"
            ) from None
        for path, names, category in found:
            if path.exists():
                yield Emoji(read_image(path, str(path), 3, (64, 64)), names, category)


def _names(told: dict[str, str]) -> tuple[str, ...]:
    """Its name, such as "grinning face with smiling eyes", and the short ones, which people type."""
    short = [name.replace("_", " ").replace("-", " ") for name in told["short_names"]]
    return tuple(dict.fromkeys([told["name"].lower(), *short]))
