"""Checkpoints: folders that appear whole or not at all, from which a model loads and a run goes on exactly.

checkpoints/images-000012800/
    model.safetensors    weights for use (the moving average, if the run keeps one)
    config.yaml          the run's configuration
    state.json           format, images seen, training seconds, validation bits/dim
    training.pt          raw weights, optimizers, moving average: what --resume needs
    SHA256SUMS           of the others, as `sha256sum -c` reads it
"""

from __future__ import annotations

import contextlib
import hashlib
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
from torch import Tensor, nn

from image_transformer.config.run import RunConfig, load_config, to_dict
from image_transformer.files import checkpoints as checkpoints
from image_transformer.model import ImageModel
from image_transformer.released import folder_of, model_names
from image_transformer.words import did_you_mean

FORMAT = 4
READ = (3, 4)  # 3: no count of updates left out
SUMS = "SHA256SUMS"


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, or of another kind; the message is one line."""


class DamagedError(CheckpointError):
    """A checkpoint with a file that is not what was written."""


@dataclass(frozen=True)
class State:
    """How far a run is."""

    images_seen: int = 0
    seconds: float = 0.0
    validation_bpd: float | None = None
    left_out: int = 0  # updates whose loss or gradient was not finite
    data: str | None = None  # fingerprint of the images it learns from and is validated on
    format: int = FORMAT


def training_file(training: Mapping[str, Any]) -> dict[str, bytes]:
    """The file with what `read_training` gives, beside those of the model."""
    buffer = io.BytesIO()
    torch.save(dict(training), buffer)
    return {"training.pt": buffer.getvalue()}


def save(run: Path, images_seen: int, files: Mapping[str, bytes]) -> Path:
    """Write a checkpoint of these files into `run`/checkpoints, atomically, unless it is there; its folder.

    OSError if the disk is full.
    """
    folder = run / "checkpoints" / f"images-{images_seen:09d}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    if not folder.exists():
        try:
            write_folder(folder, files)
        except OSError as error:
            reason = error.strerror or error
            raise OSError(f"cannot save {folder}: {reason}; the checkpoints before it are untouched") from None
    return folder


def clear_partial(run: Path) -> None:
    """Delete what processes that were killed while they wrote or deleted checkpoints have left."""
    for left in (run / "checkpoints").glob(".partial-*"):
        shutil.rmtree(left, ignore_errors=True)


def model_files(config: RunConfig, state: State, weights: Mapping[str, Tensor]) -> dict[str, bytes]:
    """The files of a checkpoint that say what its model is."""
    return {
        "model.safetensors": safetensors.torch.save({k: v.detach().cpu().contiguous() for k, v in weights.items()}),
        "config.yaml": yaml.safe_dump(to_dict(config), sort_keys=False).encode(),
        "state.json": json.dumps(asdict(state)).encode(),
    }


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files and their sums into a new folder, which appears when all of them are on the disk."""
    partial = folder.parent / f".partial-{uuid.uuid4().hex}"
    partial.mkdir()
    try:
        for name, content in {**files, SUMS: sums(files)}.items():
            with open(partial / name, "wb") as opened:
                opened.write(content)
                opened.flush()
                os.fsync(opened.fileno())
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


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


def sums(files: Mapping[str, bytes]) -> bytes:
    """The content of SHA256SUMS for files by their names."""
    return "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in files.items()).encode()


def read_file(folder: Path, name: str) -> bytes:
    """A file of a checkpoint. CheckpointError, naming it, if it is missing or is not what was written."""
    try:
        content, lines = (folder / name).read_bytes(), (folder / SUMS).read_bytes().splitlines()
    except FileNotFoundError as error:
        raise DamagedError(f"{folder} is damaged: {Path(error.filename).name} is missing") from None
    except OSError as error:
        raise CheckpointError(f"{folder / name} cannot be read: {error.strerror or error}") from None
    if sums({name: content}).strip() not in lines:
        raise DamagedError(f"{folder / name} is truncated or damaged: it is not what {SUMS} says")
    return content


