"""Episodes: one environment, one player, one loop. No torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from image_transformer.data.recording import Episode
from image_transformer.play.environments import Frame, Screen

SEEDS = 2**20  # episodes of a seed


class Played(NamedTuple):
    """Play so far: frames (h, w, 3), and the reward of each, 0 of the first."""

    frames: list[Frame]
    rewards: list[float]


Player = Callable[[Played, np.random.Generator], Sequence[int]]
"""The actions to do next, one or some, after play so far."""


def at_random(actions: int) -> Player:
    """A player that does each of so many actions as often as any other."""
    return lambda played, rng: [int(rng.integers(actions))]


def play(screen: Screen, player: Player, seed: int, longest: int, rng: np.random.Generator) -> Episode:
    """An episode of the environment with that seed, played until it ends, is stopped, or has `longest` steps."""
    frame, _ = screen.reset(seed=seed)
    played, actions, ended, stopped = Played([frame], [0.0]), [-1], [False], False
    plan: list[int] = []
    while not ended[-1] and not stopped and len(actions) <= longest:
        plan = plan or list(player(played, rng))
        actions.append(plan.pop(0))
        frame, reward, over, stopped, _ = screen.step(actions[-1])
        played.frames.append(frame)
        played.rewards.append(reward)
        ended.append(over)
    return Episode(
        np.stack(played.frames),
        np.array(actions, np.int16),
        np.array(played.rewards, np.float32),
        np.array(ended, np.bool_),
    )
