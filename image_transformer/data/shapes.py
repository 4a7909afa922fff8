"""Shapes: a world of coloured shapes at 32 x 32 pixels with captions, made from a seed and a number; no torch.

A scene is drawn, then described: one thing at a place, two of which one is left of the other, several alike. Some
combinations, a colour with a kind and a relation with a pair of kinds, are never seen in `shapes`, and are in every
scene of `shapes-unseen`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

SIDE = 32
COLOURS = {
    "red": (215, 45, 45), "green": (45, 165, 70), "blue": (50, 85, 220), "yellow": (235, 215, 45),
    "orange": (240, 135, 30), "purple": (135, 60, 195), "cyan": (60, 205, 215), "pink": (245, 125, 195),
}  # fmt: skip
KINDS = ("circle", "square", "triangle", "cross", "ring")
RADII = {"small": (3.3, 4.0), "large": (5.4, 6.3)}  # px, smallest and largest
TONES = {"dark": 36, "grey": 110, "light": 218}  # of grounds, which have no colour
RELIEF = 14  # how much lighter and darker than its tone the parts of a textured ground are
TEXTURES = ("plain", "striped", "checkered")
# where the other thing lies: row, column
RELATIONS = {"left": (0, 1), "right": (0, -1), "above": (1, 0), "below": (-1, 0)}
BACK = {"left": "right", "right": "left", "above": "below", "below": "above"}
PLACES = (8, 16, 24)  # px, of rows and columns of a single thing
ROWS, COLUMNS = ("top", "middle", "bottom"), ("left", "centre", "right")

UNSEEN_THINGS = {("red", "ring"), ("green", "cross"), ("blue", "triangle"), ("yellow", "square"), ("purple", "circle")}
UNSEEN_RELATIONS = {
    ("circle", "left", "square"), ("square", "above", "triangle"), ("triangle", "left", "cross"),
    ("cross", "above", "ring"), ("ring", "left", "circle"),
}  # fmt: skip
FORMS = {"one": 0.35, "alike": 0.15, "pair": 0.5}  # how often: one thing at a place, two or three alike, a relation
ALONE = 0.8  # how often it is one thing that is in a relation, and not two alike
WORLDS = {"shapes": {"train": 20_000, "validation": 1_000, "test": 1_000}, "shapes-unseen": {"test": 1_000}}
"""How many scenes each data set has, by split."""
WORDINGS = 3  # captions of a scene

Choice = TypeVar("Choice")


class Thing(NamedTuple):
    colour: str
    kind: str
    size: str
    radius: float = 0.0  # px
    row: float = 0.0  # px, of its centre
    col: float = 0.0


class Scene(NamedTuple):
    """Things on a ground. With a `relation`, all but the last one stand in it to the last one; others are alike."""

    things: tuple[Thing, ...]
    relation: str | None
    tone: str
    texture: str


class Caption(NamedTuple):
    """A description, and which of size, place and ground it states; it states all else."""

    text: str
    states: frozenset[str]


class Dice:
    """Random numbers from a raw stream, which never changes between versions."""

    def __init__(self, *seed: int) -> None:
        self._raw = np.random.PCG64(seed)

    def __call__(self, low: float = 0.0, high: float = 1.0) -> float:
        return low + (high - low) * (int(self._raw.random_raw()) >> 11) * 2.0**-53

    def pick(self, options: Sequence[Choice]) -> Choice:
        return options[int(self() * len(options))]


# ---- scenes ----


def scene(seed: int, number: int, unseen: bool = False) -> Scene:
    """The scene of that number: with some held-out combination if `unseen`, otherwise with none."""
    dice = Dice(seed, number)
    while True:
        found = random_scene(dice)
        if found is not None and unseen == bool(held_out(found)):
            return found


def held_out(scene: Scene) -> list[str]:
    """Which of a scene's combinations are never seen in training: "thing", "relation"."""
    kinds = {(thing.colour, thing.kind) for thing in scene.things}
    found = ["thing"] * bool(kinds & UNSEEN_THINGS)
    if scene.relation is not None:
        first, last = scene.things[0].kind, scene.things[-1].kind
        turned = scene.relation in ("right", "below")
        pair = (last, BACK[scene.relation], first) if turned else (first, scene.relation, last)
        found += ["relation"] * (pair in UNSEEN_RELATIONS)
    return found


