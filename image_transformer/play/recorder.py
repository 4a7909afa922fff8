"""Recording play: whole episodes, part by part, so that it can be stopped and resumed. No torch."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from image_transformer.data.recording import (
    ABOUT,
    About,
    Episode,
    parts_of,
    read_about,
    read_episodes,
    write_about,
)
from image_transformer.files import locked, write_atomically
from image_transformer.play.environments import Screen
from image_transformer.play.episodes import SEEDS, Player, at_random, play

PART = 2_000  # frames, about, of a part

Progress = Callable[[int, int], None]  # (steps recorded, steps in all)


def record(
    screen: Screen,
    folder: Path,
    steps: int,
    about: About,
    player: Player | None = None,
    *,
    policy: str = "random",
    progress: Progress | None = None,
) -> tuple[int, int]:
    """Record whole episodes into `folder` until it holds at least so many steps; how many steps and episodes it holds.

    player: at random if not given. policy: what to call it, in the parts that it plays.
    What the folder holds already counts, whoever played it: an episode is a function of the player, the seed and its
    number. ValueError if the folder holds another recording, InUseError while another process records into it.
    """
    with locked(folder):
        return _record(screen, folder, steps, about, player or at_random(len(about.actions)), policy, progress)


def _record(
    screen: Screen, folder: Path, steps: int, about: About, player: Player, policy: str, progress: Progress | None
) -> tuple[int, int]:
    if (folder / ABOUT).exists():
        found = read_about(folder)
        if found != about:
            fields = [name for name in vars(about) if getattr(found, name) != getattr(about, name)]
            raise ValueError(f"{folder} holds a recording with another {fields[0]}: {getattr(found, fields[0])}")
    write_about(folder, about)
    episodes = done = 0
    for part in parts_of(folder):
        if part.name != _name(episodes):
            raise ValueError(f"{folder}: {_name(episodes)} is missing; record into another folder")
        held = read_episodes(part)
        episodes, done = episodes + len(held), done + sum(len(one.frames) - 1 for one in held)
    while done < steps:
        first, new, frames = episodes, list[Episode](), 0
        try:
            while frames < PART and done < steps:
                rng = np.random.default_rng([about.seed, episodes])
                one = play(screen, player, about.seed * SEEDS + episodes, about.longest, rng)
                new.append(one)
                episodes, done, frames = episodes + 1, done + len(one.frames) - 1, frames + len(one.frames)
                if progress is not None:
                    progress(min(done, steps), steps)
        finally:  # whole episodes are kept, also of what is stopped
            if new:
                _write(folder / _name(first), new, policy)
    return done, episodes


def _write(part: Path, episodes: Sequence[Episode], policy: str) -> None:
    packed = io.BytesIO()
    joined = {name: np.concatenate([getattr(one, name) for one in episodes]) for name in Episode._fields}
    np.savez_compressed(packed, **joined, policy=policy)  # type: ignore[arg-type]
    write_atomically(part, packed.getvalue())


def _name(first: int) -> str:
    """The file of a part, by the number of its first episode."""
    return f"episodes-{first:06d}.npz"
