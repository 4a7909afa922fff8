"""Recipes: one function per claimed result. Its docstring says where the numbers come from and what it should reach.

`image-transformer train RECIPE` runs one; any field can be overridden (`--model.depth 6`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from image_transformer.config.model import DataConfig, ModelConfig, RunConfig, TrainConfig, did_you_mean
from image_transformer.geometry.order import BlockRaster, Raster
from image_transformer.geometry.patterns import Local1D, Local2D


def tiny() -> RunConfig:
    """Modern, 0.3 M parameters, by wavefront, cifar10-mini, 4 minutes on 2 cores: 3.48 bits/dim on its test images."""
    return RunConfig(
        recipe="tiny",
        model=ModelConfig(attention=(Local1D(query=128, memory=128),), depth=3, width=96, heads=3, feed_forward=192),
        data=DataConfig(source="cifar10-mini"),
        train=TrainConfig(
            images=6_000,
            batch=4,
            warmup=200,
            lr=5e-4,
            decay=0.6,
            closed_form_start=True,
            validate_every=2_000,
            validation_images=200,
            sample_every=3_000,
            save_every=2_000,
        ),
    )


def tiny_2d() -> RunConfig:
    """`tiny` with the paper's 2D local attention, blocks of 8x8; to be compared with `tiny`, not measured yet."""
    return _variant(tiny(), "tiny-2d", order=BlockRaster((8, 8)), attention=(Local2D(query=(8, 8), memory=(8, 8)),))


def tiny_paper() -> RunConfig:
    """The size of `tiny` in the paper's family, DMOL; to be compared with `tiny`, not measured yet."""
    config = _variant(tiny(), "tiny-paper", family="paper", order=Raster(), feed_forward=288, positions="learned")
    train = replace(config.train, optimizer="adam", schedule="vaswani", lr=0.1, warmup=400, closed_form_start=False)
    return replace(config, train=train)


def tiny_categorical() -> RunConfig:
    """The size of `tiny` in the paper's family, 256-way softmax on sub-pixels; not measured yet."""
    config = _variant(tiny_paper(), "tiny-categorical", likelihood="categorical", positions="sinusoidal")
    return replace(config, train=replace(config.train, images=2_000, validate_every=1_000, sample_every=2_000))


def small() -> RunConfig:
    """Modern, 0.7 M parameters, by wavefront, all of CIFAR-10, 20 minutes on 2 cores: 3.33 bits/dim on its test set.

    3.332 on all 10,000 test images after 18,192 views, 40 minutes of one core. At 12,600 views and on 2,000 test images
    3.387, in raster order 3.373.
    """
    config = _variant(tiny(), "small", depth=4, width=128, heads=4, feed_forward=256)
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
    """`small` told the class of each image, 20 minutes on 2 cores.

    After 10,268 views, 25 minutes of one core: 3.415 bits/dim on 1,000 test images, and 31.6 % of 500 are likeliest
    under their own class. Samples do not show their class yet.
    """
    return _variant(small(), "small-class", classes=())


def superres_cifar10() -> RunConfig:
    """Modern, super-resolution of CIFAR-10 from 8x8 to 32x32 by `small` with an encoder, 20 minutes on 2 cores."""
    return _variant(small(), "superres-cifar10", factor=4)


def superres_faces() -> RunConfig:
    """`superres-cifar10` on the faces in the folder `celeba32` (or another --data), 20 minutes on 2 cores.

    After 12,640 views, 40 minutes of one core beside other work: 2.788 bits/dim on 1,000 test images.
    """
    return replace(_variant(superres_cifar10(), "superres-faces"), data=DataConfig(source="celeba32", flips=True))


def cifar10() -> RunConfig:
    """Modern, 21 M parameters, for one GPU. Not trained yet: no figure is claimed."""
    return RunConfig(
        recipe="cifar10",
        model=ModelConfig(
            attention=(Local1D(query=256, memory=256),), depth=12, width=384, feed_forward=1024, dropout=0.1
        ),
        data=DataConfig(source="cifar10"),
        train=TrainConfig(
            images=3_000_000, batch=64, warmup=20_000, lr=3e-3, clip=1.0, ema=0.999, closed_form_start=True,
            validate_every=100_000, sample_every=500_000, save_every=250_000,
        ),
    )  # fmt: skip


