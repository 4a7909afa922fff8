"""`image-transformer demo`: train the tiny recipe on real photographs, measure it on held-out ones, draw from it."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from image_transformer.cli.flags import parse


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
    from image_transformer.cli import complete, sample
    from image_transformer.data.loading import load_data
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
    config = recipe("tiny", train={} if chosen.images is None else {"images": chosen.images})
    console.print(
        f"[bold]1. Train[/] an Image Transformer ({config.recipe}) "
        f"on {config.data.source}, {config.train.images:,} views of its photographs"
    )
    try:
        train(config, out, resume=(out / "config.yaml").exists())
    except Interrupted as stop:
        raise Interrupted(f"{stop}; the same command goes on from there", stop.number) from None

    model = load(out)
    test = load_data("cifar10-mini", "test", shape=model.config.shape)
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
    grids.save_png(charts.bits_map(held_out[:16], bits(model, held_out[:16]).sum(1), columns=8), out / "bits-map.png")

    console.print("[bold]3. Draw[/] new images, and completions of others")
    sample.run([str(out), "--count", "48", "--columns", "12", "--out", str(out / "samples.png")])
    complete.run([str(out), "--count", "8", "--out", str(out / "completions.png")])
    report = write_report(out)
    module = Path(sys.argv[0]).name == "__main__.py"
    program = [sys.executable, "-m", "image_transformer"] if module else sys.argv[:1]
    console.print(
        f"\n[bold]Everything is in {out}/[/]: open {report} · next, type: "
        f"{shlex.join(program)} sample {shlex.quote(str(out))} --seed 1 --out more.png",
        soft_wrap=True,
    )
