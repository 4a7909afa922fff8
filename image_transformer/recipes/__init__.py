"""Recipes: one function for each claimed result. `image-transformer train RECIPE` runs one, with any field by flag.

To add one: a function without parameters in `modern.py`, `paper.py` or `rivals.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from inspect import isfunction, signature
from typing import Any

from image_transformer.config.model import Modern
from image_transformer.config.run import RunConfig
from image_transformer.recipes import modern, paper, rivals
from image_transformer.words import did_you_mean

RECIPES: Mapping[str, Callable[[], RunConfig]] = {
    name.replace("_", "-"): make
    for room in (modern, paper, rivals)
    for name, make in vars(room).items()
    if isfunction(make) and make.__module__ == room.__name__ and not name.startswith("_")
    if not signature(make).parameters
}
"""All functions of these modules that make a RunConfig of nothing, by name."""


def recipe_names() -> list[str]:
    """The names of all recipes.

    >>> it.recipe_names()[:2]
    ['tiny', 'tiny-2d']
    """
    return list(RECIPES)


def recipe(
    name: str, model: Mapping[str, Any] | None = None, data: Mapping[str, Any] | None = None,
    train: Mapping[str, Any] | None = None,
) -> RunConfig:  # fmt: skip
    """The recipe called `name`, with other fields of its model, data and training if wanted.

    With train={"init": ...} it has the network of that model, to start from its weights. ValueError offers the nearest
    name, or says which value of a field is out of range.

    >>> it.recipe("tiny", model={"depth": 6}, train={"images": 600}).model.depth
    6
    """
    if name not in RECIPES:
        raise ValueError(f"unknown recipe {name!r}; {did_you_mean(name, recipe_names())}")
    config = starting_from(RECIPES[name](), (train or {}).get("init"))
    return replace(
        config,
        recipe=name,
        model=_changed(config.model, "model", model or {}),
        data=_changed(config.data, "data", data or {}),
        train=_changed(config.train, "train", train or {}),
    )


def starting_from(config: RunConfig, init: str | None) -> RunConfig:
    """The run with the network of the model `init`, to start from its weights; shape and conditions stay the run's.

    So does whether layers look at these. A temperature that was built in is not taken over: weights are trained at 1,
    and calibrated afterwards.
    CheckpointError (a ValueError) if there is no such model.
    """
    if init is None:
        return config
    from image_transformer.checkpoint import find, read_config

    model = read_config(find(init)).model
    own: dict[str, Any] = {name: getattr(config.model, name) for name in ("shape", "conditions", "temperature")}
    if isinstance(model, Modern):
        own["look"] = isinstance(config.model, Modern) and config.model.look
    model = replace(model, **own)
    return replace(config, model=model, train=replace(config.train, init=init))


def _changed(part: Any, where: str, changes: Mapping[str, Any]) -> Any:
    """A part of a configuration with some fields changed; ValueError names an unknown one."""
    known = [f.name for f in fields(part)]
    for name in changes:
        if name not in known:
            raise ValueError(f"unknown field {where}.{name}; {did_you_mean(name, known)}")
    return replace(part, **changes)
