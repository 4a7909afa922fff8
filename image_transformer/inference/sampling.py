"""Generation: exact ancestral sampling, cached and naive; completion is generation with some values known.

The noise of an image is a function of (seed, number of the image) and of the place of the sub-pixel alone, so in exact
arithmetic the same image comes out of every batch, and of `generate` and `generate_naive`. In float64 it does; in
float32 passes over batches of other sizes may round the last bit otherwise, and now and then a draw falls on its other
side.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from image_transformer.conditions.base import select
from image_transformer.config.sampling import Sampling
from image_transformer.data.images import check_images
from image_transformer.inference.drawing import Drawing, noise
from image_transformer.inference.fixed_point import FixedPoint, first_guess
from image_transformer.inference.memory import images_at_once
from image_transformer.inference.steps import SideBySide, at_once, one_by_one, plan_of, walk
from image_transformer.likelihoods.base import leaves_out
from image_transformer.model import ImageModel, evaluating
from image_transformer.processes import processes

Method = Literal["cached", "naive", "fixed-point"]
Progress = Callable[[int, int], None]  # (steps done, steps in all), over all images; raising stops between two steps


def generate(
    model: ImageModel,
    count: int = 1,
    *,
    seed: int = 0,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    guidance: float = 1.0,
    consistent: bool = False,
    known: Tensor | None = None,
    known_mask: Tensor | None = None,
    numbers: Sequence[int] | None = None,
    batch: int | None = None,
    progress: Progress | None = None,
    method: Method = "cached",
    guess: Tensor | None = None,
    **told: Any,
) -> Tensor:
    """`count` images drawn from the model, uint8 (count, c, h, w), by as few steps as its network allows.

    Positions whose values cannot reach each other are drawn together (`model.schedule`); that changes no image.
    temperature: below 1 sharper, above 1 flatter (divides logits, multiplies the scales of a mixture); 1 is the model.
    top_k, top_p: draw each sub-pixel only from its k likeliest values, or from the fewest that hold p of the mass.
    guidance: with a text, how far to go from the masses of each value without it to those with it, renormalised: 1 is
        the model, 0 is without the text, and of what any other number draws `log_prob` is not the likelihood.
    consistent: the box means of what is drawn equal `low` exactly: values that would make that impossible have no
        probability, the others are renormalised, and pixels of one box are drawn one after the other.
    known: uint8 (count, c, h, w), held fixed where `known_mask`, bool (count, c, h, w) or broadcast to it, is True.
        A drawn value is conditioned on the known ones of earlier fronts, and on those alone: exactly the model's
        distribution of the rest if the known ones come first in the generation order, as upper rows do in `Raster`.
        By `Wavefront` they do not: the first pixel of a row has an earlier front than the last ones of the row above.
        Known pixels of later fronts stay as they are and have no influence: given only the lower half, the upper half
        is drawn almost as if nothing were known. `orientation.conditioned` says how much is conditioned on; `complete`
        turns images so that what is known comes first, if the model was trained for that (`DataConfig.orientations`).
    numbers: the number of each image, of which its noise is a function; 0 to count - 1 if not given.
    batch: images generated at once; it does not change them. As many as fit into memory, up to 256, if not given.
    progress: called after every step; an exception that it raises stops the generation there.
    method: "cached"; "naive": the whole network again for every single position, the slow form that it equals; or
        "fixed-point": all positions at once from a guess, until nothing changes, for what is predictable.
    guess: where "fixed-point" starts, uint8 (count, c, h, w). If not given: the last frame, moved as the picture has
        moved before, the enlarged pixels, the source, or grey.
    told: what the model is told of each image, or of all: label="cat" (by name or number, one or one for each image),
        low=uint8 (count, c, h / f, w / f), text="a red circle", and so on.
    Raises ValueError for arguments out of range or of the wrong shape.

    >>> it.generate(model, 4, seed=0).shape
    torch.Size([4, 3, 8, 8])
    """
    if method not in get_args(Method):
        raise ValueError(f"method must be one of {', '.join(get_args(Method))}, got {method!r}")
    sampling, naive = Sampling(seed, temperature, top_k, top_p, guidance), method == "naive"
    _check_arguments(count, numbers, batch)
    known, known_mask = _check_known(model, count, known, known_mask)
    given = model.given(count, told)
    contexts = [given] if guidance == 1 else [given, model.without(given)]
    everywhere = known_mask.all(0).flatten()[model.layout.values].all(-1).numpy()
    # with consistent= the order in a box counts, so all is drawn in the order in which it is scored, known or not
    if guess is not None and method != "fixed-point":
        raise ValueError(f'guess is for method="fixed-point", not {method!r}')
    fixed = FixedPoint(model) if method == "fixed-point" else None
    if fixed is not None:
        if consistent and bool(known_mask.any()):
            raise ValueError('consistent= with known= needs method="cached"')
        plan, guess = at_once(model.layout), first_guess(model, count, given, guess)
    else:
        plan = one_by_one(model.layout, everywhere) if naive else plan_of(model, everywhere, in_order=consistent)
    if batch is None:
        positions = model.layout.num_positions if naive or plan.prefilled else plan.most
        decoding_bytes = plan.decoder(model.network, None, 1).num_bytes + model.network.pass_bytes(positions)
        decoding_bytes *= len(contexts)
        by_table = leaves_out(top_k, top_p) or consistent or bool(known_mask.any()) or guidance != 1
        batch = images_at_once(model, decoding_bytes, plan.most, by_table)
    numbers = range(count) if numbers is None else numbers
    mine = processes().share(count)
    parts = [torch.zeros(0, *model.config.shape, dtype=torch.uint8)]
    with evaluating(model):
        for first in mine[::batch]:
            rows = slice(first, min(first + batch, mine.stop))
            parts_given = [select(one, rows) for one in contexts]
            uniform = noise(seed, numbers[rows], model.layout.num_positions * model.likelihood.num_noise)
            limits = model.limits(parts_given[0]) if consistent else None
            drawing = Drawing(model, known[rows], known_mask[rows], uniform, sampling, limits)
            if fixed is not None and guess is not None:
                steps, each = fixed.draw(drawing, parts_given, guess[rows]), 1
            else:
                decoders = [plan.decoder(model.network, model.read(part), len(uniform)) for part in parts_given]
                decoder = decoders[0] if len(decoders) == 1 else SideBySide(decoders)
                steps, each = walk(decoder, drawing.image, plan, drawing, capture=limits is None), len(uniform)
            for done in steps:
                if progress is not None:
                    progress((first - mine.start) * len(plan.visited) + done * each, len(mine) * len(plan.visited))
            parts.append(drawing.image.cpu())
    return torch.cat(processes().all(torch.cat(parts)))


def generate_naive(model: ImageModel, count: int = 1, **options: Any) -> Tensor:
    """What `generate` gives, by running the whole network again for every single position: the slow reference.

    >>> torch.equal(it.generate_naive(model, 2, seed=0), it.generate(model, 2, seed=0))
    True
    """
    return generate(model, count, **options | {"method": "naive"})


generate_naive.__signature__ = inspect.signature(generate)  # type: ignore[attr-defined]


def generate_each(model: ImageModel, name: str, choices: Sequence[str], each: int, **options: Any) -> Tensor:
    """`each` images for each of some choices of the condition called `name`, uint8 (choices, each, c, h, w).

    Options as in `generate`.
    """
    told: dict[str, Any] = {name: [choice for choice in choices for _ in range(each)]}
    return generate(model, len(told[name]), **told, **options).unflatten(0, (len(choices), each))


def _check_arguments(count: int, numbers: Sequence[int] | None, batch: int | None) -> None:
    if count < 1 or (batch is not None and batch < 1):
        raise ValueError(f"count and batch must be at least 1, got {count} and {batch}")
    if numbers is not None and not (len(numbers) == count and all(0 <= one < 2**64 for one in numbers)):
        raise ValueError(f"numbers must hold {count} numbers from 0 to 2^64 - 1, as many as images, got {numbers}")


def _check_known(
    model: ImageModel, count: int, known: Tensor | None, known_mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    shape = (count, *model.config.shape)
    if (known is None) != (known_mask is None):
        raise ValueError("known and known_mask are given together or not at all")
    if known is None or known_mask is None:
        return torch.zeros(shape, dtype=torch.uint8), torch.zeros(shape, dtype=torch.bool)
    check_images(known, model.config.shape, "known", count)
    if known_mask.dtype != torch.bool:
        raise ValueError(f"known_mask must be a torch.bool tensor, got {known_mask.dtype}")
    try:
        return known.cpu(), known_mask.cpu().expand(shape)
    except RuntimeError:
        raise ValueError(f"known_mask must broadcast to {shape}, got {tuple(known_mask.shape)}") from None
