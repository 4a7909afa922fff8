"""Flags: a dataclass from the words of a command line, and one line for what cannot be understood."""

from __future__ import annotations

import contextlib
import difflib
import io
import re
import typing
from dataclasses import fields, is_dataclass
from typing import Any, NoReturn

from image_transformer.config.model import ORDERS, PATTERNS, Order, Pattern, from_text, to_text


class UsageError(ValueError):
    """A command line that cannot be understood; the message is one line."""


def parse(verb: type, usage: str, args: list[str], default: Any = None) -> Any:
    """The verb's dataclass from its flags. UsageError, in one line, for what cannot be understood."""
    import tyro
    from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

    registry = ConstructorRegistry()

    @registry.primitive_rule
    def orders_and_patterns(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
        if info.type == Order:
            return PrimitiveConstructorSpec(
                nargs=1,
                metavar="ORDER",
                instance_from_str=lambda words: from_text(words[0], ORDERS),
                is_instance=lambda value: isinstance(value, ORDERS),
                str_from_instance=lambda value: [to_text(value)],
            )
        of = typing.get_args(info.type)  # tyro narrows tuple[Pattern, ...] to the types of its default's items
        if typing.get_origin(info.type) is tuple and (of[0] == Pattern or of[0] in PATTERNS):
            return PrimitiveConstructorSpec(
                nargs="*",
                metavar="PATTERN [PATTERN ...]",
                instance_from_str=lambda words: tuple(from_text(word, PATTERNS) for word in words),
                is_instance=lambda value: isinstance(value, tuple),
                str_from_instance=lambda value: [to_text(pattern) for pattern in value],
            )
        return None

    arguments: dict[str, Any] = {"prog": f"image-transformer {usage}", "args": args, "default": default}
    if default is None:
        del arguments["default"]
    printed = io.StringIO()
    try:
        with registry, contextlib.redirect_stderr(printed):
            value, unknown = tyro.cli(verb, return_unknown_args=True, **arguments)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UsageError(_one_line(printed.getvalue())) from None
    if unknown:
        _refuse(unknown[0], _flags(verb))
    return value


def _refuse(word: str, flags: list[str]) -> NoReturn:
    close = difflib.get_close_matches(word.split("=")[0].replace("_", "-"), flags, n=1)
    hint = f"did you mean {close[0]}?" if close else "see --help"
    if not word.startswith("-") and "." in word:
        hint = "files go before the flags"
    raise UsageError(f"unknown {'option' if word.startswith('-') else 'argument'} {word}; {hint}")


def _flags(kind: type, prefix: str = "--") -> list[str]:
    """All flags of a dataclass, nested ones dotted."""
    hints = typing.get_type_hints(kind)
    found = []
    for f in fields(kind):
        name = f.name.replace("_", "-")
        nested = is_dataclass(hints[f.name])
        found += _flags(hints[f.name], f"{prefix}{name}.") if nested else [prefix + name]
    return found


def _one_line(box: str) -> str:
    """The message in one of tyro's framed errors, on one line."""
    text = re.sub(r"[│╭╮╰╯]", " ", box)
    message = re.split(r"─{3,} *\n(?=.*\S)", text, maxsplit=1)[-1]  # below the title
    message = re.split(r"─{3,}", message, maxsplit=1)[0]  # above the help
    text = re.sub(r"\[/?bold\]", "", " ".join(message.split()))
    text = re.sub(r"^Error parsing [A-Z]\w*: ", "", text)  # of a value that the dataclass refuses
    if wrong := re.match(r"Error parsing (--[\w.-]+): no type matching \{None\}\|\{?(.+?)\}? could", text):
        return f"{wrong[1]} expects {wrong[2]}"
    return text or "cannot understand the command line; see --help"