def random_scene(dice: Dice) -> Scene | None:
    """One try: None where things of that size find no room."""
    form = dice()
    first = Thing(dice.pick(list(COLOURS)), dice.pick(KINDS), dice.pick(list(RADII)))
    ground = dice.pick(list(TONES)), TEXTURES[max(0, int(dice() * 4) - 1)]  # half of them plain
    if form < FORMS["one"]:
        row, col = dice.pick(PLACES), dice.pick(PLACES)
        placed = first._replace(radius=dice(*RADII[first.size]), row=row + dice(-1.2, 1.2), col=col + dice(-1.2, 1.2))
        return Scene((placed,), None, *ground)
    if form < FORMS["one"] + FORMS["alike"]:
        return _placed((first,) * dice.pick((2, 3)), None, ground, dice)
    other = Thing(dice.pick(list(COLOURS)), dice.pick(KINDS), dice.pick(list(RADII)))
    if other[:2] == first[:2]:
        return None
    count = 1 if dice() < ALONE else 2
    return _placed((*(first,) * count, other), dice.pick(list(RELATIONS)), ground, dice)


def _placed(things: Sequence[Thing], relation: str | None, ground: tuple[str, str], dice: Dice) -> Scene | None:
    """The things where there is room for them: 2 pixels apart at least, the last one where the relation wants it."""
    for _ in range(20):
        found = []
        for thing in things:
            radius = dice(*RADII[thing.size])
            reach = (radius + 0.5, SIDE - radius - 0.5)
            found.append(thing._replace(radius=radius, row=dice(*reach), col=dice(*reach)))
        if apart(found) and (relation is None or all(stands(one, relation, found[-1]) for one in found[:-1])):
            return Scene(tuple(found), relation, *ground)
    return None


def apart(things: Sequence[Thing]) -> bool:
    """Whether there are 2 pixels between things at least."""
    return all(
        max(abs(one.row - two.row), abs(one.col - two.col)) >= one.radius + two.radius + 2
        for i, one in enumerate(things) for two in things[:i]
    )  # fmt: skip


def stands(one: Thing, relation: str, other: Thing, slant: float = 0.6) -> bool:
    """Whether `one` is left of, ... `other`, off the straight line by at most a `slant` of the distance along it."""
    down, right = RELATIONS[relation]
    rows, cols = other.row - one.row, other.col - one.col
    along, across = down * rows + right * cols, abs(right * rows) + abs(down * cols)
    return along > 0 and across <= slant * along


# ---- pictures ----


