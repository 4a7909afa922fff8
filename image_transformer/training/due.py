"""What is due after an update: a line in the log, a validation, a checkpoint, a picture of samples."""

from __future__ import annotations

import math
import sys
from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from image_transformer.conditions.base import repeated
from image_transformer.data.images import ImageData
from image_transformer.inference.sampling import generate, generate_each
from image_transformer.inference.scoring import chosen_from, evaluate
from image_transformer.model import ImageModel
from image_transformer.show import grids
from image_transformer.show.page import write_report
from image_transformer.training.errors import TrainingError
from image_transformer.training.run import Run

LOG_EVERY = 20  # updates between training lines in the log
SAMPLES = 16  # images in a sample picture
ROWS, COLUMNS = 10, 4  # of a conditional model's: conditions, and images for each


def do_what_is_due(run: Run) -> None:
    """Log, validate, save a checkpoint and draw samples where the last update crossed one of their intervals."""
    train = run.config.train

    def due(interval: int) -> bool:
        return run.finished or run.state.images_seen // interval > run.previous // interval

    if due(LOG_EVERY * train.batch):
        log_training(run)
    improved = due(train.validate_every) and validate(run)
    if improved or due(train.save_every):
        run.save()
    if train.sample_every is not None and due(train.sample_every):
        draw_samples(run)


def log_training(run: Run) -> None:
    """A line with the mean bits/dim and the speed of the updates since the last one."""
    bits_per_dim = [bits for bits, _ in run.window if math.isfinite(bits)]
    rate = len(run.window) * run.config.train.batch / sum(seconds for _, seconds in run.window)
    run.window.clear()
    if not bits_per_dim:  # all of these updates were left out
        return
    _write(
        run, "train", bpd=sum(bits_per_dim) / len(bits_per_dim), images_per_s=rate, lr=run.learner.learning_rate,
        norm=run.norm, memory=used_memory(run.learner.device), left_out=run.state.left_out,
    )  # fmt: skip


def validate(run: Run) -> bool:
    """Score the validation images; whether that is the best of the run."""
    result = evaluate(run.weights, run.validation.images, **run.told)
    if not math.isfinite(result.bits_per_dim):
        cost = f"{result.bits_per_dim} bits/dim"
        raise TrainingError(f"the validation images cost {cost} after {run.state.images_seen:,} images")
    run.state = replace(run.state, validation_bpd=result.bits_per_dim)
    improved = run.best is None or result.bits_per_dim < run.best
    run.best = result.bits_per_dim if improved else run.best
    _write(run, "validation", bpd=result.bits_per_dim, count=len(run.validation))
    if run.processes.first and not run.finished:  # the report of a finished run is written at the very end
        write_report(run.out)
    return improved


def draw_samples(run: Run) -> None:
    """A picture of what the model draws now."""
    path = run.out / "samples" / f"images-{run.state.images_seen:09d}.png"
    grids.save_png(sample_picture(run.weights, run.validation, seed=run.config.train.seed), path)
    run.log.show_picture(path)


def sample_picture(model: ImageModel, data: ImageData, *, seed: int = 0) -> Image.Image:
    """New images. Of a model with one condition of few choices, a row for each of the first ones; of one that is told
    more than that, what it is told of some images of `data`, what it draws, and these images."""
    conditions, chosen = model.config.conditions, chosen_from(model)
    if len(conditions) > (chosen is not None):
        shown = data.rows(np.arange(min(ROWS, len(data))))
        given = model.of(shown)
        drawn = generate(model, COLUMNS * len(shown), seed=seed, **repeated(given, COLUMNS))
        told = [one.shown(given[one.name]) for one in conditions]
        pictures = [picture[:, None] for picture in told if picture is not None]
        drawn_rows = drawn.unflatten(0, (len(shown), COLUMNS)).numpy()
        rows = np.concatenate([*pictures, drawn_rows, shown.images[:, None]], 1)
        headers = [*["given"] * len(pictures), *["drawn"] * COLUMNS, "original"]
        said = next((words for one in conditions if (words := one.said(given[one.name]))), [""] * len(rows))
        return grids.labelled_rows(list(zip(said, rows, strict=True)), headers)
    if chosen is not None:
        names = chosen.choices[:ROWS]
        drawn = generate_each(model, chosen.name, names, COLUMNS, seed=seed)
        return grids.labelled_rows(list(zip(names, drawn.numpy(), strict=True)))
    return grids.grid(generate(model, SAMPLES, seed=seed).numpy(), columns=8)


def used_memory(device: torch.device) -> float:
    """The most GiB that this process has held: of the GPU, or of the machine's memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def _write(run: Run, kind: str, **values: float) -> None:
    run.log.write(kind, images=run.state.images_seen, seconds=round(run.state.seconds, 3), **values)
