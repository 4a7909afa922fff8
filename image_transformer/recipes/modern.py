"""Recipes of the modern family: one function for each claimed result.

A docstring says where the numbers come from and what the recipe should reach.
"""

from __future__ import annotations

from dataclasses import replace

from image_transformer.conditions.frames import Action, Frames
from image_transformer.conditions.label import Label
from image_transformer.conditions.low import Low
from image_transformer.conditions.source import Source
from image_transformer.conditions.text import Text
from image_transformer.config.data import DataConfig
from image_transformer.config.model import Modern
from image_transformer.config.run import RunConfig
from image_transformer.config.train import TrainConfig
from image_transformer.geometry.order import BlockRaster
from image_transformer.geometry.patterns import Local1D, Local2D, Nothing


def tiny() -> RunConfig:
    """Modern, 0.37 M parameters, by wavefront, cifar10-mini: what `make demo` trains, some minutes on 2 cores."""
    return RunConfig(
        model=Modern(attention=(Nothing(), Local1D(128, 128)), depth=5, width=96, heads=2, feed_forward=192),
        data=DataConfig(source="cifar10-mini"),
        train=TrainConfig(
            images=6_000,
            batch=4,
            warmup=200,
            lr=2.5e-4,
            decay=1.0,
            closed_form_start=True,
            validate_every=2_000,
            validation_images=200,
            sample_every=3_000,
            save_every=2_000,
        ),
    )


def tiny_2d() -> RunConfig:
    """`tiny` with the paper's 2D local attention, blocks of 8x8; to be compared with `tiny`, not measured yet."""
    return variant(tiny(), order=BlockRaster((8, 8)), attention=(Nothing(), Local2D(query=(8, 8), memory=(8, 8))))


def small() -> RunConfig:
    """Modern, 0.8 M parameters, by wavefront, all of CIFAR-10, 20 minutes on 2 cores."""
    config = variant(tiny(), depth=6, width=128, heads=2, feed_forward=256)
    train = replace(
        config.train,
        images=200_000,
        minutes=20.0,
        batch=4,
        validate_every=5_000,
        sample_every=10_000,
        save_every=5_000,
    )
    return replace(config, data=DataConfig(source="cifar10"), train=train)


def small_class() -> RunConfig:
    """`small` told the class of each image, 20 minutes on 2 cores."""
    return variant(small(), conditions=(Label(),))


def superres_cifar10() -> RunConfig:
    """Modern, super-resolution of CIFAR-10 from 8x8 to 32x32 by `small` with an encoder, 20 minutes on 2 cores."""
    return variant(small(), conditions=(Low(4),))


def superres_faces() -> RunConfig:
    """`superres-cifar10` on the faces in the folder `celeba32` (or another --data), 20 minutes on 2 cores."""
    return replace(superres_cifar10(), data=DataConfig(source="celeba32", flips=True))


def shapes_text() -> RunConfig:
    """Modern, told a caption, 1.4 M parameters, the made world `shapes`, 60 minutes on 2 cores: see docs/words.md."""
    return RunConfig(
        model=Modern(
            attention=(Nothing(), Local1D(256, 256)), depth=6, width=96, heads=2, feed_forward=192,
            likelihood="chained", min_log_scale=-8.0, conditions=(Text(112),),
        ),
        data=DataConfig(source="shapes"),
        train=TrainConfig(
            images=400_000, minutes=60.0, batch=8, warmup=400, lr=1e-3, clip=1.0, closed_form_start=True,
            validate_every=2_000, validation_images=100, sample_every=None, save_every=2_000,
        ),
    )  # fmt: skip


def shapes_edit() -> RunConfig:
    """`shapes-text` told what to do to a made scene, and the scene, all of it: 1.7 M parameters; see docs/words.md."""
    config = variant(shapes_text(), conditions=(Source("all"), Text(80)))
    return replace(config, data=DataConfig(source="shapes-edits"))


def photo_edit() -> RunConfig:
    """Edits of photographs of any size by instruction, darker, warmer, ..., an hour on 2 cores: see docs/words.md."""
    config = variant(shapes_text(), shape=(3, 16, 16), depth=4, conditions=(Source("near"), Text(80)))
    train = replace(
        config.train, batch=16, validation_images=200, validate_every=10_000, save_every=10_000,
        noise=1.0, noise_levels=255.0,  # otherwise neighbours betray the edit, and the text is not heard
    )  # fmt: skip
    return replace(config, data=DataConfig(source="cifar10", size=(16, 16), edits="local"), train=train)


def bouncing() -> RunConfig:
    """Clips of a digit that flies and bounces, 16x16, each frame given the two before it: see docs/video.md."""
    return RunConfig(
        model=Modern(
            shape=(1, 16, 16), attention=(Nothing(),), depth=4, width=64, heads=2, feed_forward=128,
            likelihood="chained", min_log_scale=-10.0, encoder_depth=1, conditions=(Frames(2),), look=True,
        ),
        data=DataConfig(source="bouncing"),
        train=TrainConfig(
            images=60_000, batch=16, warmup=1_000, lr=1e-3, decay=0.7, clip=1.0, closed_form_start=True,
            validate_every=10_000, validation_images=500, sample_every=None, save_every=10_000,
        ),
    )  # fmt: skip


