"""A network that computes the same numbers on every machine: one of the modern family without attention, in integers.

Whatever the order of a sum, and whether a product is rounded before it is added, the result is the same as long as all
of it are whole numbers below 2^24, which float32 holds exactly. So weights and activations are rounded until for every
output the bound sum |w| |x| lies below 2^24; that is checked when a network is made and when it is loaded. What is not
a sum of products is one multiplication, division, square root or rounding at a time, each fixed to the last bit by
IEEE 754. Ordinary matrix products do the work, at their ordinary speed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from image_transformer.codec.counts import COUPLING, LOGIT, MEAN, SCALE
from image_transformer.model import ImageModel
from image_transformer.networks.modern import ModernTransformer

EXACT = 1 << 24  # float32 holds all whole numbers up to here
VALUE = 255  # inputs are 2 v - 255
NORMED, MIXED, STATE = 32, 64, 256  # steps that are one: of a normalised state, of a mixing weight, of a state
MOST = 1023  # the largest input of a matrix product within the network
SMALL, LARGE = 127, 32767  # the largest weight: of the layers, and of what enters and leaves them

See = Callable[[int, Tensor], list[Tensor]]  # layer, states (..., d) -> those at each neighbour (..., d)


@dataclass(frozen=True)
class Matrix:
    """Whole numbers `(out, in)` and what each row is multiplied by once its sum is made, `(out,)`."""

    whole: Tensor
    scale: Tensor

    @classmethod
    def of(cls, weight: Tensor, largest: int, most: int) -> Matrix:
        """The nearest to `weight` whose sums stay exact for inputs up to `largest`, with weights up to `most`."""
        weight = weight.detach().double()
        top = weight.abs().amax(1).clamp(min=1e-12)
        total = weight.abs().sum(1).clamp(min=1e-12)
        room = (EXACT - 1) / largest - weight.shape[1] / 2  # for the rounding of every weight
        steps = torch.minimum(most / top, room / total)
        return cls((weight * steps[:, None]).round().float(), (1 / steps).float())

    def check(self, largest: int) -> None:
        """Raises ValueError unless every sum is exact for inputs up to `largest`."""
        bound = self.whole.double().abs().sum(1).max() * largest
        if not bound < EXACT or not torch.equal(self.whole, self.whole.round()):
            raise ValueError(f"a sum could reach {bound:.0f}, which float32 does not hold exactly")

    def __call__(self, x: Tensor) -> Tensor:
        """Sums `(..., out)`, exact, not scaled yet."""
        return x @ self.whole.T


@dataclass(frozen=True)
class Layer:
    """A gated feed-forward layer on a mixture of the normalised states of a position and its neighbours."""

    mix: Tensor  # (n, d)
    gate: Tensor  # (f, d), whole; its scales are in those of `open`
    up: Tensor
    open: Tensor  # (f,): what gate times up is multiplied by
    down: Matrix


class IntegerNetwork:
    """Whole numbers 2 v - 255 of neighbours -> whole parameters of `counts.Mixture`."""

    def __init__(self, parts: dict[str, Tensor], components: int, channels: int) -> None:
        self.parts, self.components, self.channels = parts, components, channels
        self.depth = sum(name.endswith(".mix") for name in parts)
        self.stem = Matrix(parts["stem"], parts["stem.scale"])
        self.skip = Matrix(parts["skip"], parts["skip.scale"])
        self.head = Matrix(parts["head"], parts["head.scale"])
        self.layers = [
            Layer(*(parts[f"{i}.{name}"] for name in ("mix", "gate", "up", "open")),
                  Matrix(parts[f"{i}.down"], parts[f"{i}.down.scale"]))
            for i in range(self.depth)
        ]  # fmt: skip
        self.width = self.stem.whole.shape[0]
        self.neighbours = parts["0.mix"].shape[0]
        self._check()

    def _check(self) -> None:
        normed = math.floor(NORMED * math.sqrt(self.width)) + 1
        self.stem.check(VALUE)
        self.skip.check(VALUE)
        self.head.check(normed)
        for layer in self.layers:
            one = torch.ones(1)
            Matrix((layer.mix.abs().sum(0) + MIXED)[:, None], one).check(normed)
            Matrix(layer.gate, one).check(MOST)
            Matrix(layer.up, one).check(MOST)
            layer.down.check(MOST)

    @classmethod
    def of(cls, model: ImageModel, image: Tensor) -> IntegerNetwork:
        """The nearest to a model whose steps of hidden values fit what the uint8 `image` (b, c, h, w) makes of them."""
        network, config = model.network, model.config
        if not isinstance(network, ModernTransformer) or network.skip is None or network.attending or config.conditions:
            raise ValueError("only networks of the modern family without attention or conditions compute in integers")
        if config.places != "none" or config.gate != "relu" or not config.mix:
            raise ValueError("only networks with --model.places none, --model.gate relu and --model.mix do")
        k, c = config.components, config.shape[0]
        tops = _largest_hidden(model, image)
        stem = Matrix.of(network.stem.weight * (STATE / 255), VALUE, LARGE)
        unit = torch.cat([
            torch.full((k,), float(LOGIT)), torch.full((c * k,), 127.5 * MEAN), torch.full((c * k,), float(SCALE)),
            torch.full((c * (c - 1) // 2 * k,), float(COUPLING)),
        ])  # fmt: skip
        normed = math.floor(NORMED * math.sqrt(config.width)) + 1
        head = Matrix.of(network.head.weight * (unit / NORMED)[:, None], normed, LARGE)
        skip = Matrix.of(network.skip.means.weight * (127.5 * MEAN / 255), VALUE, LARGE)
        bias = (network.skip.bias + network.skip.mean_params(network.skip.means.bias)) * unit
        bias[k : k + c * k] += 127.5 * MEAN
        parts = {
            "stem": stem.whole, "stem.scale": stem.scale,
            "stem.bias": (network.stem.bias + network.channels.weight[0]) * STATE,
            "head": head.whole, "head.scale": head.scale, "head.bias": bias,
            "skip": skip.whole, "skip.scale": skip.scale,
        }  # fmt: skip
        for i, (block, top) in enumerate(zip(network.blocks, tops, strict=True)):
            gate, up = (Matrix.of(one, MOST, SMALL) for one in block.gate_up.weight.chunk(2))
            step = top / MOST
            down = Matrix.of(block.down.weight * (step * STATE), MOST, SMALL)
            parts |= {
                f"{i}.mix": (block.mix * MIXED).round().clamp(-SMALL, SMALL), f"{i}.gate": gate.whole,
                f"{i}.up": up.whole, f"{i}.open": gate.scale * up.scale / (step * NORMED**2),
                f"{i}.down": down.whole, f"{i}.down.scale": down.scale,
            }  # fmt: skip
        return cls({name: part.detach().float().contiguous() for name, part in parts.items()}, k, c)

    def __call__(self, values: Tensor, see: See) -> Tensor:
        """Parameters `(..., p)` of positions with these `values` `(..., f)` around them, whole numbers in float32."""
        x = (self.stem(values).mul_(self.stem.scale).add_(self.parts["stem.bias"])).round_()
        for i, layer in enumerate(self.layers):
            normed = self._normed(x)
            mixed = normed * MIXED
            for its, weight in zip(see(i, normed), layer.mix, strict=True):
                mixed.addcmul_(its, weight)  # whole numbers: exact, whether or not the product is rounded first
            mixed = mixed.mul_(1 / MIXED).round_().clamp_(-MOST, MOST)
            hidden = (mixed @ layer.gate.T).clamp_(min=0).mul_(mixed @ layer.up.T).mul_(layer.open).round_()
            x = x.add_(layer.down(hidden.clamp_(-MOST, MOST)).mul_(layer.down.scale).round_())
        params = self.head(self._normed(x)).mul_(self.head.scale).add_(self.parts["head.bias"])
        k, c = self.components, self.channels
        means = self.skip(values).mul_(self.skip.scale)
        params[..., k : k + c * k] += means.repeat_interleave(k, -1)
        return params.round_()

    def _normed(self, x: Tensor) -> Tensor:
        """States over their root mean square, in steps of 1 / 32. The sum of the squares is exact in float64."""
        size = x.double().square_().sum(-1, keepdim=True).clamp_(min=1).sqrt_()
        return (x * (NORMED * math.sqrt(self.width) / size).float()).round_()


def _largest_hidden(model: ImageModel, image: Tensor) -> list[float]:
    """The largest hidden value of each feed-forward layer on an image."""
    found: list[float] = []
    hooks = [
        block.down.register_forward_pre_hook(lambda _, inputs: found.append(float(inputs[0].abs().max())))
        for block in model.network.blocks  # type: ignore[union-attr]
    ]
    try:
        with torch.inference_mode():
            model(image)
    finally:
        for hook in hooks:
            hook.remove()
    return found


@contextmanager
def exactly() -> Iterator[None]:
    """Products in full float32, on one machine as on the other, and as before afterwards."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.inference_mode(), torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


__all__: Sequence[Any] = ("IntegerNetwork", "exactly")
