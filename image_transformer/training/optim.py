"""Optimizers and learning-rate schedules of the two families."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.optim import Adam, AdamW, Muon, Optimizer

from image_transformer.config.train import TrainConfig


def make_optimizers(model: nn.Module, config: TrainConfig) -> list[Optimizer]:
    """One optimizer, or two: Muon for the matrices inside the blocks and AdamW for all else."""
    parameters = list(model.parameters())
    if config.optimizer == "adam":  # Vaswani et al. (2017), 5.3
        return [Adam(parameters, lr=config.lr, betas=(0.9, 0.98), eps=1e-9)]
    if config.optimizer == "adamw":
        return [_adamw(parameters, config)]
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and ".blocks." in f".{name}"]
    chosen = {id(p) for p in matrices}
    rest = [p for p in parameters if id(p) not in chosen]
    if not matrices:
        raise ValueError("train.optimizer muon is for matrices inside `blocks`: this network has none, use adamw")
    return [Muon(matrices, lr=config.muon_lr, weight_decay=config.weight_decay), _adamw(rest, config)]


def _adamw(parameters: Iterable[torch.Tensor], config: TrainConfig) -> AdamW:
    return AdamW(parameters, lr=config.lr, betas=(0.9, 0.95), weight_decay=config.weight_decay, fused=True)


def set_learning_rates(
    optimizers: Iterable[Optimizer], config: TrainConfig, *, width: int, images_seen: int, progress: float
) -> float:
    """Set every group's rate for the update after `images_seen` images, `progress` of the way; returns the factor."""
    if config.schedule == "vaswani":
        factor = vaswani(images_seen // config.batch, config.warmup, width)
    else:
        factor = warmup_constant_decay(images_seen + config.batch, progress, config.warmup, config.decay)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = factor * group.setdefault("base_lr", group["lr"])
    return factor


def vaswani(step: int, warmup: int, width: int) -> float:
    """10 width^-0.5 min((s + 1) w^-1.5, (s + 1)^-0.5), which times 0.1 is the schedule of Vaswani et al. (2017).

    The factor 10 is tensor2tensor's, so that its published `learning_rate` values can be used as they are.
    """
    s = step + 1
    return 10 * width**-0.5 * min(s * warmup**-1.5, s**-0.5)


def warmup_constant_decay(images: int, progress: float, warmup: int, decay: float) -> float:
    """1, but rising linearly over the first `warmup` images and falling to 0 over the last fraction `decay`."""
    rise = min(1.0, images / warmup) if warmup else 1.0
    fall = min(1.0, (1 - progress) / decay) if decay else 1.0
    return rise * max(fall, 0.0)
