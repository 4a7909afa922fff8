"""CPU-seconds of an image drawn step by step and by guesses: stills, enlargements, and frames of clips.

python benchmarks/guessing.py [a model of clips, such as runs/bouncing]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import image_transformer as it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", nargs="?", type=Path, help="a model of clips")
    parser.add_argument("--data", default="bouncing", help="its data")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    print("| what | at once | step by step | by guesses | differing values, % |\n|---|--:|--:|--:|--:|")
    if not chosen.clips:
        still, large = it.load("cifar10"), it.load("cifar10-superres")
        low = torch.from_numpy(it.box_mean(it.load_data("cifar10-mini", "test").images[:1], 4))
        for temperature in (1.0, 0.7, 0.3):
            row(f"still, temperature {temperature}", 1, it.generate, still, 1, temperature=temperature)
        for consistent in (False, True):
            name = "enlargement" + (", consistent" if consistent else "")
            row(name, 1, it.generate, large, 1, low=low, consistent=consistent)
    else:
        model = it.load(chosen.clips)
        test = it.load_clips(chosen.data, "test")
        length = int((test.past.start == 0).sum())
        clips = torch.from_numpy(test.images).view(-1, length, *test.images.shape[1:])
        for count in (1, 8, 64):
            row(f"frames of {chosen.data}", count, it.rollout, model, clips[:count, :2], 10, per=10)


def row(name: str, count: int, draw: Callable[..., Any], *arguments: Any, per: int = 1, **options: Any) -> None:
    """A line of the table: the median of three runs of each method, in turns."""
    taken, drawn = {}, {}
    for _ in range(3):
        for method in ("cached", "fixed-point"):
            begun = time.process_time()
            drawn[method] = draw(*arguments, method=method, **options)
            taken.setdefault(method, []).append((time.process_time() - begun) / (count * per))
    cached, guessed = (sorted(taken[method])[1] for method in ("cached", "fixed-point"))
    off = (drawn["cached"] != drawn["fixed-point"]).float().mean().item()
    print(f"| {name} | {count} | {cached:.3f} | {guessed:.3f} | {100 * off:.2f} |", flush=True)


if __name__ == "__main__":
    main()
