"""What a prediction looks at: its receptive field, by gradients."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from image_transformer.data.images import ImageData
from image_transformer.model import ImageModel


def field_of(model: ImageModel, data: ImageData, row: int | None = None, col: int | None = None) -> NDArray[np.float64]:
    """How strongly each pixel of the images moves the prediction at one of them, (h, w), with a sum of 1.

    The mean over images and channels of the absolute gradient of a random combination of the parameters. It is 0 where
    the network cannot look. The pixel is three quarters down and in the middle if not given. ValueError where there is
    no gradient in the values.
    """
    if not model.network.differentiable:
        raise ValueError("this network looks values up in a table: it has no gradient in them")
    _, height, width = model.config.shape
    row, col = (3 * height // 4 if row is None else row), (width // 2 if col is None else col)
    at = model.layout.at[row, col, 0]
    images = torch.from_numpy(data.images.copy()).to(model.device, model.dtype).requires_grad_()
    given = {name: value.to(model.device) for name, value in model.of(data).items()}
    own = model(images, given)[:, at]
    weights = torch.randn(own.shape, dtype=own.dtype, generator=torch.Generator().manual_seed(0)).to(own)
    (gradient,) = torch.autograd.grad((own * weights).sum(), images)
    strength = gradient.abs().double().mean((0, 1)).cpu().numpy()
    found: NDArray[np.float64] = strength / max(strength.sum(), 1e-300)
    return found
