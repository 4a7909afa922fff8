"""What a run logs while it trains: `metrics.jsonl`, and TensorBoard beside it if asked for."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from image_transformer.files import write_atomically
from image_transformer.processes import processes
from image_transformer.show.records import read_metrics
from image_transformer.training.errors import TrainingError


class MetricsLog:
    """One JSON object a line; TensorBoard shows the same lines. Of several processes, the first one writes."""

    def __init__(self, run: Path, tensorboard: bool = False) -> None:
        self.path, self._board_path, self._silent = run / "metrics.jsonl", run / "tensorboard", not processes().first
        self._new_board = _summary_writer() if tensorboard else None
        self._board: Any = None

    def write(self, kind: str, *, images: int, **values: Any) -> None:
        if self._silent:
            return
        line = {"kind": kind, "images": images} | values
        line |= {name: None for name, value in line.items() if isinstance(value, float) and not math.isfinite(value)}
        with open(self.path, "a") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")
        self._show(line)

    def rewind(self, images: int) -> None:
        """Forget what was logged after `images`: the run goes on from there."""
        if self._silent:
            return
        kept = [line for line in read_metrics(self.path) if line.get("images", 0) <= images]
        write_atomically(self.path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        if self._new_board is not None:
            new = not self._board_path.exists()  # else TensorBoard hides what was there after it
            self._board = self._new_board(self._board_path, purge_step=images + 1)
            if new:
                for line in kept:
                    self._show(line)
                for file in sorted((self.path.parent / "samples").glob("images-*.png")):
                    if _images_of(file) <= images:
                        self.show_picture(file)

    def show_picture(self, file: Path) -> None:
        """A picture of samples, called images-NUMBER.png."""
        if self._board is not None:
            with Image.open(file) as picture:
                pixels = np.asarray(picture.convert("RGB"))
            self._board.add_image("samples", pixels, _images_of(file), dataformats="HWC")

    def _show(self, line: dict[str, Any]) -> None:
        for name, value in line.items():
            if self._board is not None and isinstance(value, float):
                self._board.add_scalar(f"{line['kind']}/{name}", value, line.get("images", 0))

    def close(self) -> None:
        if self._board is not None:
            self._board.close()


def _images_of(picture: Path) -> int:
    return int(picture.stem.removeprefix("images-"))


def _summary_writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise TrainingError("--train.tensorboard needs the package tensorboard: pip install tensorboard") from None
    return SummaryWriter
