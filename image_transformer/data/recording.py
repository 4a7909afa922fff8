"""Recorded play: a folder of episodes, frames with actions, rewards and ends. No torch.

`recording.json` names the environment and its actions; each `episodes-*.npz` holds some whole episodes, one after the
other: frames (n, h, w, c), the action before each frame (-1 before the first of an episode), its reward, and whether
the episode has ended with it; and in words by which policy they were played.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from image_transformer.data.images import DataError, first_line
from image_transformer.files import write_atomically

ABOUT, PARTS = "recording.json", "episodes-*.npz"
REWARDS = 127  # codes of rewards above 0, up to 1; as many below, modulo 256, as an int8 has them
ENDED = 255
REWARD, END = -1, -2  # columns of the last row


@dataclass(frozen=True)
class About:
    """What a recording is of: an environment by its id, its actions in words, and how it is seen."""

    environment: str
    actions: tuple[str, ...]
    seed: int
    tile_size: int | None = None
    size: tuple[int, int] | None = None
    longest: int = 1_000  # steps after which an episode is left


class Episode(NamedTuple):
    """frames (t, h, w, c); the action, the reward and the end of each: those of the first are -1, 0 and False."""

    frames: NDArray[np.uint8]
    actions: NDArray[np.int16]
    rewards: NDArray[np.float32]
    ended: NDArray[np.bool_]


def is_recording(path: Path) -> bool:
    return (path / ABOUT).is_file()


def with_outcome(
    frames: NDArray[np.uint8], rewards: NDArray[np.float32], ended: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """Frames (t, c, h, w) with one row more, black but for its last pixel, the reward, and the one before, the end.

    So a model of frames gives the exact probability of rewards and ends, too. Rewards are those from -1 to 1, in
    steps of 1 / 127, others the nearest of these.
    """
    row = np.zeros((*frames.shape[:2], 1, frames.shape[3]), np.uint8)
    codes = np.rint(np.clip(rewards, -1, 1) * REWARDS).astype(np.int8).view(np.uint8)
    row[..., 0, REWARD] = codes[:, None]
    row[..., 0, END] = (ENDED * ended.astype(np.uint8))[:, None]
    return np.concatenate([frames, row], 2)


def outcome_of(frames: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The rewards and ends that frames (..., c, h, w) of a model say, `(...)` each."""
    last = frames[..., 0, -1, :]
    return np.divide(last[..., REWARD].view(np.int8), REWARDS, dtype=np.float32), last[..., END] > ENDED // 2


def read_about(folder: Path) -> About:
    try:
        told = json.loads((folder / ABOUT).read_text())
        told.pop("policy", None)  # which was here before it was in the parts
        told |= {"actions": tuple(told["actions"]), "size": tuple(told["size"]) if told["size"] else None}
        return About(**told)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / ABOUT}: unreadable ({first_line(error)})") from None


def write_about(folder: Path, about: About) -> None:
    write_atomically(folder / ABOUT, json.dumps(asdict(about), indent=1).encode())


def parts_of(folder: Path) -> list[Path]:
    return sorted(folder.glob(PARTS))


def read_episodes(part: Path) -> list[Episode]:
    try:
        with np.load(part) as held:
            fields: list[Any] = [held[name] for name in Episode._fields]
        starts = np.flatnonzero(Episode(*fields).actions < 0)
        if not starts.size or starts[0] or len({len(field) for field in fields}) > 1:
            raise ValueError("no whole episodes in it")
    except Exception as error:  # OSError, ValueError, KeyError, BadZipFile, zlib.error, ...
        raise DataError(f"{part}: unreadable as recorded episodes ({first_line(error)})") from None
    ends = [*starts[1:], len(fields[0])]
    return [Episode(*(field[a:b] for field in fields)) for a, b in zip(starts, ends, strict=True)]


def read_recording(folder: Path) -> tuple[list[tuple[NDArray[np.uint8], NDArray[np.int64]]], tuple[str, ...]]:
    """Of every episode the frames with their outcomes (t, c, h + 1, w) and the actions (t - 1,); the actions' names."""
    about, clips = read_about(folder), []
    for part in parts_of(folder):
        for one in read_episodes(part):
            frames = with_outcome(one.frames.transpose(0, 3, 1, 2), one.rewards, one.ended)
            clips.append((frames, one.actions[1:].astype(np.int64)))
    if not clips:
        raise DataError(f"{folder}: no episodes recorded yet")
    return clips, about.actions
