"""The families compute what their sources say: each formula once more, by hand, beside the network."""

import math

import numpy as np
import pytest
import torch
from conftest import make_model, random_images
from torch.nn.functional import layer_norm, linear, pad, relu, scaled_dot_product_attention, silu

from image_transformer.config.model import Modern, Paper
from image_transformer.geometry.neighbours import NUM_NEIGHBOURS, nearest_generated, neighbour_table
from image_transformer.geometry.order import BlockRaster, Raster, Wavefront, layout
from image_transformer.geometry.patterns import Full, Local1D, Near
from image_transformer.inference.scoring import bits_per_dim
from image_transformer.model import ImageModel
from image_transformer.networks.mixing import Mixing
from image_transformer.networks.noise import Dropout
from image_transformer.networks.transformer import Reach

SHAPE = (3, 4, 5)
SCHEME = (BlockRaster((2, 3)), (Full(),))  # an order that is not the raster, so that no index can stand for another


def heads_of(x, heads):
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def causal(q, k, v, **options):
    return scaled_dot_product_attention(q, k, v, is_causal=True, **options).transpose(1, 2).flatten(2)


# ---- paper ----


def test_paper_slot_holds_the_previous_sub_pixel_from_the_table_of_its_channel():
    model = make_model(SCHEME, SHAPE, family="paper", likelihood="categorical", width=12)
    network, p = model.network, model.layout.positions
    image = random_images(1, SHAPE)
    content = network.embed(image.flatten(1)[:, network.previous.clamp(min=0)], network.previous_channel)[0]
    for position in (1, 2, 3, 17, 59):
        before = p[position - 1]
        value = int(image[0, before.channel, before.row, before.col])
        expected = network.embed.table.weight[256 * before.channel + value] * math.sqrt(12)
        torch.testing.assert_close(content[position], expected)


def test_paper_pixel_embedding_is_a_rectified_linear_map_of_unit_values():
    embed = make_model(SCHEME, SHAPE, family="paper").network.embed
    values = torch.tensor([[[0, 255, 128]]], dtype=torch.uint8)
    unit = torch.tensor([[[-1.0, 1.0, 128 / 127.5 - 1]]], dtype=torch.float64)
    expected = relu(linear(unit, embed.project.weight, embed.project.bias))
    torch.testing.assert_close(embed(values, torch.zeros(1)), expected)


@pytest.mark.parametrize("likelihood", ["categorical", "dmol"])
def test_paper_sinusoids(likelihood):
    """Row in the first half, column-and-channel in the second; sines before cosines; 1 to 10^4 times 2 pi."""
    model = make_model(SCHEME, SHAPE, family="paper", likelihood=likelihood, width=12, positions="sinusoidal")
    p, code = model.layout.positions, model.network.positions(slice(None))
    per_pixel = 3 if likelihood == "categorical" else 1
    for position in (0, 7, 19):
        row, column = p.row[position], p.col[position] * per_pixel + p.channel[position]
        rates = [1, 1e-2, 1e-4]
        expected = [f(x * rate) for x in (row, column) for f in (math.sin, math.cos) for rate in rates]
        assert code[position].tolist() == pytest.approx(expected, abs=1e-6)


def test_paper_learned_positions_are_the_sum_of_a_row_and_a_column_table():
    model = make_model(SCHEME, SHAPE, family="paper", likelihood="categorical", width=12, positions="learned")
    positions, p = model.network.positions, model.layout.positions
    assert len(positions.rows.weight) == 4
    assert len(positions.columns.weight) == 15
    for position in (0, 11, 58):
        column = 3 * p.col[position] + p.channel[position]
        expected = (positions.rows.weight[p.row[position]] + positions.columns.weight[column]) * math.sqrt(12)
        torch.testing.assert_close(positions(slice(None))[position], expected)


def test_paper_network_is_post_norm_attention_and_relu_feed_forward():
    model = make_model((Raster(), (Full(), Full())), SHAPE, family="paper", attention_width=6)
    network, image = model.network, random_images(2, SHAPE)
    inputs = image.flatten(2).transpose(1, 2)  # (b, l, c)
    content = network.embed(inputs, torch.zeros(1))
    x = torch.cat([torch.zeros_like(content[:, :1]), content[:, :-1]], 1) + network.positions(slice(None))
    for block in network.blocks:
        a, f = block.attention, block.feed_forward
        q, k, v = (heads_of(linear(x, m.weight), 3) for m in (a.query, a.key, a.value))
        x = x + linear(causal(q, k, v, scale=2**-0.5), a.output.weight)  # the width of a head is 2
        x = layer_norm(x, (12,), block.norm_attention.weight, block.norm_attention.bias, 1e-6)
        x = x + linear(relu(linear(x, f[0].weight, f[0].bias)), f[2].weight, f[2].bias)
        x = layer_norm(x, (12,), block.norm_feed_forward.weight, block.norm_feed_forward.bias, 1e-6)
    torch.testing.assert_close(model(image), linear(x, network.head.weight))


