"""CPU-seconds and passes of an image drawn naively, step by step, by guesses: stills, enlargements, frames of clips.

python benchmarks/guessing.py [MODEL DATA]...    each a model of clips and others than it has learnt from, such as
                                                 runs/bouncing bouncing, of which the test split is taken
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import image_transformer as it
from image_transformer.conditions.frames import Action
from image_transformer.data.bouncing import BOUNCING

GIVEN, STEPS = 2, 10
COUNTS = (1, 8, 64)  # at once; naively one alone
RUNS, LONG = 3, 60  # what takes so many CPU-seconds is run once


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", nargs="*", help="models of clips, each followed by its data")
    pairs = parser.parse_args().clips
    torch.set_num_threads(1)
    print("| | at once | naive | step by step | by guesses | passes of an image | differing values, % |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    if not pairs:
        stills()
    for path, data in zip(pairs[::2], pairs[1::2], strict=True):
        frames(it.load(path), data)


def stills() -> None:
    still, large = it.load("cifar10"), it.load("cifar10-superres")
    low = torch.from_numpy(it.box_mean(it.load_data("cifar10-mini", "test").images[: COUNTS[1]], 4))
    for count in COUNTS[:2]:
        for temperature in (1.0, 0.7, 0.3):
            row(f"still, temperature {temperature}", count, still, it.generate, count, temperature=temperature)
        for consistent in (False, True):
            name = "enlargement" + (", consistent" if consistent else "")
            row(name, count, large, it.generate, count, low=low[:count], consistent=consistent)


def frames(model: it.ImageModel, name: str) -> None:
    """Clips that the model has not learnt from, continued by the actions that were done."""
    test = it.load_clips(name, "test" if name in BOUNCING else "all")
    starts, lengths = np.unique(test.past.start, return_counts=True)  # type: ignore[union-attr]
    at = starts[lengths >= GIVEN + STEPS][: COUNTS[-1], None] + np.arange(GIVEN + STEPS)
    action = model.config.condition(Action)
    for count in (count for count in COUNTS if count <= len(at)):
        told = {} if action is None else {"action": action.of(test).numpy()[at[:count, GIVEN:]].tolist()}
        begun = torch.from_numpy(test.images[at[:count, :GIVEN]])
        row(f"frames of {name}", count, model, it.rollout, begun, STEPS, per=STEPS, **told)


def row(
    name: str, count: int, model: it.ImageModel, draw: Callable[..., Any], *args: Any, per: int = 1, **options: Any
) -> None:
    """A line of the table: the median of some runs of each method, in turns."""
    taken: dict[str, list[float]] = {"naive": [], "cached": [], "fixed-point": []}
    drawn, seen, passes = {}, list[int](), 0.0
    watch = model.network.register_forward_hook(lambda network, given, params: seen.append(len(params)))
    for _ in range(RUNS):
        for method, times in taken.items():
            if (method == "naive" and count > 1) or (times and times[-1] * count * per > LONG):
                continue
            seen.clear()
            begun = time.process_time()
            drawn[method] = draw(model, *args, method=method, **options)
            times.append((time.process_time() - begun) / (count * per))
            passes = sum(seen) / (count * per)  # of the last method, by guesses
    watch.remove()
    naive, cached, guessed = (f"{np.median(times):.3f}" if times else "" for times in taken.values())
    off = 100 * (drawn["cached"] != drawn["fixed-point"]).float().mean().item()
    print(f"| {name} | {count} | {naive} | {cached} | {guessed} | {passes:.1f} | {off:.2f} |", flush=True)


if __name__ == "__main__":
    main()
