"""The laws of an exact autoregressive model: causality both ways, total probability one, bits/dim, bad input."""

import math

import numpy as np
import pytest
import torch
from conftest import (
    every_family,
    every_likelihood,
    every_model,
    every_shape,
    make_model,
    promised,
    random_images,
)
from torch import nn

from image_transformer.geometry.neighbours import neighbour_table
from image_transformer.geometry.order import BlockRaster, Raster, Wavefront, layout
from image_transformer.geometry.patterns import Full, Local1D
from image_transformer.inference.scoring import bits, bits_per_dim, evaluate


class SmoothTable(nn.Module):
    """Stands for an embedding table, so that gradients can flow through the values that are looked up."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, dtype=torch.float64))

    def forward(self, values):
        return torch.sin(values[..., None] / 50 * self.weight)


def gradient_pattern(model):
    """(l, dims): whether each value of the image moves the prediction of each position, by gradients."""
    if hasattr(model.network, "embed") and model.layout.sub_pixels:
        model.network.embed.table = SmoothTable(model.config.width)
    length = model.layout.num_positions
    images = random_images(1, model.config.shape).double().expand(length, -1, -1, -1).clone().requires_grad_()
    params = model(images)  # prediction i is read off copy i, so one backward pass gives all rows
    own = params[torch.arange(length), torch.arange(length)]
    weights = torch.randn(own.shape, dtype=own.dtype, generator=torch.Generator().manual_seed(3))
    (gradient,) = torch.autograd.grad((own * weights).sum(), images)
    return gradient.flatten(1).numpy() != 0


def slot_inputs(model):
    """(l, dims): which values of the image enter each slot before any attention, from the families' definitions."""
    lay = model.layout
    inputs = np.zeros((lay.num_positions, lay.num_dims), bool)
    if model.config.family == "paper":  # slot l holds the content of position l - 1
        for l in range(1, lay.num_positions):
            inputs[l, lay.values[l - 1]] = True
    else:
        for l, places in enumerate(neighbour_table(lay)):
            inputs[l, places[places >= 0]] = True
    return inputs


@every_model
@every_shape
def test_predictions_depend_on_exactly_what_the_patterns_promise(scheme, shape, family, likelihood):
    model = make_model(scheme, shape, family=family, likelihood=likelihood)
    lay = model.layout
    found = gradient_pattern(model)
    position = np.empty(lay.num_dims, int)
    position[lay.values.reshape(-1)] = np.repeat(np.arange(lay.num_positions), lay.values.shape[1])
    front, step = lay.positions.front, model.schedule().step
    future = front[position][None] >= front[:, None]
    assert not found[future].any(), "a prediction depends on a value of its own or a later front"
    together = step[position][None] >= step[:, None]
    assert not found[together].any(), "a prediction depends on a value that is drawn with it or later"
    assert np.array_equal(found, promised(model, slot_inputs(model)))


@every_family
@every_likelihood
def test_every_value_but_the_last_is_used(family, likelihood):
    """The original's 2D attention never feeds the last sub-pixel of a block to anything."""
    from image_transformer.geometry.patterns import Local2D

    scheme = (BlockRaster((2, 2)), (Local2D((2, 2), (2, 2)),) * 2)
    model = make_model(scheme, (3, 4, 4), family=family, likelihood=likelihood)
    used = gradient_pattern(model).any(0)
    last = model.layout.values[-1]
    assert set(np.flatnonzero(~used)) == set(last)


