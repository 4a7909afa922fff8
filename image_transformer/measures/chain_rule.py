"""The chain rule of likelihoods: a low-resolution image and the rest given it, against the image at once."""

from __future__ import annotations

from image_transformer.conditions.low import Low
from image_transformer.data.images import Images
from image_transformer.geometry.boxes import box_mean
from image_transformer.inference.scoring import evaluate
from image_transformer.measures.found import mean_and_error
from image_transformer.model import ImageModel
from image_transformer.show.progress import bar
from image_transformer.show.records import Table


def follow_chain_rule(high_given_low: ImageModel, low: ImageModel, high: ImageModel, images: Images) -> Table:
    """-log p(low) - log p(high | low) against -log p(high), in bits/dim of the high resolution.

    A low-resolution image follows from its image, so both are codes of the image, by other models. `images` uint8
    (n, c, h, w). ValueError if the models are not for such images.
    """
    factor = check_chain(high_given_low, low, high)
    share = low.layout.num_dims / high.layout.num_dims
    with bar("images") as progress:
        given = evaluate(high_given_low, images, progress=progress).per_image
    with bar("images") as progress:
        first = evaluate(low, box_mean(images, factor), progress=progress).per_image * share
    with bar("images") as progress:
        whole = evaluate(high, images, progress=progress).per_image

    parts = {
        "p(low)": first,
        "p(high given low)": given,
        "p(low) p(high given low)": first + given,
        "p(high), unconditional": whole,
        "difference": first + given - whole,
    }
    rows = [[name, *mean_and_error(values)] for name, values in parts.items()]
    caption = f"The chain rule, bits/dim of the high resolution, {len(images):,} images"
    return Table(caption, ["", "bits/dim", "±"], rows)


def check_chain(high_given_low: ImageModel, low: ImageModel, high: ImageModel) -> int:
    """The factor of models that go together in `follow_chain_rule`; ValueError if they do not."""
    enlarged: Low | None = high_given_low.config.condition(Low)
    plain = not low.config.conditions and not high.config.conditions
    if not (
        enlarged
        and plain
        and low.config.shape == enlarged.shape(high_given_low.config.shape)
        and high.config.shape == high_given_low.config.shape
        and len(high_given_low.config.conditions) == 1
    ):
        raise ValueError(
            "the chain rule needs a model for super-resolution, an unconditional one of its low-resolution images and "
            f"an unconditional one of its full-size images, got models of {high_given_low.config.shape}, "
            f"{low.config.shape} and {high.config.shape}"
        )
    return enlarged.factor