def draw(scene: Scene, seed: int, number: int) -> NDArray[np.uint8]:
    """The scene as an image (3, h, w), antialiased; textures begin with their lighter or their darker part."""
    row, col = np.indices((SIDE, SIDE))
    part = {"plain": 0 * row, "striped": col // 2 % 2 * 2 - 1, "checkered": (row // 4 + col // 4) % 2 * 2 - 1}
    sign = Dice(seed, number, 1).pick((-RELIEF, RELIEF))
    image = np.repeat((TONES[scene.tone] + sign * part[scene.texture]).astype(np.float64)[None], 3, 0)
    for thing in scene.things:
        image += coverage(thing) * (np.array(COLOURS[thing.colour])[:, None, None] - image)
    return image.round().astype(np.uint8)


def coverage(thing: Thing) -> NDArray[np.float64]:
    """How much of each pixel a thing covers, 0 to 1, `(h, w)`: from the distance of its centre to the outline."""
    place = np.arange(SIDE) + 0.5
    x, y, r = np.abs(place - thing.col)[None], (place - thing.row)[:, None], thing.radius
    inside = {  # distances to the outline, negative inside
        "circle": lambda: np.hypot(x, y) - r,
        "square": lambda: np.maximum(x, np.abs(y)) - 0.9 * r,
        "triangle": lambda: np.maximum(y - 0.8 * r, (1.8 * x - y - r) / np.hypot(1.8, 1)),
        "cross": lambda: np.maximum(np.maximum(x, np.abs(y)) - r, np.minimum(x, np.abs(y)) - 0.33 * r),
        "ring": lambda: np.abs(np.hypot(x, y) - 0.77 * r) - 0.23 * r,
    }
    return np.clip(0.5 - inside[thing.kind](), 0, 1)


def stated_bits(scene: Scene, states: Collection[str]) -> float:
    """How many bits a caption that states these attributes tells of a scene: -log2 of how often a scene is so.

    To a tenth of a bit or so: what finds no room, and what is held out, is not counted.
    """
    groups = 1 + (scene.relation is not None)
    alike = len(scene.things) - groups + 1
    form = FORMS["pair" if groups == 2 else "one" if alike == 1 else "alike"]
    bits = -math.log2(form) + groups * math.log2(len(COLOURS) * len(KINDS) * (2 if "size" in states else 1))
    if groups == 2:
        bits += math.log2(len(RELATIONS)) - math.log2(ALONE if alike == 1 else 1 - ALONE)
    elif alike > 1:
        bits += 1  # two or three
    elif "place" in states:
        bits += math.log2(len(PLACES) ** 2)
    return bits + ("ground" in states) * (math.log2(len(TONES)) + (1 if scene.texture == "plain" else 2))


# ---- captions ----

OTHER_WORDS = {
    "red": ("crimson",), "purple": ("violet",), "cyan": ("turquoise",), "circle": ("disc",), "square": ("box",),
    "cross": ("plus",), "ring": ("hoop",), "small": ("little", "tiny"), "large": ("big",), "grey": ("gray",),
    "dark": ("black",), "light": ("pale",), "striped": ("stripy",), "checkered": ("chequered",),
}  # fmt: skip
BESIDE = {
    "left": ("left of", "to the left of"), "right": ("right of", "to the right of"),
    "above": ("above", "over"), "below": ("below", "under"),
}  # fmt: skip
WITH = {"left": "to its right", "right": "to its left", "above": "below it", "below": "above it"}
PLURALS = {"cross": "crosses", "box": "boxes", "plus": "pluses"}


def caption(scene: Scene, dice: Dice) -> Caption:
    """One of many ways to say what is to be seen."""
    states = {name for name, share in (("size", 0.4), ("place", 0.75), ("ground", 0.4)) if dice() < share}
    alike = len(scene.things) - (scene.relation is not None)
    one = _phrase(scene.things[0], alike, "size" in states, dice)
    if scene.relation is not None:
        text = _related(one, scene.relation, _phrase(scene.things[-1], 1, "size" in states, dice), dice)
    elif alike == 1 and "place" in states:
        row, col = (int(x / SIDE * 3) for x in (scene.things[0].row, scene.things[0].col))
        place = _place(row, col, dice)
        text = f"{one} {place}" if dice() < 0.75 else f"{place}, {one}"
    else:
        text = dice.pick(("{}", "{}", "there is {}" if alike == 1 else "there are {}")).format(one)
    if "ground" in states:
        ground = f"{word(scene.tone, dice)} {dice.pick(('background', 'ground'))}"
        if scene.texture != "plain" or dice() < 0.5:
            ground = f"{word(scene.texture, dice)} {ground}"
        text = f"{text} on a {ground}" if dice() < 0.75 else f"on a {ground}, {text}"
    return Caption(text, frozenset(states))


def _phrase(thing: Thing, count: int, with_size: bool, dice: Dice) -> str:
    words = [word(thing.size, dice)] * with_size + [word(thing.colour, dice), word(thing.kind, dice)]
    if count == 1:
        return f"{'an' if words[0][0] in 'aeiou' else 'a'} {' '.join(words)}"
    words[-1] = PLURALS.get(words[-1], f"{words[-1]}s")
    return f"{dice.pick((str(count), {2: 'two', 3: 'three'}[count], {2: 'two', 3: 'three'}[count]))} {' '.join(words)}"


def _related(one: str, relation: str, other: str, dice: Dice) -> str:
    beside, back = dice.pick(BESIDE[relation]), dice.pick(BESIDE[BACK[relation]])
    return dice.pick((
        f"{one} {beside} {other}", f"{one} {beside} {other}", f"{other} {back} {one}",
        f"{beside} {other} {'is' if one[0] == 'a' else 'are'} {one}", f"{other} with {one} {WITH[BACK[relation]]}",
    ))  # fmt: skip


def _place(row: int, col: int, dice: Dice) -> str:
    if (row, col) == (1, 1):
        return dice.pick(("in the middle", "in the centre"))
    if row == 1:
        return dice.pick(("on the {}", "at the {} edge")).format(COLUMNS[col])
    if col == 1:
        return dice.pick(("at the {}", "at the {} edge")).format(ROWS[row])
    return dice.pick(("at the {} {}", "in the {} {} corner")).format(ROWS[row], COLUMNS[col])


def word(usual: str, dice: Dice) -> str:
    """The word itself in two thirds of the cases, otherwise a synonym if it has any."""
    others = OTHER_WORDS.get(usual, ())
    return dice.pick(others) if others and dice() < 1 / 3 else usual


# ---- data sets ----


def seed_of(name: str, split: str) -> int:
    """The seed of the scenes of a split."""
    return 10 * list(WORLDS).index(name) + ("train", "validation", "test").index(split)


def scenes_of(name: str, split: str, numbers: Sequence[int]) -> list[tuple[Scene, list[Caption]]]:
    """Some scenes of a data set with their captions."""
    seed, found = seed_of(name, split), []
    for number in numbers:
        one, dice = scene(seed, number, name == "shapes-unseen"), Dice(seed, number, 2)
        found.append((one, [caption(one, dice) for _ in range(WORDINGS)]))
    return found


def make_shapes(name: str, split: str) -> tuple[NDArray[np.uint8], list[tuple[str, ...]]]:
    """Images (n, 3, h, w) and the captions of each: a function of the names alone."""
    seed, found = seed_of(name, split), scenes_of(name, split, range(WORLDS[name][split]))
    images = np.stack([draw(one, seed, number) for number, (one, _) in enumerate(found)])
    return images, [tuple(caption.text for caption in captions) for _, captions in found]
