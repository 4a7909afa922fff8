"""What the README and CONTRIBUTING say is run: their commands, their Python, their file names."""

import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import shrunken
from PIL import Image
from test_rooms import ORDER

import image_transformer as it
from image_transformer.cli.main import main
from image_transformer.conditions.label import Label
from image_transformer.conditions.text import Text
from image_transformer.data import loading
from image_transformer.geometry.order import Raster, layout
from image_transformer.geometry.patterns import tiles
from image_transformer.geometry.schedule import cache_plan, front_by_front
from image_transformer.measures import enlargements as assess
from image_transformer.measures.enlargers import fit_regression
from image_transformer.recipes import recipe

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[str]:
    """The command lines of the shell blocks, continued lines joined, comments dropped."""
    joined = "\n".join(blocks(text, "sh")).replace("\\\n", " ")
    return [line for line in (line.split("#")[0].strip() for line in joined.splitlines()) if line]


@pytest.fixture
def tiny_world(images_file, tmp_path, monkeypatch):
    """A folder in which every recipe is small and every image has the size of the small models."""

    def small(name):
        config = shrunken(recipe(name))
        named = config.model.condition(Label) or config.model.condition(Text)  # by the folders' names
        source = "pets" if named else str(images_file)
        return replace(config, data=replace(config.data, source=source, size=config.model.shape[1:]))

    monkeypatch.setattr("image_transformer.cli.train.recipe", small)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "texts.txt").write_text("a photo of a cat\na red circle left of a blue square\n")
    images = np.load(images_file)
    for i in range(40):
        Image.fromarray(images[i].transpose(1, 2, 0)).save(tmp_path / "photos" / f"{i}.png")
        (tmp_path / "pets" / ("cat", "dog")[i % 2]).mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / "photos" / f"{i}.png", tmp_path / "pets" / ("cat", "dog")[i % 2])
    Image.fromarray(images[0].transpose(1, 2, 0)).save(tmp_path / "photo.png")
    monkeypatch.setattr(assess, "fit_regression", lambda *args, **more: fit_regression(*args, **more, updates=5))
    return images


def test_readme_commands_run(tiny_world):
    """Every `image-transformer` line, in the order in which they stand; sizes are left out for the small models."""
    lines = [line for line in commands(README) if line.startswith("image-transformer")]
    assert len(lines) >= 6
    for line in lines:
        words = shlex.split(line)[1:]
        if "--size" in words:  # the small models' size instead
            at = words.index("--size")
            words[at + 1 : at + 3] = ["6", "7"]
        if "--train.images" in words:  # a few more than the small recipes have
            words[words.index("--train.images") + 1] = "16"
        if words[0] == "demo":
            continue  # `make demo` is timed by hand; its parts have tests of their own
        assert main(words) == 0, line


def test_readme_python_runs(tiny_world, monkeypatch):
    for name, out in (("tiny", "demo"), ("small-class", "runs/class"), ("superres-cifar10", "runs/superres")):
        assert main(["train", name, "--out", out]) == 0
    load_data = loading.load_data
    monkeypatch.setattr(  # of the size of the small models
        loading, "load_data", lambda *args, shape: load_data(*args, shape=shape, size=shape[1:])
    )
    monkeypatch.setattr(it, "load_data", loading.load_data)
    plain, conditions, packing = blocks(README, "python")
    names = {"torch": torch}
    exec(plain, names)
    assert names["done"].shape == (8, 6, 3, 6, 7) and names["new"].shape == (16, 3, 6, 7)
    exec(conditions, names)
    assert names["large"].shape == (1, 4, 3, 12, 16)
    exec(packing, names)
    assert len(names["back"]) == 8


def test_other_commands_are_known():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for line in commands(README) + commands(CONTRIBUTING):
        program, *rest = shlex.split(line)
        assert program in ("git", "cd", "pip", "make", "image-transformer", "python", "export"), line
        if program == "make":
            assert {word for word in rest if "=" not in word} <= targets, line


@pytest.mark.parametrize("text", [README, CONTRIBUTING], ids=["README", "CONTRIBUTING"])
def test_files_and_links_exist(text):
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("http") or (ROOT / target).exists(), target
    for name in re.findall(r"`([a-z_]+\.py)`", text):
        assert list((ROOT / "image_transformer").rglob(name)), name


def test_the_map_has_every_room_in_its_order():
    rows = re.findall(r"^\| (`[^|]+) \| ", CONTRIBUTING.split("## Where is")[0], flags=re.M)
    found = [room for row in rows for room in re.findall(r"`(\w+)(?:/|\.py)`", row)]
    assert found == [room for room in ORDER if room != "__main__"]


def test_the_pattern_of_contributing_works():
    """The example of a new pattern: all that is derived from `sees` agrees with it."""
    source = "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom typing import ClassVar\n"
    source += "import numpy as np\n" + re.sub(
        r"^   ", "", re.findall(r"```python\n(.*?)```", CONTRIBUTING, re.DOTALL)[0], flags=re.M
    )
    names: dict[str, type] = {"__name__": "image_transformer.geometry.patterns"}
    exec(source, names)
    pattern, lay = names["Strided"](3), layout(Raster(), (3, 4, 5), False)
    p = lay.positions
    sees = pattern.sees(p[:, None], p[None])
    found = np.zeros_like(sees)
    for group in tiles(pattern, lay):
        for q, k in zip(group.queries, group.keys, strict=True):
            found[np.ix_(q, k)] |= group.allowed[0]
    assert np.array_equal(found, sees)
    assert cache_plan(pattern, lay, front_by_front(lay)).allowed.sum() == sees.sum()
