"""One update of a model: the loss as a module, accumulated gradients, optimizers, the moving average."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from image_transformer.conditions.base import Given
from image_transformer.config.train import TrainConfig
from image_transformer.model import ImageModel
from image_transformer.networks.noise import normal, tell_keys, uniform
from image_transformer.processes import Processes
from image_transformer.training.optim import make_optimizers, set_learning_rates
from image_transformer.training.shards import (
    cut,
    load_whole,
    load_whole_state,
    recompute,
    whole,
    whole_model,
    whole_state,
)

Views = tuple[Tensor, Given, Tensor]  # images, their conditions, and the keys of their noise
Pass = Callable[[], Views]
NOISE = 1 << 20  # the first stream of `noisy`: those before it are for dropout


class Loss(nn.Module):
    """bits/dim of a batch: every weight of the model is used inside its `forward`, so it can be wrapped as a whole."""

    def __init__(self, model: ImageModel, noise: float = 0.0, levels: float = 0.0) -> None:
        """noise, levels: what `noisy` does to the images that the model sees."""
        super().__init__()
        self.model, self.noise, self.levels = model, noise, levels

    def forward(self, images: Tensor, given: Given, keys: Tensor) -> Tensor:
        """Mean bits/dim, a scalar, of uint8 `images` (b, c, h, w), their conditions, and their noise's keys (b,)."""
        tell_keys(self.model, keys)
        seen = noisy(images, keys, self.noise, self.levels) if self.noise else None
        return -self.model.score(images, given, seen=seen).mean() / math.log(2)


def noisy(images: Tensor, keys: Tensor, share: float, levels: float) -> Tensor:
    """Uint8 `images` (b, c, h, w), half of them with Gaussian noise on a `share` of their pixels.

    Its standard deviation is uniform between 0 and `levels`, one for each image. keys: as in `noise.uniform`.
    """
    b, c, h, w = images.shape
    chosen, sigma = uniform(keys, NOISE, 2).view(b, 2, 1, 1, 1).unbind(1)
    where = (uniform(keys, NOISE + 1, h * w).view(b, 1, h, w) < share) & (chosen < 0.5)
    moved = images + normal(keys, NOISE + 2, c * h * w).view(b, c, h, w) * levels * sigma
    return torch.where(where, moved.round().clamp(0, 255).to(torch.uint8), images)


