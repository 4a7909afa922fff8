"""Flags: a dataclass from the words of a command line, and one line for what cannot be understood."""

from __future__ import annotations

import contextlib
import difflib
import io
import os
import re
import sys
import typing
from dataclasses import dataclass, field, fields, is_dataclass, make_dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn

from image_transformer.cli import UsageError
from image_transformer.conditions.base import Condition, drawing
from image_transformer.config.model import CONDITIONS, ORDERS, PATTERNS, ModelConfig
from image_transformer.geometry.order import Order
from image_transformer.geometry.patterns import Pattern
from image_transformer.words import from_text, to_text


@dataclass(frozen=True)
class Sized:
    """How images are made to fit."""

    size: tuple[int, int] | None = None
    """Crop every image centrally to this aspect, then resize it to this HEIGHT WIDTH."""


@dataclass(frozen=True)
class Fitted(Sized):
    """Which data, and how its images are made to fit."""

    data: str | None = None
    """Data set, folder or file; what the model was trained on if not given."""
    skip_bad: bool = False
    """Leave out images of a data set that cannot be read."""


NEEDED = {
    "MODEL": "a model, by its run folder, a checkpoint, or a name that image-transformer models lists",
    "RUN": "a run, by its folder",
    "ENVIRONMENT": "an environment, such as MiniGrid-Empty-8x8-v0",
    "IMAGE...": "images",
    "FILE...": "files",
}
"""What the words of a usage are."""


def parse(verb: type, usage: str, args: list[str], default: Any = None) -> Any:
    """The verb's dataclass from its flags. UsageError, in one line, for what cannot be understood."""
    import tyro
    from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

    registry = ConstructorRegistry()

    @registry.primitive_rule
    def words(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
        """Orders, patterns and conditions are words; tyro narrows tuple[Pattern, ...] to the types of its items."""
        several, of = typing.get_origin(info.type) is tuple, (*typing.get_args(info.type), info.type)[0]
        for name, kinds, union in (
            ("ORDER", ORDERS, Order), ("PATTERN", PATTERNS, Pattern), ("CONDITION", CONDITIONS, Condition)
        ):  # fmt: skip
            if info.type == union or (several and (of == union or of in kinds)):
                return _words_of(kinds, name, several)
        return None

    options: dict[str, Any] = {"prog": f"image-transformer {usage}", "args": args}
    if default is not None:
        options["default"] = default
    printed = io.StringIO()
    try:
        with registry, contextlib.redirect_stderr(printed):
            value, unknown = tyro.cli(verb, return_unknown_args=True, **options)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UsageError(_one_line(printed.getvalue())) from None
    if unknown:
        _refuse(unknown[0], _flags(verb, default))
    return value


def _words_of(kinds: tuple[Any, ...], name: str, several: bool) -> Any:
    """How tyro reads one value of these kinds, or a tuple of several, from words."""
    from tyro.constructors import PrimitiveConstructorSpec

    def read(words: list[str]) -> Any:
        found = tuple(from_text(word, kinds) for word in words)
        return found if several else found[0]

    return PrimitiveConstructorSpec(
        nargs="*" if several else 1,
        metavar=f"{name} [{name} ...]" if several else name,
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, tuple if several else kinds),
        str_from_instance=lambda value: [to_text(one) for one in (value if several else [value])],
    )


def with_conditions(verb: type) -> type:
    """The verb with a flag more for each condition that a word can tell, such as --label."""
    import tyro

    told = [
        (kind.name, Annotated[str | None, tyro.conf.arg(help=kind.flag)], field(default=None))
        for kind in CONDITIONS
        if kind.flag
    ]
    return make_dataclass(verb.__name__, told, bases=(verb,), frozen=True, namespace={"__doc__": verb.__doc__})


def told(chosen: Any, model: ModelConfig, *, needed: bool) -> dict[str, Any]:
    """What the flags of a verb `with_conditions` tell a model. ValueError if it does not fit.

    needed: also if something is missing that a flag could have told.
    """
    found: dict[str, Any] = {}
    for kind in (kind for kind in CONDITIONS if kind.flag):
        value, condition = getattr(chosen, kind.name), model.condition(kind)
        if value is not None and condition is None:
            can = " and ".join(one.noun for one in model.conditions) or "nothing"
            raise UsageError(f"--{kind.name}: this model is not {kind.adjective}; it is told {can}")
        if value is not None:
            condition.check(value, 1, model.shape)
            found[kind.name] = value
        elif needed and condition is not None:
            few = ", ".join(condition.choices[:5]) + (", ..." if len(condition.choices) > 5 else "")
            what = few or condition.wanted(model.shape)
            raise UsageError(f"--{kind.name} is missing: this model is {kind.adjective}, on {what}")
    return found


def refuse_others(path: Path, model: ModelConfig, *, following: bool = False) -> None:
    """UsageError, with the verb that is meant, for a model that is told what a word cannot say.

    following: allow what follows from the images that the verb is given.
    """
    for condition in model.conditions:
        if condition.instead and not (following and condition.follows):
            raise UsageError(f"{path} {condition.instead[0]}: {drawing(model.conditions, path)}")