def test_paper_head_and_initialisation():
    """A bias for the softmax and none for DMOL; uniform weights of variance 0.2 / mean fan."""
    config = Paper(shape=(3, 8, 8), depth=1, width=64, feed_forward=192, heads=4)
    network = ImageModel(config).network
    assert network.head.bias is None
    hidden = network.blocks[0].feed_forward[0]
    assert hidden.weight.var().item() == pytest.approx(0.2 / 128, rel=0.1)
    assert hidden.weight.abs().max().item() == pytest.approx(math.sqrt(3 * 0.2 / 128), rel=0.02)
    assert not hidden.bias.any()
    softmax = ImageModel(Paper(likelihood="categorical", shape=(3, 2, 2), width=64)).network
    assert softmax.head.bias is not None
    assert softmax.embed.table.weight.std().item() == pytest.approx(1 / 8, rel=0.05)


@pytest.mark.parametrize("family", ["paper", "modern"])
def test_dropout_acts_on_the_input_and_on_every_residual_branch(family, monkeypatch):
    model = make_model((Raster(), (Full(),) * 3), SHAPE, family=family, dropout=0.5).train()
    calls = []
    forward = Dropout.forward
    monkeypatch.setattr(Dropout, "forward", lambda module, x: (calls.append(module.p), forward(module, x))[1])
    model(random_images(1, SHAPE))
    assert calls == [0.5] * (1 + 2 * 3)


# ---- modern ----


def test_modern_network_is_pre_norm_with_gates_and_a_skip():
    model = make_model((Raster(), (Full(), Full())), SHAPE, width=16, heads=2, mix=4)
    network, image = model.network, random_images(2, SHAPE)
    features = network.features(image, slice(None), {})
    p = model.layout.positions

    def norm(x):
        return x / (x.square().mean(-1, keepdim=True) + torch.finfo(x.dtype).eps).sqrt()

    def rotate(x):
        """Pairs (i, i + 4) of the 8 numbers of a head: two turn with the row, two with the column."""
        angles = torch.tensor(
            [[r, r / 10, c, c / 10] for r, c in zip(p.row.tolist(), p.col.tolist(), strict=True)], dtype=x.dtype
        )
        z = torch.complex(x[..., :4], x[..., 4:]) * torch.polar(torch.ones_like(angles), angles)
        return torch.cat([z.real, z.imag], -1)

    def mixed(x, weight):
        """Each state and those left of it, above it, above left and above right, as far as there are any."""
        grid = pad(x.unflatten(1, SHAPE[1:]), (0, 0, 1, 1, 1, 0))  # a column at both sides, a row above
        height, width = SHAPE[1:]
        out = grid[:, 1:, 1:-1]
        for its, (down, right) in zip(weight, nearest_generated(Raster()), strict=False):
            out = out + its * grid[:, 1 + down : 1 + down + height, 1 + right : 1 + right + width]
        return out.flatten(1, 2)

    x = linear(features, network.stem.weight, network.stem.bias)
    x = x + network.rows.weight[p.row] + network.columns.weight[p.col] + network.channels.weight[0]
    for block in network.blocks:
        a = block.attention
        q, k, v = (heads_of(part, 2) for part in linear(norm(x), a.query_key_value.weight).chunk(3, -1))
        attended = causal(rotate(norm(q)) * a.gain, rotate(norm(k)), v)
        x = x + linear(attended, a.output.weight)
        gate, up = linear(mixed(norm(x), block.mix), block.gate_up.weight).chunk(2, -1)
        x = x + linear(silu(gate) * up, block.down.weight)
    skip = network.skip
    means = linear(features, skip.means.weight, skip.means.bias).repeat_interleave(3, -1)  # 3 components
    expected = linear(norm(x), network.head.weight) + skip.bias
    expected[..., 3:12] += means
    torch.testing.assert_close(model(image), expected, rtol=1e-5, atol=1e-5)  # the angles are kept in float32


@pytest.mark.parametrize("likelihood", ["categorical", "dmol"])
def test_modern_starts_with_blocks_and_head_that_add_nothing(likelihood):
    torch.manual_seed(0)
    model = ImageModel(Modern(shape=SHAPE, likelihood=likelihood, depth=2, width=16, heads=2))
    image = random_images(1, SHAPE)
    network = model.network
    expected = 0 if network.skip is None else model.likelihood.flat()
    torch.testing.assert_close(model(image), torch.zeros_like(model(image)) + expected)
    x = torch.randn(1, model.layout.num_positions, 16)
    reach = Reach(network.tiled[0], network.mixing)
    assert torch.equal(network.blocks[0](x, network.rotary(slice(None)), reach), x)


