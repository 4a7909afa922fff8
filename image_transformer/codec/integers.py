"""A network that computes the same numbers on every machine: one of the modern family without attention, in integers.

Whatever the order of a sum, and whether a product is rounded before it is added, the result is the same as long as all
of it are whole numbers below 2^24, which float32 holds exactly. So weights and activations are rounded until for every
output the bound sum |w| |x| lies below 2^24; that is checked when a network is made and when it is loaded. What is not
a sum of products is one multiplication, division, square root or rounding at a time, each fixed to the last bit by
IEEE 754. Ordinary matrix products do the work, at their ordinary speed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock

import numpy as np
import torch
from torch import Tensor

from image_transformer.codec.counts import COUPLING, FINEST, LOGIT, MEAN, SCALE
from image_transformer.config.model import Modern
from image_transformer.data.images import check_images
from image_transformer.geometry.order import Wavefront
from image_transformer.model import ImageModel
from image_transformer.networks.modern import ModernTransformer

EXACT = {torch.float32: 1 << 24, torch.float64: 1 << 53}  # all whole numbers up to here are held
VALUE = 255  # inputs are 2 v - 255
NORMED, MIXED = 64, 256  # steps that are one: of a normalised state, of a mixing weight
LAST = 1024  # those of the last normalised state: at 64 the parameters cost up to 0.01 bits/dim
MOST = 4095  # the largest input of a matrix product within the network
LARGEST_STATE = 1 << 22  # float64 holds the sum of 512 squares exactly
LARGEST_PARAMETER = float(1 << 24)
FINEST_STATE, USUAL_STATE = 8, 20  # bits of a state: at most so many behind the point, and of the largest one seen
SMALL, LARGE = 127, 32767  # the largest weight: of the layers, and of what enters and leaves them

CODED = {
    "family": "modern", "likelihood": "dmol", "min_log_scale": FINEST, "temperature": 1.0, "order": Wavefront(1),
    "conditions": (), "places": "none", "gate": "relu",
}  # fmt: skip

See = Callable[[int, Tensor], list[Tensor]]  # layer, states (..., d) -> those at each neighbour (..., d)


@dataclass(frozen=True)
class Matrix:
    """Whole numbers `(out, in)` and what each row is multiplied by once its sum is made, `(out,)`."""

    whole: Tensor
    scale: Tensor

    @classmethod
    def of(cls, weight: Tensor, largest: int, most: int, kind: torch.dtype = torch.float32) -> Matrix:
        """The nearest to `weight` whose sums stay exact for inputs up to `largest`, with weights up to `most`."""
        weight = weight.detach().double()
        top = weight.abs().amax(1).clamp(min=1e-12)
        total = weight.abs().sum(1).clamp(min=1e-12)
        room = (EXACT[kind] - 1) / largest - weight.shape[1] / 2  # for the rounding of every weight
        steps = torch.minimum(most / top, room / total)
        return cls((weight * steps[:, None]).round().float(), (1 / steps).float())

    def check(self, largest: int) -> None:
        """Raises ValueError unless every sum is exact for inputs up to `largest`."""
        bound = self.whole.double().abs().sum(1).max() * largest
        if not bound < EXACT[self.whole.dtype] or not torch.equal(self.whole, self.whole.round()):
            raise ValueError(f"a sum could reach {bound:.0f}, which {self.whole.dtype} does not hold exactly")

    def __call__(self, x: Tensor) -> Tensor:
        """Sums `(..., out)`, exact, not scaled yet."""
        return product(x, self.whole)


@dataclass(frozen=True)
class Layer:
    """A gated feed-forward layer on a mixture of the normalised states of a position and its neighbours."""

    mix: Tensor  # (n, d)
    keep: Tensor  # (): what states are multiplied by, a power of two: later ones are larger, and need fewer steps
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
        self.head = Matrix(parts["head"].double(), parts["head.scale"])
        self.layers = [
            Layer(
                parts[f"{i}.mix"],
                parts[f"{i}.keep"],
                parts[f"{i}.gate"],
                parts[f"{i}.up"],
                parts[f"{i}.open"],
                Matrix(parts[f"{i}.down"], parts[f"{i}.down.scale"]),
            )
            for i in range(self.depth)
        ]
        self.width = self.stem.whole.shape[0]
        self.neighbours = parts["0.mix"].shape[0]
        self._check()

    def _check(self) -> None:
        """Raises ValueError unless every sum is exact whatever the image."""
        if self.width * LARGEST_STATE**2 > 1 << 53:
            raise ValueError(f"a network of width {self.width} is too wide for exact sums of squares")
        if not all(bool(part.isfinite().all()) for part in self.parts.values()):
            raise ValueError("not all numbers of the network are finite")
        normed, last = (math.floor(steps * math.sqrt(self.width)) + 1 for steps in (NORMED, LAST))
        self.stem.check(VALUE)
        self.skip.check(VALUE)
        self.head.check(last)
        for layer in self.layers:
            one = layer.mix.new_ones(1)
            Matrix(layer.mix.T, one).check(0)  # whole
            Matrix(layer.mix.abs().sum(0)[:, None] + MIXED, one).check(normed)
            Matrix(layer.gate, one).check(MOST)
            Matrix(layer.up, one).check(MOST)
            layer.down.check(MOST)
            if math.frexp(layer.keep.item())[0] != 0.5 or layer.keep > 1:
                raise ValueError(f"states are divided by a power of two, not multiplied by {layer.keep.item()}")

    @classmethod
    def of(cls, model: ImageModel, image: Tensor) -> IntegerNetwork:
        """The nearest to a model whose steps of hidden values fit what the uint8 `image` (b, c, h, w) makes of them."""
        network, config = model.network, model.config
        wanted = {name: getattr(config, name, None) for name in CODED}
        if (
            not isinstance(config, Modern)
            or config.shape[0] != 3
            or wanted != CODED
            or network.attending
            or not config.mix
        ):
            raise ValueError(
                "only a modern network of RGB images with mixing, without attention, computes in integers, and with "
                + ", ".join(f"{name}={value}" for name, value in CODED.items())
            )
        assert isinstance(network, ModernTransformer) and network.skip is not None  # for the type checker
        check_images(image, config.shape)
        k, c = config.components, config.shape[0]
        steps, hidden = _steps(model, image)
        stem = Matrix.of(network.stem.weight * (steps[0] / 255), VALUE, LARGE)
        unit = torch.cat([
            torch.full((k,), float(LOGIT)), torch.full((c * k,), 127.5 * MEAN), torch.full((c * k,), float(SCALE)),
            torch.full((c * (c - 1) // 2 * k,), float(COUPLING)),
        ])  # fmt: skip
        last = math.floor(LAST * math.sqrt(config.width)) + 1
        head = Matrix.of(network.head.weight * (unit / LAST)[:, None], last, LARGE, torch.float64)
        skip = Matrix.of(network.skip.means.weight * (127.5 * MEAN / 255), VALUE, LARGE)
        bias = (network.skip.bias + network.skip.mean_params(network.skip.means.bias)) * unit
        bias[k : k + c * k] += 127.5 * MEAN
        parts = {
            "stem": stem.whole, "stem.scale": stem.scale,
            "stem.bias": (network.stem.bias + network.channels.weight[0]) * steps[0],
            "head": head.whole, "head.scale": head.scale, "head.bias": bias,
            "skip": skip.whole, "skip.scale": skip.scale,
        }  # fmt: skip
        for i, (block, step) in enumerate(zip(network.blocks, hidden, strict=True)):
            gate, up = (Matrix.of(one, MOST, SMALL) for one in block.gate_up.weight.chunk(2))
            down = Matrix.of(block.down.weight * (step * steps[i + 1]), MOST, SMALL)
            parts |= {
                f"{i}.mix": (block.mix * MIXED).round().clamp(-LARGE, LARGE),
                f"{i}.keep": torch.tensor(steps[i + 1] / steps[i]), f"{i}.gate": gate.whole,
                f"{i}.up": up.whole, f"{i}.open": gate.scale * up.scale / (step * NORMED**2),
                f"{i}.down": down.whole, f"{i}.down.scale": down.scale,
            }  # fmt: skip
        return cls({name: part.detach().float() + 0.0 for name, part in parts.items()}, k, c)  # no -0.0

    def __call__(self, values: Tensor, see: See) -> Tensor:
        """Parameters `(..., p)` of positions with these `values` `(..., f)` around them, whole numbers in float32."""
        x = self.stem(values).mul_(self.stem.scale).add_(self.parts["stem.bias"])
        x = x.round_().clamp_(-LARGEST_STATE, LARGEST_STATE)
        for i, layer in enumerate(self.layers):
            normed = self._normed(x, NORMED)
            mixed = normed * MIXED
            for its, weight in zip(see(i, normed), layer.mix, strict=True):
                mixed.addcmul_(its, weight)  # whole numbers: exact, whether or not the product is rounded first
            mixed = mixed.mul_(1 / MIXED).round_().clamp_(-MOST, MOST)
            hidden = product(mixed, layer.gate).clamp_(min=0).mul_(product(mixed, layer.up)).mul_(layer.open).round_()
            x = x.mul_(layer.keep).add_(layer.down(hidden.clamp_(-MOST, MOST)).mul_(layer.down.scale))
            x = x.round_().clamp_(-LARGEST_STATE, LARGEST_STATE)
        last = self._normed(x, LAST).double()
        params = self.head(last).mul_(self.head.scale).add_(self.parts["head.bias"]).float()
        k, c = self.components, self.channels
        means = self.skip(values).mul_(self.skip.scale)
        params[..., k : k + c * k] += means.repeat_interleave(k, -1)
        return params.round_().clamp_(-LARGEST_PARAMETER, LARGEST_PARAMETER)

    def _normed(self, x: Tensor, steps: int) -> Tensor:
        """States over their root mean square, in whole steps. The sum of the squares is exact in float64."""
        size = root(sum_of_squares(x).clamp_(min=1))
        return (x * size.reciprocal_().mul_(steps * math.sqrt(self.width)).float()).round_()


def product(x: Tensor, whole: Tensor) -> Tensor:
    """Sums `(..., out)` of whole numbers `(..., in)` times those of a matrix `(out, in)`."""
    return x @ whole.T


def sum_of_squares(x: Tensor) -> Tensor:
    """Of whole numbers `(..., d)`, `(..., 1)` in float64."""
    return x.double().square_().sum(-1, keepdim=True)


def root(total: Tensor) -> Tensor:
    """Square roots, rounded as IEEE 754 says: PyTorch's may be those of MKL, at times off by a last bit."""
    return torch.from_numpy(np.sqrt(total.numpy()))


