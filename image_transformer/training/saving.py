"""Checkpoints that are written while the training goes on."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from image_transformer import checkpoint
from image_transformer.config.run import RunConfig
from image_transformer.model import ImageModel
from image_transformer.processes import Processes
from image_transformer.training.update import Learner


class Saver:
    """Writes one checkpoint after another of a run beside its training, which only waits until all is in memory."""

    def __init__(self, run: Path, config: RunConfig, learner: Learner, processes: Processes) -> None:
        self.run, self.config, self.learner, self.processes = run, config, learner, processes
        self._thread = ThreadPoolExecutor(1, "saving")
        self._running: Future[None] | None = None

    def save(self, state: checkpoint.State, weights: ImageModel, log: dict[str, Any]) -> None:
        """A checkpoint of this moment; what `restore` gives of it includes the `log`. OSError if the last one failed.

        All processes have to call it; the first one writes.
        """
        self.wait()
        training = self.learner.state(keep=self.processes.first)
        if self.processes.first:
            files = checkpoint.model_files(self.config, state, weights.state_dict())
            files |= checkpoint.training_file({**training, **log})
            self._running = self._thread.submit(self._finish, state.images_seen, files)

    def _finish(self, images_seen: int, files: dict[str, bytes]) -> None:
        checkpoint.save(self.run, images_seen, files)
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
        """Take the learner back to a checkpoint, however many processes there were; the log that came with it."""
        training = checkpoint.read_training(folder)
        checkpoint.check_weights(self.learner.model, training["model"], folder)
        self.learner.restore(training)
        return {"best": training["best"], "window": training["window"]}
