"""`image-transformer recipes`: what can be trained."""

from __future__ import annotations

from dataclasses import dataclass

from rich.table import Table

from image_transformer.cli.flags import parse, print_table
from image_transformer.recipes import RECIPES


@dataclass(frozen=True)
class Recipes:
    """List the recipes that `train` knows."""


def run(args: list[str]) -> None:
    parse(Recipes, "recipes", args)
    table = Table(box=None, pad_edge=False)
    table.add_column("recipe", no_wrap=True)
    table.add_column("what it is")
    for name, make in RECIPES.items():
        table.add_row(name, (make.__doc__ or "").splitlines()[0])
    print_table(table)
