"""Frozen values as words of a command line, such as local1d:128:128, and the hint for a mistyped word."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import MISSING, fields
from typing import Any


def to_text(value: Any) -> str:
    """A frozen value as one word: its name, then its fields, such as local2d:8x32:8x16. `from_text` reads it back."""
    words = [(_write(getattr(value, f.name)), getattr(value, f.name) == f.default) for f in fields(value)]
    while words and words[-1][1]:  # what is left out at the end is as usual
        words.pop()
    return ":".join([value.name, *(word for word, _ in words)])


def from_text(text: str, kinds: Sequence[Any]) -> Any:
    """The value of one of the `kinds` that `text` names. ValueError says what is possible."""
    name, *words = text.strip().split(":")
    kind = next((k for k in kinds if k.name == name.lower()), None)
    if kind is None:
        raise ValueError(f"unknown name {name!r}; {did_you_mean(name, [k.name for k in kinds])}")
    wanted = [f.name.upper() + ("_ROWSxCOLUMNS" if "int, int" in str(f.type) else "") for f in fields(kind)]
    try:
        values = [_read(word, str(f.type)) for word, f in zip(words, fields(kind), strict=False)]
        if len(words) > len(wanted) or any(f.default is MISSING for f in fields(kind)[len(words) :]):
            raise ValueError
    except ValueError:
        raise ValueError(f"expected {':'.join([name, *wanted])}, got {text!r}") from None
    return kind(*values)


def did_you_mean(word: str, valid: Sequence[str]) -> str:
    """'did you mean ...?' for a mistyped word, or the list of valid ones."""
    close = difflib.get_close_matches(word, valid, n=1)
    return f"did you mean {close[0]!r}?" if close else f"expected one of: {', '.join(valid)}"


def _write(value: Any) -> str:
    if isinstance(value, tuple):
        return ("x" if value and isinstance(value[0], int) else ",").join(map(str, value))
    return str(value)


def _read(word: str, kind: str) -> Any:
    """A word as a field of the type `kind`: an int, a pair of them, a float, one of a few words, or some strings."""
    if "Literal" in kind or kind == "str":
        return word
    if kind == "float":
        return float(word)
    if "str" in kind:
        return tuple(word.split(","))
    if "tuple" not in kind:
        return int(word)
    rows, columns = map(int, word.split("x"))
    return rows, columns
