"""`image-transformer record`: play of an environment, recorded to train on."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path

from image_transformer.cli import UsageError
from image_transformer.cli.flags import arguments, at_least
from image_transformer.cli.plan import Planning, check_known, world_of

RANDOM = "random"


@dataclass(frozen=True)
class Record(Planning):
    """Record play of a gymnasium environment with pictures: frames, actions, rewards and ends.

    Stopped, it goes on with the same line. The folder is data: image-transformer train world --data.source FOLDER
    """

    out: Path | None = None
    """Folder for the recording; recordings/ENVIRONMENT if not given."""
    steps: int = 20_000
    """Steps to record in all, in whole episodes."""
    policy: str = RANDOM
    """How to play: random, or by plans of the world model of this name, as `plan` does and with its flags (temperature,
    candidates, horizon, every). What was begun at random may go on by plans."""
    actions: tuple[str, ...] = ()
    """Names of the actions to use; all if not given."""
    tile_size: int | None = None
    """Pixels of a field, for MiniGrid."""
    size: tuple[int, int] | None = None
    """Shrink frames to this HEIGHT WIDTH."""
    longest: int = 1_000
    """Steps after which an episode is left and the next one begins."""
    seed: int = 0
    """Episodes follow from this and their number."""


def run(args: list[str]) -> None:
    (word,), chosen = arguments(Record, "record ENVIRONMENT", args)
    environment = word.as_posix()
    at_least(1, steps=chosen.steps, tile_size=chosen.tile_size, size=min(chosen.size or (1,)), longest=chosen.longest)
    at_least(0, seed=chosen.seed)
    how = {f.name: getattr(chosen, f.name) for f in fields(Planning)}
    if chosen.policy == RANDOM and how != asdict(Planning()):
        raise UsageError(f"{', '.join(f'--{name}' for name in how)} are for plans, with --policy MODEL")

    from image_transformer.data.recording import About
    from image_transformer.play.environments import Screen
    from image_transformer.play.recorder import record
    from image_transformer.show.progress import bar

    out = chosen.out or Path("recordings") / environment.replace("/", "-")
    world, player, policy = None, None, RANDOM
    if chosen.policy != RANDOM:
        from image_transformer.play.planning import planner

        world = world_of(chosen.policy, chosen)
        player = planner(world.imagine, len(world.actions), chosen)
        policy = f"plans of {chosen.policy}: {', '.join(f'{name} {value}' for name, value in how.items())}"
    actions = chosen.actions or (world.actions if world else ())
    screen = Screen(environment, size=chosen.size, tile_size=chosen.tile_size, actions=actions)
    if world:
        check_known(world, screen, chosen.policy)
    height, width, channels = screen.shape
    if width < 2:
        raise UsageError("frames must be at least 2 pixels wide, for rewards and ends below them")
    about = About(environment, screen.actions, chosen.seed, chosen.tile_size, chosen.size, chosen.longest)
    try:
        with bar("steps") as progress:
            steps, episodes = record(screen, out, chosen.steps, about, player, policy=policy, progress=progress)
    finally:
        screen.close()
    print(f"{out}: {steps:,} steps, {episodes:,} episodes, actions {', '.join(screen.actions)}")
    print(f"next: image-transformer train world --data.source {out} --model.shape {channels} {height + 1} {width}")
