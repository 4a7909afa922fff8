"""Distributions sum to one at any scale; `log_prob`, `conditional` and draws agree; gradients are right."""

import itertools
import math
from itertools import pairwise

import pytest
import torch
from conftest import LIKELIHOODS

import image_transformer as it
from image_transformer.likelihoods.base import NUM_VALUES, draw_in_turn, invert_cdf
from image_transformer.likelihoods.categorical import Categorical
from image_transformer.likelihoods.chained import ChainedCategorical
from image_transformer.likelihoods.dmol import DiscretizedLogisticMixture
from image_transformer.model import LIKELIHOODS as MAKERS

EXTREMES = [
    {"means": 0.0, "log_scales": -30.0},
    {"means": 0.9999, "log_scales": -7.0},
    {"means": -60.0, "log_scales": -7.0},
    {"means": 1e4, "log_scales": -6.9},
    {"means": 0.3, "log_scales": 0.0},
    {"means": 0.3, "log_scales": 12.0},
    {"means": 5.0, "log_scales": 90.0},
]


def make_likelihood(name, *, channels, width, **fields):
    return MAKERS[name](it.PixelCNN(shape=(channels, 8, 8), width=width, **fields))


def mixture(channels: int, *, means: float = 0.0, log_scales: float = -2.0, dtype=torch.float64, batch: int = 5):
    """Random parameters around the given means and log-scales, components that differ."""
    likelihood = DiscretizedLogisticMixture(4, channels)
    generator = torch.Generator().manual_seed(0)
    params = torch.randn(batch, likelihood.num_params, generator=generator, dtype=torch.float64)
    _, m, s, _ = likelihood.split(params)
    m.mul_(0.1 * (1 + abs(means))).add_(means)
    s.mul_(0.3).add_(log_scales)
    return likelihood, params.to(dtype)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", list(MAKERS))
def test_each_name_makes_a_likelihood_as_the_protocol_says(name, channels):
    likelihood = make_likelihood(name, channels=channels, width=10, components=3)
    count, size = (1 if likelihood.sub_pixels else channels), likelihood.num_params
    params, noise = torch.zeros(2, size), torch.full((2, likelihood.num_noise), 0.4, dtype=torch.float64)
    values = likelihood.draw(params, noise)
    assert values.shape == likelihood.log_prob(params, values).shape == (2, count)
    means = torch.linspace(-0.3, 0.3, 4 * count).view(4, count)
    if likelihood.has_means:
        assert likelihood.mean_params(means).shape == (4, size)
        assert likelihood.start(means, means + 0.1, torch.zeros(count, count)).shape == (size,)
    else:
        with pytest.raises(NotImplementedError):
            likelihood.mean_params(means)


@pytest.mark.parametrize("extreme", EXTREMES, ids=str)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_256_masses_of_every_conditional_sum_to_one(extreme, channels, dtype):
    likelihood, params = mixture(channels, dtype=dtype, **extreme)
    generator = torch.Generator().manual_seed(11)
    given = torch.randint(0, 256, (len(params), channels), dtype=torch.uint8, generator=generator)
    given[0], given[1] = 0, 255
    for i in range(channels):
        log_mass = likelihood.conditional(params, given[:, :i])
        assert not log_mass.isnan().any()
        total = log_mass.double().logsumexp(-1)
        torch.testing.assert_close(
            total, torch.zeros_like(total), atol=1e-6 if dtype == torch.float32 else 1e-12, rtol=0
        )


