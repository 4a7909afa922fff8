"""The rivals: each sees what its paper says that it sees, computes what it says, and is as exact as the transformer."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import random_images
from test_model import gradient_pattern
from torch import nn

import image_transformer as it
from image_transformer.conditions.label import Label
from image_transformer.config.rivals import GatedPixelCNN, Megabyte, PixelCNN, PixelCNNpp, PixelRNN, Rival
from image_transformer.model import ImageModel
from image_transformer.networks.pixelcnnpp import Shrink, TwoStreams
from image_transformer.networks.pixelrnn import RowLSTM
from image_transformer.training.optim import make_optimizers

SMALL = {"width": 6, "components": 2}
RIVALS = {
    "row-lstm": PixelRNN(depth=2, head_width=7, **SMALL),
    "diagonal-bilstm": PixelRNN(depth=2, head_width=7, layer="diagonal", **SMALL),
    "pixelcnn": PixelCNN(depth=2, head_width=7, **SMALL),
    "gated-pixelcnn": GatedPixelCNN(depth=2, kernel=3, head_width=7, **SMALL),
    "pixelcnn++": PixelCNNpp(depth=2, dropout=0.0, **SMALL),
    "megabyte": Megabyte(depth=2, patch=2, heads=2, local_width=4, local_depth=1, **SMALL),
}
every_rival = pytest.mark.parametrize("name", RIVALS)
every_rival_and_likelihood = pytest.mark.parametrize(
    ("name", "likelihood"),
    [
        (name, likelihood)
        for name, one in RIVALS.items()
        for likelihood in ("categorical", "dmol", "chained")
        if likelihood != "categorical" or not one.whole_pixels
    ],
)


def rival(name: str, shape=(3, 4, 8), likelihood="dmol", open_paths=False, **fields) -> ImageModel:
    """A small rival in float64 with random weights; `open_paths`: all positive, so that no rectifier closes a path."""
    torch.manual_seed(0)
    config: Rival = replace(RIVALS[name], shape=shape, likelihood=likelihood, **fields)
    model = ImageModel(config).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1 if open_paths else 0.4)
        if open_paths:
            parameter.data.abs_()
    if open_paths:
        for module in model.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                module.bias.data.add_(0.5)
    return model


# ---- what they see ----


def spread(field, height, width, offsets):
    """What each pixel sees, (h, w, h, w), through one more layer that looks at those `offsets` of the layer before."""
    out = np.zeros_like(field)
    for (row, col), (down, right) in itertools.product(np.ndindex(height, width), offsets):
        if 0 <= row + down < height and 0 <= col + right < width:
            out[row, col] |= field[row + down, col + right]
    return out


def before(side, own):
    """Offsets of a masked square: the rows above, the pixels to the left, and the pixel itself if `own`."""
    reach = side // 2
    square = itertools.product(range(-reach, 1), range(-reach, reach + 1))
    return [(d, r) for d, r in square if d < 0 or r < 0 or (own and r == 0)]


def pixels_seen(name, height, width):
    """(h, w, h, w): the pixels that the papers' definitions let each pixel see."""
    itself = np.eye(height * width, dtype=bool).reshape(height, width, height, width)
    stem = spread(itself, height, width, before(7, own=False))
    if name == "pixelcnn":
        return spread(spread(stem, height, width, before(3, True)), height, width, before(3, True))
    if name == "row-lstm":
        for _ in range(2):
            gates, stem = spread(stem, height, width, [(0, -1), (0, 0)]), np.zeros_like(stem)
            for row in range(height):
                above = stem[row - 1] if row else np.zeros_like(stem[0])
                for col in range(width):
                    stem[row, col] = gates[row, col] | above[max(0, col - 1) : col + 2].any(0)
        return stem
    if name == "diagonal-bilstm":
        for _ in range(2):
            left = np.stack([[stem[: r + 1, : c + 1].any((0, 1)) for c in range(width)] for r in range(height)])
            right = np.stack([[stem[:r, c:].any((0, 1)) for c in range(width)] for r in range(height)])
            stem = left | right
        return stem
    if name == "gated-pixelcnn":
        vertical, horizontal = itself, itself
        for kernel in (7, 3):
            reach = kernel // 2
            rows = itertools.product(range(-reach, 1), range(-reach, reach + 1))
            vertical = spread(vertical, height, width, list(rows))
            across = [(0, right) for right in range(-reach, 0 if kernel == 7 else 1)]
            horizontal = spread(horizontal, height, width, across) | spread(vertical, height, width, [(-1, 0)])
        return horizontal
    everything = np.arange(height * width) < np.arange(height * width)[:, None]
    return everything.reshape(height, width, height, width)


