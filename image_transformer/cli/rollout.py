"""`image-transformer rollout`: a clip continued, as moving pictures and as a strip."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from image_transformer.cli import UsageError
from image_transformer.cli.flags import Sized, arguments, at_least, check_folder
from image_transformer.config.sampling import Unguided

LONGEST = 14  # frames of a strip
ENLARGED = 128  # pixels, about, of a side of a moving picture


@dataclass(frozen=True)
class Rollout(Sized, Unguided):
    """Continue a clip, frame by frame: an animated picture, a video, a .npy, or a folder of frames.

    Without a clip, its first frame is drawn, too. Writes NAME.gif and NAME.webp, all samples side by side;
    NAME.png, a strip of frames with a row for each sample; and NAME.npy, the frames themselves.
    """

    steps: int = 16
    """Frames to draw."""
    samples: int = 1
    """How many clips to draw."""
    actions: tuple[str, ...] = ()
    """For a world model: the action of each step, or one for all of them."""
    out: Path = Path("rollouts")
    """Folder for the pictures."""


def run(args: list[str]) -> None:
    (path, *files), chosen = arguments(Rollout, "rollout MODEL [CLIP]", args)
    at_least(1, steps=chosen.steps, samples=chosen.samples, size=min(chosen.size or (1,)))
    check_folder(chosen.out)
    if len(chosen.actions) not in (0, 1, chosen.steps):
        raise UsageError(f"--actions must name one, or one for each of {chosen.steps} steps, got {len(chosen.actions)}")

    import torch

    from image_transformer.checkpoint import load
    from image_transformer.conditions.frames import Action
    from image_transformer.data.clips import read_clip
    from image_transformer.data.decode import Request, check_shape
    from image_transformer.data.images import START
    from image_transformer.data.recording import outcome_of
    from image_transformer.files import write_atomically
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
    if START in chosen.actions:
        raise UsageError(f"--actions cannot be {START!r}, which comes before the first frame of a clip")
    given = np.zeros((0, *shape), np.uint8)
    if files:
        given = read_clip(files[0], shape[0], chosen.size)
        whole = files[0].suffix == ".npy" and given.shape[1:] == shape
        if played is not None and not whole:  # a row for rewards and ends
            check_shape(given.shape[1:], Request(str(files[0]), shape=(shape[0], shape[1] - 1, shape[2])))
            given = np.pad(given, ((0, 0), (0, 0), (0, 1), (0, 0)))
        check_shape(given.shape[1:], Request(str(files[0]), shape=shape))
    name = files[0].stem if files else "clip"
    written = [chosen.out / f"{name}.{kind}" for kind in ("gif", "webp", "png", "npy")]
    for file in written:
        if files and file.resolve() == files[0].resolve():
            raise UsageError(f"{file} would be overwritten: pass another folder with --out")
    done = list(chosen.actions) * (chosen.steps if len(chosen.actions) == 1 else 1)
    if played is not None and not files:
        done = [START, *done]
    steps = len(done) or chosen.steps
    told: dict[str, Any] = {} if played is None else {"action": [done] * chosen.samples}
    begun = torch.from_numpy(given)[None].repeat(chosen.samples, 1, 1, 1, 1)
    with bar("frames") as progress:
        drawn = rollout(model, begun, steps, progress=progress, **chosen.options(), **told).numpy()
    frames = np.concatenate([begun.numpy(), drawn], 1)
    shown = frames[..., : shape[1] - (played is not None), :]
    scale = max(1, ENLARGED // max(shown.shape[-2:]))
    chosen.out.mkdir(parents=True, exist_ok=True)
    for file in written[:2]:
        grids.save_moving(shown.transpose(1, 0, 2, 3, 4), file, scale)
    before = min(len(given), 2)
    after = min(steps, LONGEST - before)
    strip = shown[:, len(given) - before : len(given) + after]
    headers = ["given"] * before + [str(number) for number in range(1, after + 1)]
    scale = max(1, grids.PAGE_WIDTH // (len(headers) * shown.shape[-1]))
    grids.save_png(grids.labelled_rows([("", row) for row in strip], headers, scale), written[2])
    held = io.BytesIO()
    np.save(held, frames.transpose(0, 1, 3, 4, 2))
    write_atomically(written[3], held.getvalue())
    if played is not None:
        rewards, ended = outcome_of(drawn)
        for sample, step in np.argwhere((rewards != 0) | ended).tolist():
            end = ", end" if ended[sample, step] else ""
            print(f"sample {sample + 1}, step {step + bool(files)}: reward {rewards[sample, step]:.2f}{end}")
    print(*written, sep="\n")
