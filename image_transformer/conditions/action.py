"""The action before a frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from image_transformer.conditions.label import Label


@dataclass(frozen=True)
class Action(Label):
    """What was done before a frame, one of the actions `names`; of the first frame of a clip, `start`, their last.

    Left empty, the actions are those of the training data.
    """

    name: ClassVar[str] = "action"
    adjective: ClassVar[str] = "told actions"
    noun: ClassVar[str] = "the action"
    needs: ClassVar[str] = "--actions ACTION..."
    flag: ClassVar[str] = "Of play: the action before the frame, by name or number."
    word: ClassVar[tuple[str, str]] = ("action", "actions")
