"""What the laws share: the models they must hold for, and helpers that state a law once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from image_transformer.config.model import ModelConfig, to_text
from image_transformer.geometry.order import BlockRaster, Layout, Order, Raster, Wavefront, layout
from image_transformer.geometry.patterns import Dilated, Full, Local1D, Local2D, Pattern, receptive_field
from image_transformer.model import ImageTransformer

# Every pattern, with each order that it may meet; sizes that do not divide the images, and no two alike.
SCHEMES: list[tuple[Order, tuple[Pattern, ...]]] = [
    (Raster(), (Full(),)),
    (Raster(), (Local1D(query=4, memory=6),)),
    (Raster(), (Local1D(query=5, memory=0), Local1D(query=3, memory=11))),
    (Raster(), (Dilated(query=4, memory=2, count=2, gap=3), Local1D(query=4, memory=3))),
    (BlockRaster((2, 3)), (Local2D(query=(2, 3), memory=(1, 2)),)),
    (BlockRaster((3, 2)), (Local2D(query=(3, 2), memory=(4, 1)), Full())),
    (BlockRaster((2, 2)), (Local1D(query=5, memory=4), Dilated(query=3, memory=2, count=3, gap=1))),
    (Raster(), (Local2D(query=(2, 4), memory=(2, 3)),)),
    (Wavefront(slope=1), (Local1D(query=5, memory=4),)),
    (Wavefront(slope=2), (Local1D(query=3, memory=5), Local2D(query=(2, 2), memory=(2, 3)))),
    (Wavefront(slope=0), (Full(), Dilated(query=4, memory=2, count=2, gap=3))),
]
FAMILIES = ("paper", "modern")
LIKELIHOODS = ("categorical", "dmol", "chained")
SHAPES = ((3, 5, 4), (1, 3, 7))


def scheme_id(scheme: object) -> str:
    if isinstance(scheme, tuple) and len(scheme) == 2 and isinstance(scheme[1], tuple):
        return "+".join(map(to_text, (scheme[0], *scheme[1])))
    return "x".join(map(str, scheme)) if isinstance(scheme, tuple) else str(scheme)


def _goes_together(scheme: tuple[Order, tuple[Pattern, ...]], family: str) -> bool:
    return not (isinstance(scheme[0], Wavefront) and family == "paper")


every_model = pytest.mark.parametrize(
    ("scheme", "family", "likelihood"),
    [(s, f, l) for s in SCHEMES for f in FAMILIES for l in LIKELIHOODS if _goes_together(s, f)],
    ids=scheme_id,
)
every_scheme = pytest.mark.parametrize("scheme", SCHEMES, ids=scheme_id)
every_family = pytest.mark.parametrize("family", FAMILIES)
every_likelihood = pytest.mark.parametrize("likelihood", LIKELIHOODS)
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=scheme_id)


def make_model(
    scheme: tuple[Order, tuple[Pattern, ...]] = SCHEMES[1], shape: tuple[int, int, int] = (3, 5, 4), **fields: object
) -> ImageTransformer:
    """A small model in float64 whose every weight is random: nothing is zero that could hide a path."""
    order, patterns = scheme
    values = {"width": 12, "heads": 3, "feed_forward": 10, "components": 3, "depth": len(patterns)} | fields
    config = ModelConfig(shape=shape, order=order, attention=patterns, **values)  # type: ignore[arg-type]
    torch.manual_seed(0)
    model = ImageTransformer(config).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    return model


def random_images(count: int, shape: tuple[int, int, int], seed: int = 1) -> Tensor:
    return torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def layouts(scheme: tuple[Order, tuple[Pattern, ...]], shape: tuple[int, int, int]) -> list[Layout]:
    return [layout(scheme[0], shape, sub_pixels) for sub_pixels in (True, False)]


def promised(model: ImageTransformer, slot_inputs: np.ndarray) -> np.ndarray:
    """(l, dims): which values may move the prediction of each position, given the values that enter each slot."""
    reach = receptive_field(model.config.patterns, model.layout)
    return (reach.astype(np.float64) @ slot_inputs.astype(np.float64)) > 0


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests neither read nor fill the user's cache of decoded images."""
    monkeypatch.setenv("IMAGE_TRANSFORMER_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session", autouse=True)
def _threads() -> None:
    torch.set_num_threads(1)  # the models are far too small for more


@pytest.fixture
def images_file(tmp_path: Path) -> Path:
    """Sixty images of 3 x 6 x 7 with some structure, as a .npy file."""
    rng = np.random.default_rng(0)
    base = rng.integers(40, 200, (60, 3, 1, 1)) + np.arange(6)[:, None] * 5 + np.arange(7) * 3
    noisy = np.clip(base + rng.integers(-9, 9, (60, 3, 6, 7)), 0, 255).astype(np.uint8)
    np.save(tmp_path / "images.npy", noisy)
    return tmp_path / "images.npy"
