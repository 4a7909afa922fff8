"""Generation: exact ancestral sampling, cached and naive; completion is generation with some values known.

The noise of an image is a function of (seed, number of the image) and of the place of the sub-pixel alone, so the
same image comes out of every batch, and of `generate` and `generate_naive`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from image_transformer.geometry.boxes import bounds
from image_transformer.geometry.schedule import Schedule, front_by_front
from image_transformer.likelihoods.dmol import NUM_VALUES, draw_in_turn
from image_transformer.model import ImageTransformer, Label, check_images
from image_transformer.networks.base import Context

Progress = Callable[[int, int], None]  # (steps done, steps in all), over all images
MOST_AT_ONCE = 256  # images; more do not make a step cheaper an image
MEMORY_SHARE = 0.5  # of what is free


def generate(
    model: ImageTransformer,
    count: int = 1,
    *,
    seed: int = 0,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    label: Label | None = None,
    low: Tensor | None = None,
    consistent: bool = False,
    known: Tensor | None = None,
    known_mask: Tensor | None = None,
    numbers: Sequence[int] | None = None,
    batch: int | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """`count` images drawn from the model, uint8 (count, c, h, w), with a key/value cache.

    Positions whose values cannot reach each other are drawn together (`model.schedule`); that changes no image.
    temperature: below 1 sharper, above 1 flatter (divides logits, multiplies the scales of a mixture); 1 is the model.
    top_k, top_p: draw each sub-pixel only from its k likeliest values, or from the fewest that hold p of the mass.
    label: the class of each image, or one for all, by number or name; where the model is class-conditional.
    low: the low-resolution images, uint8 (count, c, h / f, w / f); where the model is for super-resolution.
    consistent: the box means of what is drawn equal `low` exactly: values that would make that impossible have no
        probability, the others are renormalised, and pixels of one box are drawn one after the other.
    known: uint8 (count, c, h, w), held fixed where `known_mask`, bool (count, c, h, w) or broadcast to it, is True.
        A drawn value is conditioned on the known ones of earlier fronts, and on those alone: exactly the model's
        distribution of the rest if the known ones come first in the generation order, as upper rows do in `Raster`.
        By `Wavefront` they do not: the first pixel of a row has an earlier front than the last ones of the row above.
        Known values of later fronts stay as they are, but nothing drawn before them takes notice of them: a known lower
        half says nothing of the upper one. `orientation.conditioned` says how much is conditioned on; `complete` turns
        images so that what is known comes first, if the model was trained for that (`DataConfig.orientations`).
    numbers: the number of each image, of which its noise is a function; 0 to count - 1 if not given.
    batch: images generated at once; it does not change them. As many as fit into memory, up to 256, if not given.
    Raises ValueError for arguments out of range or of the wrong shape.
    """

    return _generate(
        model, count, _generate_cached, Sampling(temperature, top_k, top_p, consistent), seed=seed, label=label,
        low=low, known=known, known_mask=known_mask, numbers=numbers, batch=batch, progress=progress,
    )  # fmt: skip


def generate_naive(
    model: ImageTransformer,
    count: int = 1,
    *,
    seed: int = 0,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    label: Label | None = None,
    low: Tensor | None = None,
    consistent: bool = False,
    known: Tensor | None = None,
    known_mask: Tensor | None = None,
    numbers: Sequence[int] | None = None,
    batch: int | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """What `generate` gives, by running the whole network again for every single position: the slow reference."""
    return _generate(
        model, count, _generate_naive, Sampling(temperature, top_k, top_p, consistent), seed=seed, label=label,
        low=low, known=known, known_mask=known_mask, numbers=numbers, batch=batch, progress=progress,
    )  # fmt: skip


def generate_by_class(model: ImageTransformer, classes: Sequence[str], each: int, **options: Any) -> Tensor:
    """`each` images of every one of the `classes`, uint8 (classes, each, c, h, w); options as in `generate`."""
    label = [name for name in classes for _ in range(each)]
    return generate(model, len(label), label=label, **options).unflatten(0, (len(classes), each))


def noise(seed: int, first: int, count: int, num_dims: int) -> Tensor:
    """Uniform noise on [0, 1), float64 (count, num_dims), of the images `first`, `first + 1`, ... of a seed."""
    rows = [np.random.Generator(np.random.Philox(key=[seed, i])).random(num_dims) for i in range(first, first + count)]
    return torch.from_numpy(np.stack(rows))


@dataclass(frozen=True)
class Sampling:
    """How values are drawn from a model's distributions; ValueError if out of range."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    consistent: bool = False

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1], got {self.top_p}")

    @property
    def filtered(self) -> bool:
        return (self.top_k or NUM_VALUES) < NUM_VALUES or (self.top_p or 1) < 1


