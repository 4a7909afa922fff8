"""Completion for people: which part is given, and the picture of given, completions and original."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from image_transformer import pictures
from image_transformer.model import ImageTransformer
from image_transformer.sample import Progress, generate


def known_rows(fraction: float, shape: tuple[int, int, int]) -> NDArray[np.bool_]:
    """True in the upper `fraction` of the rows, bool (h, w). ValueError unless it lies in [0, 1]."""
    if not 0 <= fraction <= 1:
        raise ValueError(f"the fraction of given rows must lie in [0, 1], got {fraction}")
    _, height, width = shape
    return np.repeat(np.arange(height)[:, None] < round(height * fraction), width, axis=1)


def read_mask(path: Path, shape: tuple[int, int, int]) -> NDArray[np.bool_]:
    """True where the image at `path` is white, bool (h, w). ValueError if it is no image or of another size."""
    try:
        with Image.open(path) as image:
            mask = np.asarray(image.convert("L")) >= 128
    except (OSError, SyntaxError) as error:
        raise ValueError(f"cannot read the mask {path}: {error}") from None
    if mask.shape != shape[1:]:
        raise ValueError(
            f"the mask {path} is {mask.shape[0]}x{mask.shape[1]}, the model's images are {shape[1]}x{shape[2]}"
        )
    return mask


def complete(
    model: ImageTransformer,
    originals: NDArray[np.uint8],
    known: NDArray[np.bool_],
    *,
    samples: int = 6,
    seed: int = 0,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    progress: Progress | None = None,
) -> Image.Image:
    """A picture with a row for each of `originals` (n, c, h, w): what is given, `samples` completions, the original.

    known: True where pixels are given, bool (h, w). A drawn pixel is conditioned on the given ones of earlier fronts:
    by `Raster` all of the rows above it, by `Wavefront` those up to two columns further right for every row further up.
    """
    given = torch.from_numpy(np.repeat(originals, samples, axis=0))
    drawn = generate(
        model, len(given), seed=seed, temperature=temperature, top_k=top_k, top_p=top_p, known=given,
        known_mask=torch.from_numpy(known), progress=progress,
    ).numpy()  # fmt: skip
    completions = drawn.reshape(len(originals), samples, *originals.shape[1:])
    shown = pictures.masked(originals, known)
    rows = [
        ("", np.concatenate([shown[i : i + 1], completions[i], originals[i : i + 1]])) for i in range(len(originals))
    ]
    return pictures.labelled_rows(rows, ["given", *["completions"] * samples, "original"])
