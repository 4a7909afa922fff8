"""Three ways to read earlier frames of `bouncing`, at equal time: bits of a frame, over several seeds.

python benchmarks/clips_at_equal_time.py [--minutes 5] [--seeds 3] [--out FOLDER]

The third is attention over four frames at once, one below the other in a tall image, with a batch, a warm-up and
validations for images four times as large.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import image_transformer as it
from image_transformer.checkpoint import best, read_state
from image_transformer.config.run import RunConfig
from image_transformer.geometry.order import Raster
from image_transformer.geometry.patterns import Local1D, Nothing

FRAMES, WINDOW, SIZE = 20, 4, 16  # of a clip, of a tall image, and pixels a side


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5, help="CPU time of a training")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "clips_at_equal_time")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for split in ("train", "validation", "test"):
        (args.out / "tall").mkdir(parents=True, exist_ok=True)
        tall = it.load_clips("bouncing", split).images.reshape(-1, WINDOW * SIZE, SIZE, 1)  # one frame below the other
        np.save(args.out / "tall" / f"{split}.npy", tall)
    given = f"{args.minutes:g} CPU-minutes, {args.seeds} seeds"
    print(f"| {given} | first | second | later ones | frames seen | steps a frame |")
    print("|---|--:|--:|--:|--:|--:|", flush=True)
    for number, (form, config) in enumerate(forms(args.out / "tall").items()):
        found, seen, steps = [], 0, 0
        for seed in range(args.seeds):
            run = args.out / f"form-{number}-seed-{seed}"
            train = replace(config.train, images=10**9, clock="cpu", minutes=args.minutes, seed=seed)
            it.train(replace(config, recipe="custom", train=train), run, resume=run.exists(), show_progress=False)
            model = it.load(run)
            frames = model.config.shape[1] // SIZE  # in an image
            found.append(bits(model, args.out / "tall"))
            seen = frames * read_state(best(run)).images_seen
            steps = (int(model.network.schedule().step.max()) + 1) // frames
        mean, error = np.mean(found, 0), np.std(found, 0, ddof=1) / len(found) ** 0.5 if len(found) > 1 else np.zeros(3)
        cells = " | ".join(f"{m:.3f} ± {e:.3f}" for m, e in zip(mean, error, strict=True))
        print(f"| {form} | {cells} | {seen:,} | {steps} |", flush=True)


def forms(tall: Path) -> dict[str, RunConfig]:
    config = it.recipe("bouncing")
    shape, attention = (1, WINDOW * SIZE, SIZE), (Nothing(), Local1D(SIZE**2, 2 * SIZE**2))
    whole = replace(config.model, shape=shape, order=Raster(), attention=attention, conditions=(), look=False)
    train = replace(config.train, batch=8, warmup=500, validate_every=2_500, validation_images=200)
    return {
        "layers look at the frames before": config,
        "the frames before, read at a pixel's own place": replace(config, model=replace(config.model, look=False)),
        "1D over four frames": replace(config, model=whole, data=replace(config.data, source=str(tall)), train=train),
    }


def bits(model: it.ImageModel, tall: Path) -> list[float]:
    """Of first, second and later frames of the clips of the test split; later ones have two frames above them."""
    frames = model.config.shape[1] // SIZE
    test = it.load_clips("bouncing", "test") if frames == 1 else it.load_data(str(tall), "test")
    found = it.bits(model, test.images, **model.of(test)).reshape(-1, SIZE**2).sum(1)
    place = np.arange(len(found)) % FRAMES
    later = place > 1 if frames == 1 else place % WINDOW > 1
    return [float(found[its].mean()) for its in (place == 0, place == 1, later)]


if __name__ == "__main__":
    main()
