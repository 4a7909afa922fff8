"""Generation: exact ancestral sampling, cached and naive; completion is generation with some values known.

The noise of an image is a function of (seed, number of the image) and of the place of the sub-pixel alone, so the
same image comes out of every batch, and of `generate` and `generate_naive`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from image_transformer.model import ImageTransformer, check_images

Progress = Callable[[int, int], None]  # (fronts done, fronts in all), over all images
Step = Callable[[Tensor, Tensor], Tensor]  # (image, at) -> parameters (b, f, p) of the positions `at`


def generate(
    model: ImageTransformer,
    count: int = 1,
    *,
    seed: int = 0,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    known: Tensor | None = None,
    known_mask: Tensor | None = None,
    batch: int = 256,
    progress: Progress | None = None,
) -> Tensor:
    """`count` images drawn from the model, uint8 (count, c, h, w), with a key/value cache.

    temperature: below 1 sharper, above 1 flatter (divides logits, multiplies the scales of a mixture); 1 is the model.
    top_k, top_p: draw each sub-pixel only from its k likeliest values, or from the fewest that hold p of the mass.
    known: uint8 (count, c, h, w), held fixed where `known_mask`, bool (count, c, h, w) or broadcast to it, is True.
        A drawn value is conditioned on the known ones that come before it in the generation order.
    batch: images generated at once; it does not change them.
    Raises ValueError for arguments out of range or of the wrong shape.
    """

    def cached_step(image: Tensor, known_length: int) -> Step:
        cache = model.new_cache(len(image))
        if known_length:
            model.prefill(image, known_length, cache)
        return lambda image, at: model.decode_step(image, at, cache)

    return _generate(
        model, count, cached_step, seed=seed, temperature=temperature, top_k=top_k, top_p=top_p,
        known=known, known_mask=known_mask, batch=batch, progress=progress,
    )  # fmt: skip


def generate_naive(
    model: ImageTransformer,
    count: int = 1,
    *,
    seed: int = 0,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    known: Tensor | None = None,
    known_mask: Tensor | None = None,
    batch: int = 256,
    progress: Progress | None = None,
) -> Tensor:
    """What `generate` gives, by running the whole network again for every position: the slow reference."""

    def naive_step(image: Tensor, known_length: int) -> Step:
        return lambda image, at: model(image)[:, at]

    return _generate(
        model, count, naive_step, seed=seed, temperature=temperature, top_k=top_k, top_p=top_p,
        known=known, known_mask=known_mask, batch=batch, progress=progress,
    )  # fmt: skip


def noise(seed: int, first: int, count: int, num_dims: int) -> Tensor:
    """Uniform noise on [0, 1), float64 (count, num_dims), of the images `first`, `first + 1`, ... of a seed."""
    rows = [np.random.Generator(np.random.Philox(key=[seed, i])).random(num_dims) for i in range(first, first + count)]
    return torch.from_numpy(np.stack(rows))


def draw(log_mass: Tensor, uniform: Tensor, top_k: int | None = None, top_p: float | None = None) -> Tensor:
    """Values `(...)` drawn by inverting the CDF of `log_mass` `(..., 256)` at `uniform` `(...)` on [0, 1)."""
    mass = log_mass.double().exp()
    if top_k is not None and top_k < mass.shape[-1]:
        best = mass.topk(top_k, -1).indices
        mass = torch.zeros_like(mass).scatter(-1, best, mass.gather(-1, best))
    if top_p is not None and top_p < 1:
        ordered, place = mass.sort(-1, descending=True)
        before = ordered.cumsum(-1) - ordered  # mass of the likelier values
        mass = mass.scatter(-1, place, ordered * (before < top_p * mass.sum(-1, keepdim=True)))
    cdf = mass.cumsum(-1)
    total = cdf[..., -1]
    level = torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))
    return (cdf <= level[..., None]).sum(-1)


@torch.inference_mode()
def _generate(
    model: ImageTransformer,
    count: int,
    new_step: Callable[[Tensor, int], Step],
    *,
    seed: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    known: Tensor | None,
    known_mask: Tensor | None,
    batch: int,
    progress: Progress | None,
) -> Tensor:
    _check_arguments(count, seed, temperature, top_k, top_p, batch)
    known, known_mask = _check_known(model, count, known, known_mask)
    images = torch.zeros(count, *model.config.shape, dtype=torch.uint8)
    training = model.training
    model.eval()
    try:
        for first in range(0, count, batch):
            rows = slice(first, min(first + batch, count))
            uniform = noise(seed, first, rows.stop - first, model.layout.num_dims)
            advance = None if progress is None else _part(progress, first, rows.stop, count, model.layout.fronts)
            images[rows] = _generate_batch(
                model, known[rows], known_mask[rows], uniform, new_step, temperature, top_k, top_p, advance
            )
    finally:
        model.train(training)
    return images


def _generate_batch(
    model: ImageTransformer,
    known: Tensor,
    known_mask: Tensor,
    uniform: Tensor,
    new_step: Callable[[Tensor, int], Step],
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    advance: Callable[[int], None] | None,
) -> Tensor:
    """One batch of images `(b, c, h, w)`, front by front, from its noise `(b, dims)`."""
    uniform, fixed = uniform.to(model.device), known_mask.flatten(1).to(model.device)
    image = torch.where(known_mask, known, 0).to(model.device)
    flat = image.view(len(image), -1)  # the same values as (b, c h w), written in place
    known_length = _leading(fixed.all(0)[model.values].all(-1))
    step = new_step(image, known_length)
    for number, front in enumerate(model.layout.fronts):
        if front[-1] >= known_length:
            at = torch.from_numpy(front).to(model.device)
            params = step(image, at)  # (b, f, p)
            if temperature != 1:
                params = model.likelihood.temper(params, model.layout.channels, temperature)
            places = model.values[at]  # (f, v)
            for i, place in enumerate(places.T):  # the sub-pixels of a position, one after the other
                log_mass = model.likelihood.conditional(params, flat[:, places[:, :i]])
                value = draw(log_mass, uniform[:, place], top_k, top_p).to(torch.uint8)
                flat[:, place] = torch.where(fixed[:, place], flat[:, place], value)
        if advance is not None:
            advance(number + 1)
    return image.cpu()


def _part(progress: Progress, first: int, stop: int, count: int, fronts: Sequence[object]) -> Callable[[int], None]:
    """`progress` over all fronts of all images, as a function of the fronts done of the images `first` to `stop`."""
    return lambda done: progress(first * len(fronts) + done * (stop - first), count * len(fronts))


def _leading(claims: Tensor) -> int:
    """How many of `claims` (l,) are true before the first that is not."""
    return int(claims.long().cumprod(0).sum())


def _check_arguments(
    count: int, seed: int, temperature: float, top_k: int | None, top_p: float | None, batch: int
) -> None:
    if count < 1 or batch < 1:
        raise ValueError(f"count and batch must be at least 1, got {count} and {batch}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    if seed >= 2**63:
        raise ValueError(f"seed must be below 2^63, got {seed}")
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must lie in (0, 1], got {top_p}")


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
