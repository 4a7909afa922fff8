"""Lossless compression: exact inverses, the same numbers whatever computes them, and no belief in damaged files."""

from __future__ import annotations

import csv
import io
import math
import os
import re
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from decimal import Context, localcontext
from functools import lru_cache
from pathlib import Path

import itc
import numpy as np
import pytest
import torch
from conftest import random_images
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

import image_transformer as it
from image_transformer.cli import decompress
from image_transformer.cli.main import main
from image_transformer.codec import archive as archives
from image_transformer.codec import counts, integers, models
from image_transformer.codec.coder import image_bits
from image_transformer.codec.counts import COUPLING, FINEST, LOGIT, MEAN, SCALE, Mixture
from image_transformer.codec.format import (
    LIMIT,
    MAGIC,
    FormatError,
    Group,
    Header,
    alike,
    file_name,
    read_header,
    write_header,
)
from image_transformer.codec.fronts import Walk, num_fronts
from image_transformer.codec.integers import IntegerNetwork, exactly, root
from image_transformer.codec.models import CodingModelError, released
from image_transformer.codec.rans import BITS, TOTAL, Decoder, encode
from image_transformer.config.model import Modern
from image_transformer.geometry.patterns import Nothing
from image_transformer.likelihoods.dmol import DiscretizedLogisticMixture
from image_transformer.measures.files import webp_bits_per_dim
from image_transformer.model import ImageModel

GOLDEN = Path(__file__).parent / "golden"
FINGERPRINTS = {
    "fast": (2, "d92558a1"),
    "small": (1, "1b1322a6"),
}  # of the models that come with the package: files depend on them for ever
SHAPES = [(1, 1, 1), (3, 1, 1), (3, 1, 9), (3, 9, 1), (1, 2, 3), (3, 5, 17), (2, 6, 4), (4, 7, 5), (3, 40, 3)]


@lru_cache
def trained(width: int = 16, depth: int = 2, seed: int = 0) -> ImageModel:
    """A small model with random weights, large enough for every part to matter."""
    torch.manual_seed(seed)
    config = Modern(
        shape=(3, 8, 9), width=width, depth=depth, feed_forward=24, heads=2, components=3, mix=4, places="none",
        attention=(Nothing(),), gate="relu", min_log_scale=-8.0,
    )  # fmt: skip
    model = ImageModel(config).eval()
    for name, parameter in model.named_parameters():
        nn.init.normal_(parameter, std=0.5 if "mix" in name else 0.3)
    return model


@lru_cache
def network(**how: int) -> IntegerNetwork:
    return IntegerNetwork.of(trained(**how), random_images(4, (3, 8, 9)))


@lru_cache
def small() -> it.CodingModel:
    return it.CodingModel(network(), b"test")