def world() -> RunConfig:
    """A world model: the next frame, reward and end, given the frame before and the action; see docs/video.md."""
    config = variant(
        bouncing(), shape=(3, 33, 32), attention=(Nothing(), Nothing(), Nothing(), Local1D(128, 128)),
        conditions=(Frames(1), Action()), look=False,
    )  # fmt: skip
    train = replace(
        config.train, images=20_000, batch=8, warmup=500, validate_every=5_000, validation_images=300, save_every=5_000
    )
    return replace(config, data=DataConfig(source="recordings/MiniGrid-Empty-8x8-v0"), train=train)


def cifar10() -> RunConfig:
    """Modern, 1.8 M parameters, all of CIFAR-10 for days of one core: the released model `cifar10`, see docs/models."""
    near, far = Local1D(query=128, memory=128), Local1D(query=256, memory=256)
    return RunConfig(
        model=Modern(
            attention=(Nothing(), near, Nothing(), far), depth=9, width=160, heads=4, feed_forward=320
        ),
        data=DataConfig(source="cifar10"),
        train=TrainConfig(
            images=400_000, batch=8, warmup=1_000, lr=3e-4, closed_form_start=True, compile="on",
            validate_every=20_000, validation_images=500, sample_every=20_000, save_every=2_000,
        ),
    )  # fmt: skip


def cifar10_class() -> RunConfig:
    """`cifar10` told the class of each image: the released model `cifar10-class`."""
    return variant(cifar10(), conditions=(Label(),))


def cifar10_superres() -> RunConfig:
    """`cifar10` for super-resolution from 8x8 to 32x32: the released model `cifar10-superres`."""
    return variant(cifar10(), conditions=(Low(4),), depth=6)


def cifar10_large() -> RunConfig:
    """Modern, 7.3 M parameters, for half an hour of one GPU. Not trained yet: no figure is claimed."""
    return RunConfig(
        model=Modern(
            attention=(Nothing(), Local1D(query=256, memory=256)), depth=10, width=256, heads=4, feed_forward=768,
            dropout=0.1,
        ),
        data=DataConfig(source="cifar10"),
        train=TrainConfig(
            images=3_000_000, batch=64, warmup=20_000, lr=3e-3, clip=1.0, ema=0.999, closed_form_start=True,
            validate_every=100_000, sample_every=500_000, save_every=250_000,
        ),
    )  # fmt: skip


def coding_small() -> RunConfig:
    """Modern without attention, 0.29 M parameters, two hours of one core: for `compress`, see docs/compression.md."""
    return RunConfig(
        model=Modern(
            attention=(Nothing(),), depth=5, width=96, heads=2, feed_forward=192, places="none", gate="relu",
            min_log_scale=-8.0,
        ),
        data=DataConfig(source="cifar10"),
        train=TrainConfig(
            images=1_000_000, minutes=120.0, batch=8, warmup=1_000, lr=3e-4, decay=1.0, closed_form_start=True,
            validate_every=20_000, validation_images=500, save_every=4_000,
        ),
    )  # fmt: skip


def coding_fast() -> RunConfig:
    """`coding-small` with 0.04 M parameters, three times as fast to write, twice as fast to read."""
    return variant(coding_small(), depth=2, width=48, feed_forward=96)


def coding_medium() -> RunConfig:
    """`coding-small` with 0.77 M parameters."""
    return variant(coding_small(), depth=6, width=144, feed_forward=288)


def coding_large() -> RunConfig:
    """`coding-small` with 1.9 M parameters."""
    return variant(coding_small(), depth=7, width=208, feed_forward=416)


def imagenet64() -> RunConfig:
    """Modern, 46 M parameters, 64x64 pixels, for some GPUs and --data of your own. Not trained yet."""
    return _of_size(side=64, depth=16, width=512, batch=128, memory=512)


def imagenet128() -> RunConfig:
    """Modern, 156 M parameters, 128x128 pixels, for many GPUs and --data of your own. Not trained yet."""
    return _of_size(side=128, depth=24, width=768, batch=256, memory=1024)


def _of_size(side: int, depth: int, width: int, batch: int, memory: int) -> RunConfig:
    """Weights cut over processes, blocks run again for their gradients: what large images and models need."""
    near = Local1D(query=memory, memory=memory)
    return RunConfig(
        model=Modern(
            shape=(3, side, side), attention=(Nothing(), near), depth=depth, width=width, heads=width // 64,
            feed_forward=3 * width, dropout=0.1,
        ),
        data=DataConfig(source=f"imagenet{side}", size=(side, side), flips=True),
        train=TrainConfig(
            images=100_000_000, batch=batch, parallel="fsdp", recompute=True, warmup=100_000, lr=1e-3, clip=1.0,
            ema=0.9999, closed_form_start=True, validation_images=2_000, validate_every=500_000,
            sample_every=2_000_000, save_every=250_000,
        ),
    )  # fmt: skip


def variant(config: RunConfig, **model: object) -> RunConfig:
    """The recipe with other fields of its model."""
    return replace(config, model=replace(config.model, **model))  # type: ignore[arg-type]
