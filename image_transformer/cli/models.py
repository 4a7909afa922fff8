"""`image-transformer models`: what is released."""

from __future__ import annotations

from dataclasses import dataclass

from rich.table import Table

from image_transformer.cli.flags import parse, print_table
from image_transformer.released import card_of, folder_of, model_names


@dataclass(frozen=True)
class Models:
    """List the released models: every verb takes their names."""


def run(args: list[str]) -> None:
    parse(Models, "models", args)
    if not model_names():
        return print("none came with this package")
    table = Table(box=None, pad_edge=False)
    table.add_column("model", no_wrap=True)
    table.add_column("what it is")
    for column in ("parameters", "bits/dim", "MB"):
        table.add_column(column, justify="right", no_wrap=True)
    for name in model_names():
        card = card_of(name)
        size = sum(file.stat().st_size for file in folder_of(name).iterdir()) / 1e6
        table.add_row(name, card.summary, f"{card.parameters:,}", f"{card.bits_per_dim:.3f}", f"{size:.1f}")
    print_table(table)
