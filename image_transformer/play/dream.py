"""Dreams: what a world model says that actions lead to; for many sequences at once, or as an environment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from image_transformer.conditions.action import Action
from image_transformer.conditions.frames import Frames
from image_transformer.config.sampling import Sampling
from image_transformer.data.images import ImageData
from image_transformer.data.past import START
from image_transformer.data.recording import outcome_of, with_outcome
from image_transformer.inference.fixed_point import FixedPoint
from image_transformer.inference.rollout import Clips
from image_transformer.model import ImageModel
from image_transformer.play.environments import Frame

REMEMBER = 10_000  # transitions


@dataclass(frozen=True)
class Outcome:
    """What n sequences of t actions lead to: rewards (n, t), 0 after an end; whether each has ended (n,)."""

    rewards: NDArray[np.float32]
    ended: NDArray[np.bool_]


class World:
    """A world model, and what it remembers: a transition that is all but certain costs passes only the first time.

    temperature: below 1 it keeps to what is likely. remember: how many transitions.
    Raises ValueError for a model that is not told frames and actions.
    """

    def __init__(self, model: ImageModel, temperature: float = 1.0, *, remember: int = REMEMBER) -> None:
        frames, action = model.config.condition(Frames), model.config.condition(Action)
        if frames is None or action is None:
            raise ValueError("this is no world model, told frames and actions; train one with: train world")
        channels, height, width = model.config.shape
        self.model, self.count, self.temperature = model, frames.count, temperature
        self.actions = tuple(name for name in action.choices if name != START)
        self.shape = height - 1, width, channels
        self.fixed = FixedPoint(model, remember)

    def begin(self, frames: Sequence[Frame], numbers: Sequence[int], seed: int = 0) -> Clips:
        """Ways to go on after `frames` (h, w, 3), one for each of `numbers`: their noise follows from these."""
        channels, height, width = self.model.config.shape
        last = torch.zeros(0, channels, height, width, dtype=torch.uint8)
        if frames:
            seen = np.stack(frames[-self.count :])
            if seen.shape[1:] != self.shape:
                raise ValueError(f"this world has frames {self.shape}, got {seen.shape[1:]}")
            nothing = np.zeros(len(seen), np.float32)
            last = torch.from_numpy(with_outcome(seen.transpose(0, 3, 1, 2), nothing, nothing > 0))
        begun = last.expand(len(numbers), -1, -1, -1, -1)
        clips = Clips(self.model, begun, Sampling(seed, self.temperature), numbers=numbers, fixed=self.fixed)
        clips.time = len(frames)
        return clips

    def imagine(self, frames: Sequence[Frame], actions: NDArray[np.int64], *, seed: int = 0, first: int = 0) -> Outcome:
        """What `actions` (n, t), numbers of `self.actions`, lead to after the `frames` so far.

        first: the number of the first sequence.
        """
        n, steps = actions.shape
        going = np.arange(n)
        rewards, ended = np.zeros((n, steps), np.float32), np.zeros(n, np.bool_)
        clips = self.begin(frames, range(first, first + n), seed)
        for step in range(steps):
            drawn = clips.step(action=[self.actions[number] for number in actions[going, step]])
            rewards[going, step], over = outcome_of(drawn.numpy())
            if over.any():
                ended[going[over]] = True
                clips.keep(np.flatnonzero(~over).tolist())
                going = going[~over]
                if not len(going):
                    break
        return Outcome(rewards, ended)


class Dream(gymnasium.Env[Frame, Any]):
    """A gymnasium environment whose steps a world model draws: frames, uint8 (h, w, 3), rewards and ends.

    An action is a number in `actions`. Everything follows from the seed given to `reset`.
    starts: recorded play, as from `it.load_clips`, with whose first frames episodes begin; the model draws them, too,
    if not given. temperature: below 1 it keeps to what is likely; 1 is the model. remember: of how many transitions
    what was drawn is remembered, which changes the speed alone.
    It never stops by itself: gymnasium.wrappers.TimeLimit does that.
    Raises ValueError for a model that is not told frames and actions, and for frames of another shape.

    >>> env = gymnasium.wrappers.TimeLimit(it.Dream(it.load("runs/world")), 50)
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 - gymnasium's own
    render_mode = "rgb_array"

    def __init__(
        self, model: ImageModel, starts: ImageData | None = None, *, temperature: float = 1.0, remember: int = REMEMBER
    ) -> None:
        self.world = World(model, temperature, remember=remember)
        self.actions = self.world.actions
        self.action_space = gymnasium.spaces.Discrete(len(self.actions))
        self.observation_space = gymnasium.spaces.Box(0, 255, self.world.shape, np.uint8)
        self.starts: NDArray[np.uint8] | None = None
        if starts is not None:
            if starts.past is None or starts.images.shape[1:] != model.config.shape:
                raise ValueError(f"starts must be recorded play of frames {self.world.shape}, as from it.load_clips")
            self.starts = starts.images[starts.past.place == 0]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Frame, dict[str, Any]]:
        super().reset(seed=seed)
        number = int(self.np_random.integers(2**31))
        if self.starts is None:
            self._clips = self.world.begin([], [number])
            self._show(self._clips.step(action=[START]))
        else:
            self._shown = _picture(self.starts[self.np_random.integers(len(self.starts))])
            self._clips = self.world.begin([self._shown], [number])
        return self._shown, {}

    def step(self, action: Any) -> tuple[Frame, float, bool, bool, dict[str, Any]]:
        drawn = self._clips.step(action=[self.actions[int(action)]])
        self._show(drawn)
        (reward,), (ended,) = outcome_of(drawn.numpy())
        return self._shown, float(reward), bool(ended), False, {}

    def render(self) -> Frame:
        return self._shown

    def _show(self, drawn: Tensor) -> None:
        self._shown = _picture(drawn[0].numpy())


def _picture(frame: NDArray[np.uint8]) -> Frame:
    """(h, w, c) of a frame (c, h + 1, w) with its outcome."""
    return frame[:, :-1].transpose(1, 2, 0).copy()