class _Batch:
    """Images in the making: their noise, what is known of them, and how the values of some positions are drawn."""

    def __init__(
        self,
        model: ImageTransformer,
        known: Tensor,
        known_mask: Tensor,
        uniform: Tensor,
        sampling: Sampling,
        context: Context,
    ) -> None:
        self.model, self.sampling, self.context = model, sampling, context
        self.fixed = known_mask.flatten(1).to(model.device)
        self.image = torch.where(known_mask, known, 0).contiguous().to(model.device)
        self.flat = self.image.view(len(self.image), -1)  # the same values as (b, c h w), written in place
        self.uniform = uniform.to(model.device)
        self.noise_places = noise_places(model).to(model.device)
        fixed = self.fixed[:, model.values]
        self.partly = fixed.any(-1, keepdim=True) & ~fixed.all(-1, keepdim=True)  # (b, l, 1)
        self.any_partly = bool(self.partly.any())
        self.boxes = _BoxSums(model, self.flat, self.fixed, context) if sampling.consistent else None

    def draw(self, params: Tensor, at: Tensor) -> None:
        """Write values of the positions `at` (f,), drawn from their parameters `(b, f, p)`, where none are known."""
        if self.boxes is None:
            return self._draw(params, at)
        for turn in _turns(self.model.box_of[self.model.values[at, 0]]):
            self._draw(params[:, turn], at[turn])

    def _draw(self, params: Tensor, at: Tensor) -> None:
        likelihood, how, places = self.model.likelihood, self.sampling, self.model.values[at]  # (f, v)
        values, known = self.flat[:, places], self.fixed[:, places]
        in_turn = how.filtered or self.boxes is not None
        if not in_turn:
            drawn = likelihood.draw(params, self.uniform[:, self.noise_places[at]], how.temperature)
        if in_turn or self.any_partly:  # a known channel says something of the drawn ones after it
            one_by_one = draw_in_turn(
                likelihood, params, self.uniform[:, places], how.temperature, how.top_k, how.top_p, (values, known),
                self.boxes.bounds(places) if self.boxes is not None else None,
            )  # fmt: skip
            drawn = one_by_one if in_turn else torch.where(self.partly[:, at], one_by_one, drawn)
        self.flat[:, places] = torch.where(known, values, drawn)
        if self.boxes is not None:
            self.boxes.add(places, drawn, known)