@every_rival_and_likelihood
@pytest.mark.parametrize("shape", [(3, 4, 8), (1, 8, 8)], ids=str)
def test_a_rival_sees_exactly_what_its_paper_says(name, likelihood, shape):
    """By gradients, both ways: nothing later, and all of its receptive field."""
    model = rival(name, shape, likelihood, open_paths=True)
    channels, height, width = shape
    found = gradient_pattern(model)
    seen = pixels_seen(name, height, width).reshape(height * width, -1)
    p = model.layout.positions
    promised = np.tile(seen[p.row * width + p.col], channels)
    if name == "diagonal-bilstm" and model.layout.sub_pixels:  # all channels but one of the pixel of the next test
        for row, channel in itertools.product(range(1, height), range(channels - 1)):
            promised[p.row == row, (channel * height + row) * width - 1] = True
    if model.layout.sub_pixels:  # and the channels before it of its own pixel
        for l, (row, col, channel) in enumerate(zip(p.row, p.col, p.channel, strict=True)):
            for before_it in range(channel):
                promised[l, (before_it * height + row) * width + col] = True
    assert np.array_equal(found, promised)


def test_the_blind_spot_of_pixelcnn_and_what_others_do_not_see():
    """At any depth: right of a line that rises by a pixel for each pixel to the right, from the reach of the stem on.

    A Row LSTM has the same, and a Diagonal BiLSTM sees the last pixel of the row above only where the stem reaches it:
    in that row its cells know what comes before them, and the next row's come from the left.
    """
    row, col, reach = 6, 2, 3
    unseen = {}
    for name in ("pixelcnn", "row-lstm", "diagonal-bilstm", "gated-pixelcnn"):
        found = gradient_pattern(rival(name, (1, 8, 12), open_paths=True, depth=9))[row * 12 + col].reshape(8, 12)
        unseen[name] = {(r, c) for r, c in np.ndindex(8, 12) if (r, c) < (row, col) and not found[r, c]}
    blind = {(r, c) for r, c in np.ndindex(row, 12) if c > col + reach + (row - 1 - r)}
    assert unseen["pixelcnn"] == unseen["row-lstm"] == blind
    assert unseen["diagonal-bilstm"] == {(row - 1, 11)}
    assert unseen["gated-pixelcnn"] == set()


# ---- what they compute ----


def test_a_row_lstm_of_one_column_is_an_lstm():
    """Gates in the order of equation 3: output, forget, input, content; torch's are input, forget, content, output."""
    model = rival("row-lstm", (1, 5, 1))
    block = model.network.blocks[0]
    assert isinstance(block, RowLSTM)
    own = nn.LSTM(12, 6).double()
    order = [2, 1, 3, 0]
    take = lambda w: torch.cat([w.chunk(4)[i] for i in order])  # noqa: E731
    own.weight_ih_l0.data = take(block.from_input.weight[:, :, 0, 1])
    own.weight_hh_l0.data = take(block.from_state.weight[:, :, 1])
    own.bias_ih_l0.data, own.bias_hh_l0.data = take(block.from_input.bias), torch.zeros(24).double()
    x = torch.randn(2, 12, 5, 1, dtype=torch.float64)
    shown, (h, c) = own(x[..., 0].permute(2, 0, 1))
    out, state = block(x)
    wide = block.wide.weight[:, :, 0, 0]
    expected = x[..., 0] + torch.einsum("oi,tbi->bot", wide, shown) + block.wide.bias[:, None]
    torch.testing.assert_close(out[..., 0], expected)
    torch.testing.assert_close(state, (h[0][..., None], c[0][..., None]))


