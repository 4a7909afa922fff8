"""One trial: trained, measured, and all that is known of it as plain numbers for a JSON file."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import date
from pathlib import Path

import torch

from image_transformer import __version__, checkpoint
from image_transformer.inference.scoring import evaluate
from image_transformer.measures.field import field_of
from image_transformer.reproduce.cost import cost_of
from image_transformer.reproduce.study import Result, Trial
from image_transformer.show.records import read_metrics
from image_transformer.training.errors import TrainingError
from image_transformer.training.loop import settled, train
from image_transformer.training.run import load_split


def run_trial(trial: Trial, folder: Path) -> Result:
    """All that is measured of a trial, on one core of the processor; a training goes on in `folder` if interrupted.

    One that does not stay finite has "failed" instead of figures.
    """
    torch.set_num_threads(1)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # CPU-seconds are counted
    try:
        measured = cost_of(trial) if trial.kind == "cost" else _trained(trial, folder)
    except TrainingError as error:
        measured = {"failed": str(error)}
    return {"row": trial.row, "seed": trial.seed, **measured, "where": where()}


def _trained(trial: Trial, folder: Path) -> Result:
    config = settled(trial.config)
    train(config, folder, resume=(folder / "config.yaml").exists(), show_progress=False)
    newest = checkpoint.checkpoints(folder)[-1]  # not the best: nothing may be chosen by its score
    model, state = checkpoint.load(newest, "cpu"), checkpoint.read_state(newest)
    test = load_split(config, "test").some(trial.images)
    scored = evaluate(model, test.images, **model.of(test, only=model.untold))
    lines = [line for line in read_metrics(folder / "metrics.jsonl") if line["kind"] == "validation"]
    result: Result = {
        "bits_per_dim": round(scored.bits_per_dim, 5),
        "standard_error": round(scored.standard_error, 5),
        "scored": len(test),
        "images": state.images_seen,
        "cpu_seconds": round(state.seconds, 1),
        "parameters": sum(p.numel() for p in model.parameters()),
        "curve": [[round(line["seconds"], 1), line["images"], round(line["bpd"], 4)] for line in lines],
    }
    if "field" in trial.measures and model.network.differentiable:
        result["field"] = field_of(model, test.some(8)).tolist()
    return result


def where() -> dict[str, str]:
    """The code, the machine and the day that a figure belongs to."""
    inside = Path(__file__).parent
    asked = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=inside, capture_output=True, text=True, check=False
    )
    return {
        "version": __version__,
        "commit": asked.stdout.strip(),
        "torch": torch.__version__,
        "processor": _processor(),
        "date": date.today().isoformat(),
    }


def _processor() -> str:
    """Its name, and the instructions that decide how fast it multiplies."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
    except OSError:
        return platform.processor() or platform.machine()
    lines = {name.strip(): value.strip() for name, value in lines.items()}
    flags = lines.get("flags", "").split()
    fast = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_tile") if flag in flags]
    return f"{lines.get('model name', platform.machine())} ({', '.join(fast)})"
