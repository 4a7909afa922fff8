"""Compression by an ordinary model: its tables are those of floating-point numbers, which another machine, version of
PyTorch or number of threads may round otherwise. Then its files cannot be read, and their checksum says so.

Both ways take the very steps of `generate`, on batches of the same size, so on one machine the tables are equal.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from image_transformer.codec.coder import Images, Progress
from image_transformer.codec.rans import TOTAL, Decoder, Ints, Narrow, encode
from image_transformer.inference.steps import Visit, plan_of, walk
from image_transformer.model import ImageModel, evaluating


def encode_by_model(
    model: ImageModel, images: Images, lanes: int, mark: int, progress: Progress | None = None
) -> bytes:
    """What `coder.encode_images` gives, by an ordinary model of the images' shape."""
    symbols: list[tuple[Narrow, Narrow]] = []
    whole = torch.from_numpy(images).flatten(1)

    def visit(params: Tensor, at: Tensor) -> None:
        places = model.values[at].cpu()  # (f, v)
        values = whole[:, places]
        for i in range(places.shape[1]):
            below = _counts_below(model, params, values[..., :i])
            own = values[..., i].reshape(-1, 1).numpy().astype(np.int64)
            starts, ends = (np.take_along_axis(below, own + j, 1)[:, 0].astype(np.int32) for j in (0, 1))
            symbols.append((starts, ends - starts))

    _walk(model, torch.from_numpy(images).to(model.device), visit, progress)
    return encode(symbols, lanes, mark)


def decode_by_model(
    model: ImageModel,
    data: bytes | memoryview,
    shape: tuple[int, int, int, int],
    lanes: int,
    progress: Progress | None = None,
) -> tuple[Images, Decoder]:
    """What `coder.decode_images` gives."""
    decoder = Decoder(data, lanes)
    image = torch.zeros(shape, dtype=torch.uint8, device=model.device)
    flat = image.view(shape[0], -1)

    def visit(params: Tensor, at: Tensor) -> None:
        places = model.values[at]
        values = torch.zeros(shape[0], *places.shape, dtype=torch.uint8, device="cpu")
        for i in range(places.shape[1]):
            below = _counts_below(model, params, values[..., :i])
            found = np.empty(len(below), np.int64)
            for first in range(0, len(found), lanes):
                rows = below[first : first + lanes]
                own = (rows[:, 1:] <= decoder.counts(len(rows))[:, None]).sum(1)
                starts, ends = (np.take_along_axis(rows, own[:, None] + j, 1)[:, 0] for j in (0, 1))
                decoder.take(starts, ends - starts)
                found[first : first + len(rows)] = own
            values[..., i] = torch.from_numpy(found.astype(np.uint8)).view(values.shape[:2])
        flat[:, places] = values.to(model.device)

    _walk(model, image, visit, progress)
    return image.cpu().numpy(), decoder


def _walk(model: ImageModel, image: Tensor, visit: Visit, progress: Progress | None) -> None:
    plan = plan_of(model, np.zeros(model.layout.num_positions, bool))
    with evaluating(model):
        decoder = plan.decoder(model.network, model.read(model.given(len(image), {})), len(image))
        for done in walk(decoder, image, plan, visit):
            if progress is not None:
                progress(done, len(plan.visited))


def _counts_below(model: ImageModel, params: Tensor, given: Tensor) -> Ints:
    """Of 2^24 counts, those below each value that follows the `given` ones (b, f, i), and all: `(b f, 257)`."""
    mass = model.likelihood.conditional(params, given.to(params.device)).double().exp().flatten(0, 1).cpu()
    below = mass.cumsum(-1) / mass.sum(-1, keepdim=True)
    inner = (below[:, :-1].clamp(0, 1) * (TOTAL - 256)).floor().long()
    inner += torch.arange(1, 256, device="cpu")
    ends = inner.new_full((len(inner), 1), TOTAL)
    return torch.cat([torch.zeros_like(ends), inner, ends], 1).numpy()
