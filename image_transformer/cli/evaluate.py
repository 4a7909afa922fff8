"""`image-transformer evaluate`: exact bits/dim of a split, and what follows from them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from image_transformer.cli import UsageError
from image_transformer.cli.flags import Fitted, arguments, at_least, check_file, say

WIDE = 0.1  # bits/dim, an entropy gap that is worth closing


@dataclass(frozen=True)
class Evaluate(Fitted):
    """Print the exact bits/dim of a split, every image once."""

    split: Literal["train", "validation", "test", "all"] | None = None
    """Split of the data; if not given, test, or all of other --data that has no splits of its own."""
    limit: int | None = None
    """Use only so many of the images, a fixed random subset."""
    batch: int = 32
    """Images at once."""
    json: bool = False
    """Print machine-readable figures."""
    consistent: bool = False
    """Super-resolution: also bits/dim with the box means held to what is given (slower)."""
    classify: int = 500
    """Class-conditional: try the Bayes classifier, the likeliest of all classes, on so many images."""
    gap: int = 100
    """Draw so many images and compare what they cost the model with what photographs do: the entropy gap."""
    per_image: Path | None = None
    """Write bits/dim of each image to this CSV file."""
    picture: Path | None = None
    """Write a PNG map of the bits of each pixel of 16 of the images."""


def run(args: list[str]) -> None:
    (path,), chosen = arguments(Evaluate, "evaluate MODEL", args)
    at_least(1, batch=chosen.batch, limit=chosen.limit)
    at_least(0, classify=chosen.classify, gap=chosen.gap)
    for path_to, flag, ending in ((chosen.per_image, "--per-image", ""), (chosen.picture, "--picture", ".png")):
        if path_to:
            check_file(path_to, flag, ending)

    from image_transformer.cli.trained import load_trained
    from image_transformer.files import write_atomically
    from image_transformer.inference.scoring import bits, chosen_from, classify, evaluate
    from image_transformer.inference.tiled import enlarges
    from image_transformer.measures.gap import entropy_gap
    from image_transformer.show.charts import bits_map
    from image_transformer.show.grids import save_png
    from image_transformer.show.progress import bar

    trained = load_trained(path)
    model, own = trained.model, trained.config.data
    if chosen.consistent and not enlarges(model):
        raise UsageError(f"--consistent is for super-resolution, {path} is another model")
    data = trained.tested(chosen, chosen.split).some(chosen.limit)
    given = model.of(data, only=model.untold)
    with bar("images") as progress:
        result = evaluate(model, data.images, batch=chosen.batch, progress=progress, **given)
    if chosen.per_image:
        lines = ["image,bits_per_dim", *(f"{i},{value:.6f}" for i, value in enumerate(result.per_image))]
        write_atomically(chosen.per_image, "\n".join([*lines, ""]).encode())
    if chosen.picture:
        shown = data.some(16)
        cost = bits(model, shown.images, batch=chosen.batch, **model.of(shown)).sum(1)
        save_png(bits_map(shown.images, cost, columns=8), chosen.picture)
    figures: dict[str, Any] = {
        "model": str(trained.folder),
        "data": data.name,
        "split": data.split,
        "images": len(data),
        "bits_per_dim": result.bits_per_dim,
        "standard_error": result.standard_error if len(data) > 1 else None,
        "trained_with_flips": own.augmentation is not None,
        "trained_with": own.augmentation,
        "skipped": data.skipped,
    }
    said = [_said(figures)]
    if chosen.consistent:
        with bar("images") as progress:
            held = evaluate(model, data.images, consistent=True, batch=chosen.batch, progress=progress, **given)
        figures["bits_per_dim_consistent"] = held.bits_per_dim
        said.append(f"{held.bits_per_dim:.4f} bits/dim of the consistent model")
    condition = chosen_from(model)
    if condition is not None and chosen.classify:
        tried = data.some(chosen.classify)
        its = model.of(tried)
        with bar("scores") as progress:
            right = classify(model, tried.images, batch=chosen.batch, progress=progress, **its)
        accuracy = float((right == its[condition.name].numpy()).mean())
        figures |= {"accuracy": accuracy, "classified": len(right)}
        own_one = f"their own {condition.noun.removeprefix('the ')}"
        said.append(f"{100 * accuracy:.1f} % of {len(right)} images are likeliest under {own_one}")
    if chosen.gap:
        say(f"the bits of {min(chosen.gap, len(data))} images that the model draws; --gap 0 leaves this out")
        with bar("steps") as progress:
            all_of_them = None if model.config.conditions else result.per_image[:, None]
            some = data.some(chosen.gap)
            gap = entropy_gap(model, some, photographs=all_of_them, batch=chosen.batch, progress=progress)
        photographs, samples, difference, error = gap.of_rows()
        several = len(gap.samples) > 1  # a single image has no error
        by = f" ± {error:.3f}" if several else ""
        figures |= {"entropy_gap": difference, "entropy_gap_error": error if several else None}
        figures |= {"bits_per_dim_of_samples": samples, "samples": len(gap.samples)}
        said.append(
            f"{difference:+.3f}{by} bits/dim entropy gap: {len(gap.samples):,} samples cost {samples:.3f}, "
            f"{len(gap.photographs):,} photographs {photographs:.3f}"
        )
        if several and abs(difference) > max(WIDE, 2 * error):
            said.append(f"a temperature closes that gap: image-transformer export {path} --calibrate 500")
    print(json.dumps(figures) if chosen.json else "\n".join(said))


def _said(figures: dict[str, Any]) -> str:
    error = figures["standard_error"]
    parts = [
        f"standard error {error:.4f}" if error is not None else "",
        f"{figures['images']:,} images of {figures['data']}, {figures['split']} split",
    ]
    skipped = f", {figures['skipped']} unreadable left out" if figures["skipped"] else ""
    trained = f"; trained with {figures['trained_with']}" if figures["trained_with"] else ""
    return f"{figures['bits_per_dim']:.4f} bits/dim  ({'; '.join(filter(None, parts))}{skipped}{trained})"