@pytest.mark.parametrize("extreme", EXTREMES, ids=str)
@pytest.mark.parametrize("channels", [1, 3])
def test_log_prob_agrees_with_the_conditionals(extreme, channels):
    likelihood, params = mixture(channels, **extreme)
    values = torch.tensor([[0] * 3, [255] * 3, [128] * 3, [0, 255, 1], [254, 3, 255]], dtype=torch.uint8)[:, :channels]
    log_prob = likelihood.log_prob(params, values)
    for i in range(channels):
        expected = likelihood.conditional(params, values[:, :i]).gather(-1, values[:, i : i + 1].long())[:, 0]
        torch.testing.assert_close(log_prob[:, i], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("extreme", EXTREMES, ids=str)
def test_the_mass_of_a_range_is_the_sum_of_its_values_masses(extreme):
    likelihood, params = mixture(3, **extreme)
    given = torch.tensor([[0, 255], [255, 0], [128, 130], [3, 3], [77, 200]], dtype=torch.uint8)
    for i in range(3):
        log_mass = likelihood.conditional(params, given[:, :i])
        for lowest, highest in ((0, 255), (0, 7), (250, 255), (100, 140), (9, 9), (0, 0), (255, 255), (1, 254)):
            ends = torch.full((5,), lowest), torch.full((5,), highest)
            found = likelihood.log_mass_within(params, given[:, :i], *ends)
            expected = log_mass[:, lowest : highest + 1].logsumexp(-1)
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_mass_is_the_logistic_cdf_across_the_bin():
    """One component, one channel, written out: s((x + 1/255 - m) / e^s) - s((x - 1/255 - m) / e^s)."""
    likelihood = DiscretizedLogisticMixture(1, channels=1)
    m, log_s = 0.2, -1.5
    cdf = [1 / (1 + math.exp(-((v - 127.0) / 127.5 - m) / math.exp(log_s))) for v in range(255)]  # at v + 1/2
    expected = torch.tensor([cdf[0], *(b - a for a, b in pairwise(cdf)), 1 - cdf[-1]])
    masses = likelihood.conditional(torch.tensor([[3.0, m, log_s]]), torch.zeros(1, 0, dtype=torch.uint8)).exp()[0]
    torch.testing.assert_close(masses, expected, rtol=1e-4, atol=1e-8)


def test_joint_of_a_pixel_is_the_mixture_of_products():
    """log p(r, g, b) is log sum_k w_k p_k(r) p_k(g | r) p_k(b | r, g), with the linear coupling of PixelCNN++."""
    likelihood, params = mixture(3)
    values = torch.tensor([[10, 200, 99]], dtype=torch.uint8).expand(len(params), -1)
    x = values.double() / 127.5 - 1
    logits, means, log_scales, c = likelihood.split(params)
    c = c.tanh()
    shifted = torch.stack(
        [
            means[:, 0],
            means[:, 1] + c[:, 0] * x[:, :1],
            means[:, 2] + c[:, 1] * x[:, :1] + c[:, 2] * x[:, 1:2],
        ],
        1,
    )
    upper, lower = (torch.sigmoid((x[..., None] + h / 255 - shifted) / log_scales.exp()) for h in (1, -1))
    joint = (logits.softmax(-1) * (upper - lower).prod(1)).sum(-1).log()
    torch.testing.assert_close(likelihood.log_prob(params, values).sum(-1), joint)


@pytest.mark.parametrize("log_scale", [-6.5, -2.0, 3.0, 12.0])
@pytest.mark.parametrize("value", [0, 1, 128, 254, 255])
@pytest.mark.parametrize("channels", [1, 3])
def test_gradients_equal_finite_differences(log_scale, value, channels):
    likelihood, params = mixture(channels, log_scales=log_scale, batch=2)
    values = torch.full((2, channels), value, dtype=torch.uint8)
    assert torch.autograd.gradcheck(lambda p: likelihood.log_prob(p, values), params.requires_grad_(), rtol=1e-4)


@pytest.mark.parametrize("extreme", EXTREMES, ids=str)
def test_gradients_are_finite_at_extremes_in_float32(extreme):
    likelihood, params = mixture(3, dtype=torch.float32, **extreme)
    params.requires_grad_()
    for value in (0, 1, 127, 254, 255):
        log_prob = likelihood.log_prob(params, torch.full((5, 3), value, dtype=torch.uint8))
        assert log_prob.isfinite().all()
        (gradient,) = torch.autograd.grad(log_prob.sum(), params)
        assert gradient.isfinite().all()


def test_far_values_keep_their_gradient():
    """Where the two CDFs round to the same number, the mean must still be pulled towards the value."""
    likelihood = DiscretizedLogisticMixture(1, channels=1)
    params = torch.tensor([[0.0, -1.0, likelihood.min_log_scale]], requires_grad=True)
    log_prob = likelihood.log_prob(params, torch.tensor([[250]], dtype=torch.uint8)).sum()
    (gradient,) = torch.autograd.grad(log_prob, params)
    assert log_prob < -1000
    assert gradient[0, 1] > 100


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_a_built_in_temperature_is_that_of_drawing_in_every_answer(name):
    plain, sharp = (make_likelihood(name, channels=3, width=8, components=4, temperature=t) for t in (1.0, 0.6))
    if isinstance(sharp, torch.nn.Module):
        plain.load_state_dict({k: torch.randn_like(v) for k, v in plain.state_dict().items()})
        sharp.load_state_dict(plain.state_dict())
    generator = torch.Generator().manual_seed(0)
    params = torch.randn(6, plain.num_params, generator=generator).double()
    count = 1 if plain.sub_pixels else 3
    values = torch.randint(0, 256, (6, count), dtype=torch.uint8, generator=generator)
    uniform = torch.rand(6, plain.num_noise, generator=generator, dtype=torch.float64)
    lowest = torch.full((6,), 40)
    assert torch.equal(sharp.draw(params, uniform), plain.draw(params, uniform, 0.6))
    for i in range(count):
        given, noise = values[:, :i], uniform[:, i]
        log_mass = plain.conditional(params, given, 0.6)
        torch.testing.assert_close(sharp.conditional(params, given), log_mass)
        torch.testing.assert_close(sharp.conditional(params, given, 0.5), plain.conditional(params, given, 0.3))
        of_value = log_mass.gather(-1, values[:, i, None].long())[:, 0]
        torch.testing.assert_close(sharp.log_prob(params, values)[:, i], of_value)
        within = log_mass[:, 40:201].logsumexp(-1)
        torch.testing.assert_close(sharp.log_mass_within(params, given, lowest, lowest + 160), within)
        bounds = (lowest, lowest + 160)
        drawn = sharp.draw_within(params, given, noise, *bounds)
        assert torch.equal(drawn, plain.draw_within(params, given, noise, *bounds, temperature=0.6))


@pytest.mark.parametrize(
    ("name", "smallest", "bits"), [("dmol", -7.0, 0.0391), ("dmol", -8.0, 2.4e-5), ("chained", -9.0, 0)]
)
def test_what_a_certain_value_costs_follows_from_the_smallest_scale(name, smallest, bits):
    likelihood = make_likelihood(name, channels=1, width=2, components=1, min_log_scale=smallest)
    params = torch.zeros(1, likelihood.num_params)
    params[:, -1] = -100  # the log-scale, below any bound
    params = params + likelihood.mean_params(torch.tensor([[100 / 127.5 - 1]]))
    log_prob = likelihood.log_prob(params, torch.tensor([[100]], dtype=torch.uint8))
    assert -log_prob.item() / math.log(2) == pytest.approx(bits, rel=0.01, abs=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_temperature_sharpens_and_one_changes_nothing(channels):
    likelihood, params = mixture(channels, log_scales=-4.0)
    given = torch.zeros(len(params), 0, dtype=torch.uint8)

    def entropy(temperature):
        log_mass = likelihood.conditional(params, given, temperature)
        return -(log_mass.exp() * log_mass).sum(-1)

    assert (entropy(0.5) < entropy(1.0)).all()
    assert (entropy(1.0) < entropy(2.0)).all()
    logits = torch.randn(4, 256)
    softened = Categorical().conditional(logits, given[:4], 2.0)
    torch.testing.assert_close(softened, (logits / 2).log_softmax(-1))


def test_temperature_divides_logits_and_multiplies_scales():
    """The mixture at temperature 1/2, written out as parameters."""
    likelihood, params = mixture(3)
    sharper = params.clone()
    logits, _, log_scales, _ = likelihood.split(sharper)
    logits.mul_(2)
    log_scales.sub_(math.log(2))
    given = torch.randint(0, 256, (len(params), 2), dtype=torch.uint8)
    for i in range(3):
        expected = likelihood.conditional(sharper, given[:, :i])
        torch.testing.assert_close(likelihood.conditional(params, given[:, :i], 0.5), expected)


def chained(channels: int = 3, batch: int = 5):
    """Chained softmaxes whose every weight is random, and random parameters."""
    torch.manual_seed(0)
    likelihood = ChainedCategorical(channels, 6).double()
    for weight in likelihood.parameters():
        torch.nn.init.normal_(weight)
    return likelihood, torch.randn(batch, likelihood.num_params, dtype=torch.float64)


def categorical(channels: int = 1, batch: int = 5):
    return Categorical(), torch.randn(batch, NUM_VALUES, dtype=torch.float64)


@pytest.mark.parametrize("channels", [1, 3])
def test_chained_masses_sum_to_one_and_agree_with_log_prob(channels):
    likelihood, params = chained(channels)
    values = torch.randint(0, 256, (len(params), channels), dtype=torch.uint8)
    log_prob = likelihood.log_prob(params, values)
    for i in range(channels):
        log_mass = likelihood.conditional(params, values[:, :i])
        torch.testing.assert_close(log_mass.logsumexp(-1), torch.zeros(5, dtype=torch.float64))
        torch.testing.assert_close(log_prob[:, i], log_mass.gather(-1, values[:, i : i + 1].long())[:, 0])


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_chained_logits_of_blue_written_out(temperature):
    """A logistic whose mean moves with red and green, plus W silu(hidden + T_red[r] + T_green[g])."""
    likelihood, params = chained()
    given = torch.tensor([[10, 200]], dtype=torch.uint8).expand(len(params), -1)
    r, g = 10 / 127.5 - 1, 200 / 127.5 - 1
    hidden, means, log_scales = params[:, :18].view(5, 3, 6), params[:, 18:21], params[:, 21:]
    mean = means[:, 2] + likelihood.coupling[2, 0] * r + likelihood.coupling[2, 1] * g
    z = (torch.arange(256) / 127.5 - 1 - mean[:, None]) / log_scales[:, 2:].exp()
    state = hidden[:, 2] + likelihood.given[1][10] + likelihood.given[2][200]
    logits = (torch.sigmoid(z) * torch.sigmoid(-z)).log() + torch.nn.functional.silu(state) @ likelihood.output[2].T
    expected = (logits / temperature).log_softmax(-1)
    torch.testing.assert_close(likelihood.conditional(params, given, temperature), expected)


def test_chained_heads_use_every_channel_before_and_none_after():
    likelihood, params = chained()
    values = torch.full((5, 3), 100, dtype=torch.uint8)
    before = likelihood.log_prob(params, values)
    for j in range(3):
        changed = values.clone()
        changed[:, j] = 7
        moved = (likelihood.log_prob(params, changed) != before).any(0)
        assert moved.tolist() == [i >= j for i in range(3)]


def test_chained_softmaxes_start_as_logistics_that_fit_the_data():
    """Without training: about the entropy of the noise, on the channels' coupling as well as on the scale."""
    torch.manual_seed(0)
    red = torch.randn(4000, 1) * 9
    pixels = torch.cat([red, red * 0.8 + torch.randn(4000, 1) * 4, torch.randn(4000, 1) * 20], 1) + 128
    values = pixels.round().clamp(0, 255).to(torch.uint8)
    x = values.double() / 127.5 - 1
    likelihood = ChainedCategorical(3, 6).double()
    coupling = torch.tensor([[0, 0, 0], [0.8, 0, 0], [0, 0, 0]], dtype=torch.float64)
    means = (x.mean(0) - x.mean(0) @ coupling.T).expand_as(x)
    params = likelihood.start(means, x, coupling) + likelihood.mean_params(means)
    bits = -likelihood.log_prob(params, values).mean(0) / math.log(2)
    entropy = torch.tensor([math.log2(s * math.sqrt(2 * math.pi * math.e)) for s in (9, 4, 20)])
    torch.testing.assert_close(bits.float(), entropy, atol=0.1, rtol=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_flat_components_learn_to_differ(channels):
    """Before any data every value is about as likely; darker images then tell each component something else."""
    likelihood = DiscretizedLogisticMixture(10, channels)
    params = likelihood.flat().double().requires_grad_()
    values = torch.arange(256, dtype=torch.uint8)[:, None].expand(256, channels)
    bits = -likelihood.log_prob(params.expand(256, -1), values)[:, 0] / math.log(2)
    assert bits.mean() < 8.1  # 8 is the least
    assert bits.max() < 9
    darker = torch.linspace(1, 0, 256)[:, None]
    (likelihood.log_prob(params.expand(256, -1), values) * darker).sum().backward()
    logits = likelihood.split(params.grad)[0]
    assert logits.sort().values.diff().min() > 0.01 * logits.abs().max()


def narrow_mixture(channels, batch):
    """Scales below the smallest that is allowed."""
    return mixture(channels, batch=batch, log_scales=-9.0)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize(
    ("make", "channels"),
    [(mixture, 3), (mixture, 1), (narrow_mixture, 3), (chained, 3), (chained, 1), (categorical, 1)],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_draws_follow_the_conditionals(make, channels, temperature):
    """Every channel's CDF at its draw, spread evenly over the drawn bin, is uniform whatever the channels before."""
    likelihood, params = make(channels, batch=2)
    count, rng = 8_000, torch.Generator().manual_seed(5)
    params = params.repeat_interleave(count // 2, 0)
    noise = torch.rand(count, likelihood.num_noise, generator=rng, dtype=torch.float64)
    values = likelihood.draw(params, noise, temperature)
    assert values.dtype == torch.uint8
    assert values.shape == (count, channels)
    for i in range(channels):
        mass = likelihood.conditional(params, values[:, :i], temperature).exp()
        drawn = values[:, i : i + 1].long()
        below = mass.cumsum(-1).gather(-1, drawn)[:, 0] - mass.gather(-1, drawn)[:, 0]
        level = below + torch.rand(count, generator=rng) * mass.gather(-1, drawn)[:, 0]
        groups = [slice(None), slice(0, count // 2)] + [values[:, j] < 128 for j in range(i)]
        for group in groups:
            ordered = level[group].sort().values
            n = len(ordered)
            distance = (ordered - (torch.arange(n) + 0.5) / n).abs().max() * math.sqrt(n)
            assert distance < 1.95, "Kolmogorov's distance, exceeded once in 1,000 times"


@pytest.mark.parametrize("ends", [(0, 255), (0, 3), (250, 255), (90, 140), (127, 128), (9, 9)], ids=str)
@pytest.mark.parametrize("make", [mixture, narrow_mixture, chained])
def test_draws_between_bounds_follow_the_conditionals_there(make, ends):
    """On an even grid of noise each value comes as often as its share of the mass between the bounds."""
    likelihood, params = make(3, batch=2)
    given, count = torch.tensor([[7, 250], [130, 120]], dtype=torch.uint8), 4_000
    grid = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    lowest, highest = (torch.full((count,), end) for end in ends)
    for i, temperature in ((0, 1.0), (1, 0.7), (2, 1.0)):
        log_mass = likelihood.conditional(params, given[:, :i], temperature)[:, ends[0] : ends[1] + 1].log_softmax(-1)
        for row in range(2):
            same = params[row].expand(count, -1), given[row, :i].expand(count, -1)
            values = likelihood.draw_within(*same, grid, lowest, highest, temperature).long()
            counts = torch.bincount(values, minlength=256)
            assert counts[: ends[0]].sum() == counts[ends[1] + 1 :].sum() == 0
            missed = counts[ends[0] : ends[1] + 1] - count * log_mass[row].exp()
            assert missed.abs().max() <= 5, "each of the components rounds once at either side"


@pytest.mark.parametrize("extreme", EXTREMES, ids=str)
def test_draws_between_bounds_exist_however_unlikely(extreme):
    for edge in (0.0, 0.5, 1 - 2**-53):
        likelihood, params = mixture(3, **extreme)
        given = torch.tensor([[0, 255], [255, 0], [128, 130], [3, 3], [77, 200]], dtype=torch.uint8)
        for i, (lowest, highest) in itertools.product(range(3), ((0, 2), (253, 255), (5, 6), (100, 180))):
            ends, uniform = (torch.full((5,), lowest), torch.full((5,), highest)), torch.full((5,), edge).double()
            values = likelihood.draw_within(params, given[:, :i], uniform, *ends)
            assert ((values >= lowest) & (values <= highest)).all()


@pytest.mark.parametrize("edge", [0.0, 1 - 2**-53])
def test_noise_at_its_edges_gives_values_that_exist(edge):
    for make, channels in ((mixture, 3), (chained, 3), (categorical, 1)):
        likelihood, params = make(channels)
        noise = torch.full((5, likelihood.num_noise), edge, dtype=torch.float64)
        values = likelihood.draw(params, noise)
        assert likelihood.log_prob(params, values).isfinite().all()


@pytest.mark.parametrize(("top_k", "top_p"), [(256, None), (None, 1.0), (300, 1.0)])
@pytest.mark.parametrize("make", [mixture, narrow_mixture, chained])
def test_filters_that_keep_everything_change_no_draw(make, top_k, top_p):
    """With bounds and without: they take the route of no filter, so the same noise gives the same values."""
    likelihood, params = make(3, batch=2)
    count, rng = 600, torch.Generator().manual_seed(3)
    params = params.repeat_interleave(count // 2, 0)
    uniform = torch.rand(count, 3, generator=rng, dtype=torch.float64)
    lowest = torch.randint(0, 200, (count, 3), generator=rng)
    bounds = lowest, lowest + torch.randint(0, 56, (count, 3), generator=rng)
    for ends in (None, bounds):
        expected = draw_in_turn(likelihood, params, uniform, bounds=ends)
        assert torch.equal(draw_in_turn(likelihood, params, uniform, 1.0, top_k, top_p, bounds=ends), expected)


def test_draws_have_the_frequencies_of_the_masses():
    """Inverting the CDF on an even grid of noise gives each value as often as its mass, to within one draw."""
    log_mass = torch.randn(256, dtype=torch.float64).mul(3).log_softmax(-1)
    grid = (torch.arange(100_000) + 0.5) / 100_000
    values = invert_cdf(log_mass.expand(len(grid), -1), grid.double())
    counts = torch.bincount(values.long(), minlength=256)
    assert (counts - 100_000 * log_mass.exp()).abs().max() <= 1


def test_values_without_mass_are_never_drawn():
    log_mass = torch.full((3, 256), -math.inf)
    log_mass[:, 7], log_mass[:, 200] = math.log(0.25), math.log(0.75)
    edge = torch.tensor([0.0, 0.2500001, 1 - 2**-53], dtype=torch.float64)
    assert invert_cdf(log_mass, edge).tolist() == [7, 200, 200]


def test_top_k_and_top_p_keep_the_likeliest():
    mass = torch.tensor([0.1, 0.4, 0.2, 0.3] + [0.0] * 252)
    grid = ((torch.arange(1000) + 0.5) / 1000).double()
    log_mass = mass.log().expand(1000, -1)
    assert set(invert_cdf(log_mass, grid, top_k=2).tolist()) == {1, 3}
    assert set(invert_cdf(log_mass, grid, top_p=0.69).tolist()) == {1, 3}
    assert set(invert_cdf(log_mass, grid, top_p=0.71).tolist()) == {1, 2, 3}
    assert set(invert_cdf(log_mass, grid, top_p=1e-9).tolist()) == {1}
    counts = torch.bincount(invert_cdf(log_mass, grid, top_k=2).long())
    assert counts[[1, 3]].tolist() == pytest.approx([1000 * 4 / 7, 1000 * 3 / 7], abs=1)


def test_numbers_of_parameters():
    assert DiscretizedLogisticMixture(10, channels=3).num_params == 100
    assert DiscretizedLogisticMixture(10, channels=1).num_params == 30
    assert Categorical().num_params == 256


def test_no_scale_is_smaller_than_that_of_the_paper():
    likelihood, params = mixture(1, means=0.1, log_scales=-20.0)
    _, _, log_scales, _ = likelihood.split(clamped := params.clone())
    log_scales.fill_(-7.0)
    values = torch.full((len(params), 1), 140, dtype=torch.uint8)
    torch.testing.assert_close(likelihood.log_prob(params, values), likelihood.log_prob(clamped, values))


def test_top_p_at_a_boundary_and_after_top_k():
    """Half of the mass is held by one value of mass one half; p counts what top_k has left."""
    grid = ((torch.arange(1000) + 0.5) / 1000).double()
    half = torch.tensor([0.5, 0.25, 0.25] + [0.0] * 253).log().expand(1000, -1)
    assert set(invert_cdf(half, grid, top_p=0.5).tolist()) == {0}
    mass = torch.tensor([0.1, 0.4, 0.2, 0.3] + [0.0] * 252).log().expand(1000, -1)
    assert set(invert_cdf(mass, grid, top_k=2, top_p=0.55).tolist()) == {1}


def test_the_largest_noise_never_leaves_the_support():
    """Whatever the total is rounded to."""
    mass = torch.rand(2000, 256, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mass[:, 100:] = 0
    values = invert_cdf(mass.log(), torch.full((2000,), 1 - 2**-53, dtype=torch.float64))
    assert values.max() <= 99
