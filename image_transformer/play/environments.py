"""Gymnasium environments with pictures: how they are made, seen and named. No torch."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from image_transformer.data.decode import read_image
from image_transformer.data.images import first_line

HOMES = {"MiniGrid": "minigrid", "BabyAI": "minigrid", "ALE": "ale_py"}  # packages that know environments, by prefix
NEED = "playing needs `pip install 'image-transformer-pytorch[rl]'`"


class Screen:
    """An environment seen through its pictures, (h, w, 3), shrunk to `size` if wanted.

    tile_size: pixels of a field, for grid worlds. actions: the names of those that are used, all if not given.
    """

    def __init__(
        self, environment: str, *, size: tuple[int, int] | None = None, tile_size: int | None = None,
        actions: Sequence[str] = (),
    ) -> None:  # fmt: skip
        gymnasium = _import("gymnasium", NEED)
        home = HOMES.get(environment.split("-")[0].split("/")[0])
        if home is not None:
            its = _import(
                home, NEED if home == "minigrid" else f"{environment} needs `pip install {home.replace('_', '-')}`"
            )
            if home == "ale_py":
                gymnasium.register_envs(its)
        options: dict[str, Any] = {} if tile_size is None else {"tile_size": tile_size}
        options |= {"highlight": False} if home == "minigrid" else {}  # of what the player sees
        try:
            self.env = gymnasium.make(environment, render_mode="rgb_array", **options)
        except Exception as error:  # gymnasium.error.Error, TypeError of an option that it does not take, ...
            raise ValueError(f"{environment}: cannot be made ({first_line(error)})") from None
        every = _names(self.env)
        self.actions = tuple(actions) or every
        for name in self.actions:
            if name not in every:
                raise ValueError(f"{environment} has no action {name!r}, only {', '.join(every)}")
        self._number = {name: every.index(name) for name in self.actions}
        self.size, self.environment = size, environment

    def reset(self, seed: int) -> NDArray[np.uint8]:
        """The first frame of an episode."""
        self.env.reset(seed=seed)
        return self.frame()

    def step(self, action: int) -> tuple[NDArray[np.uint8], float, bool, bool]:
        """The frame after the action of that number in `actions`, its reward, whether the episode has ended, or may
        not go on."""
        _, reward, ended, stopped, _ = self.env.step(self._number[self.actions[action]])
        return self.frame(), float(reward), bool(ended), bool(stopped)

    def frame(self) -> NDArray[np.uint8]:
        picture = self.env.render()
        if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.ndim != 3:
            raise ValueError(f"{self.environment} gives no pictures (h, w, 3), but {type(picture).__name__}")
        if self.size is None or picture.shape[:2] == self.size:
            return picture.copy()
        return read_image(picture.transpose(2, 0, 1), self.environment, 3, self.size).transpose(1, 2, 0)

    def close(self) -> None:
        self.env.close()


def _names(env: Any) -> tuple[str, ...]:
    """The names of an environment's actions; their numbers where they have none."""
    count = getattr(env.action_space, "n", None)
    if count is None:
        raise ValueError(
            f"{env.spec.id}: only environments with numbered actions can be played, not {env.action_space}"
        )
    own = getattr(env.unwrapped, "actions", None)
    if own is not None and hasattr(own, "__members__"):
        return tuple(own.__members__)
    if hasattr(env.unwrapped, "get_action_meanings"):
        return tuple(word.lower() for word in env.unwrapped.get_action_meanings())
    return tuple(str(number) for number in range(int(count)))


def _import(name: str, need: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ValueError(need) from None
