"""What is compared with what: the studies of `studies.yaml`, and the trials that they ask for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from image_transformer.config.rivals import FAMILIES
from image_transformer.config.run import RunConfig, from_dict, to_dict
from image_transformer.recipes import recipe
from image_transformer.words import did_you_mean

FILE = Path(__file__).with_name("studies.yaml")
ROOMS = ("model", "data", "train")
COSMETIC = ("keep", "save_every", "sample_every", "validate_every", "validation_images", "tensorboard")
EVERY = {  # of the training of every row, if it does not say otherwise
    "images": 10**9, "clock": "cpu", "compile": "off", "keep": 1, "sample_every": None, "validate_every": 2000,
    "save_every": 2000,
}  # fmt: skip
QUICK_SECONDS, QUICK_ROWS = 1.0, 2

Fields = Mapping[str, Any]
Result = dict[str, Any]  # what a trial gives: plain numbers for a JSON file


@dataclass(frozen=True)
class Trial:
    """One row of a study with one seed: a training of so many CPU-seconds, and what is measured after it."""

    study: str
    row: str
    config: RunConfig
    images: int
    """Test images that it is scored on."""
    measures: tuple[str, ...] = ()
    """What is measured besides: field (after a training, where there is one), draw (the cost of it)."""
    kind: str = "train"
    """train, or cost: what the network costs, untrained."""

    @property
    def seed(self) -> int:
        return self.config.train.seed

    @property
    def seconds(self) -> float:
        """CPU time of the training."""
        assert self.config.train.minutes is not None
        return 60 * self.config.train.minutes

    @property
    def key(self) -> str:
        """A digest of all that the result depends on but the code: a trial whose definition changes is run again."""
        own, usual = to_dict(self.config), _usual(self.config.model.family)
        fields = {
            f"{room}.{name}": value
            for room in ROOMS
            for name, value in own[room].items()
            if name not in COSMETIC and (name == "family" or value != usual[room][name])
        }
        what = [fields, self.images, self.measures, self.kind]
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class Study:
    """A question, and the rows of the table that answers it."""

    name: str
    title: str
    question: str
    rows: Mapping[str, Fields]
    """Of each row, the fields in which it differs from `base`. One with a recipe of its own takes the base's data and
    training, but of its model only the shape and the likelihood."""
    base: Fields = field(default_factory=dict)
    seconds: float = 300.0
    """CPU time of each training."""
    seeds: int = 2
    images: int = 2000
    """Test images."""
    measures: tuple[str, ...] = ()
    kind: str = "train"
    plot: str = "bars"
    """bars, curves (over CPU-seconds and over images), fields, or sizes (of a study of costs)."""
    claims: tuple[Fields, ...] = ()
    """Each {claim: what is claimed, TEST: rows}, TEST one of those in `page.py`."""
    ideal: float | None = None
    """bits/dim of a perfect model, if that is known."""
    by_name: bool = False
    """Whether it runs when it is asked for by name alone, and not with `all`."""

    def trials(self, quick: bool = False) -> list[Trial]:
        """All trials, seed by seed; `quick`: two rows of a second on cifar10-mini, to see that everything runs."""
        rows = list(self.rows)[:QUICK_ROWS] if quick else list(self.rows)
        seconds, images = (QUICK_SECONDS, 8) if quick else (self.seconds, self.images)
        configs, found = {row: self.config(row) for row in rows}, []
        for seed in range(1 if quick else self.seeds):
            for row, config in configs.items():
                train = replace(config.train, seed=seed, minutes=seconds / 60, validation_images=min(200, images))
                mini = quick and config.data.source == "cifar10"
                data = replace(config.data, source="cifar10-mini") if mini else config.data
                config = replace(config, train=train, data=data)
                found.append(Trial(self.name, row, config, images, self.measures, self.kind))
        return found

    def config(self, row: str) -> RunConfig:
        """What a row trains, but for its seed and its time."""
        own, base = dict(self.rows[row]), dict(self.base)
        if "recipe" in own:  # another network: fields of the base's are not its own
            base["model"] = {key: base["model"][key] for key in ("shape", "likelihood") if key in base.get("model", {})}
        config = to_dict(recipe(own.pop("recipe", base.pop("recipe", "tiny"))))
        for part in ({"train": EVERY}, base, own):
            for room in ROOMS:
                config[room] = config[room] | dict(part.get(room, {}))
        settled: RunConfig = from_dict(RunConfig, config)
        return settled


@lru_cache
def _usual(family: str) -> dict[str, dict[str, Any]]:
    """The fields of a run of a family as they are if nothing is said."""
    usual: dict[str, dict[str, Any]] = to_dict(RunConfig(model=FAMILIES[family]()))
    return usual


@lru_cache
def studies() -> dict[str, Study]:
    """All studies by name."""
    return {name: _study(name, fields) for name, fields in yaml.safe_load(FILE.read_text()).items()}


def _study(name: str, fields: dict[str, Any]) -> Study:
    sweep = fields.pop("sweep", None)
    if sweep:  # a row for each rate of each; `name: rates` is the recipe of that name, and nothing else
        rows = fields["rows"] = {}
        for one, of in sweep.items():
            own = {"recipe": one, "rates": of} if isinstance(of, list) else dict(of)
            for lr in own.pop("rates"):
                rows[f"{one} {lr:g}"] = {**own, "train": {**own.get("train", {}), "lr": lr}}
    sides = fields.pop("sides", [])
    if sides:  # each row once for each size
        fields["rows"] = {
            f"{row}, {side} x {side}": {**of, "model": {**of.get("model", {}), "shape": [3, side, side]}}
            for row, of in fields["rows"].items()
            for side in sides
        }
    plain: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
    return Study(name, **plain)


def study(name: str) -> Study:
    """The study called `name`; ValueError offers the nearest."""
    if name not in studies():
        raise ValueError(f"unknown study {name!r}; {did_you_mean(name, list(studies()))}")
    return studies()[name]
