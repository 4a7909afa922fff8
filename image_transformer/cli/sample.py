"""`image-transformer sample`: new images as one picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from image_transformer.cli import UsageError
from image_transformer.cli.flags import at_least, model_argument, parse, told, with_conditions
from image_transformer.config.sampling import Sampling


@dataclass(frozen=True)
class Sample(Sampling):
    """Draw new images and write them as one PNG grid."""

    count: int | None = None
    """Images to draw, 16 if not given; without --label the number for each class, 8 if not given."""
    out: Path = Path("samples.png")
    """Picture to write."""
    columns: int = 8
    """Images in a row of the picture."""
    batch: int | None = None
    """Images generated at once, which does not change them; as many as fit into memory if not given."""


def run(args: list[str]) -> None:
    path, rest = model_argument("sample", args)
    chosen = parse(with_conditions(Sample), "sample MODEL", rest)
    at_least(1, columns=chosen.columns, count=chosen.count)

    from image_transformer.checkpoint import load
    from image_transformer.inference.sampling import generate, generate_each
    from image_transformer.show import grids
    from image_transformer.show.progress import bar

    model = load(path)
    for condition in model.config.conditions:
        if condition.instead:
            does, command = condition.instead
            raise ValueError(f"{path} {does}: image-transformer {command.format(model=path)}")
    given = told(chosen, model.config, needed=False)
    untold = [one for one in model.config.conditions if one.choices and one.name not in given]
    if len(untold) > 1:
        raise UsageError(f"--{untold[1].name} is missing: {', '.join(untold[1].choices)}")
    options = {**chosen.options(), "batch": chosen.batch, **given}
    with bar("steps") as progress:
        if untold:
            name, choices = untold[0].name, untold[0].choices
            drawn = generate_each(model, name, choices, chosen.count or 8, progress=progress, **options)
            picture = grids.labelled_rows(list(zip(choices, drawn.numpy(), strict=True)))
        else:
            drawn = generate(model, chosen.count or 16, progress=progress, **options)
            picture = grids.grid(drawn.numpy(), chosen.columns)
    grids.save_png(picture, chosen.out)
    print(chosen.out)
