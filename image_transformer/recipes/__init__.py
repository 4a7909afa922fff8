"""Recipes: one function for each claimed result. `image-transformer train RECIPE` runs one, with any field by flag.

To add one: a function in `modern.py`, `paper.py` or `rivals.py`, and its name in `RECIPES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

from image_transformer.config.run import RunConfig
from image_transformer.recipes import modern, paper, rivals
from image_transformer.words import did_you_mean

RECIPES: tuple[Callable[[], RunConfig], ...] = (
    modern.tiny,
    modern.tiny_2d,
    paper.tiny_paper,
    paper.tiny_categorical,
    modern.small,
    modern.small_class,
    modern.superres_cifar10,
    modern.superres_faces,
    modern.shapes_text,
    modern.shapes_edit,
    modern.photo_edit,
    modern.bouncing,
    modern.world,
    modern.cifar10,
    modern.cifar10_class,
    modern.cifar10_superres,
    modern.cifar10_large,
    modern.coding_small,
    modern.coding_fast,
    modern.coding_medium,
    modern.coding_large,
    modern.imagenet64,
    modern.imagenet128,
    paper.paper_cifar10_categorical,
    paper.paper_cifar10_dmol,
    paper.paper_ablation_8,
    paper.paper_ablation_16,
    paper.paper_ablation_64,
    paper.paper_ablation_256,
    paper.paper_superres_celeba_1d,
    paper.paper_superres_celeba_2d,
    paper.paper_superres_cifar10_1d,
    paper.paper_superres_cifar10_2d,
    paper.paper_imagenet32,
    rivals.pixelrnn_row,
    rivals.pixelrnn_diagonal,
    rivals.pixelcnn,
    rivals.gated_pixelcnn,
    rivals.pixelcnn_pp,
    rivals.dense_transformer,
)


def recipe_names() -> list[str]:
    """The names of all recipes.

    >>> it.recipe_names()[:2]
    ['tiny', 'tiny-2d']
    """
    return [one.__name__.replace("_", "-") for one in RECIPES]


def recipe(
    name: str, model: Mapping[str, Any] | None = None, data: Mapping[str, Any] | None = None,
    train: Mapping[str, Any] | None = None,
) -> RunConfig:  # fmt: skip
    """The recipe called `name`, with other fields of its model, data and training if wanted.

    With train={"init": ...} it has the network of that model, to start from its weights. ValueError offers the nearest
    name, or says what is wrong with a field.

    >>> it.recipe("tiny", model={"depth": 6}, train={"images": 600}).model.depth
    6
    """
    for one, its_name in zip(RECIPES, recipe_names(), strict=True):
        if name == its_name:
            config = starting_from(one(), (train or {}).get("init"))
            return replace(
                config,
                model=_changed(config.model, "model", model or {}),
                data=_changed(config.data, "data", data or {}),
                train=_changed(config.train, "train", train or {}),
            )
    raise ValueError(f"unknown recipe {name!r}; {did_you_mean(name, recipe_names())}")


def starting_from(config: RunConfig, init: str | None) -> RunConfig:
    """The run with the network of the model `init`, to start from its weights; shape and conditions stay the run's.

    A temperature that was built in is not taken over: weights are trained at 1, and calibrated afterwards.
    CheckpointError (a ValueError) if there is no such model.
    """
    if init is None:
        return config
    from image_transformer.checkpoint import find, read_config

    model = read_config(find(init)).model
    model = replace(
        model, shape=config.model.shape, conditions=config.model.conditions, temperature=config.model.temperature
    )
    return replace(config, model=model, train=replace(config.train, init=init))


def _changed(part: Any, where: str, changes: Mapping[str, Any]) -> Any:
    """A part of a configuration with some fields changed; ValueError names an unknown one."""
    known = [f.name for f in fields(part)]
    for name in changes:
        if name not in known:
            raise ValueError(f"unknown field {where}.{name}; {did_you_mean(name, known)}")
    return replace(part, **changes)
