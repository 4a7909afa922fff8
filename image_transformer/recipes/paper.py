"""Recipes of the paper's family: the experiments of the paper, and small ones beside `tiny`.

A docstring says where the numbers come from and what the recipe should reach.
"""

from __future__ import annotations

from dataclasses import replace

from image_transformer.conditions.low import Low
from image_transformer.config.data import DataConfig
from image_transformer.config.model import Paper
from image_transformer.config.run import RunConfig
from image_transformer.config.train import TrainConfig
from image_transformer.geometry.order import BlockRaster
from image_transformer.geometry.patterns import Local1D, Local2D
from image_transformer.recipes.modern import tiny, variant


def tiny_paper() -> RunConfig:
    """The size of `tiny` in the paper's family, DMOL; beside `tiny` in docs/results/models.md."""
    config = tiny()
    model = Paper(
        attention=(Local1D(query=128, memory=128),), depth=3, width=96, heads=3, feed_forward=288, positions="learned"
    )
    train = replace(config.train, optimizer="adam", schedule="vaswani", lr=0.1, warmup=400, closed_form_start=False)
    return replace(config, model=model, train=train)


def tiny_categorical() -> RunConfig:
    """The size of `tiny` in the paper's family, 256-way softmax on sub-pixels; not measured yet."""
    config = variant(tiny_paper(), likelihood="categorical", positions="sinusoidal")
    return replace(config, train=replace(config.train, images=2_000, validate_every=1_000, sample_every=2_000))


def paper_cifar10_categorical() -> RunConfig:
    """Paper, table 4, '1D local, cat' (published: 2.90 bits/dim; not trained here).

    12 layers, width 512, 4 heads, feed-forward 2048, dropout 0.3, blocks of 256 sub-pixels that see the block before
    (paper 5.1 and tensor2tensor's imagetransformer_cifar10_base). Batch 32 is its 4 images on 8 GPUs. The authors
    state no number of steps: 10 million images are 200 epochs.
    """
    return RunConfig(
        model=Paper(
            likelihood="categorical", attention=(Local1D(query=256, memory=256),),
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
        model=Paper(
            likelihood="dmol", attention=(Local1D(query=256, memory=256),), depth=14, width=256,
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
        model=Paper(
            likelihood="categorical", attention=(Local1D(query=128, memory=128),), conditions=(Low(4),),
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
    return variant(paper_superres_celeba_1d(), order=order, attention=attention)


def paper_superres_cifar10_1d() -> RunConfig:
    """Paper, 5.2, CIFAR-10 from 8x8 to 32x32, '1D local' (published: 2.76 bits/dim; not trained here)."""
    return replace(paper_superres_celeba_1d(), data=DataConfig(source="cifar10"))


def paper_superres_cifar10_2d() -> RunConfig:
    """Paper, 5.2, CIFAR-10 from 8x8 to 32x32, '2D local' (published: 2.78 bits/dim; not trained here)."""
    return replace(paper_superres_celeba_2d(), data=DataConfig(source="cifar10"))


def paper_imagenet32() -> RunConfig:
    """Paper, table 4 (published: 3.77 bits/dim, checkpoints averaged; not trained here).

    12 layers, width 512, 8 heads, feed-forward 2048, dropout 0.1 (paper 5.1). The files of van den Oord et al. are no
    longer offered: put the images into the folder `imagenet32` or name another `--data.source`; figures on the newer
    release of ImageNet 32x32 cannot be compared. The moving average stands for the averaged checkpoints.
    """
    return RunConfig(
        model=Paper(
            likelihood="categorical", attention=(Local1D(query=256, memory=256),),
            depth=12, width=512, heads=8, feed_forward=2048, dropout=0.1, positions="sinusoidal",
        ),
        data=DataConfig(source="imagenet32"),
        train=_vaswani(images=50_000_000, batch=32, lr=0.5, warmup=4000, ema=0.999),
    )  # fmt: skip


def _vaswani(**fields: object) -> TrainConfig:
    common = TrainConfig(optimizer="adam", schedule="vaswani", validate_every=250_000, validation_images=1000,
                         sample_every=1_000_000, save_every=500_000)  # fmt: skip
    return replace(common, **fields)  # type: ignore[arg-type]


def _ablation(block: int) -> RunConfig:
    """8 layers of width 512, 8 heads, feed-forward 2048, dropout 0.3, rate 0.1: tensor2tensor's set that notes 2.99.

    The paper does not give the settings of its ablation; imagetransformer_base_8l_8h_big_cond_dr03_dan is the set
    whose figure is in the table. That one is also class-conditional, which the paper says changes bits/dim little.
    """
    attention = (Local1D(query=block, memory=block),)
    config = variant(paper_cifar10_categorical(), attention=attention, depth=8, heads=8)
    return replace(config, train=replace(config.train, lr=0.1))
