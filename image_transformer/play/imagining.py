"""What a world model imagines that actions lead to, for many sequences of them at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from image_transformer.conditions.action import Action
from image_transformer.conditions.frames import Frames
from image_transformer.config.sampling import Sampling
from image_transformer.data.past import START
from image_transformer.data.recording import outcome_of, with_outcome
from image_transformer.inference.fixed_point import FixedPoint
from image_transformer.inference.rollout import Clips
from image_transformer.model import ImageModel

REMEMBER = 20_000  # transitions


@dataclass(frozen=True)
class Imagined:
    """For n sequences of t actions: rewards (n, t), 0 after an end; the step after which each ended, t if none, (n,)."""

    rewards: NDArray[np.float32]
    length: NDArray[np.int64]
    ended: NDArray[np.bool_]


class Imagination:
    """A world model, and what it remembers of its dreams: a transition that is predictable costs a pass only once."""

    def __init__(self, model: ImageModel, remember: int = REMEMBER) -> None:
        check_world(model)
        self.model, self.fixed = model, FixedPoint(model, remember)

    @property
    def actions(self) -> tuple[str, ...]:
        return playable(self.model)

    def imagine(
        self, frames: Sequence[NDArray[np.uint8]], actions: NDArray[np.int64], *, seed: int = 0, first: int = 0
    ) -> Imagined:
        """What the `actions` (n, t), numbers of `self.actions`, lead to after the `frames` (h, w, 3) so far.

        first: the number of the first sequence: their noise is a function of seed, number and step.
        """
        n, steps = actions.shape
        begun = seen(frames, self.model).expand(n, -1, -1, -1, -1)
        clips = Clips(self.model, begun, Sampling(seed), numbers=range(first, first + n), fixed=self.fixed)
        rewards, length, ended = np.zeros((n, steps), np.float32), np.full(n, steps), np.zeros(n, np.bool_)
        going = np.arange(n)
        names = self.actions
        for step in range(steps):
            frame = clips.step(action=[names[number] for number in actions[going, step]])
            rewards[going, step], over = outcome_of(frame.numpy())
            length[going[over]], ended[going[over]] = step + 1, True
            if over.any():
                clips.keep(np.flatnonzero(~over).tolist())
                going = going[~over]
            if not len(going):
                break
        return Imagined(rewards, length, ended)


def check_world(model: ImageModel) -> None:
    """ValueError unless a model is told frames and actions."""
    if model.config.condition(Frames) is None or model.config.condition(Action) is None:
        raise ValueError("this is no world model; train one with: image-transformer train world")


def playable(model: ImageModel) -> tuple[str, ...]:
    """The names of the actions of a world model, without that before a first frame."""
    return tuple(name for name in model.config.condition(Action).choices if name != START)


def seen(frames: Sequence[NDArray[np.uint8]], model: ImageModel) -> Tensor:
    """The last of the frames (h, w, 3) as a world model is told them, uint8 (1, t, 3, h + 1, w)."""
    last = np.stack(frames[-model.config.condition(Frames).count :]).transpose(0, 3, 1, 2)
    if last.shape[1] != model.config.shape[0] or last.shape[2] + 1 != model.config.shape[1]:
        _, height, width = model.config.shape
        raise ValueError(f"this world has frames of {height - 1}x{width}, got {last.shape[2]}x{last.shape[3]}")
    nothing = np.zeros(len(last), np.float32)
    return torch.from_numpy(with_outcome(last, nothing, nothing.astype(np.bool_)))[None]
