"""Make a released model of a run: rounded weights, calibrated, measured; its card, its page and its picture.

python benchmarks/release.py runs/cifar10 cifar10 [--samples 1000] [--images 10000]
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import subprocess
import sys
import tempfile
import textwrap
from dataclasses import asdict
from pathlib import Path

import image_transformer as it
from image_transformer.checkpoint import find, read_config, read_state
from image_transformer.config.run import RunConfig, to_dict
from image_transformer.inference.scoring import chosen_from, classify
from image_transformer.measures.gap import calibrate, entropy_gap, with_temperature
from image_transformer.released import HOME, Card
from image_transformer.reproduce.trial import where
from image_transformer.show import grids
from image_transformer.training.due import sample_picture

ROOT = Path(__file__).parent.parent
CLASSIFIED = 500  # test images whose class is guessed by likelihood
SUMMARIES = {
    "cifar10": "CIFAR-10, 32x32, unconditional",
    "cifar10-class": "CIFAR-10, 32x32, told one of its ten classes",
    "cifar10-superres": "CIFAR-10 from 8x8 to 32x32",
}
USES = {
    "cifar10": "sample cifar10",
    "cifar10-class": "sample cifar10-class --label frog",
    "cifar10-superres": "superres cifar10-superres photo.png --size 24 32",
}
ABOUT = """## What it is for

For trying the library at once, as a start for training on images of your own (`--init {name}`), and for research and
teaching about exact likelihoods. It knows 32x32 photographs of ten kinds of things: airplanes, automobiles, birds,
cats, deer, dogs, frogs, horses, ships and trucks.

## What it is bad at

{bad}It has seen photographs of the kind of CIFAR-10 alone: drawings, text, screenshots and medical images cost it many
more bits, and it completes them with the texture of photographs. Its samples carry the leanings of that data set.

## Licence

