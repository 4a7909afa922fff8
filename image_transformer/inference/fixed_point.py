"""Drawing by guessing: all positions at once from a guess of their values, again and again until nothing changes.

The noise of an image is fixed by its seed, number and places, so a pass of the network over a whole image maps what it
sees to what is then drawn. The image that step by step drawing gives is the one fixed point of that map, since every
position depends on earlier ones alone. Each pass makes at least one more front final (of a consistent enlargement, one
more position in each box of a front), so it is reached from any guess; from a good one after two or three passes
(Wiggers and Hoogeboom, 2020, arXiv:2002.09928; Song et al., 2021, arXiv:2002.03629).

Images that are told the same and guessed the same share their pass, whatever their noise. Of what was drawn the
interval of each value's noise is remembered, between the masses of smaller values and that with its own: noise within
all of them draws the same again, without a pass, where the same is told.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from image_transformer.conditions.base import Given, select
from image_transformer.data.images import check_images
from image_transformer.inference.drawing import Drawing
from image_transformer.likelihoods.base import leaves_out
from image_transformer.model import ImageModel

GREY = 128
WAYS = 4
MARGIN = 2.0**-22  # more than float32 rounds


class FixedPoint:
    """Draws images of one model by guessing, and remembers.

    remember: of how many conditions the likeliest drawn images, up to four of each (9 bytes a sub-pixel an image),
    where the likelihood is by table.
    drawings: how many images it has been asked for so far; settled: how many of them it drew without a pass; passed:
    how many the network has passed over.
    """

    def __init__(self, model: ImageModel, remember: int = 0) -> None:
        self.model, self.remember = model, remember if model.likelihood.by_table else 0
        self.drawn: OrderedDict[bytes, list[_Drawn]] = OrderedDict()  # by what was told, the likeliest first
        self.drawings = self.settled = self.passed = 0
        self.at = torch.arange(model.layout.num_positions, device=model.device)

    def draw(
        self, drawing: Drawing, contexts: Sequence[Given], guess: Tensor, most: int | None = None
    ) -> Iterator[int]:
        """Replace the images of `drawing` by those that it draws, from a `guess`, uint8 (b, c, h, w).

        contexts: the conditions, and those without what guidance leaves out. most: passes after which to give up; then
        `left` has the numbers of the images that are not final (m,), and `final` which positions of theirs are (m, l),
        where there are no limits.
        Yields after each pass how many images are.
        """
        held = drawing.fixed.view_as(drawing.image)
        drawing.image.copy_(torch.where(held, drawing.image, guess.to(self.model.device)))
        told, own, read = keys_of(contexts[0], drawing), self._remembers(drawing), _Read(self.model, contexts)
        self.left, passes = np.arange(len(guess)), 0
        self.drawings += len(guess)
        self.final = np.zeros((len(guess), self.model.layout.num_positions), np.bool_)
        if own:
            self._settle(drawing, told)
        while len(self.left) and (most is None or passes < most):
            self._pass(drawing, read, told, own)
            passes += 1
            yield len(guess) - len(self.left)

    def keep(self, drawing: Drawing, given: Given) -> None:
        """Remember the images of `drawing` that are final, by one more pass over them."""
        if self._remembers(drawing):
            self.left = np.arange(len(drawing.image))
            self._pass(drawing, _Read(self.model, [given]), keys_of(given, drawing), own=True)

    def _pass(self, drawing: Drawing, read: _Read, told: list[bytes], own: bool) -> None:
        """Draw the images `left` once more, by one pass for each distinct pair of what is told and guessed."""
        images, first, group = drawing.image.cpu().numpy(), {}, []  # type: ignore[var-annotated]
        for i in self.left.tolist():
            group.append(first.setdefault((told[i], images[i].tobytes()), (len(first), i))[0])
        leads = [i for _, i in first.values()]
        one_each = torch.tensor(leads, device=self.model.device)
        seen = drawing.image[one_each]
        params = read.params(seen, [told[i] for i in leads], one_each)
        self.passed += len(leads)
        groups = torch.tensor(group, device=self.model.device)
        changed = drawing.draw_all(params[groups], self.at, torch.from_numpy(self.left).to(self.model.device))
        moved = changed.any(1)
        if own:
            for n in {group[j] for j in np.flatnonzero(~moved)}:
                self._keep(told[leads[n]], params[n], seen[n], drawing.sampling.temperature)
        front = self.model.layout.positions.front
        earliest = np.where(changed[moved], front, front.max() + 1).min(1)
        self.left, self.final = self.left[moved], front <= earliest[:, None]

    def _remembers(self, drawing: Drawing) -> bool:
        how = drawing.sampling
        plain = how.guidance == 1 and not leaves_out(how.top_k, how.top_p)
        return self.remember > 0 and plain and drawing.limits is None and not bool(drawing.fixed.any())

    def _settle(self, drawing: Drawing, told: list[bytes]) -> None:
        """Write what is remembered of images told the same: those whose noise draws it are done, it guesses others."""
        alike: dict[bytes, list[int]] = {}
        for i, key in enumerate(told):
            alike.setdefault(key, []).append(i)
        left = []
        for key, rows in alike.items():
            its = np.array(rows)
            if key in self.drawn:
                self.drawn.move_to_end(key)
                drawing.image[its] = self.drawn[key][0].image
            for one in self.drawn.get(key, []):
                level = drawing.uniform[its]
                inside = ((level >= one.lowest) & (level < one.highest)).all(1).cpu().numpy()
                drawing.image[its[inside]] = one.image
                its = its[~inside]
                if not len(its):
                    break
            left += its.tolist()
        self.settled += len(told) - len(left)
        self.left = np.array(sorted(left), np.int64)

    def _keep(self, key: bytes, params: Tensor, image: Tensor, temperature: float) -> None:
        """Remember the noise that draws `image` (c, h, w) from `params` (l, p), a little less at both ends."""
        values = image.flatten()[self.model.values]  # (l, v)
        low, high = torch.empty(2, image.numel(), dtype=torch.float64, device=image.device)
        for i in range(values.shape[-1]):
            mass = self.model.likelihood.conditional(params, values[:, :i], temperature).double().exp()
            cdf = mass.cumsum(-1) / mass.sum(-1, keepdim=True)
            value = values[:, i, None].long()
            upper = cdf.gather(-1, value)[:, 0]
            low[self.model.values[:, i]] = torch.where(
                value[:, 0] > 0, cdf.gather(-1, (value - 1).clamp(min=0))[:, 0], -1
            )
            high[self.model.values[:, i]] = torch.where(value[:, 0] < 255, upper, 2)
        its = self.drawn.setdefault(key, [])
        if not any(torch.equal(one.image, image) for one in its):
            likely = float((high.clamp(max=1) - low.clamp(min=0)).log().sum())
            its.append(_Drawn(image.clone(), low.float() + MARGIN, high.float() - MARGIN, likely))
            its.sort(key=lambda one: -one.log_prob)
            del its[WAYS:]
        self.drawn.move_to_end(key)
        if len(self.drawn) > self.remember:
            self.drawn.popitem(last=False)


class _Drawn(NamedTuple):
    """What was drawn, (c, h, w), between which noise of each value it is drawn again, (c h w,) each, and how likely."""

    image: Tensor
    lowest: Tensor
    highest: Tensor
    log_prob: float


class _Read:
    """What the network has read of the conditions of a batch: once for those that are told the same."""

    def __init__(self, model: ImageModel, contexts: Sequence[Given]) -> None:
        self.model, self.contexts = model, contexts
        self.number: dict[bytes, int] = {}
        self.read: list[Any] = []

    def params(self, seen: Tensor, told: Sequence[bytes], rows: Tensor) -> Tensor:
        """Parameters `(m, l, p)` of images `seen` (m, c, h, w), those of the `rows` (m,), `told` by their keys."""
        if not self.number:  # the first pass is over all that are not remembered
            first = first_of(told, rows.tolist())
            self.number = {key: n for n, key in enumerate(first)}
            its = torch.tensor(list(first.values()))
            self.read = [self.model.read(select(given, its)) for given in self.contexts]
        number = torch.tensor([self.number[key] for key in told], device=seen.device)
        network = self.model.network
        return torch.cat([network(seen, network.of_rows(one, number)) for one in self.read], -1)


def first_guess(model: ImageModel, count: int, given: Given, guess: Tensor | None) -> Tensor:
    """The `guess`, checked; or that of a condition, as from the last frame; or grey. uint8 (count, c, h, w)."""
    if guess is not None:
        check_images(guess, model.config.shape, "guess", count)
        return guess
    for condition in model.config.conditions:
        found = condition.guess(given[condition.name])
        if found is not None:
            return found
    return torch.full((count, *model.config.shape), GREY, dtype=torch.uint8)


def first_of(keys: Sequence[bytes], numbers: Sequence[int]) -> dict[bytes, int]:
    """Of those with equal keys the number of the first."""
    return dict(zip(reversed(keys), reversed(numbers), strict=True))


def keys_of(given: Given, drawing: Drawing) -> list[bytes]:
    """For each image what it is told, and the temperature, as bytes."""
    count, how = len(drawing.image), repr(drawing.sampling.temperature).encode()
    told = [value.cpu().reshape(count, -1).contiguous().numpy() for value in given.values()]
    return [how + b"".join(value[i].tobytes() for value in told) for i in range(count)]