def _steps(model: ImageModel, image: Tensor) -> tuple[list[float], list[Tensor]]:
    """How many steps of a state are one, before each layer and after the last; what a step of hidden values is.

    Both as the largest values of some images need it.
    """
    states: list[float] = []
    hidden: list[Tensor] = []
    hooks = []
    for block in model.network.blocks:  # type: ignore[union-attr]
        hooks += [
            block.register_forward_hook(lambda _, inputs, output: states.append(_largest(inputs[0], output))),
            block.down.register_forward_pre_hook(
                lambda _, inputs: hidden.append(inputs[0].abs().flatten(0, -2).amax(0).clamp(min=1e-6) / MOST)
            ),
        ]
    try:
        with torch.inference_mode():
            model(image)
    finally:
        for hook in hooks:
            hook.remove()
    bits = [min(FINEST_STATE, USUAL_STATE - math.frexp(top)[1]) for top in states]
    return [2.0**FINEST_STATE, *(2.0 ** min(bits[: i + 1]) for i in range(len(bits)))], hidden


def _largest(*values: Tensor) -> float:
    return max(float(one.abs().max()) for one in values)


@contextmanager
def exactly() -> Iterator[None]:
    """Products in full float32, on one machine as on the other, and as before when the last thread has left."""
    with _LOCK:
        if not _INSIDE:
            _BEFORE[:] = [products.fp32_precision for products in _PRODUCTS]
            for products in _PRODUCTS:
                products.fp32_precision = "ieee"
        _INSIDE.append(None)
    try:
        with torch.inference_mode(), torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        with _LOCK:
            _INSIDE.pop()
            if not _INSIDE:
                for products, before in zip(_PRODUCTS, _BEFORE, strict=True):
                    products.fp32_precision = before


# where the old and the new settings meet
_PRODUCTS = (torch.backends.mkldnn.matmul, torch.backends.cuda.matmul)  # type: ignore[attr-defined]
_LOCK, _INSIDE, _BEFORE = Lock(), list[None](), list[str]()
