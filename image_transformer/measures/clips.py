"""What a model of clips knows: the bits of a frame by its place in a clip, for how many frames it is right, and whether
rewards and ends come as often as it says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from image_transformer.conditions.frames import Action
from image_transformer.config.sampling import Plan
from image_transformer.data.bouncing import BOUNCING, ideal_bits
from image_transformer.data.images import ImageData
from image_transformer.data.recording import END, ENDED, REWARD
from image_transformer.inference.rollout import rollout
from image_transformer.measures.found import Assessment, Say, mean_and_error
from image_transformer.model import ImageModel, evaluating
from image_transformer.show import grids
from image_transformer.show.progress import bar
from image_transformer.show.records import Table

GIVEN = 2  # frames of a clip, before it is continued
HORIZON = (1, 2, 5, 10, 20, 50)
CONTINUED, SHOWN = 32, 4  # clips
COLUMNS = 12  # frames of a clip that is shown
BATCH = 50
JUDGED = 10_000  # frames whose rewards and ends are looked at
LEVELS = (0, 0.01, 0.1, 0.5, 0.9, 0.99)  # from which probabilities are counted together


def clips(
    model: ImageModel, test: ImageData, some: ImageData, bits: NDArray[np.float64], plan: Plan, say: Say
) -> Assessment:
    """`bits` are those of each frame of `some` of the test frames, (n,); of the others, whole clips are continued."""
    assert test.past is not None and some.past is not None
    found, place = Assessment(), some.past.place
    ideal = ideal_bits(test.name) if test.name in BOUNCING else None
    rows = []
    for name, its in (("first", place == 0), ("second", place == 1), ("later ones", place > 1)):
        if its.any():
            least = [] if ideal is None else [f"{ideal[min(2, int(place[its][0]))]:.2f}"]
            error = _error(bits[its], some.past.start[some.past.rows][its])
            rows.append([name, f"{its.sum():,}", f"{bits[its].mean():.2f}", error, *least])
    columns = ["frame of a clip", "frames", "bits/frame", "±", *([] if ideal is None else ["ideal"])]
    found.tables.append(Table("Bits of a frame given those before it", columns, rows))
    if model.config.condition(Action) is not None:
        found.tables.append(_outcomes(model, test.some(JUDGED), say))
    starts = np.unique(test.past.start)
    lengths = np.diff(np.append(starts, len(test.past.start)))
    reached = [step for step in HORIZON if (lengths >= GIVEN + step).mean() >= 0.5]
    if reached and len(test) == len(test.past.frames):
        starts = starts[lengths >= GIVEN + reached[-1]][:CONTINUED]
        found.add(_continued(model, test, starts, reached, plan, say))
    return found


def _error(bits: NDArray[np.float64], clip: NDArray[np.int64]) -> str:
    """The standard error of their mean: frames of one clip are alike, so that only clips count. None of one clip."""
    _, clip = np.unique(clip, return_inverse=True)
    off = np.bincount(clip, bits - bits.mean())
    return f"{np.sqrt((off**2).sum() * len(off) / (len(off) - 1)) / len(bits):.2f}" if len(off) > 1 else ""


def _outcomes(model: ImageModel, test: ImageData, say: Say) -> Table:
    """How often episodes end, and rewards come, where the model says so with which probability, after the picture."""
    say(f"rewards and ends of {len(test)} frames")
    its = test.images[:, 0, -1]
    ended, came_first = its[:, END] > 127, first_masses(model, test, [END, REWARD])
    end, as_it_came = came_first[:, 0, 128:].sum(-1), 1 - came_first[:, 1, 0]
    otherwise = 1 - first_masses(model, _otherwise(test), [REWARD])[:, 0, 0]  # the reward comes after the end
    likely = np.where(ended, end, 1 - end)
    said = {"end": end, "reward": likely * as_it_came + (1 - likely) * otherwise}
    came = {"end": ended, "reward": its[:, REWARD] != 0}
    rows = []
    for name, chance in said.items():
        group = np.digitize(chance, LEVELS) - 1
        for number, (low, high) in enumerate(pairwise((*LEVELS, 1))):
            here = group == number
            if here.any():
                share = [f"{100 * chance[here].mean():.2f}", *mean_and_error(100.0 * came[name][here], 2)]
                rows.append([name, f"{100 * low:g} to {100 * high:g} %", f"{here.sum():,}", *share])
    columns = ["", "the model's probability", "frames", "its mean, %", "came, %", "±"]
    return Table("Ends and rewards: what the model says, and what came", columns, rows)


def _otherwise(data: ImageData) -> ImageData:
    """The frames, but those that say that the episode has ended say that it has not, and the other way round."""
    images = data.images.copy()
    images[:, :, -1, END] = ENDED - images[:, :, -1, END]
    return replace(data, images=images)


def first_masses(model: ImageModel, data: ImageData, cols: Sequence[int]) -> NDArray[np.float64]:
    """The probabilities of all values of the first channel at columns of the last row, given all before it.

    (n, columns, 256).
    """
    at = torch.from_numpy(model.layout.position_of.reshape(model.config.shape)[0, -1, list(cols)])
    found = []
    with evaluating(model):
        for start in range(0, len(data), BATCH):
            batch = data.rows(np.arange(start, min(len(data), start + BATCH)))
            params = model(torch.from_numpy(batch.images).to(model.device), model.of(batch))[:, at]
            nothing = torch.zeros(*params.shape[:2], 0, dtype=torch.uint8, device=params.device)
            found.append(model.likelihood.conditional(params, nothing).double().exp().cpu().numpy())
    return np.concatenate(found)


def _continued(
    model: ImageModel, test: ImageData, starts: NDArray[np.int64], horizon: list[int], plan: Plan, say: Say
) -> Assessment:
    steps = horizon[-1]
    say(f"{len(starts)} clips continued by {steps} frames")
    at = starts[:, None] + np.arange(GIVEN + steps)
    true, told = test.images[at], {}
    action = model.config.condition(Action)
    if action is not None:
        told = {"action": action.of(test).numpy()[at[:, GIVEN:]].tolist()}
    with bar("frames") as progress:
        begun = torch.from_numpy(true[:, :GIVEN])
        drawn = rollout(model, begun, steps, seed=plan.seed, progress=progress, **told).numpy()
    off = np.abs(drawn.astype(np.int16) - true[:, GIVEN:])
    exact, still = (off == 0).all((2, 3, 4)), np.abs(true[:, GIVEN:].astype(np.int16) - true[:, GIVEN - 1 : GIVEN])
    rows = [
        [str(step), *mean_and_error(100 * exact[:, step - 1], 1), *mean_and_error(off[:, step - 1].mean((1, 2, 3)), 2),
         f"{still[:, step - 1].mean():.2f}"]
        for step in horizon
    ]  # fmt: skip
    columns = ["frames ahead", "exact, %", "±", "mean error, levels", "±", "of the last frame given"]
    shown = []
    for number in range(min(SHOWN, len(starts))):
        rows_of = true[number], np.concatenate([true[number, :GIVEN], drawn[number]])
        shown += [(name, row[:COLUMNS]) for name, row in zip(("true", "drawn"), rows_of, strict=True)]
    headers = (["given"] * GIVEN + [str(step + 1) for step in range(steps)])[:COLUMNS]
    picture = grids.labelled_rows(shown, headers)
    return Assessment([Table(f"Continued clips: {len(starts)}", columns, rows)], {"clips": picture})
