"""Gymnasium environments with pictures: how they are made, seen and named. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from image_transformer.data.decode import read_image
from image_transformer.data.images import START, first_line

HOMES = {"MiniGrid": "minigrid", "BabyAI": "minigrid", "ALE": "ale_py"}  # packages that know environments, by prefix
Frame = NDArray[np.uint8]  # (h, w, 3)


class Screen(gymnasium.Env[Frame, Any]):
    """A gymnasium environment seen through its pictures, uint8 (h, w, 3): these are its observations.

    environment: its id. size: that pictures are shrunk to, if wanted. tile_size: pixels of a field, for grid worlds.
    actions: the names of those that may be used, all if not given; an action is a number in them.
    Raises ValueError for an environment that cannot be made, or is without pictures or numbered actions.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 - gymnasium's own
    render_mode = "rgb_array"

    def __init__(
        self, environment: str, *, size: tuple[int, int] | None = None, tile_size: int | None = None,
        actions: Sequence[str] = (),
    ) -> None:  # fmt: skip
        home = HOMES.get(environment.split("-")[0].split("/")[0])
        if home is not None:
            _register(home, environment)
        options: dict[str, Any] = {} if tile_size is None else {"tile_size": tile_size}
        options |= {"highlight": False} if home == "minigrid" else {}  # of what the player sees
        try:
            self.env = gymnasium.make(environment, render_mode="rgb_array", disable_env_checker=True, **options)
        except Exception as error:  # gymnasium.error.Error, TypeError of an option that it does not take, ...
            raise ValueError(f"{environment}: cannot be made ({first_line(error)})") from None
        every = _names(self.env, environment)
        self.actions = tuple(actions) or tuple(every)
        for name in self.actions:
            if name not in every:
                raise ValueError(f"{environment} has no action {name!r}, only {', '.join(every)}")
            if self.actions.count(name) > 1 or name == START:
                raise ValueError(f"the action {name!r} cannot be used more than once, or be {START!r}")
        self.numbers = [every[name] for name in self.actions]
        self.size, self.environment = size, environment
        self.env.reset(seed=0)
        self.action_space = gymnasium.spaces.Discrete(len(self.actions))
        self.shape = self.render().shape
        self.observation_space = gymnasium.spaces.Box(0, 255, self.shape, np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Frame, dict[str, Any]]:
        super().reset(seed=seed)
        _, info = self.env.reset(seed=seed, options=options)
        return self.render(), info

    def step(self, action: Any) -> tuple[Frame, float, bool, bool, dict[str, Any]]:
        if not self.action_space.contains(action):
            raise ValueError(f"actions are 0 to {len(self.actions) - 1}, got {action!r}")
        _, reward, ended, stopped, info = self.env.step(self.numbers[int(action)])
        return self.render(), float(reward), bool(ended), bool(stopped), info

    def render(self) -> Frame:
        picture: Any = self.env.render()
        if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.ndim != 3:
            raise ValueError(f"{self.environment} gives no pictures (h, w, 3), but {type(picture).__name__}")
        if self.size is None or picture.shape[:2] == self.size:
            return picture.copy()
        return read_image(picture.transpose(2, 0, 1), self.environment, 3, self.size).transpose(1, 2, 0)

    def close(self) -> None:
        self.env.close()


def _register(home: str, environment: str) -> None:
    """Import the package that knows an environment."""
    try:
        its = import_module(home)
    except ImportError:
        raise ValueError(f"{environment} needs `pip install {home.replace('_', '-')}`") from None
    if home == "ale_py":
        gymnasium.register_envs(its)


def _names(env: gymnasium.Env[Any, Any], name: str) -> dict[str, int]:
    """An environment's actions by their names, or by their numbers where they have none."""
    space: Any = env.action_space
    its: Any = env.unwrapped
    if not isinstance(space, gymnasium.spaces.Discrete):
        raise ValueError(f"{name}: only environments with numbered actions can be played, not {space}")
    numbers = [int(space.start) + number for number in range(int(space.n))]
    words: list[str] = [str(number) for number in numbers]
    if hasattr(getattr(its, "actions", None), "__members__"):  # an enum, which may know more than the space has
        known = {int(member): word for word, member in its.actions.__members__.items()}
        words = [known.get(number, str(number)) for number in numbers]
    elif hasattr(its, "get_action_meanings"):
        words = [word.lower() for word in its.get_action_meanings()]
    return dict(zip(words, numbers, strict=True))