def arguments(kind: type, usage: str, args: list[str]) -> tuple[list[Path], Any]:
    """The words before the flags, and the flags as a `kind`.

    usage: such as "edit MODEL IMAGE..."; what is in brackets may be left out. `-` is a word, too.
    UsageError, in one line, for what is missing, too much, or cannot be understood.
    """
    verb, *words = usage.split()
    number = next((i for i, word in enumerate(args) if word.startswith("-") and word != "-"), len(args))
    needed = [word for word in words if not word.startswith("[")]
    asked = {"-h", "--help"} & set(args)
    if number < len(needed) and not asked:
        raise UsageError(f"{verb} needs {NEEDED[needed[number]]}: image-transformer {usage} [flags]")
    if number > len(words) and "..." not in usage and not asked:
        raise UsageError(f"unknown argument {args[len(words)]}: image-transformer {usage} [flags]")
    chosen = parse(kind, usage, args[number:])
    return [Path(word) for word in args[:number]], chosen


def lines(file: Path) -> list[str]:
    """The lines of a text file, at least one. UsageError, in one line, for a file that has none or is no text."""
    try:
        found = file.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read as text: {error}") from None
    if not found:
        raise UsageError(f"{file} is empty, expected a text in each line")
    return found


def say(text: str) -> None:
    """Tell the user, on stderr, what is going on: stdout is for results."""
    print(f"{text} ...", file=sys.stderr)


def say_guidance(guidance: float) -> None:
    """Tell the user what guidance costs, if there is any."""
    if guidance != 1:
        say(f"guidance {guidance:g}: what is drawn is not from the model's own distribution")


def check_file(path: Path, flag: str = "--out", ending: str = "") -> None:
    """UsageError unless a file can be written there: said before any work."""
    if path.is_dir() or not path.name:
        raise UsageError(f"{flag} {path} is a folder, expected a file to write")
    if path.suffix.lower() != ending and ending:
        raise UsageError(f"{flag} {path}: expected a name that ends with {ending}")
    check_folder(path.parent, flag)


def check_folder(path: Path, flag: str = "--out") -> None:
    """UsageError unless files can be written into a folder, which need not be there: said before any work."""
    there = next(one for one in (path, *path.absolute().parents) if one.exists())
    if not there.is_dir():
        raise UsageError(f"{flag} {path}{'' if there == path else f': {there}'} is a file, expected a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UsageError(f"{flag} {path}: nothing can be written into {there}")


def refuse(why: str, **flags: object) -> None:
    """UsageError if one of the flags is given, of which `why` says what they are for."""
    for name, value in flags.items():
        if value not in (None, False):
            raise UsageError(f"--{name.replace('_', '-')} is for {why}")


def at_least(least: int, **values: int | None) -> None:
    """UsageError if a flag's value is there and below `least`."""
    for name, value in values.items():
        if value is not None and value < least:
            raise UsageError(f"--{name.replace('_', '-')} must be at least {least}, got {value}")


def _refuse(word: str, flags: list[str]) -> NoReturn:
    close = difflib.get_close_matches(word.split("=")[0].replace("_", "-"), flags, n=1)
    hint = f"did you mean {close[0]}?" if close else "see --help"
    if not word.startswith("-") and "." in word:
        hint = "files go before the flags"
    raise UsageError(f"unknown {'option' if word.startswith('-') else 'argument'} {word}; {hint}")


def _flags(kind: type, default: Any, prefix: str = "--") -> list[str]:
    """All flags of a dataclass, nested ones dotted; those of a default are of its own type."""
    found = []
    for f in fields(kind):
        name, value = f.name.replace("_", "-"), getattr(default, f.name, None)
        nested = is_dataclass(value) and not isinstance(value, ORDERS)
        found += _flags(type(value), value, f"{prefix}{name}.") if nested else [prefix + name]
        found += [f"{prefix}{name}.family"] if isinstance(value, ModelConfig) else []
    return found


def _one_line(box: str) -> str:
    """The message in one of tyro's framed errors, on one line."""
    text = re.sub(r"(?m)^[│╭╰|+]|[│╮╯|+] *$", " ", box)  # the frame, also where the terminal has no lines for it
    message = re.split(r"[─-]{3,} *\n(?=.*\S)", text, maxsplit=1)[-1]  # below the title
    message = re.split(r"[─-]{3,}", message, maxsplit=1)[0]  # above the help
    text = re.sub(r"\[/?bold\]", "", " ".join(message.split()))
    text = re.sub(r"^Error parsing \w[\w.]*: ", "", text)  # of a value that the dataclass refuses
    if wrong := re.match(r"Error parsing (--[\w.-]+): no type matching \{None\}\|(.+) could", text):
        return f"{wrong[1]} expects {wrong[2]}"
    return text or "cannot understand the command line; see --help"