The weights are Apache-2.0, like the code. The authors of CIFAR-10 (Krizhevsky, 2009) state no licence for the images;
the weights hold none of them.
"""
BAD = {
    "cifar10": "It was trained on a CPU: its samples have the light and the textures of photographs, but no "
    "objects that one could name. ",
    "cifar10-class": "It was trained on a CPU: many of its samples do not show their class. ",
    "cifar10-superres": "It invents what the 8x8 pixels do not say, and does not know faces or text: nothing that it "
    "adds may be taken for evidence. ",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("name", choices=SUMMARIES)
    parser.add_argument("--samples", type=int, default=1000, help="drawn to calibrate, and for the entropy gap")
    parser.add_argument("--images", type=int, default=10_000, help="of the test set")
    parser.add_argument("--hardware", default="one core of an AMD EPYC")
    chosen = parser.parse_args()
    if subprocess.check_output(["git", "status", "--porcelain", "image_transformer"], cwd=ROOT):
        sys.exit("commit first: the card names the commit that the figures are of")
    folder = find(chosen.run)
    config, trained = read_config(folder), it.load(folder)
    data = {split: it.load_data("cifar10", split, shape=config.model.shape) for split in ("validation", "test")}
    temperature, _ = calibrate(
        trained,
        data["validation"].some(chosen.samples),
        tell=lambda t, gap: print(f"temperature {t:g}: {gap.of_rows()}", flush=True),
    )
    partial = Path(tempfile.mkdtemp()) / chosen.name
    it.export(folder, partial, temperature=temperature)
    model, exact = it.load(partial), with_temperature(trained, temperature)
    test = data["test"].some(chosen.images)
    result = it.evaluate(model, test.images, **model.of(test, only=model.untold))
    before = it.evaluate(exact, test.some(1000).images, **model.of(test.some(1000), only=model.untold))
    after = it.evaluate(model, test.some(1000).images, **model.of(test.some(1000), only=model.untold))
    mini = it.load_data("cifar10-mini", "test", shape=config.model.shape)
    few = mini.some(30)
    all_of_them = None if model.config.conditions else result.per_image[:, None]
    gap = entropy_gap(model, test.some(chosen.samples), seed=1, photographs=all_of_them).of_rows()
    tried = test.some(CLASSIFIED)
    label = chosen_from(model)
    right = label and classify(model, tried.images) == model.of(tried)[label.name].numpy()
    here = where()
    card = Card(
        summary=SUMMARIES[chosen.name],
        parameters=sum(p.numel() for p in model.parameters()),
        images_seen=read_state(folder).images_seen,
        bits_per_dim=result.bits_per_dim,
        standard_error=result.standard_error,
        images=len(test),
        mini_bits_per_dim=it.bits_per_dim(model, mini.images, **model.of(mini, only=model.untold)),
        mini_30_bits_per_dim=it.bits_per_dim(model, few.images, **model.of(few, only=model.untold)),
        lost_by_rounding=after.bits_per_dim - before.bits_per_dim,
        entropy_gap=gap[2],
        entropy_gap_error=gap[3],
        commit=here["commit"],
        date=here["date"],
        accuracy=None if right is None else float(right.mean()),
    )
    (partial / "card.json").write_text(json.dumps(asdict(card), indent=1) + "\n")
    shutil.rmtree(HOME / chosen.name, ignore_errors=True)
    shutil.move(partial, HOME / chosen.name)
    if model.config.conditions:
        picture = sample_picture(model, test)
    else:
        picture = grids.grid(it.generate(model, 64).numpy(), columns=16)
    grids.save_png(picture, ROOT / "docs" / "images" / f"model-{chosen.name}.png")
    page = ROOT / "docs" / "models" / f"{chosen.name}.md"
    page.parent.mkdir(exist_ok=True)
    page.write_text(written(chosen.name, card, config, read_state(folder).seconds, temperature, chosen.hardware))
    print(json.dumps(asdict(card), indent=1))


def flags(config: RunConfig) -> str:
    """The flags in which a run differs from its recipe."""
    own, of_recipe, found = to_dict(config), to_dict(it.recipe(config.recipe)), ""
    for room in ("model", "data", "train"):
        for field, value in own[room].items():
            if field != "conditions" and value != of_recipe[room][field]:
                words = [] if isinstance(value, bool) else value if isinstance(value, list) else [value]
                no = "no-" if value is False else ""
                found += f" --{room}.{no}{field.replace('_', '-')}" + "".join(f" {word}" for word in words)
    return found


def written(name: str, card: Card, config: RunConfig, seconds: float, temperature: float, hardware: str) -> str:
    """The model's page."""
    rate = card.images_seen / seconds
    accuracy = f"{100 * card.accuracy:.1f} % of {CLASSIFIED}" if card.accuracy is not None else ""
    classes = f"| test images that are likeliest under their own class | {accuracy} |\n" if accuracy else ""
    seen = f"{card.images_seen:,} of a training split of 48,000"
    if config.train.init:
        seen += f", after the {read_state(find(config.train.init)).images_seen:,} of the model that it started from"
    digits = max(0, 2 - math.floor(math.log10(rate)))
    text = ABOUT.format(name=name, bad=BAD[name])
    text = "\n\n".join(textwrap.fill(paragraph, 120) for paragraph in text.split("\n\n"))
    return f"""# `{name}`

{card.summary}. `image-transformer {USES[name]}`, `it.load("{name}")`.

![Samples of seed 0, not picked](../images/model-{name}.png)

| | |
|---|---|
| bits/dim, {card.images:,} test images of CIFAR-10 | **{card.bits_per_dim:.4f}** ± {card.standard_error:.4f} |
| bits/dim, the 1,000 test images of `cifar10-mini`, which come with the package | {card.mini_bits_per_dim:.4f} |
| entropy gap, bits/dim | {card.entropy_gap:+.3f} ± {card.entropy_gap_error:.3f} |
{classes}| lost by rounding to 16 bits, bits/dim (1,000 images) | {card.lost_by_rounding:+.5f} |
| built-in temperature, found on validation images | {temperature:g} |
| parameters | {card.parameters:,} |
| images seen | {seen} |
| training time | {seconds / 3600:.1f} hours, {hardware}, {rate:.{digits}f} images a second |
| augmentation | {config.data.augmentation or "none"} |
| recipe | `{config.recipe}`: `image-transformer train {config.recipe}{flags(config)}` |
| measured at commit | {card.commit}, {card.date} |

{text}
"""


if __name__ == "__main__":
    main()