def smooth(count: int, shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    """Images with slopes, noise and flat parts."""
    rng = np.random.default_rng(seed)
    c, h, w = shape
    slopes = rng.integers(-9, 9, (count, c, 1, 1)) * np.arange(h)[:, None] + rng.integers(-9, 9) * np.arange(w) + 128
    noise = rng.integers(0, 20, (count, c, h, w)) * (np.arange(w) > w // 3)
    return (slopes + noise).clip(0, 255).astype(np.uint8)


# ---- the entropy coder ----


@pytest.mark.parametrize("lanes", [1, 2, 7, 64])
def test_what_is_encoded_is_decoded_at_its_cost(lanes):
    rng = np.random.default_rng(lanes)
    turns = []
    for size in [0, 1, 3, lanes, 5 * lanes + 1, *rng.integers(1, 50, 40)]:
        freqs = np.minimum(2 ** rng.integers(0, 25, size), TOTAL - 255)
        turns.append((rng.integers(0, TOTAL - freqs + 1), freqs))
    data = encode(turns, lanes, mark=12345)
    decoder = Decoder(data, lanes)
    for starts, freqs in turns:
        for first in range(0, len(starts), lanes):
            start, freq = starts[first : first + lanes], freqs[first : first + lanes]
            counts = decoder.counts(len(start))
            assert ((start <= counts) & (counts < start + freq)).all()
            decoder.take(start, freq)
    decoder.finish(12345)
    bits = sum(np.sum(BITS - np.log2(freqs)) for _, freqs in turns)
    assert bits < 8 * len(data) < 1.00001 * bits + 64 * lanes
    with pytest.raises(it.DecodeError):
        decoder.finish(12344)


# ---- the tables ----


def mixture_of(count: int, components: int, channels: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    k, c = components, channels
    parts = [
        rng.normal(0, 3 * LOGIT, (count, k)),
        rng.uniform(-40 * MEAN, 300 * MEAN, (count, c * k)),
        rng.uniform(-9 * SCALE, 0, (count, c * k)),
        rng.normal(0, COUPLING, (count, c * (c - 1) // 2 * k)),
    ]
    return np.rint(np.concatenate(parts, 1)).astype(np.int64)


@pytest.mark.parametrize(("components", "channels"), [(1, 1), (4, 3), (10, 3)])
def test_counts_share_out_the_whole_and_leave_each_value_some(components, channels):
    params = mixture_of(40, components, channels)
    mixture = Mixture(params, components, channels)
    every = np.broadcast_to(np.arange(257), (len(params), 257))
    for channel in range(channels):
        below = mixture.counts_below(every)
        assert (below[:, 0] == 0).all() and (below[:, -1] == TOTAL).all()
        assert (np.diff(below) >= 1).all()
        values = np.random.default_rng(channel).integers(0, 256, len(params))
        starts, freqs = mixture.hold(values)
        np.testing.assert_array_equal(below[np.arange(len(values)), values], starts)
        np.testing.assert_array_equal(below[np.arange(len(values)), values + 1], starts + freqs)
        for held in (starts, starts + freqs - 1):  # the first and the last that a value holds
            for rows in (slice(None), slice(3, 9)):  # searched in few large steps, and in many small ones
                found = mixture.find(held[rows], rows)
                for got, wanted in zip(found, (values, starts, freqs), strict=True):
                    np.testing.assert_array_equal(got, wanted[rows])
        if channel < channels - 1:
            mixture.know(values)


def test_counts_are_those_of_the_mixture_of_logistics():
    k, c, params = 5, 3, mixture_of(300, 5, 3)
    params[:, k : k + c * k] = np.random.default_rng(1).integers(0, 255 * MEAN, (300, c * k))
    unit = np.repeat([LOGIT, 127.5 * MEAN, SCALE, COUPLING], [k, c * k, c * k, c * k])
    floats = torch.from_numpy((params - np.repeat([0, 127.5 * MEAN, 0, 0], [k, c * k, c * k, c * k])) / unit)
    likelihood = DiscretizedLogisticMixture(k, c, FINEST, 1.0)
    mixture, values = Mixture(params, k, c), torch.zeros(300, 0, dtype=torch.uint8)
    for channel in range(c):
        mass = likelihood.conditional(floats, values).exp().numpy()
        ours = np.diff(mixture.counts_below(np.broadcast_to(np.arange(257), (300, 257)))) / TOTAL
        lost = (mass * np.log2(mass.clip(1e-30) / ours)).sum(1)  # bits, by a code made for our tables
        assert lost.mean() < 2e-3 and lost.max() < 0.1  # the largest: edges of steps much narrower than a level
        drawn = np.array([np.random.default_rng(i).choice(256, p=p / p.sum()) for i, p in enumerate(mass)])
        values = torch.cat([values, torch.from_numpy(drawn.astype(np.uint8))[:, None]], 1)
        if channel < c - 1:
            mixture.know(drawn)


# ---- the network in integers ----


def all_params(net: IntegerNetwork, images: np.ndarray, size: int) -> torch.Tensor:
    """Parameters of all pixels, front by front, so many fronts at a time."""
    count, _, height, width = images.shape
    with exactly():
        walk = Walk(net, count, height, width)
        walk.values[:-1] = 2.0 * torch.from_numpy(images).flatten(2).permute(2, 0, 1) - 255
        fronts = num_fronts(height, width)
        return torch.cat([walk(walk.slab(i, min(size, fronts - i))).clone() for i in range(0, fronts, size)])


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 12), (12, 1), (7, 11), (11, 4)])
def test_one_pass_gives_the_very_numbers_of_the_steps(height, width):
    images = smooth(3, (3, height, width))
    by_steps = all_params(network(), images, 1)
    for size in (2, 3, num_fronts(height, width)):
        assert torch.equal(all_params(network(), images, size), by_steps)
    assert torch.equal(all_params(network(), images[1:2], 1), by_steps[:, 1:2])  # whatever is beside it


def test_the_states_kept_are_those_of_the_shorter_side():
    walk = Walk(network(), 2, 65_536, 3)
    for front in range(40):
        walk(walk.slab(front, 1))
    assert max(past.shape[1] for past in walk.past) < 12


def test_numbers_do_not_depend_on_the_order_of_sums_nor_on_their_precision(monkeypatch):
    """The same sums backwards, and in float64: a single rounding anywhere would show."""
    images = smooth(2, (3, 9, 14))
    usual = all_params(network(), images, 1)

    def gives(product, squares) -> torch.Tensor:
        with monkeypatch.context() as patch:
            patch.setattr(integers, "product", product)
            patch.setattr(integers, "sum_of_squares", squares)
            return all_params(network(), images, 1)

    def whole(x: torch.Tensor, most: int) -> torch.Tensor:
        assert torch.equal(x, x.round()) and x.abs().max() <= most
        return x

    def backwards(x, matrix):
        return whole(x, 1 << 15).flip(-1) @ matrix.flip(-1).T

    def squares_backwards(x):
        return whole(x, integers.LARGEST_STATE).double().flip(-1).square().sum(-1, keepdim=True)

    def in_float64(x, matrix):
        return (x.double() @ matrix.double().T).to(x.dtype)

    plain, squares = integers.product, integers.sum_of_squares
    assert torch.equal(gives(backwards, squares_backwards), usual)
    assert torch.equal(gives(in_float64, squares), usual)
    # what the law would notice
    assert not torch.equal(gives(lambda x, matrix: plain(x * (1 + 1e-6), matrix), squares), usual)


def test_parameters_are_those_of_the_trained_model_but_for_rounding():
    model = trained()
    images = it.generate(model, 16, seed=1).numpy()
    exact = it.evaluate(model, images).per_image
    ours = image_bits(network(), images) / images[0].size
    assert abs(ours - exact).max() < 0.1 and abs(ours.mean() - exact.mean()) < 0.02


def test_roots_are_rounded_as_ieee_754_says():
    totals = np.random.default_rng(0).integers(1, 1 << 40, 100_000).astype(np.float64)
    wanted = np.array([math.sqrt(total) for total in totals])
    np.testing.assert_array_equal(root(torch.from_numpy(totals)).numpy(), wanted)


def test_tables_do_not_depend_on_the_callers_decimals():
    usual = counts._tables()
    for precision in (6, 16):
        with localcontext(Context(prec=precision, traps=[])):
            other = counts._tables.__wrapped__()
        for name, table in vars(usual).items():
            np.testing.assert_array_equal(table, getattr(other, name))


def test_a_network_whose_sums_might_not_be_exact_is_refused():
    parts = dict(network().parts)
    for name, wrong in [
        ("0.gate", parts["0.gate"] * 100), ("1.down", parts["1.down"] + 0.5), ("stem", parts["stem"] * 10),
        ("0.mix", parts["0.mix"] * 1000), ("1.keep", torch.tensor(0.3)), ("0.up", parts["0.up"] * torch.nan),
        ("0.mix", parts["0.mix"] + torch.tensor([0.25, 0.75, 0, 0])[:, None]), ("head.scale", parts["head.scale"] / 0),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=r"exactly|power of two|finite"):
            IntegerNetwork(parts | {name: wrong}, 3, 3)


@pytest.mark.parametrize("field", [{"gate": "silu"}, {"places": "learned"}, {"min_log_scale": -7.0}, {"mix": 0}])
def test_only_networks_that_compute_in_integers_become_coding_models(field):
    model = ImageModel(replace(trained().config, **field))
    with pytest.raises(ValueError, match="computes in integers"):
        it.CodingModel.of(model, random_images(1, (3, 8, 9)))


@pytest.fixture
def precisions() -> Iterator[None]:
    """Leaves behind what the ways to choose the precision of products were."""
    yield
    torch.backends.fp32_precision = "none"
    torch.set_float32_matmul_precision("highest")
    for backend in (torch.backends.mkldnn, torch.backends.cuda):
        backend.matmul.fp32_precision = "none"


@pytest.mark.parametrize("new", [False, True])
def test_settings_of_the_library_are_as_before(new, precisions):
    if new:  # after which the old way to ask raises a RuntimeError
        torch.backends.fp32_precision = "tf32"
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    else:
        torch.set_float32_matmul_precision("medium")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(
            all_params(network(), smooth(1, (3, 5, 6)), 2), all_params(network(), smooth(1, (3, 5, 6)), 1)
        )
        assert torch.is_autocast_enabled("cpu")
    with exactly():
        assert torch.backends.mkldnn.matmul.fp32_precision == torch.backends.cuda.matmul.fp32_precision == "ieee"
    assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
    assert torch.backends.fp32_precision == "tf32" if new else torch.get_float32_matmul_precision() == "medium"


@pytest.mark.parametrize(("dtype", "device"), [(torch.float64, "cpu"), (torch.bfloat16, "meta")])
def test_new_tensors_are_what_they_must_be_whatever_is_usual(dtype, device, tmp_path):
    images = [smooth(1, (3, 6, 7))[0], smooth(1, (2, 3, 3))[0]]
    wanted = it.compress(images, small())
    small().save(tmp_path / "small.safetensors")
    try:
        torch.set_default_dtype(dtype)
        torch.set_default_device(device)
        model = it.load_coding_model(tmp_path / "small.safetensors")
        data = it.compress(images, model)
        back = it.decompress(data, model)
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    assert data[read_header(data).size :] == wanted[read_header(wanted).size :]
    for image, one in zip(images, back, strict=True):
        np.testing.assert_array_equal(image, one.numpy())


# ---- images to bytes and back ----


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("count", [1, 3])
def test_what_is_compressed_comes_back(shape, count):
    for images in (smooth(count, shape), random_images(count, shape).numpy(), np.zeros((count, *shape), np.uint8)):
        data = it.compress(images, small())
        back = it.decompress(data, small())
        assert [tuple(image.shape) for image in back] == [shape] * count
        np.testing.assert_array_equal(torch.stack(back).numpy(), images)


def test_images_of_any_sizes_share_a_file_and_come_singly():
    images = [smooth(1, shape, seed)[0] for seed, shape in enumerate([*SHAPES, *SHAPES[::-1], SHAPES[-1], SHAPES[-1]])]
    names = [f"image {i}" for i in range(len(images))]
    data = it.compress(images, small(), names=names)
    header = read_header(data)
    assert header.names == tuple(names) and header.images == len(images)
    assert [group.count for group in header.groups] == [1] * 8 + [2] + [1] * 8 + [2]
    for image, back in zip(images, it.decompress(data, small()), strict=True):
        np.testing.assert_array_equal(image, back.numpy())
    some = it.decompress(data, small(), only=[5, 18, 5])
    for number, back in zip([5, 18, 5], some, strict=True):
        np.testing.assert_array_equal(images[number], back.numpy())


@pytest.mark.parametrize("count", [255, 257])
def test_groups_have_a_largest_size(count):
    images = random_images(count, (1, 1, 2))
    data = it.compress(images, small())
    assert [group.count for group in read_header(data).groups] == ([255] if count < 256 else [256, 1])
    assert torch.equal(torch.stack(it.decompress(data, small())), images)


def test_bytes_are_what_the_tables_say_and_the_header():
    images = smooth(40, (3, 16, 16))
    data, bits = it.compress(images, small()), image_bits(small().network, images)
    (group,) = read_header(data).groups
    assert bits.sum() < 8 * group.colour_bytes < 1.0001 * bits.sum() + 64 * group.lanes
    assert len(data) - group.colour_bytes < 40


def test_grey_costs_a_third():
    grey = smooth(1, (1, 20, 20))
    alone, coloured = (len(it.compress(x, small())) for x in (grey, np.repeat(grey, 3, 1)))
    assert alone < 0.5 * coloured


def test_a_file_needs_its_model(tmp_path):
    images = smooth(1, (3, 8, 9))
    other = it.CodingModel.of(trained(seed=1), random_images(1, (3, 8, 9)))
    data = it.compress(images, other)
    with pytest.raises(ValueError, match="a coding model of its own"):
        it.decompress(data)
    with pytest.raises(ValueError, match="by another model"):
        it.decompress(data, "small")
    other.save(tmp_path / "other.safetensors")
    again = it.load_coding_model(tmp_path / "other.safetensors")
    assert again.fingerprint == other.fingerprint != small().fingerprint
    assert torch.equal(it.decompress(data, tmp_path / "other.safetensors")[0], torch.from_numpy(images[0]))


def test_a_coding_model_that_does_not_give_the_known_answer_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    it.CodingModel.of(trained(), random_images(1, (3, 8, 9))).save(path)
    it.load_coding_model(path)
    with monkeypatch.context() as patch:  # a machine that multiplies in bfloat16
        patch.setattr(integers, "product", lambda x, matrix: (x.bfloat16() @ matrix.bfloat16().T).to(x.dtype))
        os.utime(path, (1, 1))
        with pytest.raises(CodingModelError, match="does not compute what"):
            it.load_coding_model(path)
    for file in (path, models.HOME / "1-small.safetensors"):  # each has an answer for a taller image, too
        with monkeypatch.context() as patch:
            patch.setattr(models, "TALL", (30, 11))
            with pytest.raises(CodingModelError, match="does not compute what"):
                models._load.__wrapped__(file, 0)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 64
    path.write_bytes(data)
    with pytest.raises(CodingModelError):
        it.load_coding_model(path)
    for wrong in (tmp_path, tmp_path / "none.safetensors", "smal"):
        with pytest.raises(CodingModelError, match="no coding model"):
            it.load_coding_model(wrong)


def test_an_ordinary_model_codes_for_this_machine():
    for family in (
        trained(),
        ImageModel(it.Modern(shape=(3, 8, 9), width=16, heads=2, depth=1, likelihood="categorical")),
    ):
        images = it.generate(family, 3, seed=1).numpy()
        data = it.compress(images, family)
        assert read_header(data).floats
        assert torch.equal(torch.stack(it.decompress(data, family)), torch.from_numpy(images))
        bits = it.bits_per_dim(family, images) * images.size
        assert bits < 8 * read_header(data).groups[0].colour_bytes < 1.01 * bits + 64
        with pytest.raises(ValueError, match="an ordinary model"):
            it.decompress(data)
    torch.manual_seed(3)
    other = ImageModel(family.config)
    with pytest.raises(ValueError, match="by another model"):
        it.decompress(data, other)
    with pytest.raises(ValueError, match="its own shape"):
        it.compress(smooth(1, (3, 8, 8)), family)
    told = ImageModel(replace(family.config, conditions=(it.Label(("cat", "dog")),)))
    with pytest.raises(ValueError, match="this model is told the class, which a file does not hold"):
        it.compress(smooth(1, family.config.shape), told)


def test_a_reader_that_rounds_otherwise_notices(monkeypatch):
    images, model = smooth(1, (3, 8, 9)), trained()
    data = it.compress(images, model)
    plain = DiscretizedLogisticMixture.conditional
    monkeypatch.setattr(
        DiscretizedLogisticMixture, "conditional", lambda self, p, v, t=1.0: plain(self, p * (1 + 1e-4), v, t)
    )
    with pytest.raises(it.DecodeError):
        it.decompress(data, model)


@pytest.mark.parametrize(
    "wrong", [np.zeros((1, 5, 4, 4), np.uint8), np.zeros((1, 3, 4, 4)), np.zeros((1, 3, 0, 4), np.uint8), [], None]
)
def test_what_cannot_be_compressed_is_refused(wrong):
    with pytest.raises((ValueError, TypeError)):
        it.compress(wrong, small())


# ---- files ----


def test_released_models_are_what_they_were():
    assert it.coding_model_names() == list(FINGERPRINTS)
    for name, (number, fingerprint) in FINGERPRINTS.items():
        model = it.load_coding_model(name)
        assert (model.name, model.number, model.fingerprint.hex()) == (name, number, fingerprint)
        assert released(model.fingerprint) is released(model.fingerprint, 77) is model


def golden_images() -> list[np.ndarray]:
    return [smooth(1, shape, i)[0] for i, shape in enumerate([(3, 24, 17), (1, 9, 9), (4, 6, 5), (2, 1, 3), (3, 1, 1)])]


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.itc")), ids=lambda path: path.stem)
def test_old_files_stay_readable(path):
    data = path.read_bytes()
    for wanted, image in zip(golden_images(), it.decompress(data), strict=True):
        np.testing.assert_array_equal(image.numpy(), wanted)
    header = read_header(data)
    again = it.compress(golden_images(), released(header.fingerprint, header.model), names=header.names)
    assert again == data  # an encoder may change what it writes; if it does, keep this file and add another


def model_file(name: str) -> Path:
    return models.HOME / f"{FINGERPRINTS[name][0]}-{name}.safetensors"


@pytest.mark.parametrize("name", FINGERPRINTS)
def test_a_decoder_written_from_the_page_reads_the_same(name):
    """Noise, black and white, all kinds of channels, pixels without neighbours, sequences over several lanes."""
    rng, model = np.random.default_rng(0), it.load_coding_model(name)
    noise = [rng.integers(0, 256, shape, np.uint8) for shape in [(3, 6, 4), (1, 5, 3), (2, 1, 7), (4, 7, 1), (1, 1, 1)]]
    sharp = [255 * rng.integers(0, 2, shape, np.uint8) for shape in [(3, 6, 7), (1, 4, 4)]]
    images = [*noise, *sharp, *smooth(2, (3, 9, 8)), *rng.integers(0, 256, (130, 1, 7, 7), np.uint8)]
    data = it.compress(images, model, names=[f"no. {i}" for i in range(len(images))])
    assert max(group.lanes for group in read_header(data).groups) > 1
    found, names = itc.decode(data, model_file(name))
    assert names == [f"no. {i}" for i in range(len(images))] and len(found) == len(images)
    assert all(map(np.array_equal, found, images))


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.itc")), ids=lambda path: path.stem)
def test_a_decoder_written_from_the_page_reads_old_files(path):
    found, _ = itc.decode(path.read_bytes(), model_file(path.stem.split("-", 1)[1]))
    assert all(map(np.array_equal, found, golden_images()))


def flip(places: int, side: int) -> None:
    """Every flip is noticed, but for those of bits that the zlib stream of opacities does not use: pixels are right."""
    images = [*smooth(2, (3, side, side)), smooth(1, (4, 3, 4))[0]]
    data = it.compress(images, small(), names=["a", "b", "c"])
    rng, opacities = np.random.default_rng(0), read_header(data).groups[-1].alpha_bytes
    for place in rng.integers(0, len(data), places):
        wrong = bytearray(data)
        wrong[place] ^= 1 << rng.integers(0, 8)
        try:
            said, back = "", it.decompress(bytes(wrong), small())
        except ValueError as error:
            said, back = str(error), []
        right = len(back) == 3 and all(map(np.array_equal, images, back))
        noticed = re.search("damaged|cut off|not a file|version|cannot be|by another model", said)
        assert noticed or (right and place >= len(data) - opacities)


def test_flips_are_noticed():
    flip(40, side=4)


@pytest.mark.slow
def test_a_thousand_flips_are_noticed():
    flip(1000, side=9)


def test_every_cut_and_every_addition_is_noticed():
    data = it.compress(smooth(1, (3, 4, 4)), small())
    for length in range(len(data)):
        with pytest.raises(it.DecodeError):
            it.decompress(data[:length], small())
    with pytest.raises(it.DecodeError, match="after the end"):
        it.decompress(data + b"\0", small())


def test_nothing_hides_behind_the_names(monkeypatch):
    monkeypatch.setattr(zlib, "compress", lambda data, *level, whole=zlib.compress: whole(data, *level) + b"hidden")
    data = it.compress(smooth(1, (3, 4, 4)), small(), names=["a"])
    with pytest.raises(FormatError, match="cannot be"):
        it.decompress(data, small())


def test_files_of_other_kinds_are_refused_in_one_line(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    later = bytearray(it.compress(smooth(1, (3, 4, 4)), small()))
    later[4] = 2
    for data, what in [(b"", "not a file"), ((tmp_path / "a.png").read_bytes(), "not a file"), (later, "version 2")]:
        with pytest.raises(FormatError, match=what) as error:
            it.decompress(bytes(data), small())
        assert "\n" not in str(error.value)


def hostile(**fields: int) -> bytes:
    group = {"count": 1, "channels": 3, "height": 4, "width": 4, "lanes": 1, "colour_bytes": 8, "alpha_bytes": 0}
    return write_header(Header(0, b"test", (Group(**group | fields),))) + bytes(8)


@pytest.mark.parametrize(
    "fields",
    [
        {"count": 0}, {"channels": 0}, {"channels": 5}, {"height": 0}, {"width": 0}, {"width": 1 << 40}, {"lanes": 0},
        {"height": 1 << 17}, {"count": 1 << 20, "height": 1 << 10}, {"lanes": 257}, {"alpha_bytes": 3}, {"channels": 4},
        {"count": 1 << 62}, {"colour_bytes": 7}, {"height": 1 << 16, "width": 1 << 16}, {"count": 257},
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_anything_is_made(fields):
    with pytest.raises(FormatError, match=r"cannot be|limit"):
        it.decompress(hostile(**fields), small())


def test_a_limit_holds_for_what_is_wanted():
    images = random_images(6, (3, 40, 40))
    data = it.compress([*images, random_images(1, (3, 5, 5))[0]], small())
    with pytest.raises(FormatError, match=r"9,625 pixels and takes as long as 10,624; the limit is 10,000"):
        it.decompress(data, small(), limit=10_000)
    assert torch.equal(it.decompress(data, small(), only=[2], limit=10_000)[0], images[2])
    with pytest.raises(FormatError, match=r"9,600 pixels; the limit is 9,599"):
        it.decompress(data, small(), only=[2], limit=9_599)
    assert LIMIT > 4000 * 3000 * 16


def test_a_few_bytes_cost_little_however_many_images_they_promise(tmp_path, capsys, monkeypatch):
    """The limit is looked at before there is anything for each image; narrow images cost as their steps do."""
    group = Group(256, 1, 1, 1, 1, 8, 0)
    header = write_header(Header(1, bytes(4), (group,) * 40_000))
    (tmp_path / "many.itc").write_bytes(header + bytes(8 * 40_000))
    monkeypatch.setattr(decompress, "_paths", None)
    assert main(["decompress", str(tmp_path / "many.itc")]) == 1
    assert "10,240,000 pixels and takes as long as 663,040,000; the limit is 268,435,456" in capsys.readouterr().err
    monkeypatch.setattr(archives, "bisect", None)
    with pytest.raises(FormatError, match="the limit is"):
        it.decompress((tmp_path / "many.itc").read_bytes())
    tall = replace(group, count=1, height=1 << 16)
    assert tall.work >= 64 * num_fronts(tall.height, tall.width) > 64 * tall.pixels


def test_names_that_no_reader_takes_are_not_written(monkeypatch):
    monkeypatch.setattr(archives, "MOST_NAMES", 6)
    assert it.compress(random_images(2, (3, 2, 2)), small(), names=["one", "tw"])
    with pytest.raises(ValueError, match=r"the names take 7 bytes, and at most 6 fit into a file"):
        it.compress(random_images(2, (3, 2, 2)), small(), names=["one", "two"])


@pytest.mark.parametrize("shape", [(2, 2, 4, 4), (0, 3, 4, 4), (3, 4, 4), None])
def test_only_bytes_of_images_have_bits(shape):
    images = np.zeros((1, 3, 4, 4)) if shape is None else np.zeros(shape, np.uint8)
    with pytest.raises(ValueError, match=r"images must be uint8 \(n, c, h, w\) with 1 or 3 channels"):
        small().bits(images)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=80), st.booleans(), st.booleans())
def test_no_header_crashes_the_parser(rest, magic, summed):
    data = (MAGIC + b"\x01\x00" if magic else b"") + rest
    if summed:
        data += zlib.crc32(data).to_bytes(4, "little")
    with suppress(FormatError):
        header = read_header(data)
        assert write_header(header) == data[: header.size]


names = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@settings(max_examples=200, deadline=None)
@given(st.lists(names, min_size=1, max_size=4), st.integers(0, 65535), st.binary(min_size=4, max_size=4), st.booleans())
def test_headers_are_read_as_written(words, model, fingerprint, floats):
    group = Group(len(words), 3, 5, 300, 1, 128, 0)
    header = Header(model, fingerprint, (group,), tuple(words), floats)
    for word in words:
        assert file_name(word) == file_name(file_name(word)) and len(file_name(word, "_23").encode()) <= 200
    if any(not word or word[0] == "." or not word.isprintable() or set(word) & set('/\\:*?"<>|') for word in words):
        with pytest.raises(FormatError):
            read_header(write_header(header))
        return
    data = write_header(header)
    wanted = replace(header, size=len(data), groups=(replace(group, start=len(data)),))
    assert read_header(data + b"more") == wanted


NAMES = {
    "": "_", ".": "_", "..": "_", ".hidden": "_.hidden", "a/b": "a_b", "a\\b": "a_b", "C:x": "C_x", "a\nb": "a_b",
    "a\0": "a_", "a*": "a_", "x" * 201: "x" * 200, "ä" * 101: "ä" * 100, "CON": "_CON", "nul.tar": "_nul.tar",
    "Com1 .x": "_Com1 .x", "LPT²": "_LPT²", "a.": "a", "a . ": "a", " ": "_", "\udcff": "_",
}  # fmt: skip


@pytest.mark.parametrize(("name", "better"), NAMES.items())
def test_names_do_on_every_system(name, better):
    assert file_name(name) == better == file_name(better)
    with pytest.raises(ValueError, match="cannot name an image"):
        it.compress(smooth(1, (1, 2, 2)), small(), names=[name])


# ---- the same everywhere ----

LEVELS = {  # of vector instructions, by the best that a processor has: to force one that it lacks is a crash
    "AVX512": ["default", "avx2", "avx512"],
    "AVX2": ["default", "avx2"],
}.get(torch.backends.cpu.get_cpu_capability(), ["default"])
CONDITIONS = [
    {"OMP_NUM_THREADS": "1"}, {"OMP_NUM_THREADS": "2"}, {"OMP_NUM_THREADS": "4"},
    *({"ATEN_CPU_CAPABILITY": level} for level in LEVELS),
    {"ONEDNN_MAX_CPU_ISA": "SSE41"}, {"ONEDNN_MAX_CPU_ISA": "AVX2"}, {"MKL_CBWR": "COMPATIBLE"}, {"MKL_CBWR": "AVX2"},
    {"MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}, {"NO_MKLDNN": "1"}, {"NO_NUMPY_SIMD": "1"}, {"BFLOAT16": "1"},
]  # fmt: skip
PROGRAM = """
import os, sys, numpy as np, torch, image_transformer as it
if os.environ.get("NO_MKLDNN"): torch.backends.mkldnn.enabled = False
if os.environ.get("BFLOAT16"): torch.set_float32_matmul_precision("medium")
images = it.load_data("cifar10-mini", "test").images
some = [*images[:5], images[5, :, :9, :30], images[6, :1], *images[7:9]]
if sys.argv[1] == "write":
    open(sys.argv[2], "wb").write(it.compress(some))
else:
    for path in sys.argv[2:]:
        for image, back in zip(some, it.decompress(open(path, "rb").read()), strict=True):
            assert np.array_equal(image, back.numpy()), path
"""


def in_condition(condition: dict[str, str], *args: str) -> None:
    env = os.environ | condition
    if env.pop("NO_NUMPY_SIMD", None):
        env["NPY_DISABLE_CPU_FEATURES"] = "AVX2 FMA3"
    done = subprocess.run([sys.executable, "-c", PROGRAM, *args], env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{condition}: {done.stderr[-500:]}"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_file_of_each_condition_is_read_under_all_others(tmp_path):
    paths = [str(tmp_path / f"{i}.itc") for i in range(len(CONDITIONS))]
    for condition, path in zip(CONDITIONS, paths, strict=True):
        in_condition(condition, "write", path)
    assert len({Path(path).read_bytes() for path in paths}) == 1
    for condition in CONDITIONS:
        in_condition(condition, "read", paths[0])  # the others are the same


def test_golden_files_are_read_where_sums_are_made_otherwise():
    program = """
import sys, image_transformer as it
from image_transformer.codec.format import read_header
from image_transformer.codec.models import released
for path in sys.argv[1:]:
    data = open(path, "rb").read()
    header = read_header(data)
    assert it.compress(it.decompress(data), released(header.fingerprint), names=header.names) == data"""
    env = os.environ | {"OMP_NUM_THREADS": "1", "ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE"}
    env |= {"ONEDNN_MAX_CPU_ISA": "SSE41", "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3"}
    paths = map(str, GOLDEN.glob("*.itc"))
    subprocess.run([sys.executable, "-W", "ignore", "-c", program, *paths], env=env, check=True)


def round_trip(seed: int, side: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(1, 5)), *(int(side ** rng.uniform(0, 1)) for _ in range(2)))
    kind = (smooth, lambda n, s, k: random_images(n, s, k).numpy(), lambda n, s, k: np.full((n, *s), k % 256, np.uint8))
    images = kind[seed % 3](int(rng.integers(1, 4)), shape, seed)
    np.testing.assert_array_equal(torch.stack(it.decompress(it.compress(images, small()), small())), images)


def test_random_images_of_random_sizes_come_back():
    for seed in range(150):  # two on average
        round_trip(seed, side=6)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_thousand_images_come_back():
    for seed in range(5000):
        round_trip(seed, side=40)


# ---- the command line ----


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    paths = []
    for name, mode, size in [
        ("a.png", "RGB", (9, 7)),
        ("b.png", "L", (4, 6)),
        ("c.png", "RGBA", (5, 3)),
        ("d.bmp", "RGB", (9, 7)),
    ]:
        image = Image.fromarray(smooth(1, (3, size[1], size[0]))[0].transpose(1, 2, 0)).convert(mode)
        image.save(tmp_path / name)
        paths.append(tmp_path / name)
    return paths


def same(path: Path, other: Path) -> bool:
    one, two = Image.open(path), Image.open(other)
    return one.mode == two.mode and np.array_equal(np.asarray(one), np.asarray(two))


def test_files_and_back(pictures, tmp_path, capsys):
    assert main(["compress", *map(str, pictures)]) == 0
    assert "% of PNG" in capsys.readouterr().out
    assert main(["decompress", *(str(p.with_suffix(".itc")) for p in pictures), "--to", str(tmp_path / "out")]) == 0
    for path in pictures:
        assert same(path, tmp_path / "out" / f"{path.stem}.png")
    before = pictures[0].with_suffix(".itc").read_bytes()
    for verb, file in [("compress", pictures[0]), ("decompress", pictures[0].with_suffix(".itc"))]:
        assert main([verb, str(file)]) == 2
        assert "--force replaces it" in capsys.readouterr().err
    assert main(["compress", str(pictures[0]), "--force"]) == 0
    assert pictures[0].with_suffix(".itc").read_bytes() == before


def test_an_archive_gives_its_images_by_name_and_number(pictures, tmp_path, capsys):
    (tmp_path / "two").mkdir()
    Image.new("RGB", (9, 7), "red").save(tmp_path / "two" / "a.png")
    files, archive = [*pictures, tmp_path / "two" / "a.png"], tmp_path / "all.itc"
    assert main(["compress", *map(str, files), "--archive", str(archive)]) == 0
    assert main(["info", str(archive), "--names"]) == 0
    told = capsys.readouterr().out
    assert "5" in told and "small (number 1)" in told and "3 of 7 x 9, RGB" in told and "a_2" in told
    assert main(["decompress", str(archive), "--only", "c", "5", "--to", str(tmp_path / "one")]) == 0
    assert [p.name for p in (tmp_path / "one").iterdir()] == ["c.png"] and same(pictures[2], tmp_path / "one" / "c.png")
    assert main(["decompress", str(archive), "--to", str(tmp_path / "all")]) == 0
    assert len(list((tmp_path / "all").iterdir())) == 5 and same(files[-1], tmp_path / "all" / "a_2.png")
    assert main(["decompress", str(archive), "--only", "e"]) == 2


def test_no_system_takes_two_images_of_an_archive_for_one_file(pictures, tmp_path, capsys):
    stems = ["CON", "Tree", "tree", "e\u0301t\u00e9", "\u00e9te\u0301", "x" * 210, "x" * 209 + "y", "end. "]
    files = [pictures[0].with_name(f"{stem}.png") for stem in stems]
    for file in files:
        file.write_bytes(pictures[0].read_bytes())
    assert main(["compress", *map(str, files), "--archive", str(tmp_path / "all.itc")]) == 0
    names = read_header((tmp_path / "all.itc").read_bytes()).names
    assert names[:3] == ("_CON", "Tree", "tree_2") and names[-1] == "end" and len({alike(n) for n in names}) == 8
    assert main(["decompress", str(tmp_path / "all.itc"), "--to", str(tmp_path / "out")]) == 0
    assert len(list((tmp_path / "out").iterdir())) == 8
    data = it.compress(smooth(3, (1, 2, 2)))
    with pytest.raises(ValueError, match="names of their own"):
        it.compress(smooth(2, (1, 2, 2)), names=["tree", "Tree"])
    header = replace(read_header(data), names=("tree", "Tree", "nul"))
    (tmp_path / "old.itc").write_bytes(write_header(header) + data[read_header(data).size :])
    assert main(["decompress", str(tmp_path / "old.itc"), "--to", str(tmp_path / "old")]) == 2
    assert (
        "--only takes one of them by its number, 1 or 2" in capsys.readouterr().err and not (tmp_path / "old").exists()
    )
    assert main(["decompress", str(tmp_path / "old.itc"), "--to", str(tmp_path / "old"), "--only", "Tree", "nul"]) == 0
    assert sorted(path.name for path in (tmp_path / "old").iterdir()) == ["Tree.png", "_nul.png"]


def test_images_are_written_group_by_group_whole_or_not_at_all(pictures, tmp_path, monkeypatch, capsys):
    archive, out = tmp_path / "all.itc", tmp_path / "out"
    assert main(["compress", *map(str, pictures), "--archive", str(archive)]) == 0
    decode, decoded = archives.decode_images, []

    def stopped(*args):
        decoded.append({path.name for path in out.glob("*")})
        if len(decoded) == 3:
            raise KeyboardInterrupt
        return decode(*args)

    with monkeypatch.context() as patch:
        patch.setattr(archives, "decode_images", stopped)
        patch.setattr(torch, "get_num_threads", lambda: 1)
        assert main(["decompress", str(archive), "--to", str(out)]) == 130
    assert decoded == [set(), {"b.png"}, {"b.png", "a.png", "d.png"}] == [*decoded[:2], {p.name for p in out.iterdir()}]
    capsys.readouterr()
    assert main(["decompress", str(archive), "--to", str(out), "--skip-existing"]) == 0
    assert "3 of 4 files are there already" in capsys.readouterr().err
    assert all(same(path, out / f"{path.stem}.png") for path in pictures)
    assert main(["decompress", str(archive), "--to", str(out), "--force", "--limit", "164"]) == 1
    assert "165 pixels and takes as long as" in capsys.readouterr().err


def test_files_that_are_there_are_left_alone(pictures, tmp_path, capsys):
    there = pictures[1].with_suffix(".itc")
    there.write_bytes(b"mine")
    assert main(["compress", *map(str, pictures), "--skip-existing"]) == 0
    assert there.read_bytes() == b"mine" and all(path.with_suffix(".itc").exists() for path in pictures)
    assert "1 of 4 files are there already" in capsys.readouterr().err
    assert main(["compress", *map(str, pictures), "--skip-existing", "--archive", str(there)]) == 0
    assert there.read_bytes() == b"mine" and "1 of 1" in capsys.readouterr().err
    assert main(["compress", str(pictures[0]), "--skip-existing", "--force"]) == 2
    (tmp_path / "two").mkdir()
    for file in (pictures[0], tmp_path / "two" / "a.png"):
        file.with_suffix(".itc").write_bytes(it.compress(smooth(1, (1, 2, 2))))
    both = [str(pictures[0].with_suffix(".itc")), str(tmp_path / "two" / "a.itc")]
    assert main(["decompress", *both, "--force", "--to", str(tmp_path / "out")]) == 2
    assert "two of the images would be written as" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_scores_are_less_those_of_what_knows_less(tmp_path, capsys):
    images, model = np.array(it.load_data("cifar10-mini", "test").images[:3]), "cifar10"
    for i, image in enumerate(images):
        Image.fromarray(image.transpose(1, 2, 0)).save(tmp_path / f"{i}.png")
    files, coded = [str(tmp_path / f"{i}.png") for i in range(3)], it.load_coding_model().bits(images) / images[0].size
    webp = [webp_bits_per_dim(image[None]) for image in images]
    for args, bits, than in (
        ([], coded, webp),
        (["--model", model], it.evaluate(it.load(model), images).per_image, coded),
    ):
        assert main(["score", *files, *args]) == 0
        head, *rows = csv.reader(capsys.readouterr().out.splitlines())
        assert head == ["file", "bits_per_dim", "small_bits_per_dim" if args else "webp_bits_per_dim", "relative"]
        wanted = np.stack([bits, than, bits - np.array(than)], 1)
        np.testing.assert_allclose(np.array(rows)[:, 1:].astype(float), wanted, atol=1e-4)
    Image.new("RGB", (16_384, 1)).save(tmp_path / "wide.png")
    assert main(["score", str(tmp_path / "wide.png")]) == 1
    assert "wide.png: it is compared with a WebP file, which has at most 16,383" in capsys.readouterr().err
    (tmp_path / "greys").mkdir()
    for i, image in enumerate(it.load_data("cifar10-mini", "test").some(24).images):
        Image.fromarray(image[0]).save(tmp_path / "greys" / f"{i:02}.png")
    greys = [str(tmp_path / "greys" / f"{i:02}.png") for i in range(24)]
    assert main(["score", *greys, "--against", str(tmp_path / "greys"), "--count", "20"]) == 0
    ranks = [float(row["rank"]) for row in csv.DictReader(capsys.readouterr().out.splitlines())]
    assert 0.3 < np.mean(ranks) < 0.7, "those of the set itself lie everywhere among it"
    Image.new("RGB", (5, 5)).save(tmp_path / "other.png")
    assert main(["score", str(tmp_path / "other.png"), "--model", model]) == 1
    assert "other.png: an image (3, 5, 5), but cifar10 takes (3, 32, 32)" in capsys.readouterr().err


def test_streams(pictures, monkeypatch, capsysbinary):
    def piped(*args: str, data: bytes) -> bytes:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        assert main(list(args)) == 0
        return capsysbinary.readouterr().out

    packed = piped("compress", "-", data=pictures[0].read_bytes())
    assert packed[:4] == MAGIC
    pictures[1].write_bytes(piped("decompress", "-", data=packed))
    assert same(*pictures[:2])


@pytest.mark.parametrize("mode", ["1", "P", "CMYK", "I;16", "F"])
def test_other_kinds_of_pictures_are_refused_in_one_line(mode, tmp_path, capsys):
    Image.new(mode, (3, 3)).save(tmp_path / "x.tif")
    assert main(["compress", str(tmp_path / "x.tif")]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "x.tif: expected" in error
    assert not (tmp_path / "x.itc").exists()


def test_wrong_command_lines_end_in_one_line(pictures, tmp_path, capsys):
    damaged = tmp_path / "damaged.itc"
    damaged.write_bytes(it.compress(smooth(1, (3, 9, 9)))[:-3])
    for args in (
        ["compress"], ["compress", str(pictures[0]), "--modell", "small"],
        ["compress", str(pictures[0]), "--model", "smal"],
        ["compress", str(tmp_path)], ["compress", str(tmp_path / "none.png")], ["compress", "-", str(pictures[0])],
        ["compress", str(pictures[0]), "--archive", "x", "--to", "y"], ["compress", *[str(pictures[0])] * 2],
        ["decompress", str(damaged)], ["decompress", str(pictures[0])], ["info", str(damaged)], ["info"],
        ["decompress"],
        ["compress", str(pictures[0]), "--float", "--model", "cifar10"], ["compress", str(pictures[0]), "--float"],
    ):  # fmt: skip
        assert main(args) in (1, 2), args
        error = capsys.readouterr().err
        assert error.count("\n") == 1, error
    assert not list(tmp_path.glob("*.itc")) or list(tmp_path.glob("*.itc")) == [damaged]
