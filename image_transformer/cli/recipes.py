"""`image-transformer recipes`: what can be trained."""

from __future__ import annotations

from dataclasses import dataclass

from image_transformer.cli.flags import parse
from image_transformer.recipes import RECIPES


@dataclass(frozen=True)
class Recipes:
    """List the recipes that `train` knows."""


def run(args: list[str]) -> None:
    parse(Recipes, "recipes", args)
    for name, make in RECIPES.items():
        print(f"{name:26}  {(make.__doc__ or '').splitlines()[0]}")
