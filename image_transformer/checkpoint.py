"""Checkpoints: folders that appear whole or not at all, from which a model loads and a run goes on exactly.

checkpoints/images-000012800/
    model.safetensors    weights for use (the moving average, if the run keeps one)
    config.yaml          the run's configuration
    state.json           format, images seen, training seconds, validation bits/dim
    training.pt          raw weights, optimizers, moving average: what --resume needs
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import yaml
from safetensors import SafetensorError
from torch import Tensor

from image_transformer.config.model import RunConfig, load_config, to_dict
from image_transformer.model import ImageTransformer

FORMAT = 2  # 1: the modern family's inputs were other pixels


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, or of another kind; the message is one line."""


@dataclass(frozen=True)
class State:
    """How far a run is."""

    images_seen: int = 0
    seconds: float = 0.0
    validation_bpd: float | None = None
    format: int = FORMAT


def save(
    run: Path, config: RunConfig, state: State, weights: Mapping[str, Tensor], training: Mapping[str, Any]
) -> Path:
    """Write a checkpoint into `run`/checkpoints, atomically, and return its folder. OSError if the disk is full."""
    folder = run / "checkpoints" / f"images-{state.images_seen:09d}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save(dict(training), buffer)
    files = {
        "model.safetensors": safetensors.torch.save({k: v.detach().cpu().contiguous() for k, v in weights.items()}),
        "config.yaml": yaml.safe_dump(to_dict(config), sort_keys=False).encode(),
        "state.json": json.dumps(asdict(state)).encode(),
        "training.pt": buffer.getvalue(),
    }
    partial = folder.parent / f".partial-{uuid.uuid4().hex}"
    partial.mkdir()
    try:
        for name, content in files.items():
            with open(partial / name, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        if folder.exists():
            remove(folder)
        partial.rename(folder)
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"cannot save {folder}: {reason}; the checkpoints before it are untouched") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def prune(run: Path, keep: int) -> None:
    """Delete all checkpoints of `run` but the newest `keep` and the one with the best validation bits/dim."""
    folders = checkpoints(run)
    for folder in set(folders) - {best(run), *folders[-keep:]}:
        remove(folder)


def remove(folder: Path) -> None:
    """Delete a checkpoint, so that it is there whole or, if this is cut short, not at all."""
    partial = folder.parent / f".partial-{uuid.uuid4().hex}"
    folder.rename(partial)
    shutil.rmtree(partial)


def checkpoints(run: Path) -> list[Path]:
    """The checkpoint folders of a run, oldest first."""
    return sorted((run / "checkpoints").glob("images-*"))


def best(run: Path) -> Path:
    """The checkpoint with the lowest validation bits/dim; the newest if none was validated."""
    folders = checkpoints(run)
    if not folders:
        raise CheckpointError(f"{run} holds no checkpoint yet")
    scored: dict[Path, float] = {}
    for folder in folders:
        with contextlib.suppress(CheckpointError):  # a damaged one does not hide the others
            score = read_state(folder).validation_bpd
            if score is not None:
                scored[folder] = score
    return min(scored, key=lambda folder: scored[folder]) if scored else folders[-1]


def read_state(folder: Path) -> State:
    """How far the run was at this checkpoint. CheckpointError if it is of another format."""
    try:
        values = json.loads((folder / "state.json").read_text())
        if values.get("format") != FORMAT:
            raise CheckpointError(f"{folder} has checkpoint format {values.get('format')}, expected {FORMAT}")
        return State(**values)
    except (OSError, json.JSONDecodeError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder} is not a checkpoint: state.json: {error}") from None


def read_training(folder: Path) -> dict[str, Any]:
    """What `save` got as `training`. CheckpointError if the file is damaged."""
    try:
        training = torch.load(folder / "training.pt", map_location="cpu", weights_only=True)
        if not isinstance(training, dict) or not {"model", "optimizers"} <= training.keys():
            raise ValueError("it holds something else than the state of a run")
        return training
    except Exception as error:  # torch.load raises nearly anything on a damaged file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{folder / 'training.pt'} is truncated or damaged: {reason}") from None


def find(path: str | Path) -> Path:
    """The checkpoint folder that `path` means: itself, or the best one of a run folder."""
    path = Path(path)
    if (path / "model.safetensors").is_file():
        return path
    if (path / "checkpoints").is_dir():
        return best(path)
    if not path.exists():
        raise CheckpointError(f"no model at {path}: expected a run folder or a checkpoint folder")
    raise CheckpointError(f"{path} is neither a run folder (with checkpoints/) nor a checkpoint (model.safetensors)")


def load(path: str | Path, device: str | torch.device | None = None) -> ImageTransformer:
    """The model in a run folder (its best checkpoint) or a checkpoint folder, ready for use, dropout off.

    device: a GPU if there is one, unless given. Raises CheckpointError (a ValueError) if there is no such folder, a
    file is truncated, or the weights are of another model than the configuration says.
    """
    folder = find(path)
    read_state(folder)
    try:
        config = load_config(folder / "config.yaml")
        weights = safetensors.torch.load_file(folder / "model.safetensors")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder} is truncated or damaged: {error}") from None
    model = ImageTransformer(config.model)
    load_weights(model, weights, folder)
    return model.to(device or default_device()).eval()


def load_weights(model: ImageTransformer, weights: Mapping[str, Tensor], source: Path) -> None:
    """Put `weights` into `model`. CheckpointError names the first one that does not fit."""
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise CheckpointError(
                f"{source} holds another model: {name} is {found.get(name, 'missing')}, "
                f"expected {expected.get(name, 'no such tensor')}"
            )
    model.load_state_dict(dict(weights))


def default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