def test_a_diagonal_cell_sees_the_states_to_its_left_and_above_it():
    block = rival("diagonal-bilstm", (1, 3, 4)).network.blocks[0]
    gates = torch.randn(2, 24, 3, 4, dtype=torch.float64)
    shown = block._from_left(gates, 0)
    above, own = block.from_state[0].unbind(-1)
    state = {}
    zero = torch.zeros(2, 6, dtype=torch.float64)
    for row, col in itertools.product(range(3), range(4)):
        left, (up, _) = state.get((row, col - 1), (zero, zero)), state.get((row - 1, col), (zero, zero))
        if col == 0:  # a cell left of the image, which has seen those above it there: no input, and no state
            left = (zero, zero)
        total = gates[:, :, row, col] + left[0] @ own.T + up @ above.T
        o, f, i, g = total.chunk(4, 1)
        kept = f.sigmoid() * left[1] + i.sigmoid() * g.tanh()
        state[row, col] = o.sigmoid() * kept.tanh(), kept
        torch.testing.assert_close(shown[:, :, row, col], state[row, col][0])


def test_gated_layers_are_tanh_times_sigmoid_with_a_bias_for_the_class():
    model = rival("gated-pixelcnn", (1, 4, 5), conditions=(Label(("a", "b")),))
    block, x = model.network.blocks[1], torch.randn(2, 6, 4, 5, dtype=torch.float64)
    above, told = torch.randn(2, 12, 4, 5, dtype=torch.float64), torch.randn(2, 6, dtype=torch.float64)
    across = nn.functional.pad(x, (1, 1)).unfold(3, 3, 1)[..., :2]  # the left one and its own
    maps = torch.einsum("bchwk,ock->bohw", across, block.horizontal.weight[:, :, 0, :2])
    maps = maps + block.horizontal.bias[:, None, None] + above + (told @ block.by_class[1].weight.T)[:, :, None, None]
    gated = maps[:, :6].tanh() * maps[:, 6:].sigmoid()
    out = torch.einsum("bchw,oc->bohw", gated, block.residual.weight[:, :, 0, 0]) + block.residual.bias[:, None, None]
    torch.testing.assert_close(block.horizontally(x, above, told), x + out)


def masked(layer, x):
    """A masked convolution in steps: its weights on a square, from the rows above, the left, and its own pixel."""
    rows, columns = layer.weight.shape[2] - 1, (layer.weight.shape[3] - 1) // (2 if layer.weight.shape[2] > 1 else 1)
    out = torch.zeros(len(x), len(layer.weight), *x.shape[2:], dtype=x.dtype)
    for down, right in itertools.product(range(-rows, 1), range(-columns, columns + 1)):
        if down == 0 and right > 0:
            continue
        moved = nn.functional.pad(x, (columns, columns, rows, 0))
        moved = moved[:, :, rows + down :, columns + right :][:, :, : x.shape[2], : x.shape[3]]
        out = out + torch.einsum("bihw,oi->bohw", moved, layer.weight[:, :, rows + down, columns + right])
    return out + layer.bias[:, None, None]


def test_a_pixelcnn_layer_narrows_looks_around_and_widens():
    block, x = rival("pixelcnn", (1, 4, 5)).network.blocks[0], torch.randn(2, 12, 4, 5, dtype=torch.float64)
    out = x
    for layer in (block.narrow, block.square, block.wide):
        out = masked(layer, out.relu())
    torch.testing.assert_close(block(x), x + out)


def test_a_pixelcnnpp_layer_is_gated_and_given_its_shortcut():
    network = rival("pixelcnn++", (1, 4, 8), conditions=(Label(("a", "b")),)).network
    layer = network.up[0][0].above_left
    x, u, shortcut = (torch.randn(2, 6, 3, 4, dtype=torch.float64) for _ in range(3))
    told = torch.randn(2, 6, dtype=torch.float64)

    def both_signs(x):
        return nn.functional.elu(torch.cat([x, -x], 1))

    def above_left(conv, x):
        return nn.functional.conv2d(nn.functional.pad(x, (1, 0, 1, 0)), conv.weight, conv.bias)

    out = above_left(layer.first, both_signs(x)) + layer.other(both_signs(torch.cat([u, shortcut], 1)))
    value, gate = above_left(layer.second, both_signs(out)).chunk(2, 1)
    more_value, more_gate = (told @ layer.by_class.weight.T)[:, :, None, None].chunk(2, 1)
    torch.testing.assert_close(layer(x, told, u, shortcut), x + (value + more_value) * (gate + more_gate).sigmoid())