@pytest.mark.parametrize("shape", [(3, 5, 4), (3, 4, 7), (1, 3, 5)], ids=str)
@pytest.mark.parametrize("order", [Raster(), BlockRaster((2, 3)), Wavefront(1)], ids=str)
@pytest.mark.parametrize("sub_pixels", [True, False])
def test_neighbours_are_already_generated_and_the_nearest_stand_for_absent_ones(shape, order, sub_pixels):
    lay = layout(order, shape, sub_pixels)
    table = neighbour_table(lay)
    position = np.empty(lay.num_dims, int)
    position[lay.values.reshape(-1)] = np.repeat(np.arange(lay.num_positions), lay.values.shape[1])
    for l, places in enumerate(table):
        assert (lay.positions.front[position[places[places >= 0]]] < lay.positions.front[l]).all()
    has_pixel = [lay.positions[l].front > 0 for l in range(lay.num_positions)]
    west = lay.positions.col > 0
    assert (table[west & np.array(has_pixel)] >= 0).any(1).all()


@every_family
@every_likelihood
@pytest.mark.parametrize("shape", [(1, 1, 2), (1, 2, 1)], ids=str)
def test_total_probability_is_one(family, likelihood, shape):
    """All 65,536 images of two sub-pixels."""
    order = Raster() if family == "paper" else Wavefront(1)
    model = make_model((order, (Local1D(1, 1), Full())), shape, family=family, likelihood=likelihood)
    value = torch.arange(256, dtype=torch.uint8)
    images = torch.cartesian_prod(value, value).view(-1, *shape)
    with torch.inference_mode():
        log_prob = torch.cat([model.log_prob(part).flatten(1).sum(1) for part in images.split(8192)])
    assert log_prob.logsumexp(0).item() == pytest.approx(0, abs=1e-9)


def test_total_probability_of_pixels_of_one_front_is_one():
    """Of 2 x 3 pixels by wavefront, (0, 2) and (1, 0) are drawn together: all 65,536 pairs, the others as they are."""
    model = make_model((Wavefront(1), (Local1D(2, 3), Full())), (1, 2, 3))
    p = model.layout.positions
    together = [(r, c) for r, c, f in zip(p.row, p.col, p.front, strict=True) if f == 2]
    assert together == [(0, 2), (1, 0)]
    value = torch.arange(256, dtype=torch.uint8)
    images = random_images(1, (1, 2, 3)).repeat(65536, 1, 1, 1)
    images[:, 0, 0, 2], images[:, 0, 1, 0] = torch.cartesian_prod(value, value).T
    with torch.inference_mode():
        nats = torch.cat([model.log_prob(part) for part in images.split(8192)])[:, 0]
    joint = nats[:, 0, 2] + nats[:, 1, 0]
    assert joint.logsumexp(0).item() == pytest.approx(0, abs=1e-9)
    first, second = nats[:, 0, 2].view(256, 256), nats[:, 1, 0].view(256, 256)
    torch.testing.assert_close(first, first[:, :1].expand(256, 256))
    torch.testing.assert_close(second, second[:1].expand(256, 256))


@every_family
def test_total_probability_of_a_pixel_is_one(family):
    """All 16.7 million colours of one pixel: the red masses, and green and blue given a few of the others."""
    model = make_model((Raster(), (Full(),)), (3, 1, 1), family=family, likelihood="dmol")
    red, green, blue = (torch.randint(0, 256, (1,), dtype=torch.uint8) for _ in range(3))
    value = torch.arange(256, dtype=torch.uint8)
    for channel in range(3):
        pixels = torch.stack([red.expand(256), green.expand(256), blue.expand(256)], 1)
        pixels[:, channel] = value
        nats = model.log_prob(pixels.view(256, 3, 1, 1))[:, channel, 0, 0]
        assert nats.logsumexp(0).item() == pytest.approx(0, abs=1e-9)


def test_log_prob_lies_at_its_sub_pixel():
    """Changing one sub-pixel changes its own log-probability, and none that is generated before it."""
    scheme = (BlockRaster((2, 3)), (Full(),))
    model = make_model(scheme, (3, 4, 5), likelihood="categorical", family="paper")
    images = random_images(1, (3, 4, 5))
    before = model.log_prob(images)[0].flatten()
    order = model.layout.values[:, 0]
    for l in (0, 17, 59):
        changed = images.clone()
        changed.view(-1)[order[l]] += 100
        differs = (model.log_prob(changed)[0].flatten() != before)[order]
        assert differs[l]
        assert not differs[:l].any()