class Learner:
    """A model with all that its updates need and change, alone or as one of several processes with the same model."""

    def __init__(self, model: ImageModel, config: TrainConfig, processes: Processes | None = None) -> None:
        """processes: those that train it together; each one gives `update` its own share of the passes."""
        self.model, self.config, self.device = model.train(), config, model.device
        self.processes = processes or Processes()
        if self.processes.several:
            for tensor in model.state_dict().values():
                distributed.broadcast(tensor, src=0)
        average = get_ema_multi_avg_fn(config.ema) if config.ema else None
        self.average = AveragedModel(model, multi_avg_fn=average) if average else None
        self.loss = Loss(model, config.noise, config.noise_levels)
        self.cut = config.parallel == "fsdp" and self.processes.several
        if config.recompute:
            recompute(model)
        if self.cut:
            for root in (self.loss, self.average.module if self.average is not None else None):
                if root is not None:
                    cut(root, self.device, self.processes.count)
        several = self.processes.several and not self.cut
        self.wrapped: nn.Module = DistributedDataParallel(self.loss) if several else self.loss
        self.call = compiled(self.wrapped) if use_compile(config, self.device) else self.wrapped
        self.bf16 = use_bf16(config, self.device)
        self.optimizers = make_optimizers(model, config, self.bf16, self.processes)
        self.learning_rate = 0.0

    @property
    def weights(self) -> ImageModel:
        """The model for use: the moving average if there is one; a copy where it is cut, for which all have to ask."""
        used: ImageModel = self.average.module if self.average is not None else self.model  # type: ignore[assignment]
        return whole_model(used) if self.cut else used

    def whole_loss(self) -> Loss:
        """The loss in one piece, which needs no other process: a copy where it is cut, for which all have to ask."""
        return Loss(whole_model(self.model), self.loss.noise, self.loss.levels) if self.cut else self.loss

    def update(self, passes: Sequence[Pass], *, images_seen: int, progress: float) -> Reading:
        """One optimizer step on the batch that the passes make up; left out if the gradient is not finite."""
        self.learning_rate = self.config.lr * set_learning_rates(
            self.optimizers, self.config, width=self.model.config.width, images_seen=images_seen, progress=progress
        )
        bits_per_dim = self.accumulate(passes)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip or math.inf)
        norm = (norm.full_tensor() if isinstance(norm, DTensor) else norm).float()
        reading = Reading(*torch.stack([bits_per_dim, norm]).tolist())
        if reading.finite:
            for optimizer in self.optimizers:
                optimizer.step()
            if self.average is not None:
                self.average.update_parameters(self.model)
        self.forget()
        return reading

    def accumulate(self, passes: Sequence[Pass]) -> Tensor:
        """Add the gradient of the mean nats a sub-pixel over the batch, all processes' passes; its mean bits/dim."""
        total = torch.zeros((), device=self.device)
        for number, make in enumerate(passes, 1):
            views = make()
            share = len(views[0]) / self.config.batch
            with self._apart(number < len(passes)):
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                    bits_per_dim = self.call(*views) * share
                (bits_per_dim * (math.log(2) * self.processes.count)).backward()  # others' gradients are averaged
            total += bits_per_dim.detach()
        return self.processes.sum(total)

    def attempt(self, views: Views) -> None:
        """One pass for nothing. RuntimeError if there is no memory for it."""
        try:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                bits_per_dim = self.loss(*views)
            bits_per_dim.backward()
        finally:
            self.forget()

    def _apart(self, yes: bool) -> AbstractContextManager[None]:
        """Whether gradients are not yet shared with the other processes."""
        if isinstance(self.loss, FSDPModule):
            self.loss.set_requires_gradient_sync(not yes)
        several = isinstance(self.wrapped, DistributedDataParallel)
        return self.wrapped.no_sync() if yes and several else nullcontext()  # type: ignore[operator]

    def forget(self) -> None:
        """Drop the gradient."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    def state(self, keep: bool = True) -> dict[str, Any]:
        """All that changes in an update, in one piece, as `restore` takes it. All processes of a cut one have to ask.

        keep: whether this one wants it; else it only takes part.
        """
        return {
            "model": whole(self.model.state_dict(), keep),
            "average": whole(self.average.state_dict(), keep) if self.average is not None else None,
            "optimizers": [whole_state(optimizer, keep) for optimizer in self.optimizers],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take in a state, of a model of the same weights."""
        load_whole(self.model, state["model"])
        if self.average is not None:
            load_whole(self.average, state["average"])
        for optimizer, one in zip(self.optimizers, state["optimizers"], strict=True):
            load_whole_state(optimizer, one)


@dataclass(frozen=True)
class Reading:
    """What an update measured."""

    bits_per_dim: float
    norm: float
    """Of the gradient, before it is clipped."""

    @property
    def finite(self) -> bool:
        return math.isfinite(self.bits_per_dim + self.norm)


def compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`torch.compile` of a function, or the function itself with a warning where that fails, as without a compiler."""
    from torch._dynamo.exc import TorchDynamoException

    fast = torch.compile(function)

    def call(*arguments: Any) -> Tensor:
        nonlocal fast
        try:
            return fast(*arguments)
        except TorchDynamoException as error:
            if fast is function:
                raise
            warnings.warn(
                f"training goes on without torch.compile, which failed: {str(error).splitlines()[0]}", stacklevel=2
            )
            fast = function
            return function(*arguments)

    return call


def use_bf16(config: TrainConfig, device: torch.device) -> bool:
    """Whether to train in bfloat16: as told, or where the hardware multiplies it faster than float32."""
    if config.bf16 != "auto":
        return config.bf16 == "on"
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def use_compile(config: TrainConfig, device: torch.device) -> bool:
    """Whether to compile the loss: as told, or on a GPU. On CPUs it gains too little for the minute that it takes."""
    return config.compile == "on" or (config.compile == "auto" and device.type == "cuda")