def paper_cifar10_categorical() -> RunConfig:
    """Paper, table 4, '1D local, cat' (published: 2.90 bits/dim; not trained here).

    12 layers, width 512, 4 heads, feed-forward 2048, dropout 0.3, blocks of 256 sub-pixels that see the block before
    (paper 5.1 and tensor2tensor's imagetransformer_cifar10_base). Batch 32 is its 4 images on 8 GPUs. The authors
    state no number of steps: 10 million images are 200 epochs.
    """
    return RunConfig(
        recipe="paper-cifar10-categorical",
        model=ModelConfig(
            family="paper", likelihood="categorical", attention=(Local1D(query=256, memory=256),),
            depth=12, width=512, heads=4, feed_forward=2048, dropout=0.3, positions="sinusoidal",
        ),
        data=DataConfig(source="cifar10"),
        train=_vaswani(images=10_000_000, batch=32, lr=0.5, warmup=4000),
    )  # fmt: skip


def paper_cifar10_dmol() -> RunConfig:
    """Paper, table 4, '1D local, DMOL' (published: 2.90 bits/dim; not trained here).

    14 layers, width 256, 8 heads over 512, feed-forward 512, dropout 0.2, 10 logistics, blocks of 256 pixels, learned
    positions (paper 5.1 and tensor2tensor's imagetransformerpp_base_14l_8h_big_uncond_dr03_dan_p, which notes 2.92
    after just under 4 days on 8 P100 with 8 images each and clipping at 40). 10 million images are 200 epochs.
    """
    return RunConfig(
        recipe="paper-cifar10-dmol",
        model=ModelConfig(
            family="paper", likelihood="dmol", attention=(Local1D(query=256, memory=256),), depth=14, width=256,
            heads=8, attention_width=512, feed_forward=512, dropout=0.2, positions="learned",
        ),
        data=DataConfig(source="cifar10"),
        train=_vaswani(images=10_000_000, batch=64, lr=0.1, warmup=4000, clip=40.0),
    )  # fmt: skip


def paper_ablation_8() -> RunConfig:
    """Paper, table 4, 8 layers, blocks of 8 sub-pixels (published: 4.06 bits/dim; not trained here)."""
    return _ablation(8)


def paper_ablation_16() -> RunConfig:
    """Paper, table 4, 8 layers, blocks of 16 sub-pixels (published: 3.47 bits/dim; not trained here)."""
    return _ablation(16)


def paper_ablation_64() -> RunConfig:
    """Paper, table 4, 8 layers, blocks of 64 sub-pixels (published: 3.13 bits/dim; not trained here)."""
    return _ablation(64)


def paper_ablation_256() -> RunConfig:
    """Paper, table 4, 8 layers, blocks of 256 sub-pixels (published: 2.99 bits/dim; not trained here)."""
    return _ablation(256)


def paper_superres_celeba_1d() -> RunConfig:
    """Paper, 5.2, faces from 8x8 to 32x32, '1D local' (published: 2.68 bits/dim; not trained here).

    Width 512, 8 heads, feed-forward 2048, dropout 0.1, blocks of 128 sub-pixels; of its 12 layers 4 are the encoder's
    and 8 the decoder's, and the schedule is theirs (tensor2tensor's img2img_transformer_b3). The folder `celeba32`
    holds the images.
    """
    return RunConfig(
        recipe="paper-superres-celeba-1d",
        model=ModelConfig(
            family="paper", likelihood="categorical", attention=(Local1D(query=128, memory=128),), factor=4,
            depth=8, encoder_depth=4, width=512, heads=8, feed_forward=2048, dropout=0.1, positions="sinusoidal",
        ),
        data=DataConfig(source="celeba32"),
        train=_vaswani(images=10_000_000, batch=16, lr=0.2, warmup=12000),
    )  # fmt: skip


def paper_superres_celeba_2d() -> RunConfig:
    """Paper, 5.2, faces from 8x8 to 32x32, '2D local' (published: 2.61 bits/dim; not trained here).

    As the 1D one, with query blocks of 8 x 32 pixels that see 8 rows above and 16 columns beside them: the paper's
    memory blocks of 16 x 64.
    """
    order, attention = BlockRaster((8, 32)), (Local2D(query=(8, 32), memory=(8, 16)),)
    return _variant(paper_superres_celeba_1d(), "paper-superres-celeba-2d", order=order, attention=attention)


def paper_superres_cifar10_1d() -> RunConfig:
    """Paper, 5.2, CIFAR-10 from 8x8 to 32x32, '1D local' (published: 2.76 bits/dim; not trained here)."""
    return replace(_variant(paper_superres_celeba_1d(), "paper-superres-cifar10-1d"), data=DataConfig(source="cifar10"))