def read_state(folder: Path) -> State:
    """How far the run was at this checkpoint. CheckpointError if it is damaged or of another format."""
    content = read_file(folder, "state.json")
    try:
        values = json.loads(content)
        if values["format"] not in READ:
            expected = " or ".join(map(str, READ))
            raise CheckpointError(f"{folder} has checkpoint format {values['format']}, expected {expected}")
        return State(**values)
    except CheckpointError:
        raise
    except (ValueError, TypeError, KeyError) as error:
        raise DamagedError(f"{folder / 'state.json'} is truncated or damaged: {error}") from None


def read_training(folder: Path) -> dict[str, Any]:
    """What `training_file` was given. CheckpointError if the file is damaged."""
    content = read_file(folder, "training.pt")
    try:
        training = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        if not isinstance(training, dict) or not {"model", "optimizers"} <= training.keys():
            raise ValueError("it holds something else than the state of a run")
    except Exception as error:  # torch.load raises nearly anything on a damaged file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DamagedError(f"{folder / 'training.pt'} is truncated or damaged: {reason}") from None
    return training


def check(folder: Path) -> None:
    """CheckpointError unless every file of a checkpoint is there and whole, and nothing else is said of it."""
    read_state(folder)
    if (folder / "training").is_dir():
        raise CheckpointError(f"{folder} is in parts, which no run goes on from any more: start from it with --init")
    names = ("model.safetensors", "config.yaml", "state.json", "training.pt")  # in the order in which they are written
    expected = b"".join(sums({name: read_file(folder, name)}) for name in names)
    if (folder / SUMS).read_bytes() != expected:
        raise DamagedError(f"{folder} is damaged: {SUMS} is not what was written")


def find(path: str | Path) -> Path:
    """The checkpoint folder that `path` means: itself, the best one of a run folder, or that of a released model."""
    name, path = str(path), Path(path)
    if (path / "model.safetensors").is_file():
        return path
    if (path / "checkpoints").is_dir():
        return best(path)
    if name in model_names():
        return folder_of(name)
    if not path.exists():
        hint = did_you_mean(name, model_names())
        hint = hint if hint.startswith("did") else "image-transformer models lists the released ones"
        raise CheckpointError(f"no model at {name}: expected a run folder, a checkpoint or a released model; {hint}")
    raise CheckpointError(f"{path} is neither a run folder (with checkpoints/) nor a checkpoint (model.safetensors)")


def load(path: str | Path, device: str | torch.device | None = None) -> ImageModel:
    """The model in a run folder (its best checkpoint), in a checkpoint, or released by name, for use, dropout off.

    device: a GPU if there is one, unless given. Raises CheckpointError (a ValueError) if there is no such folder, a
    file is damaged, or the weights are of another model than the configuration says.

    >>> it.load("runs/tiny").config.shape
    (3, 8, 8)
    """
    folder = find(path)
    try:
        read_state(folder)
        config, weights = read_config(folder), read_weights(folder)
    except DamagedError as error:
        others = [other.name for other in checkpoints(Path(path)) if other != folder]
        raise DamagedError(f"{error}; {path} also holds {', '.join(others)}" if others else str(error)) from None
    model = ImageModel(config.model)
    check_weights(model, weights, folder)
    model.load_state_dict(weights)
    return model.to(device or default_device()).eval()


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The weights for use."""
    try:
        return safetensors.torch.load(read_file(folder, "model.safetensors"))
    except safetensors.SafetensorError as error:
        raise DamagedError(f"{folder / 'model.safetensors'} is truncated or damaged: {error}") from None


def read_config(folder: Path) -> RunConfig:
    """The configuration of the run of a checkpoint. CheckpointError if the file is damaged."""
    read_file(folder, "config.yaml")
    try:
        return load_config(folder / "config.yaml")
    except ValueError as error:  # of another version
        raise CheckpointError(str(error)) from None


def check_weights(model: nn.Module, weights: Mapping[str, Tensor], source: Path) -> None:
    """CheckpointError names the first of the `weights` that does not fit into `model`."""
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise CheckpointError(
                f"{source} holds another model: {name} is {found.get(name, 'missing')}, "
                f"expected {expected.get(name, 'no such tensor')}"
            )


def default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
