"""Dreams: what a world model says that actions lead to; for many sequences at once, or as an environment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from image_transformer.conditions.frames import Action, Frames
from image_transformer.config.sampling import Sampling
from image_transformer.data.images import START, ImageData
from image_transformer.data.recording import outcome_of, with_outcome
from image_transformer.inference.fixed_point import WAYS, FixedPoint
from image_transformer.inference.rollout import Clips
from image_transformer.model import ImageModel
from image_transformer.play.environments import Frame
from image_transformer.play.episodes import Played

MEMORY = 2**29  # bytes


@dataclass(frozen=True)
class Outcome:
    """What n sequences of t actions lead to: rewards (n, t), 0 after an end; whether each has ended (n,)."""

    rewards: NDArray[np.float32]
    ended: NDArray[np.bool_]


class World:
    """A world model, and what it remembers: a transition that is all but certain costs passes only the first time.

    temperature: below 1 it keeps to what is likely. remember: of how many pairs of frames and actions; as many as half
    a GiB holds, if not given.
    Raises ValueError for a model that is not told frames and actions, and for a temperature out of range.
    """

    def __init__(self, model: ImageModel, temperature: float = 1.0, *, remember: int | None = None) -> None:
        frames, action = model.config.condition(Frames), model.config.condition(Action)
        if frames is None or action is None:
            raise ValueError(
                "this is no world model, told frames and actions; train one with: image-transformer train world"
            )
        channels, height, width = model.config.shape
        self.model, self.sampling = model, Sampling(temperature=temperature)
        self.actions = tuple(name for name in action.choices if name != START)
        self.shape = height - 1, width, channels
        most = max(1, MEMORY // (9 * WAYS * model.layout.num_dims))
        self.fixed = FixedPoint(model, most if remember is None else remember)

    def begin(self, played: Played, numbers: Sequence[int], seed: int = 0) -> Clips:
        """Ways to go on after what was `played`, one for each of `numbers`: their noise follows from these."""
        channels, height, width = self.model.config.shape
        so_far = torch.zeros(0, channels, height, width, dtype=torch.uint8)
        if played.frames:
            seen = np.stack(played.frames)
            if seen.shape[1:] != self.shape:
                raise ValueError(f"this world has frames {self.shape}, got {seen.shape[1:]}")
            rewards, ended = np.array(played.rewards, np.float32), np.zeros(len(seen), np.bool_)
            so_far = torch.from_numpy(with_outcome(seen.transpose(0, 3, 1, 2), rewards, ended))
        begun = so_far.expand(len(numbers), -1, -1, -1, -1)
        return Clips(self.model, begun, replace(self.sampling, seed=seed), numbers=numbers, fixed=self.fixed)

    def imagine(self, played: Played, actions: NDArray[np.int64], seed: int = 0) -> Outcome:
        """What `actions` (n, t), numbers of `self.actions`, lead to after what was `played`.

        The noise of a sequence follows from the seed, its number and the time.
        """
        n, steps = actions.shape
        going = np.arange(n)
        rewards, ended = np.zeros((n, steps), np.float32), np.zeros(n, np.bool_)
        clips = self.begin(played, range(n), seed)
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
    if not given. world: a model, or a `World` of one that several dreams share, with what it remembers.
    It never stops by itself: gymnasium.wrappers.TimeLimit does that.
    Raises ValueError for a model that is not told frames and actions, for what is not recorded play, and for actions
    that there are not.

    >>> env = gymnasium.wrappers.TimeLimit(it.Dream(it.load("runs/world")), 50)
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 - gymnasium's own
    render_mode = "rgb_array"

    def __init__(self, world: ImageModel | World, starts: ImageData | None = None) -> None:
        self.world = world if isinstance(world, World) else World(world)
        self._clips: Clips | None = None
        self._shown: Any = None
        self.actions = self.world.actions
        self.action_space = gymnasium.spaces.Discrete(len(self.actions))
        self.observation_space = gymnasium.spaces.Box(0, 255, self.world.shape, np.uint8)
        self.starts: NDArray[np.uint8] | None = None
        if starts is not None:
            played = starts.past is not None and START in starts.classes
            if not played or starts.images.shape[1:] != self.world.model.config.shape:
                raise ValueError(f"starts must be recorded play of frames {self.world.shape}, as from it.load_clips")
            self.starts = starts.images[starts.past.place == 0]  # type: ignore[union-attr]
            if not len(self.starts):
                raise ValueError("starts must have a first frame of an episode")

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Frame, dict[str, Any]]:
        super().reset(seed=seed)
        number = int(self.np_random.integers(2**31))
        if self.starts is None:
            self._clips = self.world.begin(Played([], []), [number])
            self._show(self._clips.step(action=[START]))
        else:
            self._shown = _picture(self.starts[self.np_random.integers(len(self.starts))])
            self._clips = self.world.begin(Played([self._shown], [0.0]), [number])
        return self._shown, {}

    def step(self, action: Any) -> tuple[Frame, float, bool, bool, dict[str, Any]]:
        if self._clips is None:
            raise gymnasium.error.ResetNeeded("a dream begins with reset(), also after an end")
        if not self.action_space.contains(action):
            raise ValueError(f"actions are 0 to {len(self.actions) - 1}, got {action!r}")
        drawn = self._clips.step(action=[self.actions[int(action)]])
        self._show(drawn)
        (reward,), (ended,) = outcome_of(drawn.numpy())
        if ended:
            self._clips = None
        return self._shown, float(reward), bool(ended), False, {}

    def render(self) -> Frame:
        if self._shown is None:
            raise gymnasium.error.ResetNeeded("a dream begins with reset()")
        shown: Frame = self._shown
        return shown

    def _show(self, drawn: Tensor) -> None:
        self._shown = _picture(drawn[0].numpy())


def _picture(frame: NDArray[np.uint8]) -> Frame:
    """(h, w, c) of a frame (c, h + 1, w) with its outcome."""
    return frame[:, :-1].transpose(1, 2, 0).copy()
