"""`image-transformer demo`: train the tiny recipe on real photographs, measure it on held-out ones, draw from it."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from image_transformer.cli.flags import parse

SAMPLES, COMPLETED, COMPLETIONS, MAPPED = 48, 8, 6, 16


@dataclass(frozen=True)
class Demo:
    """Train a small model on real photographs and show what it learned, all in one folder.

    A demo that was stopped goes on; one that is done is only measured and drawn again.
    """

    out: Path = Path("demo")
    """Folder for everything that is made."""
    images: int | None = None
    """Images to train on; as many as the recipe has if not given."""


def run(args: list[str]) -> None:
    chosen = parse(Demo, "demo", args)
    out = chosen.out

    import numpy as np
    from rich.console import Console

    from image_transformer.checkpoint import load
    from image_transformer.data.loading import load_data
    from image_transformer.inference.completion import complete, known_side
    from image_transformer.inference.sampling import generate
    from image_transformer.inference.scoring import bits, evaluate
    from image_transformer.measures.files import png_bits_per_dim, webp_bits_per_dim
    from image_transformer.recipes import recipe
    from image_transformer.show import charts, grids
    from image_transformer.show.page import write_report
    from image_transformer.show.progress import bar
    from image_transformer.show.records import read_metrics
    from image_transformer.training.errors import Interrupted
    from image_transformer.training.log import MetricsLog
    from image_transformer.training.loop import train

    console = Console(highlight=False)
    config = recipe("tiny")
    if chosen.images is not None:
        config = replace(config, train=replace(config.train, images=chosen.images))
    model_config = config.model
    console.print(
        f"[bold]1. Train[/] an Image Transformer ({config.recipe}, width {model_config.width}) "
        f"on {config.data.source}, {config.train.images:,} views of its photographs"
    )
    try:
        train(config, out, resume=(out / "config.yaml").exists())
    except Interrupted as stop:
        raise Interrupted(f"{stop}; the same command goes on from there") from None

    model = load(out)
    test = load_data(config.data.source, "test", shape=model_config.shape)
    held_out = np.asarray(test.images)
    console.print(f"[bold]2. Measure[/] it on {len(held_out):,} photographs that it never saw")
    with bar("photographs") as progress:
        result = evaluate(model, held_out, progress=progress)
    figures = {
        "uniform": 8.0,
        "PNG": png_bits_per_dim(held_out),
        "WebP lossless": webp_bits_per_dim(held_out),
        "Image Transformer": result.bits_per_dim,
    }
    for name, value in figures.items():
        console.print(f"   {name:<18} {value:6.3f} bits/dim")
    lines = read_metrics(out / "metrics.jsonl")
    MetricsLog(out).write(
        "test", images=max(line.get("images", 0) for line in lines), bpd=result.bits_per_dim, count=len(held_out),
        split="test", png=figures["PNG"], webp=figures["WebP lossless"],
    )  # fmt: skip
    mapped = held_out[:MAPPED]
    grids.save_png(charts.bits_map(mapped, bits(model, mapped).sum(1), columns=8), out / "bits-map.png")

    console.print(f"[bold]3. Draw[/] {SAMPLES} new images, and {COMPLETIONS} completions of each of {COMPLETED}")
    with bar("steps") as progress:
        drawn = generate(model, SAMPLES, seed=0, progress=progress)
    grids.save_png(grids.grid(drawn.numpy(), columns=12), out / "samples.png")
    with bar("steps") as progress:
        known = known_side(0.5, model_config.shape)
        completions = complete(model, held_out[:COMPLETED], known, samples=COMPLETIONS, progress=progress)
    grids.save_png(completions.picture(), out / "completions.png")
    report = write_report(out)
    module = Path(sys.argv[0]).name == "__main__.py"
    program = [sys.executable, "-m", "image_transformer"] if module else sys.argv[:1]
    console.print(
        f"\n[bold]Everything is in {out}/[/]: open {report} · next, type: "
        f"{shlex.join(program)} sample {shlex.quote(str(out))} --seed 1 --out more.png",
        soft_wrap=True,
    )
