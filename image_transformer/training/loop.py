"""Training: one loop, counted in images seen; every random draw is a function of (seed, images seen).

So a run that is stopped and resumed sees the same images, the same dropout and, on a CPU, the same losses bit for
bit as one that was never stopped.
"""

from __future__ import annotations

import json
import math
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from image_transformer import checkpoint
from image_transformer.checkpoint import CheckpointError, State, default_device
from image_transformer.config.model import RunConfig, TrainConfig, load_config, save_config, to_dict
from image_transformer.data.loading import ImageData, class_labels, class_names
from image_transformer.data.loading import load as load_data
from image_transformer.files import write_atomically
from image_transformer.geometry.boxes import box_mean, nearest
from image_transformer.inference.sampling import generate, generate_by_class
from image_transformer.inference.scoring import evaluate
from image_transformer.model import ImageTransformer
from image_transformer.networks.modern import ModernTransformer
from image_transformer.show import grids as pictures
from image_transformer.show.page import read_metrics, write_report
from image_transformer.show.progress import training_bar
from image_transformer.training.optim import make_optimizers, set_learning_rates

# A resumed run may change these and nothing else. (A new `images` or `minutes` moves the end, and with it the decay of
# the learning rate. With `minutes` the rate follows the clock, so such runs are not repeatable to the bit.)
RESUMABLE = ("images", "minutes", "validate_every", "validation_images", "sample_every", "save_every", "keep")
START_PIXELS = 500 * 32 * 32  # pixels that the closed-form start is fitted to
SAMPLES = 16  # images in a sample picture
ROWS, COLUMNS = 10, 4  # of a conditional model's: conditions, and images for each
LOG_EVERY = 20  # updates between training lines in the log


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why, in one line, and what to try."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C: the run is saved and can be resumed."""


def train(config: RunConfig, out: Path, *, resume: bool = False, show_progress: bool = True) -> Path:
    """Train as `config` says and leave everything in the run folder `out`; returns the best checkpoint.

    With `resume` the run in `out` goes on from its newest checkpoint. Raises TrainingError if the loss stops being
    finite, CheckpointError or DataError for a folder or data that do not fit, Interrupted after Ctrl-C.
    """
    config = with_class_names(config)
    _check_folder(config, out, resume)
    saved = checkpoint.checkpoints(out)
    run = Run(config, out, fresh=not saved)
    if saved:
        run.restore(saved[-1])
    out.mkdir(parents=True, exist_ok=True)
    save_config(config, out / "config.yaml")
    if not saved:
        run.start()
    with training_bar(run.progress, show_progress) as advance, _interrupts() as interrupted:
        while not run.finished:
            run.update()
            advance(run.progress, run.state.images_seen, run.images_per_second, run.bits_per_dim)
            run.do_what_is_due()
            if interrupted():
                run.save()
                raise Interrupted(f"saved at {run.state.images_seen:,} images")
    run.finish()
    return checkpoint.best(out)