@pytest.mark.parametrize("order", [Raster(), Wavefront(0), Wavefront(1), BlockRaster((2, 3))], ids=str)
def test_mixing_has_the_gradients_of_its_sum(order):
    lay = layout(order, (1, 3, 4), False)
    mixing = Mixing(Near(nearest_generated(order)[:5]), lay)
    x = torch.randn(2, 12, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(mixing, (x, weight))
    p, (gradient,) = lay.positions, torch.autograd.grad(mixing(x, weight)[0, :, 0].sum(), x)
    taps = gradient[0, :, 0].detach() - 1
    for i in range(12):  # a state is mixed into those whose neighbour it is
        its = [
            weight[n, 0].item()
            for n, (down, right) in enumerate(nearest_generated(order)[:5])
            for q in range(12)
            if (p.row[q] + down, p.col[q] + right) == (p.row[i], p.col[i]) and p.front[i] < p.front[q]
        ]
        assert taps[i].item() == pytest.approx(sum(its))


def test_modern_neighbours_at_the_edges():
    """Absent neighbours are replaced by the nearest present ones: to the left in the first row, above in column 0."""
    lay = layout(Raster(), (1, 5, 9), False)
    table = neighbour_table(lay)

    def pixels(row, col):
        places = [divmod(int(i), 9) if i >= 0 else None for i in table[row * 9 + col]]
        return dict(zip(nearest_generated(Raster()), places, strict=True))

    assert set(pixels(0, 0).values()) == {None}
    inside = pixels(4, 4)
    assert all(inside[down, right] == (4 + down, 4 + right) for down, right in nearest_generated(Raster()))
    first_row = pixels(0, 5)
    assert [first_row[0, -k] for k in (3, 2, 1)] == [(0, 2), (0, 3), (0, 4)]
    assert first_row[-1, 0] == first_row[-2, 2] == (0, 4)  # what is left of it
    assert first_row[-1, -2] == (0, 3)
    first_column = pixels(3, 0)
    assert first_column[0, -1] == first_column[-1, -1] == (2, 0)  # what is above it
    assert first_column[-1, 2] == (2, 2)
    assert pixels(3, 8)[-1, 1] == (2, 8)


def test_modern_inputs_are_the_nearest_pixels_that_the_order_has_generated():
    """By wavefront at slope 1: two columns right in the row above is too far, three left in the row below is not."""
    raster, wavefront = set(nearest_generated(Raster())), set(nearest_generated(Wavefront(1)))
    assert len(raster) == len(wavefront) == NUM_NEIGHBOURS
    assert {(-1, 2), (0, -3)} <= raster
    assert all(down < 0 or (down == 0 and right < 0) for down, right in raster)
    assert (-1, 2) not in wavefront
    assert {(-1, 1), (1, -3)} <= wavefront
    assert all(right + 2 * down < 0 for down, right in wavefront)


def test_closed_form_start_uses_the_channels_before():
    """Green is red and blue is green, each plus a little noise: only red is uncertain."""
    rng = np.random.default_rng(0)
    red = rng.normal(128, 30, (60, 1, 9, 9))
    green = red + rng.normal(0, 3, red.shape)
    blue = green + rng.normal(0, 3, red.shape)
    images = torch.from_numpy(np.clip(np.concatenate([red, green, blue], 1), 0, 255).round().astype(np.uint8))
    torch.manual_seed(0)
    model = ImageModel(Modern(shape=(3, 9, 9), attention=(Local1D(9, 9),), depth=1, width=16, heads=2))
    model.network.closed_form_start(images[:40], {})
    entropy = sum(math.log2(sd * math.sqrt(2 * math.pi * math.e)) for sd in (30, 3, 3)) / 3
    assert bits_per_dim(model, images[40:]) == pytest.approx(entropy, abs=0.15)


def test_closed_form_start_whitens_the_inputs_of_the_stem():
    images = random_images(30, (3, 6, 6)) // 8 + 100
    model = ImageModel(Modern(shape=(3, 6, 6), attention=(Full(),), depth=1, width=256, heads=4))
    model.network.closed_form_start(images, {})
    network = model.network
    features = network.features(images, slice(None), {}).flatten(0, 1)
    out = linear(features, network.stem.weight, network.stem.bias)
    assert out.mean().abs() < 0.05
    assert out.std().item() == pytest.approx(1, abs=0.15)
