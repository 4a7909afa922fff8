"""What a model for editing makes of images, beside plainer ways: figures in tables, and a picture."""

from __future__ import annotations

from collections import defaultdict
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
from image_transformer.config.measuring import Plan
from image_transformer.data.edits import EDITS, edit_of
from image_transformer.data.images import ImageData, Images
from image_transformer.data.shape_edits import EDIT_WORLDS, KINDS, edits_of, make_edits
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


def edits_by_words(model: ImageModel) -> bool:
    """Whether a model is told a source and an instruction, and nothing else."""
    return {type(condition) for condition in model.config.conditions} == {Source, Text}


def edits(model: ImageModel, train: ImageData, test: ImageData, plan: Plan, say: Say = print) -> Assessment:
    """What becomes of test images: of made scenes what can be read off, of photographs how far from the true result."""
    found, drawable = Assessment(), model.config.shape == (3, SIDE, SIDE)
    worlds = [*reversed(EDIT_WORLDS)] if test.name in EDIT_WORLDS and drawable else []
    for name in worlds:  # held-out combinations first
        say(f"{plan.images:,} edits of {name}")
        sources, results, captions = make_edits(name, "test")
        sources, results = sources[: plan.images], results[: plan.images]
        texts = [wordings[0] for wordings in captions[: plan.images]]
        found.tables.append(scenes(name, sources, results, draw(model, sources, texts, plan.seed)))
        found.pictures[name] = picture(model, sources, results, texts, plan.seed)
    some = test.some(plan.images)
    if test.name not in EDIT_WORLDS and some.captions is not None and some.sources is not None:
        texts = [wordings[0] for wordings in some.captions]
        say(f"{len(some):,} edits of photographs")
        drawn = draw(model, some.sources, texts, plan.seed)
        say("a network trained with squared error to edit")
        network = fit_regression(train, seed=plan.seed)
        found.tables.append(photographs(some, drawn, apply_regression(network, some)))
        found.pictures["edits"] = picture(model, some.sources, some.images, texts, plan.seed)
    return found


def draw(model: ImageModel, sources: Images, texts: list[str], seed: int) -> Images:
    """One sample of each edit."""
    with bar("steps") as progress:
        drawn = generate(model, len(texts), seed=seed, source=tensor(sources), text=texts, progress=progress)
    return drawn.numpy()


def scenes(name: str, sources: Images, results: Images, drawn: Images) -> Table:
    """How many scenes are exactly as asked for, and what happens where nothing should; `drawn` (n, 3, h, w)."""
    right: dict[str, list[bool]] = defaultdict(list)
    outside: dict[str, list[float]] = defaultdict(list)
    for edit, source, result, image in zip(edits_of(name, "test"), sources, results, drawn, strict=False):
        same = (source == result).all(0)
        holds, error = (
            is_scene(edit.after, read_scene(image)),
            float(np.abs(image - result.astype(float))[:, same].mean()),
        )
        for kind in (edit.kind, "all"):
            right[kind].append(holds)
            outside[kind].append(error)
    rows = [
        [kind, str(len(right[kind])), *mean_and_error(100 * np.array(right[kind]), 1), f"{np.mean(outside[kind]):.2f}"]
        for kind in (*KINDS, "all") if kind in right
    ]  # fmt: skip
    caption = (
        f"Samples for {len(drawn):,} instructions of {name}: whether things, places and ground are all as they should "
        "be, and the mean error where the true result is as the source"
    )
    return Table(caption, ["", "edits", "right, %", "±", "error outside, levels"], rows)


def photographs(data: ImageData, drawn: Images, regression: Images) -> Table:
    """Mean differences to the true results."""
    assert data.captions is not None and data.sources is not None
    names = np.array([edit_of(wordings) for wordings in data.captions])

    def off(images: Images, rows: Any) -> str:
        return f"{np.abs(images[rows].astype(np.int64) - data.images[rows]).mean():.2f}"

    rows = [
        [name, str(own.sum()), off(data.sources, own), off(regression, own), off(drawn, own)]
        for name, own in [*((name, names == name) for name in EDITS), ("all", names != "")]
        if own.any()
    ]
    caption = f"Mean difference to the true result, levels, {len(data):,} images of the {data.split} split"
    return Table(caption, ["", "edits", "nothing done", "regression", "one sample"], rows)


def picture(model: ImageModel, sources: Images, results: Images, texts: list[str], seed: int) -> Image.Image:
    """Some edits: what is given, what is drawn, and the true result."""
    count = min(SHOWN, len(texts))
    rows = np.repeat(np.arange(count), SAMPLES)
    drawn = draw(model, sources[rows], [texts[row] for row in rows], seed + 1).reshape(
        count, SAMPLES, *sources.shape[1:]
    )
    every = np.concatenate([sources[:count, None], drawn, results[:count, None]], 1)
    return grids.labelled_rows(list(zip(texts, every, strict=False)), ["given", *["edited"] * SAMPLES, "true result"])


def fit_regression(data: ImageData, *, seed: int = 0, updates: int = 1000, batch: int = 32) -> nn.Module:
    """The plain rival: a small network that is told the edit by its number, trained with squared error; a minute."""
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
    """Its edits of all sources, uint8 (n, c, h, w)."""
    parts = [data.rows(np.arange(first, min(first + batch, len(data)))) for first in range(0, len(data), batch)]
    return np.concatenate([to_levels(_edit(network, part)) for part in parts])


def _edit(network: nn.Module, data: ImageData) -> Tensor:
    """Float (b, c, h, w), about -1 to 1."""
    assert data.captions is not None and data.sources is not None
    source = to_unit(tensor(data.sources))
    number = torch.tensor([list(EDITS).index(edit_of(wordings)) for wordings in data.captions])
    which = F.one_hot(number, len(EDITS)).float()[:, :, None, None].expand(-1, -1, *source.shape[2:])
    edit: Tensor = source + network(torch.cat([source, which], 1))
    return edit
