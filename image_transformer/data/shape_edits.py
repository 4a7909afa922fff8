"""Edits of made scenes: a scene, an instruction, and exactly what becomes of the scene; see `shapes.py`. No torch."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from image_transformer.data.shapes import (
    COLOURS,
    RELATIONS,
    SIDE,
    WORDINGS,
    Dice,
    Scene,
    Thing,
    apart,
    draw,
    held_out,
    random_scene,
    stands,
    word,
)  # fmt: skip

KINDS = ("recolour", "remove", "move", "swap")
STEP = 6.0  # px by which things are moved
EDIT_WORLDS = {
    "shapes-edits": {"train": 20_000, "validation": 1_000, "test": 1_000},
    "shapes-edits-unseen": {"test": 1_000},
}
SIDES = {"left": ("left", "to the left"), "right": ("right", "to the right"), "above": ("up",), "below": ("down",)}


class SceneEdit(NamedTuple):
    """What is done to a scene. `thing`: the number of the one that it is done to; `how`: the new colour, or the way."""

    before: Scene
    after: Scene
    kind: str
    thing: int
    how: str = ""


def scene_edit(seed: int, number: int, unseen: bool = False) -> SceneEdit:
    """The edit of that number: with some held-out combination before or after it if `unseen`, otherwise with none."""
    dice = Dice(seed, number, 3)
    while True:
        before = random_scene(dice)
        if before is None or len(before.things) > 2 or (len(before.things) == 2 and before.relation is None):
            continue  # of several alike, none can be named
        found = _edit(before, dice)
        if found is not None and unseen == bool(held_out(found.before) or held_out(found.after)):
            return found


def _edit(before: Scene, dice: Dice) -> SceneEdit | None:
    """One try: None where it cannot be done."""
    kind, number = dice.pick(KINDS), int(dice() * len(before.things))
    things, how = list(before.things), ""
    one = things[number]
    if kind == "recolour":
        how = dice.pick([colour for colour in COLOURS if colour != one.colour])
        things[number] = one._replace(colour=how)
    elif kind == "remove":
        del things[number]
    elif kind == "move":
        how = dice.pick(list(RELATIONS))
        down, right = RELATIONS[how]
        things[number] = one._replace(row=one.row - STEP * down, col=one.col - STEP * right)
    elif len(things) == 2:
        first, last = things
        things = [first._replace(row=last.row, col=last.col), last._replace(row=first.row, col=first.col)]
    else:
        return None
    inside = all(
        thing.radius + 0.5 <= place <= SIDE - thing.radius - 0.5 for thing in things for place in (thing.row, thing.col)
    )
    alike = len(things) == 2 and things[0][:2] == things[1][:2]
    if not inside or not apart(things) or alike:
        return None
    relations = [name for name in RELATIONS if len(things) == 2 and stands(things[0], name, things[1])]
    after = before._replace(things=tuple(things), relation=relations[0] if relations else None)
    return SceneEdit(before, after, kind, number, how)


def instruction(edit: SceneEdit, dice: Dice) -> str:
    """One of many ways to ask for it."""
    one = _named(edit.before.things, edit.thing, dice)
    if edit.kind == "recolour":
        colour = word(edit.how, dice)
        return dice.pick((
            f"make {one} {colour}", f"paint {one} {colour}", f"turn {one} {colour}", f"colour {one} {colour}",
            f"change {'its colour' if one == 'it' else f'the colour of {one}'} to {colour}",
        ))  # fmt: skip
    if edit.kind == "remove":
        return dice.pick((f"remove {one}", f"take away {one}", f"delete {one}", f"erase {one}"))
    if edit.kind == "move":
        way = dice.pick(SIDES[edit.how])
        return dice.pick((f"move {one} {way}", f"shift {one} {way}", f"push {one} {way}"))
    other = _named(edit.before.things, 1 - edit.thing, dice)
    return dice.pick(("swap them", f"swap {one} and {other}", f"exchange {one} and {other}", "let them change places"))


def _named(things: tuple[Thing, ...], number: int, dice: Dice) -> str:
    """A thing by what tells it from the other one, or by more."""
    one, others = things[number], [thing for i, thing in enumerate(things) if i != number]
    colour, kind = word(one.colour, dice), word(one.kind, dice)
    names = [f"the {colour} {kind}"]
    if all(other.kind != one.kind for other in others):
        names.append(f"the {kind}")
    if all(other.colour != one.colour for other in others):
        names.append(f"the {colour} one" if others else f"the {colour} thing")
    if not others:
        names.append("it")
    return dice.pick(names)


def edit_seed(name: str, split: str) -> int:
    """The seed of the edits of a split."""
    return 100 + 10 * list(EDIT_WORLDS).index(name) + ("train", "validation", "test").index(split)


@lru_cache(maxsize=4)
def edits_of(name: str, split: str) -> tuple[SceneEdit, ...]:
    """All edits of a split."""
    seed = edit_seed(name, split)
    count = EDIT_WORLDS[name][split]
    return tuple(scene_edit(seed, number, name.endswith("unseen")) for number in range(count))


def make_edits(name: str, split: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8], list[tuple[str, ...]]]:
    """Sources, results (n, 3, h, w) and the wordings of each instruction: a function of the names alone."""
    seed, edits, wordings = edit_seed(name, split), edits_of(name, split), []
    for number, edit in enumerate(edits):
        dice = Dice(seed, number, 2)
        wordings.append(tuple(instruction(edit, dice) for _ in range(WORDINGS)))
    sources, results = (
        np.stack([draw(getattr(edit, which), seed, number) for number, edit in enumerate(edits)])
        for which in ("before", "after")
    )
    return sources, results, wordings
