"""`image-transformer rollout`: a clip continued, as moving pictures and as a strip."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from image_transformer.cli import UsageError
from image_transformer.cli.flags import at_least, file_arguments, model_argument, parse
from image_transformer.config.sampling import Sampling

LONGEST = 14  # frames of a strip
ENLARGED = 128  # pixels, about, of a side of a moving picture


@dataclass(frozen=True)
class Rollout:
    """Continue a clip, frame by frame: an animated picture, a video, a .npy, or a folder of frames.

    Without a clip, it is drawn from its first frame on. Writes NAME.gif and NAME.webp, the ways to go on side by side,
    and a strip of frames, NAME.png, with a row for each.
    """

    seed: int = 0
    """The noise follows from this."""
    temperature: float = 1.0
    """Below 1 sharper, above 1 flatter; 1 is the model."""
    top_k: int | None = None
    """Draw each value from the k likeliest only."""
    top_p: float | None = None
    """Draw each value from the likeliest that hold this probability."""
    steps: int = 16
    """Frames to draw."""
    samples: int = 1
    """Ways to go on."""
    actions: tuple[str, ...] = ()
    """Of a world model: what is done, an action for each step; one alone is done in every step."""
    size: tuple[int, int] | None = None
    """Crop frames centrally to this aspect, then resize them to this HEIGHT WIDTH, first."""
    out: Path = Path("rollouts")
    """Folder for the pictures."""


def run(args: list[str]) -> None:
    path, rest = model_argument("rollout", args)
    files, rest = file_arguments(rest)
    chosen = parse(Rollout, "rollout MODEL [CLIP]", rest)
    at_least(1, steps=chosen.steps, samples=chosen.samples)
    how = Sampling(chosen.seed, chosen.temperature, chosen.top_k, chosen.top_p)
    if len(files) > 1:
        raise UsageError(f"rollout continues one clip, got {len(files)}")
    if chosen.out.exists() and not chosen.out.is_dir():
        raise UsageError(f"--out {chosen.out} is a file, expected a folder")
    if len(chosen.actions) not in (0, 1, chosen.steps):
        raise UsageError(f"--actions must name one, or one for each of {chosen.steps} steps, got {len(chosen.actions)}")

    import torch

    from image_transformer.checkpoint import load
    from image_transformer.conditions.action import Action
    from image_transformer.data.clips import read_clip
    from image_transformer.data.decode import Request, check_shape
    from image_transformer.data.past import START
    from image_transformer.inference.rollout import check_clips, rollout
    from image_transformer.show import grids
    from image_transformer.show.progress import bar

    model = load(path)
    shape, played = model.config.shape, model.config.condition(Action)
    check_clips(model, torch.empty(0, 0, *shape, dtype=torch.uint8))
    if played is None and chosen.actions:
        raise UsageError(f"--actions is for world models, and {path} is told no actions")
    if played is not None and not chosen.actions:
        raise UsageError(f"--actions is missing: this model is told actions, such as {', '.join(played.names[:4])}")
    given = np.zeros((0, *shape), np.uint8)
    if files:
        given = read_clip(files[0], shape[0], chosen.size)
        if played is not None and given.shape[2] + 1 == shape[1]:  # a row for rewards and ends
            given = np.pad(given, ((0, 0), (0, 0), (0, 1), (0, 0)))
        check_shape(given.shape[1:], Request(str(files[0]), shape=shape))
    done = chosen.actions * chosen.steps if len(chosen.actions) == 1 else chosen.actions
    if played is not None and not files:
        done = (START, *done[1:])
    told: dict[str, Any] = {} if played is None else {"action": [list(done)] * chosen.samples}
    begun = torch.from_numpy(given)[None].repeat(chosen.samples, 1, 1, 1, 1)
    with bar("frames") as progress:
        drawn = rollout(model, begun, chosen.steps, progress=progress, sampling=how, **told).numpy()
    shown = np.concatenate([begun.numpy(), drawn], 1)[..., : shape[1] - (played is not None), :]
    name = files[0].stem if files else "clip"
    scale = max(1, ENLARGED // max(shown.shape[-2:]))
    chosen.out.mkdir(parents=True, exist_ok=True)
    moving = [chosen.out / f"{name}.{kind}" for kind in ("gif", "webp")]
    for file in moving:
        grids.save_moving(shown.transpose(1, 0, 2, 3, 4), file, scale)
    before = min(len(given), 2)
    after = min(chosen.steps, LONGEST - before)
    strip = shown[:, len(given) - before : len(given) + after]
    headers = ["given"] * before + [str(number) for number in range(1, after + 1)]
    scale = max(1, grids.PAGE_WIDTH // (len(headers) * shown.shape[-1]))
    picture = chosen.out / f"{name}.png"
    grids.save_png(grids.labelled_rows([("", row) for row in strip], headers, scale), picture)
    print(*moving, picture, sep="\n")
