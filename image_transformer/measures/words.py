"""What a text tells a model, and whether what it draws is what the text says: figures in tables, and pictures."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from image_transformer.conditions.text import Text
from image_transformer.config.sampling import Plan
from image_transformer.data.captions import captions_of
from image_transformer.data.images import ImageData
from image_transformer.data.shapes import SIDE, WORLDS, scenes_of, stated_bits
from image_transformer.inference.sampling import generate
from image_transformer.inference.scoring import evaluate, nats_of_choices
from image_transformer.measures.found import Assessment, Say, mean_and_error
from image_transformer.measures.scenes import read_scene, verdicts
from image_transformer.measures.stated import stated
from image_transformer.model import ImageModel
from image_transformer.show import grids
from image_transformer.show.progress import bar
from image_transformer.show.records import Table

CHOICES = 10  # captions of which one is right
TRIED = 100  # images for which it is looked for
LEARNED = 20_000  # images that a classifier learns from
SHOWN = 8  # rows and columns of a picture


def is_told_words(model: ImageModel) -> bool:
    """Whether a model is text-conditional, and is told nothing else."""
    return [type(condition) for condition in model.config.conditions] == [Text]


def words(model: ImageModel, train: ImageData, test: ImageData, plan: Plan, say: Say = print) -> Assessment:
    """The bits that captions save, the right one among ten, and what samples show: of made scenes by what is read off
    them, of others by what a classifier finds that learned from `train`."""
    found, some = Assessment(), test.some(plan.images)
    captions = [wordings[0] for wordings in captions_of(some)]
    say(f"bits that the captions of {len(some):,} images save")
    saved = bits_saved(model, some.images, captions)
    rows = [["bits saved by the caption, an image", *mean_and_error(saved, 2)]]
    made = test.name in WORLDS and model.config.shape == (3, SIDE, SIDE)  # scenes of this size alone can be read off
    if made:
        every = scenes_of(test.name, test.split, range(len(test)))
        told = [stated_bits(one, said[0].states) for one, said in every]
        rows.append(["bits that a caption states", *mean_and_error(np.array(told), 2)])
    count = min(len(some), TRIED)
    say(f"the right one of {CHOICES} captions of {count} images")
    right, error = mean_and_error(100 * chosen_right(model, some.images[:count], captions), 1)
    rows.append([f"right caption of {CHOICES} by likelihood, of {count} images, %", right, error])
    found.tables.append(Table(f"Captions of {len(some):,} images of {test.whole_name}", ["", "figure", "±"], rows))
    if made:
        for name in reversed(WORLDS):  # held-out combinations first
            say(f"samples for {plan.images:,} captions of {name}")
            table, found.pictures[name] = attributes(model, name, plan)
            found.tables.append(table)
    else:
        say(f"samples for the captions of {len(some):,} images, and a classifier of what captions state")
        with bar("steps") as progress:
            drawn = generate(model, len(some), seed=plan.seed, text=captions, progress=progress).numpy()
        learned = train.some(LEARNED)
        said = [wordings[0] for wordings in captions_of(learned)]
        table_of_words = stated(learned.images, said, some.images, drawn, captions, seed=plan.seed)
        found.tables += [table_of_words] if table_of_words is not None else []
        pairs = np.stack([drawn[:SHOWN], some.images[:SHOWN]], 1)
        shown = list(zip(captions[:SHOWN], pairs, strict=True))
        found.pictures["words"] = grids.labelled_rows(shown, ["drawn", "photograph"])
    return found


def bits_saved(model: ImageModel, images: NDArray[np.uint8], captions: list[str]) -> NDArray[np.float64]:
    """How many bits fewer each image takes given its caption than given none, (n,)."""
    with bar("images") as progress:
        free = evaluate(model, images, text="", progress=progress).per_image
    with bar("images") as progress:
        told = evaluate(model, images, text=captions, progress=progress).per_image
    return (free - told) * model.layout.num_dims


def chosen_right(model: ImageModel, images: NDArray[np.uint8], captions: list[str]) -> NDArray[np.bool_]:
    """Whether an image's own caption is likelier than nine of others, (n,); as many are drawn as there are images."""
    rng, right, distinct = np.random.default_rng(0), [], dict.fromkeys(captions)
    with bar("images") as progress:
        for number, image in enumerate(images):
            others = [one for one in distinct if one != captions[number]]
            wrong = rng.choice(len(others), min(CHOICES - 1, len(others)), replace=False)
            nats = nats_of_choices(model, image[None], "text", [captions[number], *(others[i] for i in wrong)])
            right.append(nats[0].argmin() == 0)
            progress(number + 1, len(images))
    return np.array(right)


def attributes(model: ImageModel, name: str, plan: Plan) -> tuple[Table, Image.Image]:
    """What of the captions of a made world's test scenes is so in samples, one for each; and a picture of some."""
    told = scenes_of(name, "test", range(min(plan.images, WORLDS[name]["test"])))
    texts = [said[0].text for _, said in told]
    with bar("steps") as progress:
        drawn = generate(model, len(texts), seed=plan.seed, text=texts, progress=progress).numpy()
    right: dict[str, list[bool]] = defaultdict(list)
    for (scene, said), image in zip(told, drawn, strict=True):
        for what, holds in verdicts(scene, said[0], read_scene(image)).items():
            right[what].append(holds)
    rows = [[what, str(len(those)), *mean_and_error(100 * np.array(those), 1)] for what, those in right.items()]
    more = texts[:SHOWN]
    picture = generate(model, SHOWN * len(more), seed=plan.seed + 1, text=[one for one in more for _ in range(SHOWN)])
    shown = picture.unflatten(0, (len(more), SHOWN)).numpy()
    caption = f"Samples for {len(texts):,} captions of {name}: what is stated and so, %"
    table = Table(caption, ["", "stated", "right, %", "±"], rows)
    return table, grids.labelled_rows(list(zip(more, shown, strict=True)))
