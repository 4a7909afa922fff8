"""A program that reads the scene of a shapes image off, and compares it with what a caption states; it learns nothing.

Grounds have no colour. So how far a pixel's colour is from grey, beside the colour of a thing, is how much of it the
thing covers. Things are two pixels apart at least, and a kind is the one that, drawn there as large, fits best.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from image_transformer.data import shapes
from image_transformer.data.shapes import COLOURS, KINDS, RADII, RELIEF, SIDE, TONES, Caption, Scene, Thing

FEWEST = 6.0  # pixels that a thing covers: less is a speck
LARGE = (RADII["small"][1] + RADII["large"][0]) / 2  # px, radius from which a thing is large

CHROMA = {name: np.array(rgb) - np.mean(rgb) for name, rgb in COLOURS.items()}


class Reading(NamedTuple):
    """What is to be seen in an image."""

    things: tuple[Thing, ...]
    tone: str
    texture: str


def read_scene(image: NDArray[np.uint8]) -> Reading:
    """The things and the ground of an image (3, 32, 32), in no order."""
    pixels = image.astype(np.float64)
    grey = pixels.mean(0)
    chroma = pixels - grey
    strength = np.sqrt((chroma**2).sum(0))
    labels = _components(strength > 0.3 * min(np.linalg.norm(one) for one in CHROMA.values()))
    found = [_thing(chroma, _grown(labels == number)) for number in range(1, labels.max() + 1)]
    ground = strength < 4
    tone = float(np.median(grey[ground])) if ground.any() else 0.0
    return Reading(tuple(one for one in found if one is not None), _nearest_tone(tone), _texture(grey, ground))


def _components(inside: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Pixels that touch, corners included, under one number from 1 on; 0 outside."""
    labels = np.where(inside, np.arange(1, inside.size + 1).reshape(inside.shape), 0)
    while True:
        padded = np.pad(labels, 1)
        around = [padded[i : i + inside.shape[0], j : j + inside.shape[1]] for i in range(3) for j in range(3)]
        grown = np.where(inside, np.max(around, 0), 0)
        if (grown == labels).all():
            return np.unique(np.append(0, labels), return_inverse=True)[1][1:].reshape(inside.shape)
        labels = grown


def _grown(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """With the pixels around it, which it may cover in part."""
    padded = np.pad(inside, 1)
    return np.max([padded[i : i + len(inside), j : j + len(inside)] for i in range(3) for j in range(3)], 0)


def _thing(chroma: NDArray[np.float64], where: NDArray[np.bool_]) -> Thing | None:
    """The thing in a part of an image; None of a speck."""
    total = (chroma * where).sum((1, 2))
    colour = max(CHROMA, key=lambda name: float(total @ CHROMA[name]) / float(np.linalg.norm(CHROMA[name])))
    own = CHROMA[colour]
    covered = np.clip(np.tensordot(own, chroma, 1) / (own @ own), 0, 1) * where
    area = covered.sum()
    if area < FEWEST:
        return None
    place = np.arange(SIDE) + 0.5
    row, col = (covered.sum(1) @ place) / area, (covered.sum(0) @ place) / area
    fits = [_fit(kind, covered, row, col) for kind in KINDS]
    _, best = min(fits, key=lambda fit: fit[0])
    return best._replace(colour=colour, size="large" if best.radius >= LARGE else "small")


def _fit(kind: str, covered: NDArray[np.float64], row: float, col: float) -> tuple[float, Thing]:
    """How badly a thing of this kind fits, the best in size and place, and that thing."""
    unit = shapes.coverage(Thing("", kind, "", 10.0, SIDE / 2, SIDE / 2))
    radius = 10.0 * float(np.sqrt(covered.sum() / unit.sum()))
    place = np.arange(SIDE) + 0.5 - SIDE / 2
    down = float(unit.sum(1) @ place) / float(unit.sum()) * radius / 10  # of the centroid from the centre
    best = (np.inf, Thing("", kind, "", radius, row - down, col))
    for size in (0.97, 1.0, 1.03):
        for dy in (-0.2, 0.0, 0.2):
            one = Thing("", kind, "", size * radius, row - down + dy, col)
            best = min(best, (float(((shapes.coverage(one) - covered) ** 2).sum()), one))
    return best


def _nearest_tone(tone: float) -> str:
    return min(TONES, key=lambda name: abs(TONES[name] - tone))


def _texture(grey: NDArray[np.float64], ground: NDArray[np.bool_]) -> str:
    """By what of the ground's lights and darks goes along with stripes, and with checkers."""
    row, col = np.indices(grey.shape)
    if ground.sum() < SIDE:
        return "plain"
    rest = (grey - grey[ground].mean())[ground]
    parts = {"striped": np.where(col // 2 % 2, 1, -1), "checkered": np.where((row // 4 + col // 4) % 2, 1, -1)}
    strength = {name: abs(float((rest * part[ground]).mean())) for name, part in parts.items()}
    name = max(strength, key=strength.__getitem__)
    return name if strength[name] > RELIEF / 2 else "plain"


def is_scene(scene: Scene, found: Reading, slack: float = 1.5) -> bool:
    """Whether an image shows exactly this scene: its things, each at most `slack` pixels off, and its ground."""
    left = list(found.things)
    for thing in scene.things:
        fits = [
            one for one in left
            if one[:3] == thing[:3] and max(abs(one.row - thing.row), abs(one.col - thing.col)) <= slack
        ]  # fmt: skip
        if not fits:
            return False
        left.remove(fits[0])
    return not left and (found.tone, found.texture) == (scene.tone, scene.texture)


def verdicts(scene: Scene, caption: Caption, found: Reading) -> dict[str, bool]:
    """Which of what a caption states of a scene is so in an image: by attribute, and `all` of them."""
    things, seen = scene.things, found.things

    def same(*fields: str) -> bool:
        want, have = (Counter(tuple(getattr(one, f) for f in fields) for one in some) for some in (things, seen))
        return want == have

    right = {
        "count": len(things) == len(seen), "colours": same("colour"), "kinds": same("kind"),
        "colours of kinds": same("colour", "kind"),
    }  # fmt: skip
    if scene.relation is not None:
        first, last = ([one for one in seen if one[:2] == thing[:2]] for thing in (things[0], things[-1]))
        right["relation"] = bool(first and last) and all(
            shapes.stands(one, scene.relation, other, 1.0) for one in first for other in last
        )
    if "size" in caption.states:
        right["sizes"] = same("colour", "kind", "size")
    if "place" in caption.states and len(things) == 1:
        right["place"] = len(seen) == 1 and [int(x / SIDE * 3) for x in seen[0][4:]] == [
            int(x / SIDE * 3) for x in things[0][4:]
        ]
    if "ground" in caption.states:
        right["ground"] = (found.tone, found.texture) == (scene.tone, scene.texture)
    return right | {"all": all(right.values())}
