"""What a model of clips knows: the bits of a frame by its place in a clip, and for how many frames it is right."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from image_transformer.conditions.action import Action
from image_transformer.config.measuring import Plan
from image_transformer.config.sampling import Sampling
from image_transformer.data.bouncing import BOUNCING, ideal_bits
from image_transformer.data.images import ImageData
from image_transformer.inference.rollout import rollout
from image_transformer.measures.found import Assessment, Say, mean_and_error
from image_transformer.model import ImageModel
from image_transformer.show import grids
from image_transformer.show.progress import bar
from image_transformer.show.records import Table

GIVEN = 2  # frames of a clip, before it is continued
HORIZON = (1, 2, 5, 10)
CONTINUED, SHOWN = 32, 4  # clips


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
            rows.append([name, f"{its.sum():,}", *mean_and_error(bits[its], 2), *least])
    columns = ["frame of a clip", "frames", "bits/frame", "±", *([] if ideal is None else ["ideal"])]
    found.tables.append(Table("Bits of a frame given those before it", columns, rows))
    starts = np.unique(test.past.start)
    lengths = np.diff(np.append(starts, len(test.past.start)))
    steps = max(HORIZON)
    starts = starts[lengths >= GIVEN + steps][:CONTINUED]
    if len(starts) and len(test) == len(test.past.frames):
        found.add(_continued(model, test, starts, steps, plan, say))
    return found


def _continued(
    model: ImageModel, test: ImageData, starts: NDArray[np.int64], steps: int, plan: Plan, say: Say
) -> Assessment:
    say(f"{len(starts)} clips continued by {steps} frames")
    at = starts[:, None] + np.arange(GIVEN + steps)
    true, told = test.images[at], {}
    action = model.config.condition(Action)
    if action is not None:
        told = {"action": action.of(test).numpy()[at[:, GIVEN:]].tolist()}
    with bar("frames") as progress:
        begun = torch.from_numpy(true[:, :GIVEN])
        drawn = rollout(model, begun, steps, sampling=Sampling(plan.seed), progress=progress, **told).numpy()
    off = np.abs(drawn.astype(np.int16) - true[:, GIVEN:])
    exact, still = (off == 0).all((2, 3, 4)), np.abs(true[:, GIVEN:].astype(np.int16) - true[:, GIVEN - 1 : GIVEN])
    rows = [
        [str(step), *mean_and_error(100 * exact[:, step - 1], 1), *mean_and_error(off[:, step - 1].mean((1, 2, 3)), 2),
         f"{still[:, step - 1].mean():.2f}"]
        for step in HORIZON
    ]  # fmt: skip
    columns = ["frames ahead", "exact, %", "±", "mean error, levels", "±", "of the last frame given"]
    shown = []
    for number in range(min(SHOWN, len(starts))):
        shown += [("true", true[number]), ("drawn", np.concatenate([true[number, :GIVEN], drawn[number]]))]
    headers = ["given"] * GIVEN + [str(step + 1) for step in range(steps)]
    picture = grids.labelled_rows(shown, headers)
    return Assessment([Table(f"{len(starts)} clips continued", columns, rows)], {"clips": picture})
