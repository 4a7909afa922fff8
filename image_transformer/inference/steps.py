"""One walk over the steps in which an image is generated; what happens at each is up to a visitor.

Drawing is a visitor (`drawing.py`), scoring can be one, and so can a codec: all see the same parameters in the same
order. The walk is a generator: whoever drives it can report each step, and stop between two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from image_transformer.geometry.order import IntArray, Layout
from image_transformer.geometry.patterns import BoolArray
from image_transformer.geometry.schedule import Schedule, front_by_front
from image_transformer.model import ImageModel
from image_transformer.networks.base import Decoder, Network, Recomputing

Visit = Callable[[Tensor, Tensor], None]  # parameters (b, f, p) of positions (f,): may write their values


@dataclass(frozen=True, eq=False)
class Plan:
    """What is visited when, and by which decoder.

    schedule: the steps of the decoder. visited: the positions that are visited in each of them. prefilled: step 0 is
    one pass over the whole image, for all that is known; later steps may hold known positions, for those that see them.
    """

    schedule: Schedule
    visited: list[IntArray] = field(repr=False)
    prefilled: bool = False
    recompute: bool = False  # each step by the whole network again: right for steps of any kind

    @property
    def most(self) -> int:
        """Positions of the largest visit."""
        return max(map(len, self.visited))

    def decoder(self, network: Network, context: Any, batch: int) -> Decoder:
        """The decoder of `batch` images by these steps; `context` is what the network has read of their conditions."""
        if self.recompute:
            return Recomputing(network, context)
        return network.decoder(context, batch, self.schedule, prefilled=self.prefilled)

    def on(self, device: torch.device) -> list[Tensor]:
        """The positions of each visit; all in one copy, so that no step waits for its own."""
        sizes = [len(at) for at in self.visited]
        return list(torch.from_numpy(np.concatenate(self.visited)).to(device).split(sizes))


class SideBySide:
    """Decoders of the same images that know different things of them, as one: parameters `(b, f, n p)` of all n."""

    def __init__(self, decoders: Sequence[Decoder]) -> None:
        self.decoders = decoders
        self.num_bytes = sum(one.num_bytes for one in decoders)
        self.captured = all(one.captured for one in decoders)

    def prefill(self, image: Tensor) -> Tensor:
        return torch.cat([one.prefill(image) for one in self.decoders], -1)

    def step(self, image: Tensor, at: Tensor) -> Tensor:
        return torch.cat([one.step(image, at) for one in self.decoders], -1)


def plan_of(model: ImageModel, known: BoolArray, in_order: bool = False) -> Plan:
    """As few steps as the network allows where the positions `known` (l,) are given in all images.

    in_order: front by front, known or not: everything is visited in the order in which it is scored.
    """
    schedule = front_by_front(model.layout) if in_order else model.schedule(known)
    steps, prefilled = schedule.steps, bool(known.any()) and not in_order
    return Plan(schedule, [steps[0][~known[steps[0]]], *steps[1:]] if prefilled else steps, prefilled)


def one_by_one(layout: Layout, known: BoolArray) -> Plan:
    """Every position that is not `known` in a step of its own, in the order of the fronts: the slow form."""
    number = layout.positions.index
    return Plan(Schedule(number), list(number[~known][:, None]) or [number[:0]], recompute=True)


def at_once(layout: Layout) -> Plan:
    """Every position in one step, for drawing by guesses."""
    number = layout.positions.index
    return Plan(Schedule(np.zeros_like(number)), [number], recompute=True)


def walk(decoder: Decoder, image: Tensor, plan: Plan, visit: Visit, *, capture: bool = False) -> Iterator[int]:
    """Visit the steps of `plan` in turn, and yield after each how many are done.

    `image` (b, c, h, w) is read at every step: a visitor that draws writes into it. Gradients are the caller's matter:
    `torch.inference_mode` around the walk turns them off.
    capture: on a GPU, run later steps as one CUDA graph, if the decoder allows it; for visitors that neither wait for
    the device nor look at anything but tensors.
    """
    first, *later = plan.on(image.device)

    def plain(at: Tensor) -> None:
        visit(decoder.step(image, at), at)

    if plan.prefilled:
        visit(decoder.prefill(image)[:, first], first)
    elif len(first):
        plain(first)
    yield 1
    on_gpu = capture and decoder.captured and image.is_cuda and later
    step = _captured(plain, max(map(len, later)), image.device) if on_gpu else plain
    for number, at in enumerate(later, 2):
        step(at)
        yield number


def _captured(step: Callable[[Tensor], None], size: int, device: torch.device) -> Callable[[Tensor], None]:
    """A step on up to `size` positions as one CUDA graph: launching its kernels one by one costs more than they do.

    A graph has one shape, so a smaller step repeats its last position: that is computed again, to the same result.
    """
    where = torch.empty(size, dtype=torch.int64, device=device)
    graph: torch.cuda.CUDAGraph | None = None

    def captured(at: Tensor) -> None:
        nonlocal graph
        where[: len(at)] = at
        where[len(at) :] = at[-1]
        with torch.cuda.device(device):
            if graph is None:
                stream = torch.cuda.Stream()
                stream.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(stream):
                    step(where)  # warms up; with the same noise the same values are drawn again below
                torch.cuda.current_stream().wait_stream(stream)
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, stream=stream):
                    step(where)
            graph.replay()

    return captured