class Run:
    """The state of a run and its one update."""

    def __init__(self, config: RunConfig, out: Path, *, fresh: bool = True) -> None:
        self.config, self.out = config, out
        self.device = default_device()
        self.data, validation = _load(config, "train"), _load(config, "validation")
        limit, classes = config.train.validation_images, config.model.classes
        self.validation = validation.images[:limit]
        self.labels = None if classes is None else class_labels(self.data, classes)
        self.validation_labels = (
            None if classes is None else torch.from_numpy(class_labels(validation, classes)[:limit])
        )
        torch.manual_seed(random_seed(config.train.seed, "weights"))
        self.model = ImageTransformer(config.model)
        if fresh and config.train.closed_form_start and isinstance(self.model.network, ModernTransformer):
            count = max(1, START_PIXELS // (config.model.shape[1] * config.model.shape[2]))
            images = torch.from_numpy(self.data.images[:count].copy())
            self.model.network.closed_form_start(images, self.model.low_of(images))
        self.model.to(self.device).train()
        self.optimizers = make_optimizers(self.model, config.train)
        decay = config.train.ema
        self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(decay)) if decay else None
        self.bf16 = use_bf16(config.train, self.device)
        self.state = State()
        self.log = MetricsLog(out, config.train.tensorboard)
        self.best: float | None = None  # validation bits/dim
        self.started_at = (0, 0.0)  # images and seconds when this process took over
        self.learning_rate = 0.0
        self._loss = compiled(self._bits_per_dim) if use_compile(config.train, self.device) else self._bits_per_dim
        self._window: list[tuple[float, float]] = []  # (bits/dim, seconds) of the updates since the last log line
        self._newest: Reading | None = None  # bits/dim and gradient norm of the last update
        self.bits_per_dim = 0.0  # of the newest update whose figures have arrived
        self._previous = 0  # images seen before the last update
        self._orders: dict[int, NDArray[np.int64]] = {}  # the order of the images in the newest epochs

    @property
    def weights(self) -> nn.Module:
        """The model for use: the moving average if there is one."""
        return self.average.module if self.average is not None else self.model

    @property
    def progress(self) -> float:
        """Fraction of the run that is done, by images or by the clock, whichever is further."""
        train = self.config.train
        by_clock = self.state.seconds / (60 * train.minutes) if train.minutes else 0.0
        return min(1.0, max(self.state.images_seen / train.images, by_clock))

    @property
    def images_per_second(self) -> float:
        """Of this process, validations and pictures not counted."""
        images, seconds = self.started_at
        return (self.state.images_seen - images) / max(self.state.seconds - seconds, 1e-9)

    @property
    def finished(self) -> bool:
        return self.progress >= 1

    def update(self) -> None:
        """One optimizer step on the next batch. TrainingError if the update before it was not finite.

        The host never waits for the device to finish what it has just been given: figures are read an update later.
        """
        began, train = time.perf_counter(), self.config.train
        seen = self.state.images_seen
        self.learning_rate = train.lr * set_learning_rates(
            self.optimizers, train, width=self.config.model.width, images_seen=seen, progress=self.progress
        )
        passes = range(0, train.batch, train.micro_batch or train.batch)
        total = torch.zeros((), device=self.device)
        for first in passes:
            torch.manual_seed(random_seed(train.seed, "dropout", seen + first))
            images, label = self.batch(seen + first, train.micro_batch or train.batch)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                bpd = self._loss(images, label) / len(passes)
            (bpd * math.log(2)).backward()
            total += bpd.detach()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), train.clip or math.inf)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update_parameters(self.model)
        self._read_newest()
        self._newest = Reading(torch.stack([total, norm.float()]))
        seconds = time.perf_counter() - began
        self._previous = seen
        self.state = State(images_seen=seen + train.batch, seconds=self.state.seconds + seconds)
        self._window.append((math.nan, seconds))

    def _bits_per_dim(self, images: Tensor, label: Tensor | None) -> Tensor:
        return -self.model.score(images, self.model.read(label, self.model.low_of(images))).mean() / math.log(2)

    def _read_newest(self) -> None:
        """Take in the figures of the last update. TrainingError, before anything is saved, if they are not finite."""
        if self._newest is None:
            return
        self.bits_per_dim, norm = self._newest.values()
        self._newest = None
        if not math.isfinite(self.bits_per_dim + norm):
            self._stop(self.bits_per_dim, norm, self._previous)
        self._window[-1] = (self.bits_per_dim, self._window[-1][1])

    def batch(self, first: int, count: int) -> tuple[Tensor, Tensor | None]:
        """The training images `first` to `first + count` of the run, uint8 (count, c, h, w), and their classes."""
        number = np.arange(first, first + count)
        epochs, places = np.divmod(number, len(self.data))
        index = np.array([self._order(int(epoch))[place] for epoch, place in zip(epochs, places, strict=True)])
        images = np.ascontiguousarray(self.data.images[index])
        orientations = self.config.data.trained_orientations
        if len(orientations) > 1:
            for i, n in enumerate(number.tolist()):
                drawn = random_seed(self.config.train.seed, "flips", n) % len(orientations)
                images[i] = orientations[drawn].apply(images[i])
        label = None if self.labels is None else torch.from_numpy(self.labels[index])
        return self._to_device(torch.from_numpy(images)), None if label is None else self._to_device(label)

    def _to_device(self, batch: Tensor) -> Tensor:
        return batch.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else batch

    def do_what_is_due(self) -> None:
        """Log, validate, draw samples and save a checkpoint where the last update crossed one of their intervals."""
        train = self.config.train
        if self.finished or self._crossed(LOG_EVERY * train.batch):
            self._read_newest()
            self._log_training()
        improved = False
        if self.finished or self._crossed(train.validate_every):
            improved = self._validate()
        if improved or self.finished or self._crossed(train.save_every):
            self.save()
        if self.finished or self._crossed(train.sample_every):
            self._draw_samples()

    def save(self) -> Path:
        """Write a checkpoint of this moment and drop those that are no longer kept."""
        self._read_newest()
        training = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict() if self.average is not None else None,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "best": self.best,
            "window": self._window,
        }
        folder = checkpoint.save(self.out, self.config, self.state, self.weights.state_dict(), training)
        checkpoint.prune(self.out, self.config.train.keep)
        return folder

    def restore(self, folder: Path) -> None:
        """Go on from a checkpoint: everything is as it was when it was written."""
        training = checkpoint.read_training(folder)
        self.state = checkpoint.read_state(folder)
        self.best, self._window = training["best"], training["window"]
        self.started_at = (self.state.images_seen, self.state.seconds)
        checkpoint.load_weights(self.model, training["model"], folder)
        if self.average is not None:
            self.average.load_state_dict(training["average"])
        for optimizer, state in zip(self.optimizers, training["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.log.rewind(self.state.images_seen)

    def start(self) -> None:
        """Begin the log with what the figures of this run depend on."""
        self.log.rewind(-1)  # of a run that died before its first checkpoint
        self.log.write(
            "start",
            images=0,
            parameters=sum(p.numel() for p in self.model.parameters()),
            device=str(self.device),
            threads=torch.get_num_threads(),
            dtype="bfloat16" if self.bf16 else "float32",
            torch=torch.__version__,
            data=self.data.name,
            train_images=len(self.data),
            skipped=self.data.skipped,
            flips=self.config.data.flips,
            orientations=self.config.data.orientations,
        )

    def finish(self) -> None:
        write_report(self.out)
        self.log.close()

    def _crossed(self, interval: int) -> bool:
        return self.state.images_seen // interval > self._previous // interval

    def _log_training(self) -> None:
        bpd, seconds = (sum(column) for column in zip(*self._window, strict=True))
        rate = len(self._window) * self.config.train.batch / seconds
        self._write("train", bpd=bpd / len(self._window), images_per_s=rate, lr=self.learning_rate)
        self._window.clear()

    def _validate(self) -> bool:
        result = evaluate(cast(ImageTransformer, self.weights), self.validation, label=self.validation_labels)
        if not math.isfinite(result.bits_per_dim):
            self._stop(result.bits_per_dim, 0.0, self.state.images_seen)
        self.state = replace(self.state, validation_bpd=result.bits_per_dim)
        improved = self.best is None or result.bits_per_dim < self.best
        self.best = result.bits_per_dim if improved else self.best
        self._write("validation", bpd=result.bits_per_dim, count=len(self.validation))
        write_report(self.out)
        return improved

    def _draw_samples(self) -> None:
        model, path = cast(ImageTransformer, self.weights), self.out / "samples"
        picture = sample_picture(model, self.validation, self.validation_labels, seed=self.config.train.seed)
        path.mkdir(exist_ok=True)
        pictures.save_png(picture, path / f"images-{self.state.images_seen:09d}.png")

    def _write(self, kind: str, **values: Any) -> None:
        self.log.write(kind, images=self.state.images_seen, seconds=round(self.state.seconds, 3), **values)

    def _order(self, epoch: int) -> NDArray[np.int64]:
        if epoch not in self._orders:
            self._orders = {e: order for e, order in self._orders.items() if e == epoch - 1}
            rng = np.random.default_rng(random_seed(self.config.train.seed, "order", epoch))
            self._orders[epoch] = rng.permutation(len(self.data))
        return self._orders[epoch]

    def _stop(self, bpd: float, norm: float, images_seen: int) -> NoReturn:
        folders = checkpoint.checkpoints(self.out)
        kept = f"the last good checkpoint is {folders[-1]}" if folders else "no checkpoint was written before"
        what = "loss" if not math.isfinite(bpd) else "gradient"
        raise TrainingError(
            f"the {what} is not finite after {images_seen:,} images ({kept}); try --train.clip 1, "
            f"a lower --train.lr (now {self.config.train.lr:g}) or --train.bf16 off"
        )


def sample_picture(
    model: ImageTransformer, given: NDArray[np.uint8], label: Tensor | None = None, *, seed: int = 0
) -> Image.Image:
    """New images; of a class-conditional model a row for each of its first classes; of one for super-resolution the
    low-resolution version of some `given` images (n, c, h, w) of classes `label`, what is drawn, and the images."""
    classes, factor = model.config.classes or (), model.config.factor
    if factor:
        shown = np.array(given[:ROWS])
        low = box_mean(shown, factor)
        again = torch.from_numpy(low.repeat(COLUMNS, 0))
        labels = None if label is None else label[:ROWS].repeat_interleave(COLUMNS)
        drawn = generate(model, len(again), seed=seed, low=again, label=labels).numpy()
        columns = [nearest(low, factor)[:, None], drawn.reshape(-1, COLUMNS, *drawn.shape[1:]), shown[:, None]]
        rows = [("", row) for row in np.concatenate(columns, 1)]
        return pictures.labelled_rows(rows, ["given", *["drawn"] * COLUMNS, "original"])
    if classes:
        names = classes[:ROWS]
        drawn = generate_by_class(model, names, COLUMNS, seed=seed).numpy()
        return pictures.labelled_rows(list(zip(names, drawn, strict=True)))
    return pictures.grid(generate(model, SAMPLES, seed=seed).numpy(), columns=8)


def compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`torch.compile` of a function, or the function itself with a warning where that fails, as without a compiler."""
    from torch._dynamo.exc import TorchDynamoException

    fast = torch.compile(function)

    def call(*arguments: Tensor | None) -> Tensor:
        nonlocal fast
        try:
            return fast(*arguments)
        except TorchDynamoException as error:
            if fast is function:
                raise
            warnings.warn(
                f"training goes on without torch.compile, which failed: {str(error).splitlines()[0]}", stacklevel=2
            )
            fast = function
            return function(*arguments)

    return call


class Reading:
    """Figures on their way from the device to the host, which does not wait for them until it asks."""

    def __init__(self, figures: Tensor) -> None:
        on_gpu = figures.device.type == "cuda"
        self._host = torch.empty(figures.shape, dtype=figures.dtype, pin_memory=on_gpu)
        self._host.copy_(figures, non_blocking=True)
        self._arrived = torch.cuda.Event() if on_gpu else None
        if self._arrived is not None:
            self._arrived.record()

    def values(self) -> list[float]:
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._host.tolist()


class MetricsLog:
    """`metrics.jsonl`, one JSON object a line, and TensorBoard beside it if asked for."""

    def __init__(self, run: Path, tensorboard: bool) -> None:
        self.path = run / "metrics.jsonl"
        self._board = _tensorboard(run) if tensorboard else None

    def write(self, kind: str, *, images: int, **values: Any) -> None:
        with open(self.path, "a") as file:
            file.write(json.dumps({"kind": kind, "images": images, **values}) + "\n")
        if self._board is not None:
            for name, value in values.items():
                if isinstance(value, float):
                    self._board.add_scalar(f"{kind}/{name}", value, images)

    def rewind(self, images: int) -> None:
        """Forget what was logged after `images`: the run goes on from there."""
        lines = [json.dumps(line) + "\n" for line in read_metrics(self.path) if line.get("images", 0) <= images]
        write_atomically(self.path, "".join(lines).encode())

    def close(self) -> None:
        if self._board is not None:
            self._board.close()


def _tensorboard(run: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise TrainingError("--train.tensorboard needs the package tensorboard: pip install tensorboard") from None
    return SummaryWriter(run / "tensorboard")


def random_seed(seed: int, what: str, number: int = 0) -> int:
    """A seed for one purpose (weights, order, dropout, flips), as a pure function of its arguments."""
    purpose = ("weights", "order", "dropout", "flips").index(what)
    return int(np.random.SeedSequence([seed, purpose, number]).generate_state(1, np.uint64)[0] >> 1)


def use_bf16(config: TrainConfig, device: torch.device) -> bool:
    """Whether to train in bfloat16: as told, or where the hardware multiplies it faster than float32."""
    if config.bf16 != "auto":
        return config.bf16 == "on"
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def use_compile(config: TrainConfig, device: torch.device) -> bool:
    """Whether to compile the loss: as told, or on a GPU. On CPUs it gains too little for the minute that it takes."""
    return config.compile == "on" or (config.compile == "auto" and device.type == "cuda")


def with_class_names(config: RunConfig) -> RunConfig:
    """The configuration with the names of the training data's classes, where it leaves them open."""
    if config.model.classes != ():
        return config
    return replace(config, model=replace(config.model, classes=class_names(_load(config, "train"))))


def _load(config: RunConfig, split: str) -> ImageData:
    data = config.data
    return load_data(data.source, split, shape=config.model.shape, size=data.size, skip_bad=data.skip_bad)


def _check_folder(config: RunConfig, out: Path, resume: bool) -> None:
    """CheckpointError if `out` holds a run where it should not, none where it should, or one of another recipe."""
    exists = (out / "config.yaml").exists()
    if not resume:
        if exists:
            raise CheckpointError(f"{out} already holds a run: go on with --resume, or choose another --out")
        if out.is_dir() and any(out.iterdir()):
            raise CheckpointError(f"{out} is not empty: choose another --out")
        return
    if not exists:
        raise CheckpointError(f"{out} holds no run to resume")
    old, new = to_dict(load_config(out / "config.yaml")), to_dict(config)
    for room in ("model", "data", "train"):
        for name, value in new[room].items():
            if old[room].get(name) != value and not (room == "train" and name in RESUMABLE):
                raise CheckpointError(
                    f"{out} is a run with {room}.{name} = {old[room].get(name)}, "
                    f"which --resume cannot change to {value}"
                )


@contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Turns Ctrl-C and SIGTERM into a flag, so that an update is never cut in half; a second Ctrl-C stops at once."""
    seen: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(seen)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
