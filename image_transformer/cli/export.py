"""`image-transformer export`: a model alone, small enough to pass on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from image_transformer.cli.flags import model_argument, parse


@dataclass(frozen=True)
class Export:
    """Write the model of a run, with weights rounded to 16 bits and no state of the training, into a folder."""

    out: Path = Path("exported")
    """Folder to write, a checkpoint that every verb takes."""


def run(args: list[str]) -> None:
    path, rest = model_argument("export", args)
    chosen = parse(Export, "export MODEL", rest)

    from image_transformer.checkpoint import export

    print(export(path, chosen.out))