def test_the_shortcuts_of_pixelcnnpp_are_taken_last_in_first_out(monkeypatch):
    """Each layer on the way down makes maps of the next number; those on the way up note what they are given."""
    made, given = itertools.count(1), []

    def layer(own, u, ul, context, *shortcuts):
        if shortcuts:
            assert shortcuts[0].shape == shortcuts[1].shape == u.shape
            given.append([int(one.flatten()[0]) for one in shortcuts])
            return u, ul
        number = next(made)
        return torch.full_like(u, number), torch.full_like(ul, number)

    def shrink(own, u, ul):
        number = next(made)
        return torch.full_like(u[:, :, ::2, ::2], number), torch.full_like(ul[:, :, ::2, ::2], number)

    monkeypatch.setattr(TwoStreams, "forward", layer)
    monkeypatch.setattr(Shrink, "forward", shrink)
    rival("pixelcnn++", (1, 8, 8)).network(random_images(1, (1, 8, 8)))
    assert given[:-1] == [[n, n] for n in (7, 6, 5, 4, 3, 2, 1)], "8 is the start of the way up, 0 the first streams"
    assert len(given) == 8


def test_the_two_levels_of_megabyte():
    """The global model is a patch behind, and tells each pixel its own part; the local one is a pixel behind."""
    network = rival("megabyte", (1, 2, 4)).network  # four patches of two pixels
    x = torch.randn(2, 1, 2, 4, dtype=torch.float64)
    pixels = x.view(2, 8, 1)
    patches = torch.stack([torch.cat([network.embed(pixels[:, 2 * i + j]) for j in (0, 1)], -1) for i in range(3)], 1)
    said = network.above(torch.cat([network.before_all.expand(2, 1, 6), patches], 1) + network.places)
    for i in range(4):
        first = network.before_own + network.told(said[:, i, :3])
        second = network.embed_own(pixels[:, 2 * i]) + network.told(said[:, i, 3:])
        expected = network.within(torch.stack([first, second], 1))
        found = network.features(x, None).flatten(2)[:, :, 2 * i : 2 * i + 2]
        torch.testing.assert_close(found, expected.transpose(1, 2))


def test_a_level_of_megabyte_is_an_encoder_of_torch():
    above, x = rival("megabyte").network.above, torch.randn(2, 5, 6, dtype=torch.float64)
    layer = nn.TransformerEncoderLayer(6, 2, 24, 0.0, "gelu", batch_first=True, norm_first=True)
    encoder = nn.TransformerEncoder(layer, 2, nn.LayerNorm(6), enable_nested_tensor=False).double()
    names = {
        "self_attn.in_proj_": "query_key_value.", "self_attn.out_proj.": "output.", "linear1.": "wide.",
        "linear2.": "narrow.", "norm1.": "norm.", "norm2.": "norm_wide.",
    }  # fmt: skip
    theirs = above.state_dict()
    pairs = {f"layers.{i}.{a}": f"blocks.{i}.{b}" for i in (0, 1) for a, b in names.items()} | {"norm.": "norm."}
    encoder.load_state_dict({a + part: theirs[b + part] for a, b in pairs.items() for part in ("weight", "bias")})
    causal = nn.Transformer.generate_square_subsequent_mask(5, dtype=torch.float64)
    torch.testing.assert_close(above(x), encoder(x, mask=causal))


def test_muon_takes_the_matrices_of_both_levels_of_megabyte():
    network = rival("megabyte").network
    muon, rest = make_optimizers(network, it.TrainConfig(optimizer="muon"))
    taken = {id(p) for group in muon.param_groups for p in group["params"]}
    own = [p for level in (network.above, network.within) for p in level.parameters() if p.ndim == 2]
    assert taken == {id(p) for p in own} and len(own) == 4 * (2 + 1)
    assert sum(len(group["params"]) for group in rest.param_groups) == len(list(network.parameters())) - len(own)


