"""`image-transformer plan`: an environment played by plans that a world model makes."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from image_transformer.cli import UsageError
from image_transformer.cli.flags import arguments, at_least
from image_transformer.config.sampling import Search

if TYPE_CHECKING:
    from image_transformer.play.dream import World
    from image_transformer.play.environments import Screen
    from image_transformer.play.planning import Score


@dataclass(frozen=True)
class Planning(Search):
    """How plans are made."""

    temperature: float = 1.0
    """Below 1 the model imagines what is likely only; 1 is the model."""


@dataclass(frozen=True)
class PlanPlay(Planning):
    """Play an environment by plans: the best of many sequences of actions, as a world model imagines them.

    Says how many episodes ended with a reward, and what all of them returned. The environment, the tile size
    and the size must be those that were recorded.
    """

    by: Literal["model", "simulator", "random"] = "model"
    """Who says what actions lead to: the model; copies of the environment itself; or nobody, for play at random."""
    episodes: int = 20
    """Episodes to play."""
    limit: int = 50
    """Steps after which an episode is given up."""
    tile_size: int | None = None
    """Pixels of a field, for MiniGrid."""
    size: tuple[int, int] | None = None
    """Shrink frames to this HEIGHT WIDTH."""
    seed: int = 0
    """Episodes and plans follow from this."""


def run(args: list[str]) -> None:
    (path, word), chosen = arguments(PlanPlay, "plan MODEL ENVIRONMENT", args)
    environment = word.as_posix()
    at_least(1, episodes=chosen.episodes, limit=chosen.limit, tile_size=chosen.tile_size, size=min(chosen.size or (1,)))
    at_least(0, seed=chosen.seed)
    if chosen.by != "model" and chosen.temperature != 1:
        raise UsageError(f"--temperature is of what a model imagines, not of --by {chosen.by}")

    from time import perf_counter

    from image_transformer.play.environments import Screen
    from image_transformer.play.episodes import at_random
    from image_transformer.play.planning import Score, planner, scores, tried
    from image_transformer.show.progress import bar

    world = world_of(path, chosen)
    screen = Screen(environment, size=chosen.size, tile_size=chosen.tile_size, actions=world.actions)
    check_known(world, screen, path)
    count = len(world.actions)
    player = {
        "random": at_random(count),
        "simulator": planner(tried(screen), count, chosen),
        "model": planner(world.imagine, count, chosen),
    }[chosen.by]
    begun, found = perf_counter(), list[Score]()
    try:
        with bar("episodes") as progress:
            for score in islice(scores(screen, player, chosen.limit, seed=chosen.seed), chosen.episodes):
                found.append(score)
                progress(len(found), chosen.episodes)
    finally:  # stopped, it says what has been played
        screen.close()
        if found:
            _say(found, chosen, perf_counter() - begun, world)


def _say(found: list[Score], chosen: PlanPlay, seconds: float, world: World) -> None:
    from image_transformer.measures.found import mean_and_error

    def said(values: NDArray[np.float64], digits: int) -> str:
        return " ± ".join(filter(None, mean_and_error(values, digits)))  # a single episode has no error

    solved, rewards, steps = np.array(found).T
    print(f"{said(100 * solved, 1)} % of {len(found)} episodes ended with a reward in at most {chosen.limit} steps")
    print(f"return {said(rewards, 2)}")
    print(f"{steps.mean():.1f} steps an episode, planned by {chosen.by}, {seconds:.0f} s")
    if chosen.by == "model":
        drawn = world.fixed.settled / max(1, world.fixed.drawings)
        print(f"{world.fixed.drawings:,} frames imagined, {100 * drawn:.1f} % of them from memory")


def world_of(path: str | Path, chosen: Planning) -> World:
    """The world model that makes plans."""
    from image_transformer.checkpoint import load
    from image_transformer.play.dream import World

    return World(load(path), chosen.temperature)


def check_known(world: World, screen: Screen, path: str | Path) -> None:
    """UsageError unless a world model knows frames and actions like those of an environment."""
    if screen.shape != world.shape:
        raise UsageError(f"{screen.environment} shows frames {screen.shape}, and {path} knows {world.shape}")
    if screen.actions != world.actions:
        raise UsageError(f"{path} knows the actions {', '.join(world.actions)}, not {', '.join(screen.actions)}")