def test_bits_per_dim_of_a_uniform_model_is_8():
    model = make_model(likelihood="categorical", family="paper").float()
    nn.init.zeros_(model.network.head.weight)
    nn.init.zeros_(model.network.head.bias)
    assert bits_per_dim(model, random_images(7, (3, 5, 4))) == pytest.approx(8, abs=1e-6)


@every_likelihood
def test_bits_per_dim_do_not_depend_on_batch_size_or_order(likelihood):
    model = make_model(likelihood=likelihood)
    images = random_images(11, (3, 5, 4))
    whole = evaluate(model, images, batch=11)
    assert bits_per_dim(model, images, batch=4) == pytest.approx(whole.bits_per_dim, rel=1e-12)
    assert bits_per_dim(model, images.flip(0), batch=11) == pytest.approx(whole.bits_per_dim, rel=1e-12)
    assert bits_per_dim(model, images.numpy(), batch=1) == pytest.approx(whole.bits_per_dim, rel=1e-12)
    assert whole.per_image.mean() == pytest.approx(whole.bits_per_dim)
    total = -model.log_prob(images).sum().item() / (11 * 60 * math.log(2))
    assert whole.bits_per_dim == pytest.approx(total)
    assert bits(model, images, batch=3).mean() == pytest.approx(total)


def test_evaluation_turns_dropout_off_and_leaves_the_mode_as_it_was():
    model = make_model(dropout=0.5, family="paper").train()
    images = random_images(2, (3, 5, 4))
    assert bits_per_dim(model, images) == bits_per_dim(model, images)
    assert model.training


def test_parameters_do_not_depend_on_the_receptive_field():
    counts = {
        sum(p.numel() for p in make_model((Raster(), (Local1D(block, block),))).parameters()) for block in (1, 4, 64)
    }
    assert len(counts) == 1


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 3, 5, 4), "torch.uint8 tensor of values 0..255, got torch.float32"),
        (torch.zeros(2, 3, 4, 5, dtype=torch.uint8), r"shape \(b, 3, 5, 4\) for this model, got \(2, 3, 4, 5\)"),
        (torch.zeros(3, 5, 4, dtype=torch.uint8), r"got \(3, 5, 4\)"),
        (np.zeros((1, 3, 5, 4), np.uint8), "got ndarray"),
    ],
)
def test_wrong_images_are_refused(images, message):
    with pytest.raises(ValueError, match=message):
        make_model().log_prob(images)


def test_no_images_have_no_bits_per_dim():
    with pytest.raises(ValueError, match="expected at least one"):
        bits_per_dim(make_model(), random_images(0, (3, 5, 4)))


def test_closed_form_start_predicts_a_linear_image_source():
    """Pixels that are the mean of their west and north neighbours plus a little noise: found without training."""
    rng = np.random.default_rng(0)
    x = np.zeros((40, 3, 13, 13))
    for r in range(1, 13):
        for c in range(1, 13):
            x[:, :, r, c] = (x[:, :, r - 1, c] + x[:, :, r, c - 1]) / 2 + rng.normal(0, 4, (40, 3))
    images = torch.from_numpy(np.clip(x + 128, 0, 255).round().astype(np.uint8))[:, :, 1:, 1:].contiguous()
    torch.manual_seed(0)
    from image_transformer.config.model import Modern
    from image_transformer.model import ImageModel

    model = ImageModel(Modern(shape=(3, 12, 12), attention=(Local1D(12, 12),), depth=1, width=16, heads=2))
    model.network.closed_form_start(images[:30], {})
    entropy = math.log2(4 * math.sqrt(2 * math.pi * math.e))  # of the noise, in bits
    assert bits_per_dim(model, images[30:]) == pytest.approx(entropy, abs=0.15)
