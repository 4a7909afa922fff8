"""`image-transformer models`: what is released."""

from __future__ import annotations

from dataclasses import dataclass

from image_transformer.cli.flags import parse
from image_transformer.released import card_of, folder_of, model_names


@dataclass(frozen=True)
class Models:
    """List the released models: every verb takes their names."""


def run(args: list[str]) -> None:
    parse(Models, "models", args)
    for name in model_names():
        card = card_of(name)
        size = sum(file.stat().st_size for file in folder_of(name).iterdir()) / 1e6
        about = f"{card.parameters / 1e6:.2f} M parameters, {card.bits_per_dim:.3f} bits/dim, {size:.1f} MB"
        print(f"{name:18}  {card.summary}: {about}")
