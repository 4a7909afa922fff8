"""What the laws share: the models they must hold for, and helpers that state a law once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from image_transformer.conditions.base import Given
from image_transformer.conditions.label import Label
from image_transformer.conditions.low import Low
from image_transformer.config.data import DataConfig
from image_transformer.config.model import ModelConfig, Modern, Transformer
from image_transformer.config.rivals import FAMILIES as KINDS
from image_transformer.config.run import RunConfig
from image_transformer.config.train import TrainConfig
from image_transformer.geometry.order import BlockRaster, Layout, Order, Raster, Wavefront, layout
from image_transformer.geometry.patterns import Dilated, Full, Local1D, Local2D, Nothing, Pattern, Sight
from image_transformer.model import ImageModel
from image_transformer.words import to_text

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
    (Wavefront(slope=1), (Nothing(), Local1D(query=4, memory=5), Nothing())),
]
FAMILIES = ("paper", "modern")
LIKELIHOODS = ("categorical", "dmol", "chained")
SHAPES = ((3, 5, 4), (1, 3, 7))


def scheme_id(scheme: object) -> str:
    if isinstance(scheme, tuple) and len(scheme) == 2 and isinstance(scheme[1], tuple):
        return "+".join(map(to_text, (scheme[0], *scheme[1])))
    return "x".join(map(str, scheme)) if isinstance(scheme, tuple) else str(scheme)


def _goes_together(scheme: tuple[Order, tuple[Pattern, ...]], family: str) -> bool:
    return family == "modern" or not (isinstance(scheme[0], Wavefront) or Nothing() in scheme[1])


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
) -> ImageModel:
    """A small model in float64 whose every weight is random: nothing is zero that could hide a path."""
    order, patterns = scheme
    told = [Label(tuple(fields.pop("classes") or ()))] if fields.get("classes") else []  # type: ignore[arg-type]
    told += [Low(int(fields.pop("factor")))] if fields.get("factor") else []  # type: ignore[call-overload]
    fields = {"conditions": tuple(told)} | {k: v for k, v in fields.items() if k not in ("classes", "factor")}
    values = {"width": 12, "heads": 3, "feed_forward": 10, "components": 3, "depth": len(patterns)} | fields
    family = KINDS[str(values.pop("family", "modern"))]
    config = family(shape=shape, order=order, attention=patterns, **values)  # type: ignore[arg-type]
    torch.manual_seed(0)
    model = ImageModel(config).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    return model


def random_images(count: int, shape: tuple[int, int, int], seed: int = 1) -> Tensor:
    return torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def assert_no_future(model: ImageModel, image: Tensor, given: Given) -> None:
    """What is drawn at a position or after it can be anything: the prediction there stays what it was."""
    front = model.layout.positions.front[model.layout.position_of]  # of each value
    with torch.inference_mode():
        params = model(image, given)
        for place in range(model.layout.num_dims):
            other = image.clone()
            other.view(-1)[place] ^= 0x80
            changed = (model(other, given) != params).any(-1)[0].numpy()
            assert not changed[model.layout.positions.front <= front[place]].any()


def layouts(scheme: tuple[Order, tuple[Pattern, ...]], shape: tuple[int, int, int]) -> list[Layout]:
    return [layout(scheme[0], shape, sub_pixels) for sub_pixels in (True, False)]


def receptive_field(patterns: tuple[Sight, ...], lay: Layout) -> np.ndarray:
    """(l, l): True where the input of slot k can reach the output of slot q through all layers."""
    p, reach = lay.positions, np.eye(lay.num_positions, dtype=np.bool_)
    for pattern in patterns:
        sees = pattern.sees(p[:, None], p[None]).astype(np.float32)
        reach = (sees @ reach.astype(np.float32) > 0) | reach
    return reach


def promised(model: ImageModel, slot_inputs: np.ndarray) -> np.ndarray:
    """(l, dims): which values may move the prediction of each position, given the values that enter each slot."""
    near = getattr(model.network, "near", None)
    layers = [(pattern, near) if near else (pattern,) for pattern in model.config.patterns]
    reach = receptive_field(tuple(sight for layer in layers for sight in layer), model.layout)
    return (reach.astype(np.float64) @ slot_inputs.astype(np.float64)) > 0


def shrunken(config: RunConfig) -> RunConfig:
    """The recipe with everything small but the same parts: it builds, trains and samples in seconds."""
    small = _small_transformer if isinstance(config.model, Transformer) else _small_rival
    every = {"validate_every": 8, "validation_images": 3, "sample_every": 8, "save_every": 8}
    train = replace(config.train, images=8, batch=4, minutes=None, compile="off", **every)
    return replace(config, model=small(config.model), train=train)


def _small_transformer(model: Transformer) -> Transformer:
    divide = 32 if model.likelihood == "categorical" else 16
    small = {
        Local1D: lambda p: Local1D(max(1, p.query // divide), p.memory // divide),
        Local2D: lambda p: Local2D((2, 3), (2, 2)),
        Nothing: lambda p: p,
        Full: lambda p: p,
    }
    attention = tuple(small[type(p)](p) for p in model.attention)
    order = BlockRaster((2, 3)) if isinstance(model.order, BlockRaster) else model.order
    low = model.condition(Low)
    conditions = tuple(Low(2) if one == low else one for one in model.conditions)
    return replace(
        model, shape=(3, 6, 8) if low else (3, 6, 7), conditions=conditions, encoder_depth=1, order=order,
        attention=attention, depth=2, width=16, heads=2, feed_forward=24, attention_width=None, components=3,
    )  # fmt: skip


def _small_rival(model: ModelConfig) -> ModelConfig:
    sizes = {"head_width": 8, "patch": 2, "heads": 2, "local_width": 4, "local_depth": 1}
    own = {name: size for name, size in sizes.items() if hasattr(model, name)}
    return replace(model, shape=(3, 4, 8), depth=1, width=6, components=3, **own)


def tiny_config(folder: Path) -> RunConfig:
    """A run of a second, on 40 images of 3 x 8 x 8 that it writes into the folder."""
    rng = np.random.default_rng(0)
    images = rng.integers(60, 180, (40, 3, 1, 1)) + np.arange(8)[:, None] * 4 + rng.integers(-9, 9, (40, 3, 8, 8))
    np.save(folder / "images.npy", images.astype(np.uint8))
    model = Modern(shape=(3, 8, 8), depth=1, width=16, heads=2, feed_forward=24, attention=(Local1D(8, 8),))
    train = TrainConfig(images=8, batch=4, validate_every=8, sample_every=8, save_every=8, closed_form_start=True)
    return RunConfig("tiny", model, DataConfig(str(folder / "images.npy")), train)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a GPU"))


@pytest.fixture(scope="session", autouse=True)
def _own_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests neither read nor fill the user's cache of decoded images; small runs fit their start to few pixels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMAGE_TRANSFORMER_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        patch.setattr("image_transformer.training.run.START_PIXELS", 2**14)
        yield


@pytest.fixture(scope="session", autouse=True)
def _threads() -> None:
    torch.set_num_threads(1)  # the models are far too small for more


def sixty_images(folder: Path) -> Path:
    """Sixty images of 3 x 6 x 7 with some structure, as a .npy file."""
    rng = np.random.default_rng(0)
    base = rng.integers(40, 200, (60, 3, 1, 1)) + np.arange(6)[:, None] * 5 + np.arange(7) * 3
    noisy = np.clip(base + rng.integers(-9, 9, (60, 3, 6, 7)), 0, 255).astype(np.uint8)
    np.save(folder / "images.npy", noisy)
    return folder / "images.npy"


@pytest.fixture
def images_file(tmp_path: Path) -> Path:
    return sixty_images(tmp_path)
