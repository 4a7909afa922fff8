"""`image-transformer sample`: new images as one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from image_transformer.cli import UsageError
from image_transformer.cli.flags import (
    arguments,
    at_least,
    check_file,
    lines,
    refuse_others,
    say_guidance,
    told,
    with_conditions,
)
from image_transformer.config.sampling import Sampling


@dataclass(frozen=True)
class Sample(Sampling):
    """Draw new images and write them as one PNG grid."""

    count: int | None = None
    """Images to draw, 16 if not given; without --label the number for each class, with --texts for each text, 8 if not
    given."""
    texts: Path | None = None
    """Text-conditional: a file with a text in each line, for a picture with a row for each."""
    out: Path = Path("samples.png")
    """Picture to write."""
    columns: int = 8
    """Images in a row of the picture, where rows are not classes or texts."""
    batch: int | None = None
    """Images generated at once, which does not change them; as many as fit into memory if not given."""


def run(args: list[str]) -> None:
    (path,), chosen = arguments(with_conditions(Sample), "sample MODEL", args)
    at_least(1, columns=chosen.columns, count=chosen.count)
    check_file(chosen.out, ending=".png")

    from image_transformer.checkpoint import load
    from image_transformer.inference.sampling import generate, generate_each
    from image_transformer.show import grids
    from image_transformer.show.progress import bar

    model = load(path)
    refuse_others(path, model.config)
    given = told(chosen, model.config, needed=False)
    if chosen.texts is not None and "text" in given:
        raise UsageError("--text is one text for all images and --texts one for each row: expected only one of the two")
    rows: dict[str, Sequence[str]] = {} if chosen.texts is None else {"text": lines(chosen.texts)}
    untold = [one for one in model.config.conditions if one.name not in given.keys() | rows.keys()]
    rows = rows or {one.name: one.choices for one in untold[:1] if one.choices}
    for one in untold:
        if one.name not in rows:
            raise UsageError(f"--{one.name} is missing: {', '.join(one.choices) or one.wanted(model.config.shape)}")
    options = {**chosen.options(), "batch": chosen.batch, **given}
    say_guidance(chosen.guidance)
    with bar("steps") as progress:
        if rows:
            ((name, choices),) = rows.items()
            drawn = generate_each(model, name, choices, chosen.count or 8, progress=progress, **options)
            picture = grids.labelled_rows(list(zip(choices, drawn.numpy(), strict=True)))
        else:
            drawn = generate(model, chosen.count or 16, progress=progress, **options)
            picture = grids.grid(drawn.numpy(), chosen.columns)
    grids.save_png(picture, chosen.out)
    print(chosen.out)
