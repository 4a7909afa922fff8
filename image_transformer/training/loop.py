"""The loop of a training, its folder, and what interrupts it."""

from __future__ import annotations

import signal
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from image_transformer import checkpoint
from image_transformer.checkpoint import CheckpointError, DamagedError
from image_transformer.config.run import RunConfig, load_config, save_config, to_dict
from image_transformer.files import LAUNCH, begin_here, locked
from image_transformer.processes import Processes, together
from image_transformer.show.page import write_report
from image_transformer.show.progress import training_bar
from image_transformer.training.due import do_what_is_due
from image_transformer.training.errors import Interrupted
from image_transformer.training.run import Run, load_split

# A resumed run may change these and nothing else. (A new `images` or `minutes` moves the end, and with it the decay of
# the learning rate. With `minutes` the rate follows the clock, so such runs are not repeatable to the bit.)
RESUMABLE = (
    "images", "minutes", "micro_batch", "parallel", "recompute", "max_left_out", "lr", "muon_lr", "clip", "bf16",
    "compile", "validate_every", "sample_every", "save_every", "keep", "tensorboard",
)  # fmt: skip


def train(config: RunConfig, out: str | Path, *, resume: bool = False, show_progress: bool = True) -> Path:
    """Train as `config` says and leave everything in the run folder `out`; returns the best checkpoint.

    With `resume` the run in `out` goes on from its newest checkpoint that is whole; damaged ones are named on stderr.
    An update whose loss or gradient is not finite is left out. Raises TrainingError if there are more than
    `train.max_left_out` in a row, if weights are not finite, or if memory runs out; CheckpointError, DataError or
    ValueError for a folder, data or a configuration that do not fit, InUseError while another process trains in `out`,
    Interrupted (a KeyboardInterrupt) after Ctrl-C or SIGTERM, when the run has been saved. What of the model
    `train.init` could not be taken over as it was is said on stderr.

    >>> best = it.train(config, "runs/new", show_progress=False)        # config = it.recipe("tiny"), for example
    >>> it.load(best).config == config.model
    True
    """
    out = Path(out)
    with together() as processes:
        with processes.in_turn():
            config = settled(config)
        changed = _check_folder(config, out, resume) if processes.first else {}
        with locked(out) if processes.first else nullcontext():
            if not resume:
                begin_here(out)
            _train(config, out, processes, show_progress, changed)
            return processes.told(checkpoint.best(out) if processes.first else out)


def _train(
    config: RunConfig, out: Path, processes: Processes, show_progress: bool, changed: dict[str, list[Any]]
) -> None:
    """What each of the processes does."""
    if processes.first:
        checkpoint.clear_partial(out)
    newest = processes.told(go_back_to_whole(out) if processes.first else None)
    run = Run(config, out, fresh=newest is None)
    with closing(run.log), closing(run.saver):
        for line in run.carried:
            run.say(f"from {config.train.init}: {line}")
        if newest is not None:
            run.restore(newest)
        save_config(config, out / "config.yaml")
        if newest is None:
            run.start()
        elif changed:
            run.log.write("resume", images=run.state.images_seen, changed=changed)
        _go_on(run, processes, show_progress)
    if processes.first:
        write_report(out)


def _go_on(run: Run, processes: Processes, show_progress: bool) -> None:
    """Update after update, until it is finished or told to stop."""
    shown = training_bar(run.progress, show_progress and processes.first)
    with shown as advance, _signals() as came:
        while not run.finished:
            run.update()
            advance(run.progress, run.state.images_seen, run.images_per_second, run.bits_per_dim)
            do_what_is_due(run)
            run.saver.look()
            signal_number = int(processes.largest(came()))
            if signal_number:
                run.save()
                run.saver.wait()
                if processes.first and run.finished:  # its last validation has left that to the end
                    write_report(run.out)
                raise Interrupted(f"saved at {run.state.images_seen:,} images", signal_number)
        run.saver.wait()


def settled(config: RunConfig) -> RunConfig:
    """The configuration with what its conditions leave open taken from the training data, such as names of classes."""
    if not any(condition.open for condition in config.model.conditions):
        return config
    data = load_split(config, "train")
    conditions = tuple(condition.settled(data) for condition in config.model.conditions)
    return replace(config, model=replace(config.model, conditions=conditions))


def go_back_to_whole(run: Path) -> Path | None:
    """The newest checkpoint that is whole, or None if there is none at all.

    Newer ones that are damaged are named on stderr, and renamed so that they do not count as checkpoints any more.
    CheckpointError if all are damaged.
    """
    errors: list[DamagedError] = []
    folders = checkpoint.checkpoints(run)
    for folder in reversed(folders):
        try:
            checkpoint.check(folder)
        except DamagedError as damaged:
            errors.append(damaged)
            continue
        for error, newer in zip(errors, reversed(folders), strict=False):
            aside = newer.rename(newer.with_name(f"damaged-{newer.name}-{uuid.uuid4().hex[:8]}"))
            print(f"{error}; going on from {folder}, the damaged one is now {aside.name}", file=sys.stderr)
        return folder
    if errors:
        raise errors[0]
    return None


def _check_folder(config: RunConfig, out: Path, resume: bool) -> dict[str, list[Any]]:
    """What a resumed run changes, the old value and the new one of each field.

    CheckpointError if `out` holds a run where it should not, none where it should, or one of another recipe.
    """
    exists = (out / "config.yaml").exists()
    if not resume:
        if exists:
            raise CheckpointError(f"{out} already holds a run: go on with --resume, or choose another --out")
        if out.is_dir() and any(not path.name.startswith((".lock", LAUNCH, ".config.yaml.")) for path in out.iterdir()):
            raise CheckpointError(f"{out} is not empty: choose another --out")
        return {}
    if not exists:
        raise CheckpointError(f"{out} holds no run to resume")
    if (out / "model.safetensors").exists():
        raise CheckpointError(f"{out} is an exported model, not a run: another run starts from it with --init {out}")
    old, new = to_dict(load_config(out / "config.yaml")), to_dict(config)
    changed: dict[str, list[Any]] = {}
    for room in ("model", "data", "train"):
        for name, value in new[room].items():
            before = old[room].get(name)
            if before == value:
                continue
            if not (room == "train" and name in RESUMABLE):
                raise CheckpointError(
                    f"{out} is a run with {room}.{name} = {before}, which --resume cannot change to {value}"
                )
            changed[f"{room}.{name}"] = [before, value]
    return changed


@contextmanager
def _signals() -> Iterator[Callable[[], int]]:
    """The number of the first signal that came, Ctrl-C or SIGTERM, or 0: an update is never cut in half.

    A second Ctrl-C stops at once. (torchrun sends SIGTERM after a Ctrl-C that all processes have seen.)
    """
    seen: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if signal.SIGINT in seen and number == signal.SIGINT:
            raise KeyboardInterrupt
        seen.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: seen[0] if seen else 0
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
