"""What a CPU-second buys: variants of a recipe trained for equal CPU time, in turns, and scored on the same images.

python benchmarks/equal_time.py tiny --seconds 300 --seeds 0 1 --variant today= --variant "no mixing=--model.mix 0"

A variant is a name and the flags that it changes, as `image-transformer train` takes them. All take turns of a few
seconds in one process, so that whatever else the machine does meets all of them alike; the learning rate follows the
CPU time of each. Every result is a line of JSON in --out, which a second call at the same commit skips; the table says
how far each variant is from the first one, image by image.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import image_transformer as it
from image_transformer.cli.train import ALIASES, parse_run
from image_transformer.config.run import RunConfig
from image_transformer.reproduce.trial import where
from image_transformer.training.run import Run, load_split

TURN = 5.0  # CPU-seconds
COMMIT = where()["commit"]
EVALUATED = 500  # validation images


def turn(run: Run) -> None:
    end = run.state.seconds + TURN
    while run.state.seconds < end and not run.finished:
        run.update()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--variant", action="append", required=True, help="NAME=FLAGS; the first is compared with")
    parser.add_argument("--seconds", type=float, nargs="+", default=[300.0], help="CPU time of each training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--out", type=Path, default=Path("runs/equal-time.jsonl"))
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    variants = dict(text.split("=", 1) for text in chosen.variant)
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    done = read(chosen.out)
    for seconds in chosen.seconds:
        for seed in chosen.seeds:
            train(chosen, variants, seconds, seed, done)
    show(chosen, variants, done)


def key(chosen: argparse.Namespace, flags: str, seconds: float, seed: int) -> str:
    return json.dumps([COMMIT, chosen.recipe, chosen.data, flags, seconds, seed])


def read(path: Path) -> dict[str, dict[str, Any]]:
    lines = path.read_text().splitlines() if path.exists() else []
    return {line["key"]: line for line in map(json.loads, lines)}


def train(chosen: Any, variants: dict[str, str], seconds: float, seed: int, done: dict[str, dict[str, Any]]) -> None:
    """Train all variants that are not done, in turns."""
    runs: dict[str, Run] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, flags in variants.items():
            if key(chosen, flags, seconds, seed) in done:
                continue
            words = [ALIASES.get(word, word) for word in flags.split()]
            parsed = parse_run(chosen.recipe, words, it.recipe(chosen.recipe, data={"source": chosen.data}))
            config = replace(parsed.train, seed=seed, images=10**9, minutes=seconds / 60, clock="cpu")
            runs[name] = Run(RunConfig(chosen.recipe, parsed.model, parsed.data, config), Path(folder) / name)
        while not all(run.finished for run in runs.values()):
            for run in runs.values():
                turn(run)
    for name, run in runs.items():
        some = load_split(run.config, "validation").some(EVALUATED)
        result = it.evaluate(run.weights, some.images, **run.weights.of(some, only=run.weights.untold))
        line = {
            "key": key(chosen, variants[name], seconds, seed),
            "bits_per_dim": result.bits_per_dim,
            "per_image": result.per_image.round(5).tolist(),
            "images": run.state.images_seen,
            "parameters": sum(p.numel() for p in run.weights.parameters()),
        }
        done[line["key"]] = line
        with open(chosen.out, "a") as file:
            file.write(json.dumps(line) + "\n")
        found = f"{result.bits_per_dim:.4f} bits/dim after {run.state.images_seen:,} images"
        print(f"{seconds:g} s, seed {seed}, {name}: {found}", flush=True)


def show(chosen: Any, variants: dict[str, str], done: dict[str, dict[str, Any]]) -> None:
    """One row for each variant and budget: means over seeds, and the difference to the first variant."""
    table = Table("variant", "flags", "CPU-s", "images", "bits/dim", "difference", "± over images", "by seed")
    for seconds in chosen.seconds:
        first = [done[key(chosen, next(iter(variants.values())), seconds, seed)] for seed in chosen.seeds]
        for name, flags in variants.items():
            lines = [done[key(chosen, flags, seconds, seed)] for seed in chosen.seeds]
            pairs = list(zip(lines, first, strict=True))
            difference = np.mean([np.subtract(a["per_image"], b["per_image"]) for a, b in pairs], 0)
            each = [a["bits_per_dim"] - b["bits_per_dim"] for a, b in pairs]
            table.add_row(
                name, flags, f"{seconds:g}", f"{np.mean([line['images'] for line in lines]):,.0f}",
                f"{np.mean([line['bits_per_dim'] for line in lines]):.4f}", f"{difference.mean():+.4f}",
                f"{difference.std(ddof=1) / math.sqrt(len(difference)):.4f}", " ".join(f"{x:+.4f}" for x in each),
            )  # fmt: skip
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
