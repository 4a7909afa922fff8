"""Recipes of the rivals: the networks of their papers scaled down to what ten minutes of one core can train.

All predict whole pixels by the same mixture, so that networks are compared and not likelihoods; the softmax of the
PixelRNN papers is `--model.likelihood categorical`. Their learning rates are the best of four in the sweep of
`image-transformer reproduce learning-rates` (`megabyte`: `two-level-rates`), and lie inside it.
"""

from __future__ import annotations

from dataclasses import replace

from image_transformer.config.data import DataConfig
from image_transformer.config.model import ModelConfig, Modern
from image_transformer.config.rivals import GatedPixelCNN, Megabyte, PixelCNN, PixelCNNpp, PixelRNN
from image_transformer.config.run import RunConfig
from image_transformer.config.train import TrainConfig
from image_transformer.geometry.order import Raster
from image_transformer.geometry.patterns import Full


def pixelrnn_row() -> RunConfig:
    """PixelRNN with Row LSTMs, 0.3 M parameters, CIFAR-10, 10 minutes of one core."""
    return _rival(PixelRNN(depth=4, width=48, head_width=128), lr=4e-3)


def pixelrnn_diagonal() -> RunConfig:
    """PixelRNN with Diagonal BiLSTMs, 0.4 M parameters, CIFAR-10, 10 minutes of one core."""
    return _rival(PixelRNN(layer="diagonal", depth=4, width=48, head_width=128), lr=8e-3)


def pixelcnn() -> RunConfig:
    """PixelCNN, 0.3 M parameters, CIFAR-10, 10 minutes of one core."""
    return _rival(PixelCNN(depth=8, width=56, head_width=128), lr=8e-3)


def gated_pixelcnn() -> RunConfig:
    """Gated PixelCNN, 0.7 M parameters, CIFAR-10, 10 minutes of one core."""
    return _rival(GatedPixelCNN(depth=8, width=48, head_width=128), lr=4e-3)


def pixelcnn_pp() -> RunConfig:
    """PixelCNN++, 1.0 M parameters, CIFAR-10, 10 minutes of one core."""
    return _rival(PixelCNNpp(depth=2, width=32, dropout=0.0), lr=4e-3)


def megabyte() -> RunConfig:
    """MEGABYTE, patches of 4 pixels, 0.4 M parameters, CIFAR-10, 10 minutes of one core."""
    return _rival(Megabyte(depth=2, width=96, heads=4, local_depth=2, local_width=64), lr=2e-3)


def dense_transformer() -> RunConfig:
    """`modern` in raster order with attention to all earlier pixels and no mixing, 0.4 M parameters, 10 minutes."""
    model = Modern(order=Raster(), attention=(Full(),), mix=0, depth=4, width=96, heads=2, feed_forward=192)
    config = _rival(model, lr=2.5e-4)
    return replace(config, train=replace(config.train, optimizer="muon"))


def _rival(model: ModelConfig, lr: float) -> RunConfig:
    train = TrainConfig(
        images=1_000_000, minutes=10.0, clock="cpu", batch=4, optimizer="adam", lr=lr, decay=1.0, warmup=200,
        closed_form_start=True, validate_every=5_000, validation_images=500, sample_every=1_000_000, save_every=5_000,
    )  # fmt: skip
    return RunConfig(model=model, data=DataConfig(source="cifar10"), train=train)
