"""`image-transformer status`: where a run stands, how fast it is, when it ends, and whether it lives."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from image_transformer.cli.flags import arguments
from image_transformer.config.run import load_config, resuming
from image_transformer.config.train import TrainConfig
from image_transformer.files import checkpoints, user_of
from image_transformer.show.records import read_metrics


@dataclass(frozen=True)
class Status:
    """Say where a run stands, from its folder alone."""

    json: bool = False
    """Print machine-readable figures."""


def run(args: list[str]) -> None:
    (path,), chosen = arguments(Status, "status RUN", args)
    found = standing(Path(path))
    print(json.dumps(found) if chosen.json else "\n".join(in_words(Path(path), found)))


def standing(run: Path) -> dict[str, Any]:
    """The newest figures of a run. ValueError if `run` is no run folder."""
    if not (run / "config.yaml").exists():
        raise ValueError(f"{run} is no run folder: it has no config.yaml")
    if (run / "model.safetensors").exists():
        raise ValueError(f"{run} is an exported model, not a run: there is nothing to go on with")
    config, lines = load_config(run / "config.yaml"), read_metrics(run / "metrics.jsonl")
    validations = [line for line in lines if line.get("kind") == "validation"]
    newest: dict[str, Any] = next((line for line in reversed(lines) if line.get("kind") == "train"), {})
    images = max((line.get("images", 0) for line in lines), default=0)
    seconds = max((line.get("seconds", 0.0) for line in lines), default=0.0)
    left = _left(config.train, images, seconds, newest.get("images_per_s"))
    user, folders = user_of(run), checkpoints(run)
    return {
        "recipe": config.recipe,
        "state": "training" if user else "finished" if left == 0 else "stopped",
        "process": user,
        "images": images,
        "of_images": config.train.images,
        "seconds": seconds,
        "of_seconds": config.train.minutes and 60 * config.train.minutes,
        "seconds_left": left,
        "images_per_second": newest.get("images_per_s"),
        "bits_per_dim": newest.get("bpd"),
        "validation": validations[-1]["bpd"] if validations else None,
        "best_validation": min((line["bpd"] for line in validations), default=None),
        "learning_rate": newest.get("lr"),
        "gradient_norm": newest.get("norm"),
        "updates_left_out": newest.get("left_out"),
        "gib_of_memory": newest.get("memory"),
        "checkpoints": [folder.name for folder in folders],
        "saved_ago": _age(folders[-1]) if folders else None,
    }


def _age(path: Path) -> float | None:
    """Seconds since it was written; None if it has just been taken away."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return None


def _left(train: TrainConfig, images: int, seconds: float, rate: float | None) -> float | None:
    """Seconds of training that are left, 0 if it is done, None where nobody knows."""
    by_clock = 60 * train.minutes - seconds if train.minutes else None
    if images >= train.images or (by_clock is not None and by_clock <= 0):
        return 0.0
    by_images = (train.images - images) / rate if rate else None
    known = [left for left in (by_clock, by_images) if left is not None]
    return min(known) if known else None


def in_words(run: Path, found: dict[str, Any]) -> list[str]:
    """What a user wants to read of it."""
    who = f", by {found['process']}" if found["process"] else ""
    again = f"; go on with: {resuming(found['recipe'], run)}"
    said = [f"{run}: {found['recipe']}, {found['state']}{who}{again if found['state'] == 'stopped' else ''}"]
    of = (
        f"{_time(found['seconds'])} of {_time(found['of_seconds'])}" if found["of_seconds"] else _time(found["seconds"])
    )
    images = f"{found['images']:,}" + ("" if found["of_seconds"] else f" of {found['of_images']:,}")
    line = f"  {images} images, {of} of training"
    if found["images_per_second"]:
        line += f", {found['images_per_second']:.1f} images/s"
    left = found["seconds_left"]
    if left and found["process"]:
        line += f"; {_time(left)} left, until about {datetime.now() + timedelta(seconds=left):%a %H:%M}"
    said.append(line)
    if found["bits_per_dim"] is not None:
        line = f"  {found['bits_per_dim']:.3f} bits/dim in training"
        if found["validation"] is not None:
            line += f", {found['validation']:.3f} in validation, {found['best_validation']:.3f} the best"
        said.append(line)
        line = f"  learning rate {found['learning_rate']:.2g}"
        if found["gradient_norm"] is not None:
            line += f", gradient {found['gradient_norm']:.2g}"
        if found["gib_of_memory"] is not None:
            line += f", {found['gib_of_memory']:.1f} GiB of memory"
        out = found["updates_left_out"]
        said.append(line + (f", {out:,} updates left out as not finite" if out else ""))
    if found["checkpoints"]:
        ago = "" if found["saved_ago"] is None else f", {_time(found['saved_ago'])} ago"
        said.append(f"  newest checkpoint {found['checkpoints'][-1]}{ago}")
    return said


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
