"""Optimizers and learning-rate schedules."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.optim import Adam, AdamW, Optimizer

from image_transformer.config.train import TrainConfig
from image_transformer.processes import Processes


def make_optimizers(
    model: nn.Module, config: TrainConfig, bf16: bool = False, processes: Processes | None = None
) -> list[Optimizer]:
    """One optimizer, or two: Muon for the matrices inside the blocks and AdamW for all else.

    bf16: whether the device is fast at it. processes: those that have the same model, and the same gradients.
    """
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
    dtype = torch.bfloat16 if bf16 else torch.float32
    return [Muon(matrices, config.muon_lr, config.weight_decay, dtype, processes), _adamw(rest, config)]


class Muon(Optimizer):
    """Momentum whose updates are orthogonal matrices (Jordan et al., 2024), all matrices of one shape at once.

    A tall matrix is cut into pieces that are as square as can be, such as the queries, keys and values that share one,
    and each piece is made orthogonal by itself. `torch.optim.Muon` does not cut, and multiplies in bfloat16 everywhere,
    at a thirtieth of the speed of float32 on CPUs without it. Several processes divide the matrices of a shape.
    dtype: what the orthogonalisation multiplies in.
    """

    MOMENTUM = 0.95

    def __init__(
        self, params: Iterable[Tensor], lr: float, weight_decay: float, dtype: torch.dtype,
        processes: Processes | None = None,
    ) -> None:  # fmt: skip
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})
        kind, count = self.param_groups[0]["params"][0].device.type, (processes or Processes()).count
        self.dtype, self.mesh = dtype, init_device_mesh(kind, (count,)) if count > 1 else None

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    by_shape[p.shape].append(p)
            for (rows, columns), alike in by_shape.items():
                pieces = _square_pieces(rows, columns)
                updates = self._divided(torch.stack([self._smoothed(p) for p in alike]).to(self.dtype), pieces)
                step = -group["lr"] * max(1.0, rows / pieces / columns) ** 0.5
                for p, update in zip(alike, updates, strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=step)

    def _divided(self, matrices: Tensor, pieces: int) -> Tensor:
        """The orthogonal matrices of `matrices` (n, r, c), an equal share of which each process makes, whole."""
        if self.mesh is None:
            return _orthogonal_pieces(matrices, pieces)
        here = matrices  # some rows of each, where weights are cut
        if not isinstance(here, DTensor):  # all processes have all of it
            here = DTensor.from_local(matrices, self.mesh, [Replicate()], run_check=False)
        mine = here.redistribute(placements=[Shard(0)])
        made = DTensor.from_local(
            _orthogonal_pieces(mine.to_local(), pieces), self.mesh, [Shard(0)], run_check=False, shape=mine.shape,
            stride=mine.stride(),
        ).redistribute(placements=here.placements)  # fmt: skip
        return made if here is matrices else made.to_local()

    def _smoothed(self, p: Tensor) -> Tensor:
        """The gradient with Nesterov momentum."""
        assert p.grad is not None
        state = self.state[p]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(p)
        momentum: Tensor = state["momentum_buffer"].lerp_(p.grad, 1 - self.MOMENTUM)
        return p.grad.lerp(momentum, self.MOMENTUM)


def _orthogonal_pieces(matrices: Tensor, pieces: int) -> Tensor:
    """Matrices (n, r, c), each of so many pieces, one above the other, made orthogonal piece by piece."""
    n, rows, columns = matrices.shape
    return orthogonal(matrices.reshape(n * pieces, rows // pieces, columns)).view(n, rows, columns)


@lru_cache
def _square_pieces(rows: int, columns: int) -> int:
    """Into how many equal pieces a matrix is cut, one above the other, so that they are as square as can be."""
    divisors = (n for n in range(1, rows + 1) if rows % n == 0)
    return min(divisors, key=lambda n: abs(n - rows / columns))


def orthogonal(matrices: Tensor, coefficients: Sequence[float] = (3.4445, -4.7750, 2.0315), steps: int = 5) -> Tensor:
    """Matrices `(n, r, c)` with their singular values drawn to about 1 (0.5 to 1.5) by a Newton-Schulz iteration."""
    a, b, c = coefficients
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


def _adamw(parameters: Iterable[torch.Tensor], config: TrainConfig) -> AdamW:
    return AdamW(parameters, lr=config.lr, betas=(0.9, 0.95), weight_decay=config.weight_decay, fused=True)


def set_learning_rates(
    optimizers: Iterable[Optimizer], config: TrainConfig, *, width: int, images_seen: int, progress: float
) -> float:
    """Set every rate for the update after `images_seen` images, `progress` of the way; returns the factor.

    They follow from the configuration, not from the state of an optimizer, which a resumed run has from before.
    """
    if config.schedule == "vaswani":
        factor = vaswani(images_seen // config.batch, config.warmup, width)
    else:
        factor = warmup_constant_decay(images_seen + config.batch, progress, config.warmup, config.decay)
    for optimizer in optimizers:
        rate = config.muon_lr if isinstance(optimizer, Muon) else config.lr
        for group in optimizer.param_groups:
            group["lr"] = factor * rate
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
