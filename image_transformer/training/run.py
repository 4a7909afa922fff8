"""A run: its data, its learner, how far it is, and its one update."""

from __future__ import annotations

import math
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from image_transformer import __version__, checkpoint
from image_transformer.checkpoint import State, default_device
from image_transformer.conditions.frames import Frames
from image_transformer.conditions.source import Source
from image_transformer.config.model import Transformer
from image_transformer.config.run import RunConfig
from image_transformer.data.clips import load_clips
from image_transformer.data.images import DataError, ImageData
from image_transformer.data.loading import load_data
from image_transformer.data.stream import load_stream
from image_transformer.model import ImageModel
from image_transformer.processes import processes
from image_transformer.training.batches import Batches, random_seed
from image_transformer.training.carry import carry_over
from image_transformer.training.diagnosis import MANY, diagnose, keep
from image_transformer.training.errors import TrainingError
from image_transformer.training.log import MetricsLog
from image_transformer.training.saving import Saver
from image_transformer.training.shards import whole
from image_transformer.training.update import Learner, Reading, Views

START_PIXELS = 500 * 32 * 32  # pixels that the closed-form start is fitted to


class Run:
    """The state of a run. Every random draw is a function of the seed and the number of the view that it is for."""

    def __init__(self, config: RunConfig, out: Path, *, fresh: bool = True) -> None:
        if config.train.clock == "cpu" and default_device().type != "cpu":
            raise ValueError("train.clock cpu counts the processor's time alone: on a GPU, it must be wall")
        self.config, self.out, self.processes = config, out, processes()
        batch, count = config.train.batch, self.processes.count
        if count > batch:
            raise ValueError(f"train.batch {batch} is less than one image for each of {count} processes")
        if config.train.parallel == "fsdp" and batch % (count * int(config.train.micro_batch or 1)):
            whole = f"{count} processes times passes of {config.train.micro_batch or 1} images"
            raise ValueError(f"train.parallel fsdp: train.batch {batch} is not a whole number of {whole}")
        with self.processes.in_turn():
            self.data, validation = _seen(config, "train"), _seen(config, "validation")
        self.validation = validation.some(config.train.validation_images)
        self.batches = Batches(self.data, config.data, config.train.seed)
        torch.manual_seed(random_seed(config.train.seed, "weights"))
        model = ImageModel(config.model)
        turnable = config.data.edits == "local"  # these are the same in all orientations
        if config.data.augmentation and config.model.captioned and not turnable and self.data.captions is not None:
            raise ValueError(
                f"data.{config.data.augmentation}: captions, such as of what is left, are not turned with images"
            )
        for condition in config.model.conditions:
            condition.suits(self.data)
            condition.suits(self.validation)
        self.told = model.of(self.validation, only=model.untold)
        if fresh and config.train.closed_form_start:
            some = self.data.some(max(1, START_PIXELS // (config.model.shape[1] * config.model.shape[2])))
            model.network.closed_form_start(torch.from_numpy(some.images.copy()), model.of(some))
        self.carried: list[str] = []  # what of the weights of another model had to be changed
        if fresh and config.train.init:
            self.carried = carry_over(checkpoint.load(config.train.init, "cpu"), model)
        self.learner = Learner(model.to(default_device()), config.train, self.processes)
        self.saver = Saver(out, config, self.learner, self.processes)
        self.state = State(data=f"{self.data.digest()[:16]} {validation.digest()[:16]}")
        self.micro_batch = self.fitting() if config.train.micro_batch == "auto" else config.train.micro_batch
        self.log = MetricsLog(out, config.train.tensorboard)
        self.best: float | None = None  # validation bits/dim
        self.bits_per_dim = 0.0  # of the newest update whose figures have arrived
        self.norm = 0.0  # of its gradient
        self.in_a_row = 0  # updates that were left out, to the last one
        self.previous = 0  # images seen before the last update
        self.window: list[tuple[float, float]] = []  # (bits/dim, seconds) of the updates since the last log line
        self._started_at = (0, 0.0)  # images and seconds when this process took over

    @property
    def weights(self) -> ImageModel:
        """The model for use: the moving average if there is one."""
        return self.learner.weights

    @property
    def progress(self) -> float:
        """Fraction of the run that is done, by images or by the clock, whichever is further."""
        train = self.config.train
        by_clock = self.state.seconds / (60 * train.minutes) if train.minutes else 0.0
        return min(1.0, max(self.state.images_seen / train.images, by_clock))

    @property
    def finished(self) -> bool:
        return self.progress >= 1

    @property
    def images_per_second(self) -> float:
        """Of this process, validations and pictures not counted."""
        images, seconds = self._started_at
        return (self.state.images_seen - images) / max(self.state.seconds - seconds, 1e-9)

    def update(self) -> None:
        """One optimizer step on the next batch, left out if its loss or gradient is not finite.

        TrainingError after too many of these in a row.
        """
        clock = time.process_time if self.config.train.clock == "cpu" else time.perf_counter
        began, seen = clock(), self.state.images_seen
        try:
            reading = self.learner.update(self.passes(seen), images_seen=seen, progress=self.progress)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            raise self.too_large(self.micro_batch or len(self.processes.share(self.config.train.batch))) from None
        seconds = self.processes.largest(clock() - began if self.processes.first else 0.0)  # the first one's clock
        self.bits_per_dim, self.norm, self.previous = reading.bits_per_dim, reading.norm, seen
        self.state = replace(
            self.state, images_seen=seen + self.config.train.batch, seconds=self.state.seconds + seconds,
            validation_bpd=None, left_out=self.state.left_out + (not reading.finite),
        )  # fmt: skip
        self.window.append((reading.bits_per_dim, seconds))
        self.in_a_row = 0 if reading.finite else self.in_a_row + 1
        if not reading.finite:
            self.leave_out(reading)

    def batch(self, first: int, count: int) -> Views:
        """The views `first` to `first + count` of the run, uint8 (count, c, h, w), their conditions and keys."""
        views = self.batches.take(first, count)
        draws = [random_seed(self.config.train.seed, "words", n) for n in range(first, first + count)]
        given = {name: self._to_device(value) for name, value in self.learner.model.varied(views, draws).items()}
        seeds = [random_seed(self.config.train.seed, "noise", n) >> 32 for n in range(first, first + count)]
        keys = torch.tensor(seeds, dtype=torch.int32)
        return self._to_device(torch.from_numpy(views.images)), given, self._to_device(keys)

    def passes(self, seen: int) -> list[partial[Views]]:
        """This process's share of the update after `seen` images, in passes of `micro_batch` images."""
        share = self.processes.share(self.config.train.batch)
        size = self.micro_batch or len(share)
        return [partial(self.batch, seen + first, min(size, share.stop - first)) for first in share[::size]]

    def _to_device(self, part: Tensor) -> Tensor:
        device = self.learner.device
        return part.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else part

    def leave_out(self, reading: Reading) -> None:
        """Say that an update was left out; TrainingError, with a diagnosis, if that cannot go on."""
        limit, first = self.config.train.max_left_out, self.previous
        what = "gradient" if math.isfinite(reading.bits_per_dim) else "loss"
        wrong = f"the {what} is not finite after {first:,} images"
        weights = whole(self.learner.model.state_dict())
        broken = any(not weight.isfinite().all() for weight in weights.values())
        if self.in_a_row <= limit and not broken:
            self.say(f"{wrong}: this update is left out ({self.in_a_row} in a row of at most {limit})")
            return
        self.saver.wait()
        found = diagnose(self.learner, [(part.args[0], part()) for part in self.passes(first)], self.processes)
        images = self.batches.take_these(np.array(found.views[:MANY])).images if found.views else None
        model = checkpoint.model_files(self.config, self.state, weights)
        folders = checkpoint.checkpoints(self.out)
        kept = f"the last good checkpoint is {folders[-1]}" if folders else "no checkpoint was written before"
        raise TrainingError(
            f"{wrong}, {found} ({keep(self.out, found, images, model)} has what is to blame, and the weights; {kept}); "
            f"try --resume with --train.clip 1, a lower --train.lr (now {self.config.train.lr:g}) or --train.bf16 off"
        )

    def too_large(self, size: int) -> TrainingError:
        """What to say, and to try, when there is no memory for passes of so many images in each process."""
        train, count = self.config.train, self.processes.count
        per_pass = count if train.parallel == "fsdp" else 1
        smaller = next((n for n in range(size // 2, 0, -1) if train.batch % (n * per_pass) == 0), None)
        tries = ["--train.recompute"] * (isinstance(self.config.model, Transformer) and not train.recompute)
        if smaller is not None:
            auto = " or auto" if per_pass == 1 and train.micro_batch != "auto" else ""
            tries = [f"--train.micro-batch {smaller}{auto}, which changes no gradient", *tries]
        if per_pass == 1 and count > 1 and train.micro_batch != "auto":
            tries.append("--train.parallel fsdp")
        return TrainingError(
            f"out of memory in passes of {size} images each: try {', or '.join(tries) or 'a smaller model'}"
        )

    def fitting(self) -> int:
        """How many images fit into memory in one pass, beside what an update needs: tried out, on every process."""
        size = len(self.processes.share(self.config.train.batch))
        reserved = [torch.empty_like(weight) for weight in self.learner.model.parameters() for _ in range(3)]
        while True:
            try:
                self.learner.attempt(self.batch(0, size))
                break
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                if size == 1:
                    raise self.too_large(1) from None
                size //= 2
                self.say(f"out of memory: trying passes of {size} images")
        del reserved
        return -int(self.processes.largest(-size))

    def say(self, text: str) -> None:
        if self.processes.first:
            print(text, file=sys.stderr)

    def save(self) -> None:
        """Begin a checkpoint of this moment, after which those that are no longer kept are dropped."""
        self.saver.save(self.state, self.weights, {"best": self.best, "window": self.window})

    def restore(self, folder: Path) -> None:
        """Go on from a checkpoint: everything is as it was when it was written."""
        state = checkpoint.read_state(folder)
        if state.data not in (None, self.state.data):
            raise DataError(
                f"{self.data.name} is not what {self.out} was trained on: its fingerprint was {state.data}, and is "
                f"{self.state.data} now; put the data back, or start another run from this model with --init"
            )
        log = self.saver.restore(folder)
        self.state = replace(state, format=checkpoint.FORMAT, data=self.state.data)
        self.best, self.window = log["best"], [(bits, seconds) for bits, seconds in log["window"]]
        self._started_at = (self.state.images_seen, self.state.seconds)
        self.log.rewind(self.state.images_seen)

    def start(self) -> None:
        """Begin the log with what the figures of this run depend on."""
        self.log.rewind(-1)  # of a run that died before its first checkpoint
        self.log.write(
            "start",
            images=0,
            version=__version__,
            parameters=sum(p.numel() for p in self.learner.model.parameters()),
            device=str(self.learner.device),
            threads=torch.get_num_threads(),
            dtype="bfloat16" if self.learner.bf16 else "float32",
            torch=torch.__version__,
            data=self.data.name,
            train_images=len(self.data),
            skipped=self.data.skipped,
            flips=self.config.data.flips,
            orientations=self.config.data.orientations,
            init=self.config.train.init,
            carried=self.carried,
        )


def out_of_memory(error: RuntimeError) -> bool:
    """Whether a device or the host has refused memory."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def load_split(config: RunConfig, split: str) -> Any:
    """A split of a run's data, in the shape of its model: ImageData, or a Stream of the training's."""
    data = config.data
    if data.stream:
        if config.model.condition(Frames) is not None:
            raise DataError("clips cannot be read as a data.stream yet")
        if data.edits != "none":
            raise DataError("data.edits does not work with data.stream yet")
        return load_stream(data.source, split, shape=config.model.shape, size=data.size, skip_bad=data.skip_bad)
    if config.model.condition(Frames) is not None:
        if data.skip_bad or data.edits != "none":
            raise DataError("data.skip_bad and data.edits are for images, not for clips")
        return load_clips(data.source, split, shape=config.model.shape, size=data.size)
    return load_data(
        data.source, split, shape=config.model.shape, size=data.size, skip_bad=data.skip_bad, edits=data.edits
    )


def _seen(config: RunConfig, split: str) -> Any:
    """The split with what the model is told of it: captions that it never sees are no part of the fingerprint."""
    found = load_split(config, split)
    if not isinstance(found, ImageData):
        return found
    captioned, sourced = config.model.captioned, config.model.condition(Source) is not None
    return replace(found, captions=found.captions if captioned else None, sources=found.sources if sourced else None)
