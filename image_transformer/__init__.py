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
    from image_transformer.checkpoint import CheckpointError as CheckpointError
    from image_transformer.checkpoint import load as load
    from image_transformer.config.model import DataConfig as DataConfig
    from image_transformer.config.model import ModelConfig as ModelConfig
    from image_transformer.config.model import RunConfig as RunConfig
    from image_transformer.config.model import TrainConfig as TrainConfig
    from image_transformer.data.loading import DataError as DataError
    from image_transformer.geometry.boxes import box_mean as box_mean
    from image_transformer.geometry.order import BlockRaster as BlockRaster
    from image_transformer.geometry.order import Raster as Raster
    from image_transformer.geometry.order import Wavefront as Wavefront
    from image_transformer.geometry.patterns import Dilated as Dilated
    from image_transformer.geometry.patterns import Full as Full
    from image_transformer.geometry.patterns import Local1D as Local1D
    from image_transformer.geometry.patterns import Local2D as Local2D
    from image_transformer.inference.enlarging import enlarge as enlarge
    from image_transformer.inference.sampling import generate as generate
    from image_transformer.inference.sampling import generate_naive as generate_naive
    from image_transformer.inference.scoring import bits as bits
    from image_transformer.inference.scoring import bits_per_dim as bits_per_dim
    from image_transformer.inference.scoring import classify as classify
    from image_transformer.model import ImageTransformer as ImageTransformer

# Where each public name lives. They are imported when first used, so that `--help` need not wait for torch.
_HOMES = {
    "geometry.boxes": ("box_mean",),
    "checkpoint": ("CheckpointError", "load"),
    "config.model": ("DataConfig", "ModelConfig", "RunConfig", "TrainConfig"),
    "data.loading": ("DataError",),
    "inference.scoring": ("bits", "bits_per_dim", "classify"),
    "model": ("ImageTransformer",),
    "geometry.order": ("BlockRaster", "Raster", "Wavefront"),
    "geometry.patterns": ("Dilated", "Full", "Local1D", "Local2D"),
    "inference.sampling": ("generate", "generate_naive"),
    "inference.enlarging": ("enlarge",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__version__ = "0.1.0"
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
