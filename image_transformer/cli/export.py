"""`image-transformer export`: a model alone, small enough to pass on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from image_transformer.cli.flags import at_least, model_argument, parse, say


@dataclass(frozen=True)
class Export:
    """Write the model of a run, with weights rounded to 16 bits and no state of the training, into a folder."""

    out: Path = Path("exported")
    """Folder to write, a checkpoint that every verb takes."""
    calibrate: int = 0
    """Draw so many images at each of a few temperatures, and build in the one at which they cost the model as much as
    photographs of the validation split do: 500 are a good number."""
    data: str | None = None
    """Photographs to calibrate with; what the model was trained on if not given."""


def run(args: list[str]) -> None:
    path, rest = model_argument("export", args)
    chosen = parse(Export, "export MODEL", rest)
    at_least(0, calibrate=chosen.calibrate)

    from image_transformer.checkpoint import export

    temperature = None
    if chosen.calibrate:
        from image_transformer.cli.trained import load_trained
        from image_transformer.measures.gap import EntropyGap, calibrate

        def tell(temperature: float, gap: EntropyGap) -> None:
            photographs, _, difference, error = gap.of_rows()
            say(f"temperature {temperature:g}: {photographs:.4f} bits/dim, gap {difference:+.3f} ± {error:.3f}")

        trained = load_trained(path)
        data = trained.data("validation", chosen.data).some(chosen.calibrate)
        temperature = calibrate(trained.model, data, tell=tell)
    print(export(path, chosen.out, temperature=temperature))
