"""Optimizers and learning-rate schedules."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache

import torch
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor
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
        self.dtype, self.processes = dtype, processes or Processes()

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    by_shape[p.shape].append(p)
            for (rows, columns), alike in by_shape.items():
                pieces = _square_pieces(rows, columns)
                smoothed = torch.stack([_own(self._smoothed(p)) for p in alike]).to(self.dtype)
                mine = self._gathered(smoothed, rows) if isinstance(alike[0], DTensor) else self._mine(smoothed)
                made = orthogonal(mine.reshape(-1, rows // pieces, columns)).view(mine.shape)
                updates = self._scattered(made) if isinstance(alike[0], DTensor) else self._all(made)
                step = -group["lr"] * max(1.0, rows / pieces / columns) ** 0.5
                for p, update in zip(alike, updates[: len(alike)], strict=True):
                    _own(p).mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=step)

    def _mine(self, matrices: Tensor) -> Tensor:
        """Of `matrices` (n, r, c), the same on all processes, those that this one makes orthogonal: an equal share."""
        each = -(-len(matrices) // self.processes.count)
        mine = matrices[self.processes.rank * each :][:each]
        return torch.cat([mine, mine.new_zeros(each - len(mine), *matrices.shape[1:])])

    def _all(self, made: Tensor) -> Tensor:
        """Every process's, one after another."""
        if not self.processes.several:
            return made
        found = [torch.empty_like(made) for _ in range(self.processes.count)]
        distributed.all_gather(found, made)
        return torch.cat(found)

    def _gathered(self, parts: Tensor, rows: int) -> Tensor:
        """Whole matrices (n / count, r, c), other ones on each process, of which all have rows: `parts` (n, r', c)."""
        count, (n, _, columns) = self.processes.count, parts.shape
        each = -(-n // count)
        parts = torch.cat([parts, parts.new_zeros(each * count - n, *parts.shape[1:])])
        found = [parts.new_empty(each, share, columns) for share in _rows_of_each(rows, count)]
        return torch.cat(_exchanged(list(parts.chunk(count)), found), 1)

    def _scattered(self, made: Tensor) -> Tensor:
        """This process's rows of every process's whole matrices: what `_gathered` was given."""
        shares = _rows_of_each(made.shape[1], self.processes.count)
        found = [made.new_empty(len(made), shares[self.processes.rank], made.shape[2]) for _ in shares]
        return torch.cat(_exchanged(list(made.split(shares, 1)), found))

    def _smoothed(self, p: Tensor) -> Tensor:
        """The gradient with Nesterov momentum."""
        assert p.grad is not None
        state = self.state[p]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(p)
        momentum: Tensor = state["momentum_buffer"].lerp_(p.grad, 1 - self.MOMENTUM)
        return p.grad.lerp(momentum, self.MOMENTUM)


def _own(x: Tensor) -> Tensor:
    """What of it is here."""
    return x.to_local() if isinstance(x, DTensor) else x


def _rows_of_each(rows: int, count: int) -> list[int]:
    """How many rows of a matrix FSDP2 gives each process."""
    most = -(-rows // count)
    return [max(0, min(rows - rank * most, most)) for rank in range(count)]


def _exchanged(given: list[Tensor], found: list[Tensor]) -> list[Tensor]:
    """One tensor given to each process, and one from each, of the shapes of `found`."""
    flat = given[0].new_empty(sum(x.numel() for x in found))
    come, go = ([x.numel() for x in several] for several in (found, given))
    distributed.all_to_all_single(flat, torch.cat([x.flatten() for x in given]), come, go)
    return [part.view(like.shape) for part, like in zip(flat.split(come), found, strict=True)]


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
