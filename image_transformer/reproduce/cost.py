"""What a network costs, counted and timed: the gradient of an image, and drawing one."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from image_transformer.inference.sampling import generate
from image_transformer.model import ImageModel
from image_transformer.networks.base import Network
from image_transformer.reproduce.study import Result, Trial
from image_transformer.training.update import Learner

BATCH = 2  # images of a gradient
DRAWN = 4  # images that are drawn together
ENOUGH = 1.0  # CPU-seconds of measuring
LONGEST = 30.0  # CPU-seconds for an image, longer ones are not drawn


def cost_of(trial: Trial) -> Result:
    """GFLOP and CPU-seconds of a gradient, and CPU-seconds to draw, each for one image; one thread, random weights."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = trial.config
    model = ImageModel(config.model)
    learner = Learner(model, replace(config.train, closed_form_start=False))
    images = torch.randint(0, 256, (BATCH, *config.model.shape), dtype=torch.uint8)

    def gradient() -> None:
        learner.accumulate([lambda: (images, {}, torch.arange(BATCH, dtype=torch.int32))])

    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:  # fused attention is not counted
        gradient()
    learn = _seconds(gradient) / BATCH
    again = type(model.network).decoder is Network.decoder  # it is run for every position
    bearable = not again or learn / 3 * model.layout.num_positions < LONGEST
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "gflop": round(counted.get_total_flops() / BATCH / 1e9, 4),
        "learn": round(learn, 5),
        "draw": round(_seconds(lambda: generate(model, DRAWN)) / DRAWN, 5)
        if "draw" in trial.measures and bearable
        else None,
    }


def _seconds(what: Callable[[], object]) -> float:
    """CPU time of one call: the best of several, since other work can only add to it."""
    best, spent = float("inf"), 0.0
    while spent < ENOUGH:
        began = time.process_time()
        what()
        taken = time.process_time() - began
        best, spent = min(best, taken), spent + taken
    return best
