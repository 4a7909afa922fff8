"""`image-transformer export`: a model alone, small enough to pass on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from image_transformer.cli import UsageError
from image_transformer.cli.flags import Fitted, arguments, at_least, check_folder, refuse, say

SCALED_TO = 256  # training images whose hidden values say how large a step of an integer is


@dataclass(frozen=True)
class Export(Fitted):
    """Write the model of a run, with weights rounded to 16 bits, a model card, and no state of the training."""

    to: Path = Path("exported")
    """Folder to write, which every verb takes as a model; also what Hugging Face's hub expects."""
    coding: bool = False
    """Write one file instead, a coding model for `compress --model`: a network in integers, alike on every machine.
    For models of the recipes coding-fast, coding-small, coding-medium, coding-large, and others like them."""
    program: bool = False
    """Also write log_prob.pt2, a torch.export program that scores images without this package."""
    calibrate: int = 0
    """Draw so many images, at least 2, at each of up to five temperatures, and build in the one at which they cost the
    model as much as photographs of the validation split do. 500 are a good number, and take some minutes."""
    data: str | None = None
    """Photographs to calibrate with, or to scale a coding model to; what the model was trained on if not given."""


def run(args: list[str]) -> None:
    (path,), chosen = arguments(Export, "export MODEL", args)
    at_least(0, calibrate=chosen.calibrate)
    if chosen.to.exists():
        raise UsageError(f"--to {chosen.to} is there already: choose another")
    if not (chosen.coding or chosen.calibrate):
        refuse("--calibrate and --coding", data=chosen.data, size=chosen.size, skip_bad=chosen.skip_bad)
    check_folder(chosen.to.parent, "--to")
    if chosen.coding:
        if chosen.program or chosen.calibrate:
            raise UsageError("--coding goes without --program and --calibrate")
        _coding(path, chosen)
        return

    from image_transformer.sharing import export

    temperature = None
    if chosen.calibrate:
        from image_transformer.cli.trained import load_trained
        from image_transformer.measures.gap import EntropyGap, calibrate
        from image_transformer.show.progress import bar

        def tell(temperature: float, gap: EntropyGap) -> None:
            photographs, _, difference, error = gap.of_rows()
            say(f"temperature {temperature:g}: {photographs:.4f} bits/dim, gap {difference:+.3f} ± {error:.3f}")

        trained = load_trained(path)
        data = trained.data("validation", chosen).some(chosen.calibrate)
        with bar("steps") as progress:
            temperature, left = calibrate(trained.model, data, tell=tell, progress=progress)
        *_, gap, error = left.of_rows()
        print(f"built in: temperature {temperature:g}, where the entropy gap is {gap:+.3f} ± {error:.3f} bits/dim")
    print(export(path, chosen.to, temperature=temperature, program=chosen.program))


def _coding(path: Path, chosen: Export) -> None:
    import torch

    from image_transformer.cli.trained import load_trained
    from image_transformer.codec.models import CodingModel

    trained = load_trained(path)
    data = trained.data("train", chosen)
    images = torch.from_numpy(data.some(SCALED_TO).images.copy())
    model = CodingModel.of(trained.model, images)
    model.save(chosen.to)
    print(f"{chosen.to}: {chosen.to.stat().st_size:,} bytes, fingerprint {model.fingerprint.hex()}")