class _BoxSums:
    """What the boxes of images in the making hold so far, and so what may still be drawn in them."""

    def __init__(self, model: ImageTransformer, flat: Tensor, fixed: Tensor, context: Context) -> None:
        assert context.low is not None and model.config.factor is not None
        self.low, self.factor, self.box_of = context.low.flatten(1), model.config.factor, model.box_of
        self.total = (flat * fixed)[:, model.boxes].sum(-1)  # (b, boxes) int64
        self.left = (~fixed)[:, model.boxes].sum(-1)
        lowest, highest = bounds(self.low, self.total, (self.left - 1).clamp(min=0), self.factor)
        full = (self.left == 0) & ((lowest > 0) | (highest < 0))
        impossible = full | ((self.left > 0) & (lowest > highest))
        if impossible.any():
            image, box = impossible.nonzero()[0].tolist()
            channel, row, col = np.unravel_index(box, context.low.shape[1:])
            raise ValueError(
                f"the known values of the box at row {row}, column {col}, channel {channel} sum to "
                f"{int(self.total[image, box])}: whatever the other {int(self.left[image, box])} are, "
                f"their mean cannot be {int(self.low[image, box])}"
            )

    def bounds(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """The smallest and largest values `(b, f, v)` that may be drawn at the flat `places` `(f, v)`."""
        box = self.box_of[places]
        return bounds(self.low[:, box], self.total[:, box], self.left[:, box] - 1, self.factor)

    def add(self, places: Tensor, drawn: Tensor, known: Tensor) -> None:
        """Take in the values `(b, f, v)` at `places`, no two of one box; what is `known` was counted before."""
        box = self.box_of[places]
        self.total[:, box] += drawn * ~known
        self.left[:, box] -= (~known).long()


def _turns(box: Tensor) -> Iterator[Tensor]:
    """Numbers of the positions of a step, no two of one box at once, in order; `box` `(f,)` says where each lies."""
    rank = (box[:, None] == box).tril(-1).sum(1)
    return ((rank == turn).nonzero()[:, 0] for turn in range(int(rank.max()) + 1))


@dataclass(frozen=True)
class _Plan:
    """What is generated when; `given` (l,) are the positions known in all images, `prefilled` whether step 0 is."""

    schedule: Schedule
    given: NDArray[np.bool_]
    prefilled: bool

    def on(self, device: torch.device) -> list[Tensor]:
        """The positions of each step; all in one copy, so that no step waits for its own."""
        steps = self.schedule.steps
        return list(torch.from_numpy(np.concatenate(steps)).to(device).split([len(step) for step in steps]))


def noise_places(model: ImageTransformer) -> Tensor:
    """Which of an image's uniform numbers each position takes, `(l, n)`: those of its sub-pixels, then its own."""
    lay = model.layout
    own = model.likelihood.num_noise(lay.channels) - lay.values_per_position
    pixel = torch.from_numpy(lay.positions.row * lay.width + lay.positions.col)[:, None]
    extra = lay.num_dims + pixel * own + torch.arange(own)
    return torch.cat([torch.from_numpy(lay.values), extra], 1)


def _generate_cached(model: ImageTransformer, batch: _Batch, plan: _Plan, advance: Callable[[int], None]) -> None:
    """One step after the other, each network pass on the positions of that step alone."""
    with torch.cuda.device_of(model.values):
        cache = model.new_cache(len(batch.image), plan.schedule, prefilled=plan.prefilled)
        first, *later = steps = plan.on(model.device)
        if plan.prefilled:
            new = first[~torch.from_numpy(plan.given).to(model.device)[first]]
            batch.draw(model.prefill(batch.image, cache, batch.context)[:, new], new)
            advance(1)

        def plain(at: Tensor) -> None:
            batch.draw(model.decode_step(batch.image, at, cache, batch.context), at)

        decode: Callable[[Tensor], None] = plain
        if model.device.type == "cuda" and later and batch.boxes is None:
            decode = _captured(plain, max(map(len, later if plan.prefilled else steps)), model.device)
        for number, at in enumerate(steps):
            if number or not plan.prefilled:
                decode(at)
                advance(number + 1)


def _captured(decode: Callable[[Tensor], None], size: int, device: torch.device) -> Callable[[Tensor], None]:
    """A step on up to `size` positions as one CUDA graph: launching its kernels one by one costs more than they do.

    A graph has one shape, so a smaller step repeats its last position: that is computed again, to the same result.
    """
    where = torch.empty(size, dtype=torch.int64, device=device)
    graph: torch.cuda.CUDAGraph | None = None

    def step(at: Tensor) -> None:
        nonlocal graph
        where[: len(at)] = at
        where[len(at) :] = at[-1]
        if graph is None:
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                decode(where)  # warms up; with the same noise the same values are drawn again below
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=stream):
                decode(where)
        graph.replay()

    return step


def _generate_naive(model: ImageTransformer, batch: _Batch, plan: _Plan, advance: Callable[[int], None]) -> None:
    for number, front in enumerate(plan.on(model.device)):
        for at in front[:, None]:
            if not batch.fixed[:, model.values[at]].all():
                batch.draw(model(batch.image, batch.context)[:, at], at)
        advance(number + 1)


@torch.inference_mode()
def _generate(
    model: ImageTransformer,
    count: int,
    generate_batch: Callable[[ImageTransformer, _Batch, _Plan, Callable[[int], None]], None],
    sampling: Sampling,
    *,
    seed: int,
    label: Label | None,
    low: Tensor | None,
    known: Tensor | None,
    known_mask: Tensor | None,
    numbers: Sequence[int] | None,
    batch: int | None,
    progress: Progress | None,
) -> Tensor:
    _check_arguments(count, seed, numbers, batch)
    known, known_mask = _check_known(model, count, known, known_mask)
    labels, low = model.conditions(count, label, low, sampling.consistent)
    given = known_mask.all(0).flatten()[model.layout.values].all(-1).numpy()
    in_order = generate_batch is _generate_naive or sampling.consistent
    schedule = schedule_of(model, given, in_order)
    plan = _Plan(schedule, given, prefilled=bool(given.any()) and not in_order)
    in_turn = sampling.filtered or sampling.consistent or bool(known_mask.any())
    batch = batch or images_at_once(model, plan, in_turn=in_turn)
    num_dims = model.layout.num_positions * model.likelihood.num_noise(model.layout.channels)
    numbers = range(count) if numbers is None else numbers
    images = torch.zeros(count, *model.config.shape, dtype=torch.uint8)
    training = model.training
    model.eval()
    try:
        for first in range(0, count, batch):
            rows = slice(first, min(first + batch, count))
            uniform = torch.cat([noise(seed, number, 1, num_dims) for number in numbers[rows]])
            context = model.read(None if labels is None else labels[rows], None if low is None else low[rows])
            part = _Batch(model, known[rows], known_mask[rows], uniform, sampling, context)
            generate_batch(model, part, plan, _part(progress, first, rows.stop, count, len(schedule.steps)))
            images[rows] = part.image.cpu()
    finally:
        model.train(training)
    return images


