"""The configuration of a run, and its form in YAML."""

from __future__ import annotations

import dataclasses
import re
import shlex
import types
import typing
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import yaml

from image_transformer.conditions.base import Condition
from image_transformer.conditions.frames import Frames
from image_transformer.config.checks import check
from image_transformer.config.data import DataConfig
from image_transformer.config.model import CONDITIONS, ORDERS, PATTERNS, ModelConfig, Modern
from image_transformer.config.rivals import FAMILIES
from image_transformer.config.train import TrainConfig
from image_transformer.files import write_atomically
from image_transformer.geometry.order import Order
from image_transformer.geometry.patterns import Pattern
from image_transformer.words import did_you_mean, from_text, to_text


@dataclass(frozen=True)
class RunConfig:
    """Everything that defines a run."""

    recipe: str = "custom"
    """Name of the recipe it came from."""
    model: ModelConfig = field(default_factory=Modern)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        _, height, width = self.model.shape
        check(
            height == width or not self.data.orientations,
            f"data.orientations needs square images, model.shape has {height}x{width}",
        )
        check(
            self.model.condition(Frames) is None or self.data.augmentation is None,
            "data.flips and data.orientations do not turn clips yet",
        )


def save_config(config: RunConfig, path: Path) -> None:
    """Write `config` as YAML that `load_config` reads back; the file is replaced whole or not at all."""
    write_atomically(path, yaml.safe_dump(to_dict(config), sort_keys=False).encode())


def load_config(path: Path) -> RunConfig:
    """The configuration in a YAML file. ValueError names the file and what is wrong in it."""
    try:
        return from_dict(RunConfig, yaml.safe_load(path.read_text()))
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from None


def resuming(recipe: str, run: Path) -> str:
    """The command that goes on with a run of a recipe, or of a configuration of one's own."""
    folder = shlex.quote(str(run))
    what = f"{folder}/config.yaml" if recipe == "custom" else shlex.quote(recipe)
    return f"image-transformer train {what} --out {folder} --resume"


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain mappings, lists, strings and numbers, as YAML stores them."""

    def plain(value: Any) -> Any:
        if isinstance(value, ORDERS + PATTERNS):
            return to_text(value)
        if dataclasses.is_dataclass(value):
            kind = {"family": value.family} if isinstance(value, ModelConfig) else {}
            kind |= {"name": value.name} if isinstance(value, Condition) else {}
            return kind | {f.name: plain(getattr(value, f.name)) for f in fields(value)}
        return [plain(v) for v in value] if isinstance(value, tuple) else value

    return plain(config)


def from_dict(kind: type, data: Any, where: str = "") -> Any:
    """The inverse of `to_dict`. ValueError names an unknown field (and the nearest valid one) or a wrong value."""
    if not isinstance(data, dict):
        what = where.rstrip(".") or "the configuration"
        raise ValueError(f"{what} must be a mapping of fields, got {type(data).__name__}")
    data = dict(data)
    if kind is ModelConfig:
        kind = _named(FAMILIES, data.pop("family", Modern.family), f"{where}family")
    elif kind is Condition:
        kind = _named({one.name: one for one in CONDITIONS}, data.pop("name", None), f"{where}name")
    hints, values = typing.get_type_hints(kind), {}
    known = [f.name for f in fields(kind)]
    for name, value in data.items():
        if name not in known:
            raise ValueError(f"unknown field {where}{name}; {did_you_mean(str(name), known)}")
        values[name] = _parse(hints[name], value, f"{where}{name}")
    missing = [f.name for f in fields(kind) if f.name not in values and f.default is f.default_factory is MISSING]
    if missing:
        raise ValueError(f"{where}{missing[0]} is missing")
    return kind(**values)


def _named(kinds: dict[str, Any], name: Any, where: str) -> Any:
    if name not in kinds:
        raise ValueError(f"{where}: {did_you_mean(str(name), list(kinds))}, got {name!r}")
    return kinds[name]


def _parse(hint: Any, value: Any, where: str) -> Any:
    args = typing.get_args(hint)
    try:
        if hint in (Order, Pattern):
            if not isinstance(value, str):
                raise ValueError("expected a word")
            return from_text(value, ORDERS if hint == Order else PATTERNS)
        if dataclasses.is_dataclass(hint):
            return from_dict(typing.cast(type, hint), value, f"{where}.")
        if typing.get_origin(hint) is tuple:
            if not isinstance(value, list | tuple):
                raise ValueError("expected a list")
            items = [args[0]] * len(value) if args[-1] is ... else args
            if len(items) != len(value):
                raise ValueError(f"expected {len(items)} values")
            return tuple(_parse(item, v, where) for item, v in zip(items, value, strict=True))
        if typing.get_origin(hint) is Literal:
            if value not in args:
                raise ValueError(did_you_mean(str(value), [str(a) for a in args]))
            return value
        if typing.get_origin(hint) in (types.UnionType, typing.Union):  # such as int | Literal["auto"] | None
            words = [word for one in args for word in typing.get_args(one)]
            return value if value is None or value in words else _parse(args[0], value, where)
        if hint is float and (type(value) is int or re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", str(value))):
            return float(value)  # YAML takes 1e-3 for a word
        if hint is float and type(value) is not float:
            raise ValueError("expected a number")
        if type(value) is not hint:
            raise ValueError(f"expected {hint.__name__}")
        return value
    except (ValueError, TypeError, AttributeError) as error:
        if str(error).startswith(("unknown field", where)):
            raise
        said = str(error).removesuffix(f", got {value!r}")
        raise ValueError(f"{where}: {said}, got {value!r}") from None