@every_rival
def test_what_reads_the_image_is_not_rounded_to_bfloat16(name):
    network = rival(name, width=8).float().network
    read = []
    for layer in network.modules():
        inputs = getattr(layer, "in_channels", getattr(layer, "in_features", 0))
        if inputs == network.layout.channels + (name == "pixelcnn++"):  # which marks where the image is
            layer.register_forward_hook(lambda own, inputs, out: read.append(out.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        network(random_images(2, (3, 4, 8)))
    assert read and set(read) == {torch.float32}


@pytest.mark.parametrize("kind", [GatedPixelCNN, PixelCNNpp])
def test_the_class_reaches_every_prediction(kind):
    model = rival(kind.family, open_paths=True, conditions=(Label(("a", "b")),))
    images = random_images(1, (3, 4, 8))
    a, b = (model(images, {"label": torch.tensor([label])}) for label in (0, 1))
    assert (a != b).any(-1).all()


@pytest.mark.parametrize("name", ["row-lstm", "diagonal-bilstm", "pixelcnn", "megabyte"])
def test_what_a_paper_does_not_know_is_refused(name):
    with pytest.raises(ValueError, match=f"the {RIVALS[name].family} family cannot be told the class"):
        rival(name, conditions=(Label(("a", "b")),))


# ---- exactness ----


@pytest.mark.parametrize(("name", "likelihood"), [*((n, "dmol") for n in RIVALS), ("row-lstm", "categorical")])
def test_total_probability_of_a_rival_is_one(name, likelihood):
    """All 65,536 images of two pixels; of PixelCNN++, whose smallest image is larger, all values of its last pixel."""
    value = torch.arange(256, dtype=torch.uint8)
    if name == "pixelcnn++":
        model = rival(name, (1, 4, 4), likelihood)
        images = random_images(1, (1, 4, 4)).repeat(256, 1, 1, 1)
        images[:, 0, 3, 3] = value
        nats = model.log_prob(images)[:, 0, 3, 3]
    else:
        model = rival(name, (1, 1, 2), likelihood)
        images = torch.cartesian_prod(value, value).view(-1, 1, 1, 2)
        with torch.inference_mode():
            nats = torch.cat([model.log_prob(part).flatten(1).sum(1) for part in images.split(8192)])
    assert nats.logsumexp(0).item() == pytest.approx(0, abs=1e-9)


@every_rival_and_likelihood
def test_a_rival_draws_what_running_it_whole_draws(name, likelihood):
    """Also around given pixels, above and below; the cached row by row."""
    told = {"label": [0, 1]} if name in ("gated-pixelcnn", "pixelcnn++") else {}
    fields = {"conditions": (Label(("a", "b")),)} if told else {}
    model = rival(name, likelihood=likelihood, **fields)
    assert torch.equal(it.generate(model, 2, **told), it.generate_naive(model, 2, **told))
    known, mask = random_images(2, (3, 4, 8)), torch.zeros(4, 8, dtype=torch.bool)
    mask[1] = mask[3, 2:5] = True
    how = {"known": known, "known_mask": mask, "temperature": 0.9, **told}
    drawn = it.generate(model, 2, **how)
    assert torch.equal(drawn, it.generate_naive(model, 2, **how)) and torch.equal(drawn[..., mask], known[..., mask])


@pytest.mark.parametrize("name", ["row-lstm", "pixelcnn", "gated-pixelcnn"])
@pytest.mark.parametrize("known_rows", [(), (0, 1, 4)], ids=str)
def test_a_decoder_by_rows_reads_as_far_up_as_the_network_sees(name, known_rows):
    """In images taller than that, and where whole rows are given, the first ones too."""
    model = rival(name, (1, 9, 4))
    known, mask = random_images(2, (1, 9, 4)), torch.zeros(9, 4, dtype=torch.bool)
    mask[list(known_rows)] = True
    how = {"known": known, "known_mask": mask} if known_rows else {}
    drawn = it.generate(model, 2, **how)
    assert torch.equal(drawn, it.generate_naive(model, 2, **how))
    decoder = model.network.decoder(None, 2, model.schedule())
    positions = torch.arange(36)[~mask.flatten()]
    stepwise = torch.cat([decoder.step(drawn, at[None]) for at in positions], 1)
    torch.testing.assert_close(stepwise, model(drawn)[:, positions])  # draws are coarse, parameters are not


@pytest.mark.parametrize("name", ["row-lstm", "gated-pixelcnn"])
def test_rows_are_cached(name, monkeypatch):
    """The rows above are read once a row, not once a pixel."""
    model = rival(name)
    calls = []
    network = model.network
    kind, method = (RowLSTM, "forward") if name == "row-lstm" else (type(network), "above")
    original = getattr(kind, method)
    monkeypatch.setattr(kind, method, lambda own, x, *a: (calls.append(x.shape[2]), original(own, x, *a))[1])
    it.generate(model, 1)
    whole = [rows for rows in calls if rows > 1]
    assert len(whole) <= 3 * (2 if name == "row-lstm" else 1), "one for each row with rows above it (and layer)"


@every_rival
def test_the_linear_skip_starts_a_rival_from_the_best_linear_prediction(name):
    rng = np.random.default_rng(0)
    ramp = rng.integers(20, 200, (300, 3, 1, 1)) + np.arange(4)[:, None] * 3 + np.arange(8) * 2
    images = torch.from_numpy((ramp + rng.integers(-3, 4, (300, 3, 4, 8))).clip(0, 255).astype(np.uint8))
    torch.manual_seed(0)
    config = replace(RIVALS[name], shape=(3, 4, 8), linear_skip=True)
    model = ImageModel(config).eval()
    model.network.closed_form_start(images, {})
    modern = ImageModel(it.Modern(shape=(3, 4, 8), depth=1, width=16, heads=2, components=2, order=it.Raster())).eval()
    modern.network.closed_form_start(images, {})
    assert it.bits_per_dim(model, images) == pytest.approx(it.bits_per_dim(modern, images), abs=1e-4)
    untold = ImageModel(replace(config, linear_skip=False)).eval()
    assert it.bits_per_dim(model, images) + 1 < it.bits_per_dim(untold, images)


@pytest.mark.parametrize("name", [name for name in RIVALS if name != "megabyte"])  # which has no convolutions
def test_a_rival_starts_with_layers_that_are_scaled_to_their_inputs(name):
    """Nothing vanishes on the way: what is made of training images has standard deviation 1 in front of the head."""
    torch.manual_seed(0)
    model = ImageModel(replace(RIVALS[name], shape=(3, 8, 8), width=16)).eval()
    smooth = nn.functional.interpolate(random_images(64, (3, 3, 3)).float(), size=(8, 8), mode="bilinear").byte()
    network = model.network
    network.closed_form_start(smooth, {})
    found = []
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and layer is not network.head:
            layer.register_forward_hook(lambda own, inputs, out: found.append(out.std() / getattr(own, "start", 1.0)))
    network(smooth[:32])
    assert len(found) > 3 and all(0.9 < std < 1.1 for std in found), found


# ---- bad input ----


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (PixelCNN, {"kernel": 4}, "model.kernel must be odd, got 4"),
        (PixelRNN, {"layer": "column"}, "model.layer: expected one of: row, diagonal"),
        (PixelCNN, {"order": it.Wavefront(1)}, "the pixelcnn family runs in raster order alone"),
        (GatedPixelCNN, {"likelihood": "categorical", "linear_skip": True}, "it goes with dmol and chained"),
        (PixelCNNpp, {"likelihood": "categorical"}, "predicts whole pixels"),
        (PixelCNNpp, {"shape": (3, 6, 8)}, "4 must divide height and width, got 6x8"),
        (PixelCNNpp, {"dropout": 1.0}, "model.dropout must lie in"),
        (Megabyte, {"likelihood": "categorical"}, "predicts whole pixels"),
        (Megabyte, {"shape": (3, 3, 3)}, "model.patch must divide the image's 9 pixels, got 4"),
        (Megabyte, {"width": 10, "heads": 1}, "model.patch must divide model.width, got 4 and 10"),
        (Megabyte, {"local_width": 12}, "model.heads must divide both widths, got 8 and 512, 12"),
        (Megabyte, {"local_depth": 0}, "model.local_depth must be at least 1"),
    ],
)
def test_a_field_that_does_not_fit_is_refused(kind, fields, message):
    with pytest.raises(ValueError, match=message):
        kind(**fields)
