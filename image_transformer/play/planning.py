"""Planning without learning: the best of many sequences of actions, imagined by a model or tried in the true world."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from itertools import count
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from image_transformer.config.sampling import Search
from image_transformer.play.dream import Outcome
from image_transformer.play.environments import Screen
from image_transformer.play.episodes import SEEDS, Played, Player, play

STAY = 0.5  # the chance that an action of a sequence is the one before it, so that sequences go somewhere
DISCOUNT = 0.97  # of a reward, for each step that it takes
Outlook = Callable[[Played, NDArray[np.int64], int], Outcome]
"""What actions (n, t) lead to after play so far, as `World.imagine`; the number is a seed of its own for each plan."""


def sequences(search: Search, actions: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Random sequences of numbers of so many actions, (candidates, horizon), whose actions often stay the same."""
    drawn = rng.integers(actions, size=(search.candidates, search.horizon))
    stays = rng.random(drawn.shape) < STAY
    for step in range(1, search.horizon):
        drawn[:, step] = np.where(stays[:, step], drawn[:, step - 1], drawn[:, step])
    return drawn


def best(tried: NDArray[np.int64], found: Outcome) -> NDArray[np.int64]:
    """The sequence with the most reward, the sooner the better; the first of them if none has any."""
    value = (found.rewards * DISCOUNT ** np.arange(found.rewards.shape[1])).sum(1)
    its: NDArray[np.int64] = tried[int(value.argmax())]
    return its


def planner(outlook: Outlook, actions: int, search: Search) -> Player:
    """A player that follows the best of many sequences, and plans anew after `search.every` steps."""

    def player(played: Played, rng: np.random.Generator) -> list[int]:
        several = sequences(search, actions, rng)
        found = outlook(played, several, int(rng.integers(2**62)))
        plan: list[int] = best(several, found)[: search.every].tolist()
        return plan

    return player


def tried(screen: Screen) -> Outlook:
    """The outlook of the environment itself, tried in copies of it as it is now, chance included.

    ValueError for an environment that cannot be copied.
    """

    def outlook(played: Played, actions: NDArray[np.int64], seed: int) -> Outcome:
        n, steps = actions.shape
        rewards, ended = np.zeros((n, steps), np.float32), np.zeros(n, np.bool_)
        for row, sequence in enumerate(actions):
            try:
                env = copy.deepcopy(screen.env)
            except TypeError as error:
                raise ValueError(f"{screen.environment}: cannot be copied to try plans in it ({error})") from None
            for step, action in enumerate(sequence):
                _, reward, over, stopped, _ = env.step(screen.numbers[action])
                rewards[row, step] = reward
                if over or stopped:
                    ended[row] = over
                    break
        return Outcome(rewards, ended)

    return outlook


class Score(NamedTuple):
    """An episode: whether it ended with a reward, all its rewards together, and its steps."""

    solved: bool
    rewards: float
    steps: int


def scores(screen: Screen, player: Player, limit: int, *, seed: int = 0) -> Iterator[Score]:
    """Play episode after episode, each of at most `limit` steps, a function of the seed and its number.

    They are others than those that `record` plays with the seed.
    """
    for number in count():
        rng = np.random.default_rng([seed, number, 1])
        one = play(screen, player, seed * SEEDS + SEEDS // 2 + number, limit, rng)
        solved = bool(one.ended[-1] and one.rewards[-1] > 0)
        yield Score(solved, float(one.rewards.sum(dtype=np.float64)), len(one.frames) - 1)