def paper_superres_cifar10_2d() -> RunConfig:
    """Paper, 5.2, CIFAR-10 from 8x8 to 32x32, '2D local' (published: 2.78 bits/dim; not trained here)."""
    return replace(_variant(paper_superres_celeba_2d(), "paper-superres-cifar10-2d"), data=DataConfig(source="cifar10"))


def paper_imagenet32() -> RunConfig:
    """Paper, table 4 (published: 3.77 bits/dim, checkpoints averaged; not trained here).

    12 layers, width 512, 8 heads, feed-forward 2048, dropout 0.1 (paper 5.1). The files of van den Oord et al. are no
    longer offered: put the images into the folder `imagenet32` or name another `--data.source`; figures on the newer
    release of ImageNet 32x32 cannot be compared. The moving average stands for the averaged checkpoints.
    """
    return RunConfig(
        recipe="paper-imagenet32",
        model=ModelConfig(
            family="paper", likelihood="categorical", attention=(Local1D(query=256, memory=256),),
            depth=12, width=512, heads=8, feed_forward=2048, dropout=0.1, positions="sinusoidal",
        ),
        data=DataConfig(source="imagenet32"),
        train=_vaswani(images=50_000_000, batch=32, lr=0.5, warmup=4000, ema=0.999),
    )  # fmt: skip


RECIPES: tuple[Callable[[], RunConfig], ...] = (
    tiny,
    tiny_2d,
    tiny_paper,
    tiny_categorical,
    small,
    small_class,
    superres_cifar10,
    superres_faces,
    cifar10,
    paper_cifar10_categorical,
    paper_cifar10_dmol,
    paper_ablation_8,
    paper_ablation_16,
    paper_ablation_64,
    paper_ablation_256,
    paper_superres_celeba_1d,
    paper_superres_celeba_2d,
    paper_superres_cifar10_1d,
    paper_superres_cifar10_2d,
    paper_imagenet32,
)


def names() -> list[str]:
    return [recipe.__name__.replace("_", "-") for recipe in RECIPES]


def find(name: str) -> RunConfig:
    """The recipe called `name`. ValueError offers the nearest one."""
    for recipe, known in zip(RECIPES, names(), strict=True):
        if name == known:
            return recipe()
    raise ValueError(f"unknown recipe {name!r}; {did_you_mean(name, names())}")


def shrunken(config: RunConfig) -> RunConfig:
    """The recipe with everything small but the same parts, for tests: it builds, trains and samples in seconds."""
    model = config.model
    divide = 32 if model.likelihood == "categorical" else 16
    attention = tuple(
        Local2D((2, 3), (2, 2)) if isinstance(p, Local2D) else Local1D(max(1, p.query // divide), p.memory // divide)
        for p in model.attention
        if isinstance(p, Local1D | Local2D)
    )
    order = BlockRaster((2, 3)) if isinstance(model.order, BlockRaster) else model.order
    shape = (3, 6, 8) if model.factor else (3, 6, 7)
    model = replace(
        model, shape=shape, factor=2 if model.factor else None, encoder_depth=1, order=order, attention=attention,
        depth=2, width=16, heads=2, feed_forward=24, attention_width=None, components=3,
    )  # fmt: skip
    train = replace(
        config.train,
        images=8,
        batch=4,
        minutes=None,
        validate_every=8,
        validation_images=3,
        sample_every=8,
        save_every=8,
    )
    return replace(config, model=model, train=train)


def _variant(config: RunConfig, name: str, **model: object) -> RunConfig:
    return replace(config, recipe=name, model=replace(config.model, **model))  # type: ignore[arg-type]


def _vaswani(**fields: object) -> TrainConfig:
    common = TrainConfig(optimizer="adam", schedule="vaswani", validate_every=250_000, validation_images=1000,
                         sample_every=1_000_000, save_every=500_000)  # fmt: skip
    return replace(common, **fields)  # type: ignore[arg-type]


def _ablation(block: int) -> RunConfig:
    """8 layers of width 512, 8 heads, feed-forward 2048, dropout 0.3, rate 0.1: tensor2tensor's set that notes 2.99.

    The paper does not give the settings of its ablation; imagetransformer_base_8l_8h_big_cond_dr03_dan is the set
    whose figure is in the table. That one is also class-conditional, which the paper says changes bits/dim little.
    """
    config = paper_cifar10_categorical()
    model = replace(config.model, attention=(Local1D(query=block, memory=block),), depth=8, heads=8)
    return replace(config, recipe=f"paper-ablation-{block}", model=model, train=replace(config.train, lr=0.1))
