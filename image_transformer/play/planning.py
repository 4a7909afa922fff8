"""Planning without learning: the best of many sequences of actions, imagined by a model or tried in the true world."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from image_transformer.play.environments import Screen
from image_transformer.play.imagining import Imagination, Imagined
from image_transformer.play.recorder import SEEDS, Player

Frames = list[NDArray[np.uint8]]
Outlook = Callable[[Frames, NDArray[np.int64], int], Imagined]  # frames so far, actions (n, t), the number of the plan


@dataclass(frozen=True)
class Search:
    """How a plan is made. ValueError for what is out of range.

    candidates: sequences that are tried. horizon: actions in each. every: how many of a plan are done before the next.
    stay: the chance that an action is the one before it. discount: of a reward, for each step.
    """

    candidates: int = 100
    horizon: int = 20
    every: int = 5
    stay: float = 0.5
    discount: float = 0.97

    def __post_init__(self) -> None:
        if min(self.candidates, self.horizon, self.every) < 1 or self.every > self.horizon:
            raise ValueError(f"a search needs candidates, and 1 <= every <= horizon, got {self}")

    def sequences(self, actions: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Random sequences of numbers of actions, (candidates, horizon)."""
        drawn = rng.integers(actions, size=(self.candidates, self.horizon))
        stays = rng.random(drawn.shape) < self.stay
        for step in range(1, self.horizon):
            drawn[:, step] = np.where(stays[:, step], drawn[:, step - 1], drawn[:, step])
        return drawn

    def best(self, sequences: NDArray[np.int64], found: Imagined) -> NDArray[np.int64]:
        """The sequence with the most reward, the sooner the better; the first of them if none has any."""
        value = (found.rewards * self.discount ** np.arange(self.horizon)).sum(1)
        return sequences[int(value.argmax())]


def planner(outlook: Outlook, actions: int, search: Search) -> Player:
    """A player that plans by what an `outlook` says of sequences of so many kinds of actions."""
    plan: list[int] = []

    def play(frames: Frames, rng: np.random.Generator) -> int:
        if len(frames) == 1:
            plan.clear()
        if not plan:
            tried = search.sequences(actions, rng)
            plan.extend(search.best(tried, outlook(frames, tried, len(frames)))[: search.every].tolist())
        return plan.pop(0)

    return play


def imagined(imagination: Imagination, seed: int = 0) -> Outlook:
    """The outlook of a world model."""

    def outlook(frames: Frames, actions: NDArray[np.int64], number: int) -> Imagined:
        return imagination.imagine(frames, actions, seed=seed, first=number * SEEDS)

    return outlook


def true_world(screen: Screen) -> Outlook:
    """The outlook of the environment itself, tried in copies of it as it is now."""

    def outlook(frames: Frames, actions: NDArray[np.int64], number: int) -> Imagined:
        n, steps = actions.shape
        rewards, length, ended = np.zeros((n, steps), np.float32), np.full(n, steps), np.zeros(n, np.bool_)
        for row, sequence in enumerate(actions):
            world = copy.deepcopy(screen.env)
            for step, action in enumerate(sequence):
                _, rewards[row, step], over, stopped, _ = world.step(screen.number_of(int(action)))
                if over or stopped:
                    length[row], ended[row] = step + 1, bool(over)
                    break
        return Imagined(rewards, length, ended)

    return outlook


@dataclass(frozen=True)
class Trial:
    """Episodes played: which were solved, that is, ended with a reward; the steps of each, (n,)."""

    solved: NDArray[np.bool_]
    steps: NDArray[np.int64]

    @property
    def rate(self) -> tuple[float, float]:
        """The share that was solved, and its standard error."""
        share = float(self.solved.mean())
        return share, float(np.sqrt(share * (1 - share) / len(self.solved)))


def trial(screen: Screen, player: Player | None, episodes: int, *, limit: int, seed: int = 0) -> Trial:
    """Play so many episodes of at most `limit` steps, at random without a player."""
    solved, steps = np.zeros(episodes, np.bool_), np.zeros(episodes, np.int64)
    for number in range(episodes):
        rng = np.random.default_rng([seed, number, 1])
        frames, over, stopped = [screen.reset(seed * SEEDS + number)], False, False
        while not over and not stopped and steps[number] < limit:
            action = int(rng.integers(len(screen.actions))) if player is None else player(frames, rng)
            frame, reward, over, stopped = screen.step(action)
            frames.append(frame)
            steps[number] += 1
            solved[number] = over and reward > 0
    return Trial(solved, steps)
