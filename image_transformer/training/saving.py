"""Checkpoints that are written while the training goes on."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as parts
from torch import distributed
from torch.distributed.checkpoint.api import CheckpointException

from image_transformer import checkpoint
from image_transformer.config.run import RunConfig
from image_transformer.data.images import first_line
from image_transformer.model import ImageModel
from image_transformer.processes import Processes
from image_transformer.training.shards import make_states
from image_transformer.training.update import Learner


class Saver:
    """Writes one checkpoint after another of a run beside its training, which only waits until all is in memory."""

    def __init__(self, run: Path, config: RunConfig, learner: Learner, processes: Processes) -> None:
        self.run, self.config, self.learner, self.processes = run, config, learner, processes
        self._thread = ThreadPoolExecutor(1, "saving")
        self._running: Future[None] | None = None
        self._group = distributed.new_group(backend="gloo") if learner.cut else None  # the thread's own

    def save(self, state: checkpoint.State, weights: ImageModel, log: dict[str, Any]) -> None:
        """A checkpoint of this moment; what `restore` gives of it includes the `log`. OSError if the last one failed.

        All processes of a learner that is cut have to call it, of others the first one does all.
        """
        self.wait()
        begun: Path | None = None
        written: Any = None
        files: dict[str, bytes] = {}
        if self.learner.cut:
            begun = self.processes.told(checkpoint.begin(self.run) if self.processes.first else self.run)
            training = {**self.learner.state(), "log": json.dumps(log)}
            with _plain(f"cannot save {begun}"):
                written = parts.async_save(training, checkpoint_id=begun / "training", process_group=self._group)
        if self.processes.first:
            files = checkpoint.model_files(self.config, state, weights.state_dict())
            if not self.learner.cut:
                files |= checkpoint.training_file({**self.learner.state(), **log})
        self._running = self._thread.submit(self._finish, state.images_seen, files, begun, written)

    def _finish(self, images_seen: int, files: dict[str, bytes], begun: Path | None, written: Any) -> None:
        if written is not None:
            with _plain(f"cannot save {begun}"):
                written.result()
            distributed.barrier(self._group)
        if self.processes.first:
            checkpoint.save(self.run, images_seen, files, begun)
            checkpoint.prune(self.run, self.config.train.keep)

    def wait(self) -> None:
        """Until what was begun is written. OSError if it could not be."""
        running, self._running = self._running, None
        if running is not None:
            running.result()

    def look(self) -> None:
        """OSError if what was begun could not be written."""
        if self._running is not None and self._running.done():
            self.wait()

    def close(self) -> None:
        """Let what was begun end, and leave no half of it."""
        self._thread.shutdown()
        if self.processes.first:
            checkpoint.clear_partial(self.run)

    def restore(self, folder: Path) -> dict[str, Any]:
        """Take the learner back to a checkpoint, however many processes have written it; the log that came with it."""
        if not (folder / "training").is_dir():
            training = checkpoint.read_training(folder)
            checkpoint.check_weights(self.learner.model, training["model"], folder)
            self.learner.restore(training)
            return {"best": training["best"], "window": training["window"]}
        make_states(self.learner.optimizers)
        training = {**self.learner.state(), "log": ""}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # one process alone is meant
            with _plain(f"cannot go on from {folder}"):
                parts.load(training, checkpoint_id=folder / "training", no_dist=not self.processes.several)
        self.learner.restore(training)
        return json.loads(training["log"])


@contextmanager
def _plain(what: str) -> Iterator[None]:
    """OSError, in one line, for what went wrong on any of the processes."""
    try:
        yield
    except CheckpointException as several:  # no Exception: it would pass whoever expects one
        error = next(iter(several.failures.values()))[0]
        raise OSError(f"{what}: {getattr(error, 'strerror', None) or first_line(error)}") from None