def schedule_of(model: ImageTransformer, given: NDArray[np.bool_], in_order: bool) -> Schedule:
    """The steps of `generate` where the positions `given` (l,) are known.

    in_order: front by front, known or not, as by the slow form, and with `consistent`, where the order in a box counts:
    everything is drawn in the order in which it is scored.
    """
    return front_by_front(model.layout) if in_order else model.schedule(given)


def images_at_once(model: ImageTransformer, plan: _Plan, in_turn: bool) -> int:
    """How many images fit into `MEMORY_SHARE` of the free memory: the cache, the largest pass and the largest draw."""
    config, size = model.config, torch.finfo(model.dtype).bits // 8
    cache = model.new_cache(1, plan.schedule, prefilled=plan.prefilled).num_bytes
    first, *later = plan.schedule.steps
    most = max(map(len, later if plan.prefilled else plan.schedule.steps), default=0)
    positions = model.layout.num_positions if plan.prefilled else most
    kept = 4 * config.width + 3 * config.feed_forward + 4 * config.heads * config.head_width  # of a position in a layer
    drawn = max(most, int((~plan.given[first]).sum()))
    if config.low_shape:  # keys and values of the encoder's states for every layer, and the scores of one
        channels, low_height, low_width = config.low_shape
        states = low_height * low_width * (channels if config.family == "paper" else 1)
        kept_of_low = 2 * config.depth * config.head_width + 2 * (positions + states)
        cache += states * config.heads * kept_of_low * size
    table = NUM_VALUES * config.components if in_turn else model.likelihood.num_params(config.shape[0])
    bytes_each = cache + positions * kept * size + drawn * table * 6 * 8  # some six tables at once, in float64
    return max(1, min(MOST_AT_ONCE, int(MEMORY_SHARE * free_memory(model.device) / bytes_each)))


def free_memory(device: torch.device) -> int:
    """Bytes that can be allocated on the device now; 4 GiB where the system does not say."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    try:
        meminfo = Path("/proc/meminfo").read_text()
        free = int(meminfo.split("MemAvailable:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        return 4 * 2**30
    try:  # the limit of a container
        limit, used = (int(Path(f"/sys/fs/cgroup/memory.{name}").read_text()) for name in ("max", "current"))
        return max(0, min(free, limit - used))
    except (OSError, ValueError):
        return free


def _part(progress: Progress | None, first: int, stop: int, count: int, steps: int) -> Callable[[int], None]:
    """`progress` over all steps of all images, as a function of the steps done of the images `first` to `stop`."""
    if progress is None:
        return lambda done: None
    return lambda done: progress(first * steps + done * (stop - first), count * steps)


def _check_arguments(count: int, seed: int, numbers: Sequence[int] | None, batch: int | None) -> None:
    if count < 1 or (batch is not None and batch < 1):
        raise ValueError(f"count and batch must be at least 1, got {count} and {batch}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    if seed >= 2**63:
        raise ValueError(f"seed must be below 2^63, got {seed}")
    if numbers is not None and (len(numbers) != count or min(numbers) < 0):
        raise ValueError(f"numbers must hold {count} numbers of at least 0, as many as images, got {numbers}")


def _check_known(
    model: ImageTransformer, count: int, known: Tensor | None, known_mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    shape = (count, *model.config.shape)
    if (known is None) != (known_mask is None):
        raise ValueError("known and known_mask are given together or not at all")
    if known is None or known_mask is None:
        return torch.zeros(shape, dtype=torch.uint8), torch.zeros(shape, dtype=torch.bool)
    check_images(known, model.config.shape)
    if len(known) != count:
        raise ValueError(f"known must hold {count} images, as many as are asked for, got {len(known)}")
    if known_mask.dtype != torch.bool:
        raise ValueError(f"known_mask must be a torch.bool tensor, got {known_mask.dtype}")
    try:
        return known.cpu(), known_mask.cpu().expand(shape)
    except RuntimeError:
        raise ValueError(f"known_mask must broadcast to {shape}, got {tuple(known_mask.shape)}") from None
