"""Image Transformer: autoregressive image models with exact likelihoods.

>>> import image_transformer as it
>>> model = it.load("runs/tiny")                # a run folder, or one of its checkpoints
>>> log_prob = model.log_prob(images)           # uint8 (b, c, h, w) -> nats of every sub-pixel given all earlier ones
>>> bpd = it.bits_per_dim(model, images)        # one exact float
>>> new = it.generate(model, 16, seed=0)        # uint8 (16, c, h, w)
"""

from __future__ import annotations

import re
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from image_transformer.api import *  # noqa: F403

__version__ = "0.1.0"


@lru_cache
def _homes() -> dict[str, str]:
    """The module of each public name, from the text of `api.py`: to import that would import all of them, and torch."""
    found = re.findall(r"^from (\S+) import (\w+)", Path(__file__).with_name("api.py").read_text(), re.MULTILINE)
    return {name: module for module, name in found}


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first used."""
    if name == "__all__":
        return sorted(name for name, home in _homes().items() if ".play." not in home)  # which needs an extra
    if name not in _homes():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = getattr(import_module(_homes()[name]), name)
    return globals()[name]


def __dir__() -> list[str]:
    return [*globals(), *_homes()]
