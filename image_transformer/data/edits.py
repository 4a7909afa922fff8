"""Edits of photographs by instruction: pairs of a source and its result, with words that name the edit; no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from image_transformer.data.images import DataError, ImageData, Images

Kind = Literal["none", "local", "whole", "all"]
KINDS = get_args(Kind)
Levels = NDArray[np.float64]  # (n, c, h, w), from 0 to 255
HOLE = 128  # level of what is erased
SPLIT_SEEDS = {"train": 0, "validation": 1, "test": 2, "all": 3}


@dataclass(frozen=True)
class Edit:
    """One thing that can be done to photographs, in several wordings; the first is the one that is scored.

    result: of uint8 photographs (n, c, h, w). source: what is given in their place, if not the photographs themselves.
    local: whether a pixel of the result follows from those around it, wherever it lies. colour: not for grey images.
    square: for square images alone.
    """

    wordings: tuple[str, ...]
    result: Callable[[Images], Images]
    local: bool = True
    colour: bool = False
    square: bool = False
    source: Callable[[Images], Images] = lambda photos: photos


def _by_levels(change: Callable[[Levels], Levels]) -> Callable[[Images], Images]:
    return lambda photos: change(photos.astype(np.float64)).round().clip(0, 255).astype(np.uint8)


def _tinted(red: float) -> Callable[[Images], Images]:
    """With so many levels more of red, and fewer of blue."""
    return _by_levels(lambda x: x + np.array([red, 0.0, -red])[:, None, None])


def _grey(x: Levels) -> Levels:
    return np.repeat(x.mean(1, keepdims=True), x.shape[1], 1)


def _framed(photos: Images) -> Images:
    """With a black border of a tenth of the shorter side."""
    wide = max(1, round(min(photos.shape[2:]) / 10))
    framed = np.zeros_like(photos)
    framed[:, :, wide:-wide, wide:-wide] = photos[:, :, wide:-wide, wide:-wide]
    return framed


def _erased(photos: Images) -> Images:
    """Without the middle, three eighths of the height and of the width."""
    (h, w), erased = photos.shape[2:], photos.copy()
    erased[:, :, h * 5 // 16 : h * 11 // 16, w * 5 // 16 : w * 11 // 16] = HOLE
    return erased


EDITS = {
    "darker": Edit(
        ("make it darker", "darken the photo", "darker, please", "turn the brightness down", "less light"),
        _by_levels(lambda x: 0.6 * x),
    ),
    "brighter": Edit(
        ("make it brighter", "brighten the photo", "brighter, please", "turn the brightness up", "more light"),
        _by_levels(lambda x: 255 - 0.6 * (255 - x)),
    ),
    "grey": Edit(
        ("make it black and white", "remove the colours", "turn it grey", "no colour, please", "a grey photo"),
        _by_levels(_grey), colour=True,
    ),
    "greyer": Edit(
        ("make it greyer", "mute the colours", "fade the colours", "less colour, please", "desaturate it a little"),
        _by_levels(lambda x: 0.5 * (x + _grey(x))), colour=True,
    ),
    "warmer": Edit(
        ("make it warmer", "warmer colours", "give it a warm tone", "warm it up", "more red and less blue"),
        _tinted(30), colour=True,
    ),
    "colder": Edit(
        ("make it colder", "cooler colours", "give it a cold tone", "cool it down", "more blue and less red"),
        _tinted(-30), colour=True,
    ),
    "contrast": Edit(
        ("more contrast", "raise the contrast", "give it more contrast", "increase the contrast", "stronger contrast"),
        _by_levels(lambda x: 128 + 1.5 * (x - 128)),
    ),
    "flatter": Edit(
        ("less contrast", "lower the contrast", "give it less contrast", "reduce the contrast", "weaker contrast"),
        _by_levels(lambda x: 128 + 0.6 * (x - 128)),
    ),
    "negative": Edit(
        ("make a negative", "invert it", "invert the colours", "turn it into a negative", "swap light and dark"),
        lambda photos: 255 - photos,
    ),
    "mirror": Edit(
        ("mirror it", "flip it from left to right", "a mirror image", "swap left and right", "flip it horizontally"),
        lambda photos: photos[..., ::-1], local=False,
    ),
    "upside down": Edit(
        ("turn it upside down", "rotate it by half a turn", "upside down, please", "rotate it by 180 degrees"),
        lambda photos: photos[..., ::-1, ::-1], local=False,
    ),
    "left": Edit(
        ("turn it to the left", "rotate it to the left", "a quarter turn to the left", "rotate it anticlockwise"),
        lambda photos: np.rot90(photos, 1, (2, 3)), local=False, square=True,
    ),
    "right": Edit(
        ("turn it to the right", "rotate it to the right", "a quarter turn to the right", "rotate it clockwise"),
        lambda photos: np.rot90(photos, -1, (2, 3)), local=False, square=True,
    ),
    "border": Edit(
        ("add a border", "put a black frame around it", "frame it", "give it a black border"), _framed, local=False,
    ),
    "middle": Edit(
        ("fill in the middle", "restore the middle", "paint what was erased", "complete the picture"),
        lambda photos: photos, local=False, source=_erased,
    ),
}  # fmt: skip
"""By name. Those that are not local are of the whole image: of its size, its sides, its middle."""


def possible(which: Kind, shape: tuple[int, ...]) -> list[str]:
    """The names of the edits of a kind that photographs (c, h, w) allow."""
    channels, height, width = shape
    if which not in KINDS:
        raise DataError(f"unknown edits {which!r}: expected one of {', '.join(KINDS)}")
    return [
        name
        for name, edit in EDITS.items()
        if (which == "all" or edit.local == (which == "local"))
        and (channels == 3 or not edit.colour)
        and (height == width or not edit.square)
    ]


def edited(data: ImageData, which: Kind) -> ImageData:
    """A pair of each photograph, uint8 (n, c, h, w) both and in memory: images are results, sources the photographs.

    Captions, in the place of those that there are, name one edit, which is drawn for each image by its number alone.
    DataError for images too small to have a middle.
    """
    if min(data.images.shape[2:]) < 4:
        raise DataError(f"{data.name}: --data.edits needs images of at least 4x4 pixels")
    names = possible(which, data.images.shape[1:])
    raw = np.random.PCG64([1811, SPLIT_SEEDS[data.split]]).random_raw(len(data))  # raw streams never change
    drawn = (raw >> np.uint64(11)).astype(np.int64) % len(names)
    sources, images = np.array(data.images), np.empty_like(data.images)
    for number, name in enumerate(names):
        rows, edit = drawn == number, EDITS[name]
        images[rows] = edit.result(sources[rows])
        sources[rows] = edit.source(sources[rows])
    return replace(data, images=images, sources=sources, captions=tuple(EDITS[names[i]].wordings for i in drawn))
