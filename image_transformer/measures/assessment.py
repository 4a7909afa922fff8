"""What a trained model can do, measured on images that it never saw: figures in tables, and pictures.

Everything lands in the run's folder (`measures.json`, `pictures/*.png`), from where `show/page.py` makes a page of it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from image_transformer.config.sampling import Plan
from image_transformer.data.images import ImageData
from image_transformer.inference.sampling import generate_each
from image_transformer.inference.scoring import chosen_from, classify, evaluate
from image_transformer.inference.tiled import enlarges
from image_transformer.measures.clips import clips
from image_transformer.measures.edits import edits, is_editor
from image_transformer.measures.enlargements import SHOWN, enlargements
from image_transformer.measures.found import Assessment, Say, mean_and_error
from image_transformer.measures.gap import bits_of_rows, entropy_gap, overconfidence
from image_transformer.measures.quality import torchmetrics
from image_transformer.measures.words import is_told_words, words
from image_transformer.model import ImageModel
from image_transformer.show import grids
from image_transformer.show.progress import bar
from image_transformer.show.records import Table

BAYES = 500  # images that the Bayes classifier is tried on: it scores each under every class
CALIBRATED = 64  # images whose conditionals are compared with what came
ROWS = 10  # choices of a condition in a picture


def assess(
    model: ImageModel, train: Callable[[], ImageData], test: ImageData, plan: Plan, say: Say = print
) -> Assessment:
    """Measure a model on images: its likelihood, and what its conditions do. train: gives what it learned from."""
    if enlarges(model):
        torchmetrics()  # which may be missing: before all the work
    found, some = Assessment(), test.some(plan.images)
    say(f"bits/dim of {len(some):,} images of {test.whole_name}")
    with bar("images") as progress:
        photographs = bits_of_rows(model, some.images, progress=progress, **model.of(some))
    rows = _likelihoods(model, some, photographs.mean(1))
    chosen = chosen_from(model)
    if chosen is not None:
        tried = test.some(min(len(some), BAYES))
        say(f"the likeliest {chosen.noun.removeprefix('the ')} of {len(tried)} of them")
        given = model.of(tried)
        with bar("scores") as progress:
            right = classify(model, tried.images, progress=progress, **given) == given[chosen.name].numpy()
        accuracy, error = mean_and_error(100 * right, 1)
        rows.append([f"Bayes classifier, accuracy on {len(tried)}, %", accuracy, error])
    few = test.some(min(len(some), CALIBRATED))
    say(f"how wide the conditionals are on {len(few)} of them")
    rows.append([f"surprise minus expected surprise on {len(few)}", *mean_and_error(overconfidence(model, few))])
    found.tables.append(Table(f"{len(some):,} images of {test.whole_name}", ["", "figure", "±"], rows))
    say(f"the bits of {len(some):,} images that the model draws")
    with bar("steps") as progress:
        found.tables.append(
            entropy_gap(model, some, photographs=photographs, seed=plan.seed, progress=progress).table()
        )
    if enlarges(model):
        found.add(enlargements(model, train(), test, plan, say))
    elif is_editor(model):
        found.add(edits(model, train(), test, plan, say))
    elif test.past is not None:
        found.add(clips(model, test, some, photographs.mean(1) * model.layout.num_dims, plan, say))
    elif is_told_words(model):
        found.add(words(model, train(), test, plan, say))
    elif chosen is not None and len(model.config.conditions) == 1:
        say(f"new images for each choice of {chosen.noun}")
        names = chosen.choices[:ROWS]
        with bar("steps") as progress:
            drawn = generate_each(model, chosen.name, names, SHOWN, seed=plan.seed, progress=progress)
        found.pictures["classes"] = grids.labelled_rows(list(zip(names, drawn.numpy(), strict=True)))
    return found


def _likelihoods(model: ImageModel, data: ImageData, free: NDArray[np.float64]) -> list[list[str]]:
    """Rows of a table; `free` are the bits/dim of each image (n,) under the model as it is."""
    told = " and ".join(condition.noun for condition in model.config.conditions)
    rows = [["bits/dim" + (f" given {told}" if told else ""), *mean_and_error(free)]]
    if enlarges(model):
        with bar("images") as progress:
            held = evaluate(model, data.images, consistent=True, progress=progress, **model.of(data)).per_image
        rows.append(["bits/dim of the consistent model", *mean_and_error(held)])
        rows.append(["gained by consistency", *mean_and_error(free - held)])
    return rows
