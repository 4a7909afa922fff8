"""Checks of configurations: one line that names the field, what was expected and what came."""

from __future__ import annotations

import typing
from typing import Any, Literal

from image_transformer.words import did_you_mean


def check(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)


def check_least(config: Any, where: str, least: int, *names: str) -> None:
    """ValueError if one of the fields is there and below `least`."""
    for name in names:
        value = getattr(config, name)
        check(value is None or value >= least, f"{where}.{name} must be at least {least}, got {value}")


def check_lists(config: Any, where: str) -> None:
    """Make lists tuples. ValueError if a field that holds several values is neither."""
    for name, hint in typing.get_type_hints(type(config)).items():
        optional = any(typing.get_origin(one) is tuple for one in typing.get_args(hint))  # tuple[int, int] | None
        if typing.get_origin(hint) is tuple or (optional and getattr(config, name) is not None):
            value = getattr(config, name)
            check(isinstance(value, list | tuple), f"{where}.{name} must be a tuple, got {value!r}")
            object.__setattr__(config, name, tuple(value))


def check_choices(config: Any, where: str) -> None:
    """ValueError if a field is not one of the values that its Literal type lists."""
    for name, hint in typing.get_type_hints(type(config)).items():
        if typing.get_origin(hint) is Literal:
            value, choices = getattr(config, name), typing.get_args(hint)
            check(value in choices, f"{where}.{name}: {did_you_mean(str(value), choices)}, got {value!r}")
