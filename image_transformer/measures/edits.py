"""What a model for editing makes of images, beside plainer ways: figures in tables, and a picture."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from image_transformer.conditions.source import Source
from image_transformer.conditions.text import Text
from image_transformer.config.sampling import Plan
from image_transformer.data.edits import EDITS
from image_transformer.data.images import Captions, ImageData, Images
from image_transformer.data.loading import load_data
from image_transformer.data.shape_edits import EDIT_WORLDS, KINDS, edits_of
from image_transformer.data.shapes import SIDE
from image_transformer.inference.sampling import generate
from image_transformer.measures.fitting import descend, seeded, shuffled, tensor, to_levels, to_unit
from image_transformer.measures.found import Assessment, Say, mean_and_error
from image_transformer.measures.scenes import is_scene, read_scene
from image_transformer.model import ImageModel
from image_transformer.show import grids
from image_transformer.show.progress import bar
from image_transformer.show.records import Table

SHOWN = 8  # edits in a picture
SAMPLES = 4  # of each of them


def is_editor(model: ImageModel) -> bool:
    """Whether a model is told a source, and nothing but an instruction beside it."""
    kinds = {type(condition) for condition in model.config.conditions}
    return Source in kinds and kinds <= {Source, Text}


def edits(model: ImageModel, train: ImageData, test: ImageData, plan: Plan, say: Say = print) -> Assessment:
    """What becomes of test images: of made scenes what can be read off, of photographs how far from the true result."""
    found, worlds = Assessment(), test.name in EDIT_WORLDS and model.config.shape == (3, SIDE, SIDE)
    for name in reversed(EDIT_WORLDS) if worlds else ():  # held-out combinations first
        data = load_data(name, "test")
        data = data.rows(np.arange(min(plan.images, len(data))))
        say(f"{len(data):,} edits of {name}")
        found.tables.append(scenes(data, draw(model, data, plan.seed)))
        found.pictures[name] = picture(model, data, plan.seed)
    if not worlds:
        some = test.some(plan.images)
        say(f"{len(some):,} edits")
        ways = {"one sample": draw(model, some, plan.seed)}
        if some.captions and all(_name(wordings) for wordings in (*some.captions, *_captions(train))):
            say("a network trained with squared error to edit")
            ways["regression"] = apply_regression(fit_regression(train, seed=plan.seed), some)
        found.tables.append(differences(some, ways))
        found.pictures["edits"] = picture(model, some, plan.seed)
    return found


def draw(model: ImageModel, data: ImageData, seed: int) -> Images:
    """One sample of each edit."""
    with bar("steps") as progress:
        return generate(model, len(data), seed=seed, progress=progress, **model.of(data)).numpy()


def scenes(data: ImageData, drawn: Images) -> Table:
    """How many scenes are exactly as instructed, and what happens where nothing should; `drawn` (n, 3, 32, 32).

    data: the first edits of a made world.
    """
    assert data.sources is not None
    right: dict[str, list[bool]] = defaultdict(list)
    outside: dict[str, list[float]] = defaultdict(list)
    every = edits_of(data.name, "test")[: len(data)]
    for edit, source, result, image in zip(every, data.sources, data.images, drawn, strict=True):
        same = (source == result).all(0)
        holds, error = is_scene(edit.after, read_scene(image)), np.abs(image - result.astype(float))[:, same].mean()
        for kind in (edit.kind, "all"):
            right[kind].append(holds)
            outside[kind].append(float(error))
    rows = [
        [kind, str(len(right[kind])), *mean_and_error(100 * np.array(right[kind]), 1), f"{np.mean(outside[kind]):.2f}"]
        for kind in (*KINDS, "all") if kind in right
    ]  # fmt: skip
    caption = (
        f"{len(drawn):,} instructions of {data.name}: share of scenes exactly as instructed, and mean error where "
        "nothing should change"
    )
    return Table(caption, ["", "edits", "right, %", "±", "error outside, levels"], rows)


def differences(data: ImageData, ways: Mapping[str, Images]) -> Table:
    """Mean differences to the true results, in levels, of images (n, c, h, w) by what made them, edit by edit."""
    assert data.sources is not None
    names = np.array([_name(wordings) or "" for wordings in _captions(data)] or [""] * len(data))
    every = {"nothing done": data.sources, **ways}

    def off(images: Images, rows: Any) -> str:
        return f"{np.abs(images[rows].astype(np.int64) - data.images[rows]).mean():.2f}"

    rows = [
        [name, str(own.sum()), *(off(images, own) for images in every.values())]
        for name, own in [*((name, names == name) for name in EDITS), ("all", names == names)]
        if own.any()
    ]
    caption = f"Mean difference to the true result, levels, {len(data):,} images of {data.whole_name}"
    return Table(caption, ["", "edits", *every], rows)


def picture(model: ImageModel, data: ImageData, seed: int) -> Image.Image:
    """The first edits: what is given, what is drawn, and the true result."""
    some = data.rows(np.arange(min(SHOWN, len(data))))
    assert some.sources is not None
    every = draw(model, some.rows(np.repeat(np.arange(len(some)), SAMPLES)), seed + 1)
    shown = [some.sources[:, None], every.reshape(len(some), SAMPLES, *every.shape[1:]), some.images[:, None]]
    texts = [wordings[0] for wordings in _captions(some)] or [""] * len(some)
    rows = list(zip(texts, np.concatenate(shown, 1), strict=True))
    return grids.labelled_rows(rows, ["given", *["edited"] * SAMPLES, "true result"])


def _captions(data: ImageData) -> Captions:
    return data.captions or ()


def _name(wordings: tuple[str, ...]) -> str | None:
    """The name of the edit that has these wordings, if it is one of `EDITS`."""
    return next((name for name, edit in EDITS.items() if edit.wordings == wordings), None)


def fit_regression(data: ImageData, *, seed: int = 0, updates: int = 1000, batch: int = 32) -> nn.Module:
    """The plain rival: a small network that is told the edit by its number, trained with squared error; a minute.

    It sees four pixels around each, so for edits of the whole image it is no rival.
    """
    rows, channels = shuffled(len(data), batch, seed), data.images.shape[1]
    with seeded(seed):
        widths = [channels + len(EDITS), 32, 32, 32]
        layers = [part for a, b in pairwise(widths) for part in (nn.Conv2d(a, b, 3, padding=1), nn.ReLU())]
        last = nn.Conv2d(widths[-1], channels, 3, padding=1)
        for parameter in last.parameters():
            nn.init.zeros_(parameter)  # begin with the source
        network = nn.Sequential(*layers, last)

        def loss() -> Tensor:
            some = data.rows(np.sort(next(rows)))
            return F.mse_loss(_edit(network, some), to_unit(tensor(some.images)))

        descend(network, loss, updates, lr=2e-3)
    return network.eval()


@torch.inference_mode()
def apply_regression(network: nn.Module, data: ImageData, batch: int = 100) -> NDArray[np.uint8]:
    """The network's edit of every source, uint8 (n, c, h, w)."""
    parts = [data.rows(np.arange(first, min(first + batch, len(data)))) for first in range(0, len(data), batch)]
    return np.concatenate([to_levels(_edit(network, part)) for part in parts])


def _edit(network: nn.Module, data: ImageData) -> Tensor:
    """Float (b, c, h, w), about -1 to 1."""
    assert data.sources is not None
    source = to_unit(tensor(data.sources))
    number = torch.tensor([list(EDITS).index(str(_name(wordings))) for wordings in _captions(data)])
    which = F.one_hot(number, len(EDITS)).float()[:, :, None, None].expand(-1, -1, *source.shape[2:])
    edit: Tensor = source + network(torch.cat([source, which], 1))
    return edit
