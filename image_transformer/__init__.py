"""Image Transformer: autoregressive image models with exact likelihoods.

>>> import image_transformer as it
>>> model = it.load("runs/tiny")                # a run folder, or one of its checkpoints
>>> log_prob = model.log_prob(images)           # uint8 (b, c, h, w) -> nats of every sub-pixel given all earlier ones
>>> bpd = it.bits_per_dim(model, images)        # one exact float
>>> images = it.generate(model, 16, seed=0)     # uint8 (16, c, h, w)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from image_transformer.boxes import box_mean as box_mean
    from image_transformer.checkpoint import CheckpointError as CheckpointError
    from image_transformer.checkpoint import load as load
    from image_transformer.config import DataConfig as DataConfig
    from image_transformer.config import ModelConfig as ModelConfig
    from image_transformer.config import RunConfig as RunConfig
    from image_transformer.config import TrainConfig as TrainConfig
    from image_transformer.data import DataError as DataError
    from image_transformer.evaluate import bits as bits
    from image_transformer.evaluate import bits_per_dim as bits_per_dim
    from image_transformer.evaluate import classify as classify
    from image_transformer.model import ImageTransformer as ImageTransformer
    from image_transformer.order import BlockRaster as BlockRaster
    from image_transformer.order import Raster as Raster
    from image_transformer.order import Wavefront as Wavefront
    from image_transformer.patterns import Dilated as Dilated
    from image_transformer.patterns import Full as Full
    from image_transformer.patterns import Local1D as Local1D
    from image_transformer.patterns import Local2D as Local2D
    from image_transformer.sample import generate as generate
    from image_transformer.sample import generate_naive as generate_naive
    from image_transformer.superres import enlarge as enlarge

# Where each public name lives. They are imported when first used, so that `--help` need not wait for torch.
_HOMES = {
    "boxes": ("box_mean",),
    "checkpoint": ("CheckpointError", "load"),
    "config": ("DataConfig", "ModelConfig", "RunConfig", "TrainConfig"),
    "data": ("DataError",),
    "evaluate": ("bits", "bits_per_dim", "classify"),
    "model": ("ImageTransformer",),
    "order": ("BlockRaster", "Raster", "Wavefront"),
    "patterns": ("Dilated", "Full", "Local1D", "Local2D"),
    "sample": ("generate", "generate_naive"),
    "superres": ("enlarge",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__version__ = "0.1.0"
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
