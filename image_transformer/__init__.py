"""Image Transformer: autoregressive image models with exact likelihoods.

>>> import image_transformer as it
>>> model = it.load("runs/tiny")                # a run folder, or one of its checkpoints
>>> log_prob = model.log_prob(images)           # uint8 (b, c, h, w) -> nats of every sub-pixel given all earlier ones
>>> bpd = it.bits_per_dim(model, images)        # one exact float
>>> new = it.generate(model, 16, seed=0)        # uint8 (16, c, h, w)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from image_transformer.api import *  # noqa: F403

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """A public name, imported when first used, so that `--help` need not wait for torch."""
    if name.startswith("__") and name != "__all__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    api = import_module(f"{__name__}.api")
    public = sorted(one for one in vars(api) if not one.startswith("_"))
    if name == "__all__":
        return public
    if name not in public:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = getattr(api, name)  # asked for once
    return globals()[name]


def __dir__() -> list[str]:
    return [*globals(), *__getattr__("__all__")]
