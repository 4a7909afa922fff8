"""Generation is exact: cached equals naive, draws follow the model, known values stay, batches do not matter."""

import inspect
import math

import numpy as np
import pytest
import torch
from conftest import every_model, every_scheme, make_model, random_images

from image_transformer.conditions.frames import Frames
from image_transformer.geometry.boxes import box_mean
from image_transformer.geometry.order import BlockRaster, Raster, Wavefront
from image_transformer.geometry.patterns import Full, Local1D, Nothing
from image_transformer.geometry.schedule import cache_plan, front_by_front
from image_transformer.inference import memory
from image_transformer.inference.sampling import generate, generate_naive, noise
from image_transformer.likelihoods.base import invert_cdf


@every_model
def test_cached_decoding_equals_the_whole_network_step_by_step(scheme, family, likelihood):
    model = make_model(scheme, family=family, likelihood=likelihood)
    images = random_images(2, model.config.shape)
    with torch.inference_mode():
        whole = model(images)
        for schedule in (model.schedule(), front_by_front(model.layout)):
            decoder = model.network.decoder(model.read({}), 2, schedule)
            for at in map(torch.from_numpy, schedule.steps):
                torch.testing.assert_close(decoder.step(images, at), whole[:, at], rtol=1e-10, atol=1e-10)


@every_model
def test_prefill_equals_decoding_the_known_part(scheme, family, likelihood):
    """Whether the first two thirds are known, or every third position, or all but one, or nothing."""
    model = make_model(scheme, family=family, likelihood=likelihood)
    images = random_images(2, model.config.shape)
    number = np.arange(length := model.layout.num_positions)
    with torch.inference_mode():
        whole = model(images)
        for known in (number < 2 * length // 3, number % 3 == 1, number != length // 2, number < 0):
            schedule = model.schedule(known)
            decoder = model.network.decoder(model.read({}), 2, schedule, prefilled=True)
            first, *later = map(torch.from_numpy, schedule.steps)
            torch.testing.assert_close(decoder.prefill(images)[:, first], whole[:, first])
            for at in later:
                torch.testing.assert_close(decoder.step(images, at), whole[:, at], rtol=1e-10, atol=1e-10)


@every_model
def test_generate_equals_generate_naive(scheme, family, likelihood):
    """The same images in float64: plain, filtered, and with the top rows and a few stray pixels known.

    The naive form draws one position after the other, so positions that are drawn together lose nothing.
    """
    model = make_model(scheme, family=family, likelihood=likelihood)
    known = random_images(3, model.config.shape)
    mask = torch.zeros(model.config.shape[1:], dtype=torch.bool)
    mask[:2] = True
    mask[-1, 1] = True
    for options in (
        {},
        {"temperature": 0.9, "top_k": 20, "known": known, "known_mask": mask},
        {"seed": 5, "temperature": 0.7, "top_p": 0.8},
    ):
        fast = generate(model, 3, batch=2, **options)
        assert torch.equal(fast, generate_naive(model, 3, **options))
        if "known" in options:
            assert torch.equal(fast[..., mask], known[..., mask])


@every_scheme
def test_grouped_key_value_heads_are_cached_and_equal_naive(scheme):
    model = make_model(scheme, kv_heads=1)
    assert model.network.decoder(None, 2, model.schedule()).keys[0].shape[:2] == (2, 1)
    assert torch.equal(generate(model, 2), generate_naive(model, 2))


def test_heads_in_two_groups_are_cached_and_equal_naive():
    model = make_model((Wavefront(1), (Local1D(5, 4),)), heads=4, kv_heads=2, width=16)
    assert torch.equal(generate(model, 2), generate_naive(model, 2))


@pytest.mark.parametrize("filters", [{}, {"top_k": 20}])
@pytest.mark.parametrize("likelihood", ["dmol", "chained", "categorical"])
def test_every_image_may_have_its_own_known_part(filters, likelihood):
    """Upper rows, a channel, nothing, all: what is known of its batch mates changes no image."""
    model = make_model((Wavefront(1), (Local1D(5, 4),)), likelihood=likelihood)
    known = random_images(4, model.config.shape)
    mask = torch.zeros(known.shape, dtype=torch.bool)
    mask[0, :, :2] = mask[1, 0] = mask[3] = True
    together = generate(model, 4, known=known, known_mask=mask, batch=4, **filters)
    assert torch.equal(together, generate(model, 4, known=known, known_mask=mask, batch=1, **filters))
    assert torch.equal(together, generate_naive(model, 4, known=known, known_mask=mask, **filters))
    assert torch.equal(together[mask], known[mask])
    assert torch.equal(together[2], generate(model, 4, **filters)[2])


def test_known_images_may_have_any_strides():
    model = make_model()
    known = random_images(2, (5, 4, 3)).permute(0, 3, 1, 2)
    mask = torch.ones(5, 4, dtype=torch.bool)
    assert torch.equal(generate(model, 2, known=known, known_mask=mask), known)


def test_filters_that_keep_everything_change_nothing():
    model = make_model()
    assert torch.equal(generate(model, 2, top_k=256, top_p=1.0), generate(model, 2))


@every_scheme
def test_a_step_that_repeats_its_last_position_changes_nothing(scheme):
    """As steps are padded where they are captured in one graph of a fixed size."""
    model = make_model(scheme)
    images = random_images(2, model.config.shape)
    with torch.inference_mode():
        whole, decoder = model(images), model.network.decoder(model.read({}), 2, model.schedule())
        for at in map(torch.from_numpy, model.schedule().steps):
            padded = torch.cat([at, at[-1:].expand(3)])
            params = decoder.step(images, padded)
            torch.testing.assert_close(params, whole[:, padded], rtol=1e-10, atol=1e-10)


@pytest.mark.gpu
@pytest.mark.parametrize("fields", [{}, {"heads": 4, "kv_heads": 2, "width": 16}], ids=str)
def test_steps_captured_on_a_gpu_give_the_images_of_the_naive_form(fields):
    model = make_model((Wavefront(1), (Local1D(5, 4),)), **fields).cuda()
    known = random_images(5, model.config.shape)
    mask = torch.zeros(model.config.shape[1:], dtype=torch.bool)
    mask[:2] = True
    for options in ({}, {"top_p": 0.9}, {"known": known, "known_mask": mask}, {"temperature": 0.7}):
        expected = generate_naive(model, 5, **options)
        assert torch.equal(generate(model, 5, batch=2, **options), expected)


def test_image_i_depends_on_seed_and_i_alone():
    model = make_model()
    together = generate(model, 5, seed=3)
    assert torch.equal(together, generate(model, 5, seed=3, batch=2))
    assert torch.equal(together[:2], generate(model, 2, seed=3))
    assert not torch.equal(together, generate(model, 5, seed=4))
    assert torch.equal(noise(7, [3, 4], 11), noise(7, range(5), 11)[3:])
    assert len(noise(7, range(20), 11).unique()) == 220
    numbers = [2**63 + 5, 2**63 + 6, 2**64 - 2, 2**64 - 1]  # those of late clips
    assert len(noise(7, numbers, 11).unique()) == 44 and len(noise(2**63, numbers, 11).unique()) == 44


def test_each_sub_pixel_has_its_own_noise():
    """A uniform model draws floor(256 u): the noise of the image itself, whatever the order of generation."""
    model = make_model((BlockRaster((2, 3)), (Full(),)), family="paper", likelihood="categorical")
    for parameter in model.network.head.parameters():
        torch.nn.init.zeros_(parameter)
    images = generate(model, 3, seed=2)
    torch.testing.assert_close(images.flatten(1).double(), (256 * noise(2, range(3), 60)).floor(), atol=1e-9, rtol=0)


@pytest.mark.parametrize("family", ["paper", "modern"])
@pytest.mark.parametrize("likelihood", ["categorical", "dmol", "chained"])
def test_samples_have_the_frequencies_that_the_model_states(family, likelihood):
    """Images of two sub-pixels, 4,000 draws: each half of each value's range, jointly, against its exact mass."""
    model = make_model((Raster(), (Full(), Local1D(1, 1))), (1, 1, 2), family=family, likelihood=likelihood)
    images = generate(model, 4000, batch=4000).flatten(1).long()
    value = torch.arange(256, dtype=torch.uint8)
    every = torch.cartesian_prod(value, value).view(-1, 1, 1, 2)
    with torch.inference_mode():
        mass = model.log_prob(every).flatten(1).sum(1).exp().view(256, 256)
    cut = [int((mass.sum(1 - axis).cumsum(0) < 0.5).sum().clamp(1, 255)) for axis in (0, 1)]
    expected = torch.stack([mass[: cut[0], : cut[1]].sum(), mass[: cut[0], cut[1] :].sum(),
                            mass[cut[0] :, : cut[1]].sum(), mass[cut[0] :, cut[1] :].sum()])  # fmt: skip
    quadrant = (images[:, 0] >= cut[0]) * 2 + (images[:, 1] >= cut[1])
    found = torch.bincount(quadrant, minlength=4) / 4000
    spread = (expected * (1 - expected) / 4000).sqrt()
    assert ((found - expected).abs() < 5 * spread + 1e-9).all()


def test_completion_is_conditioned_on_what_comes_before():
    """With the upper half known, the lower half is what the model draws after it."""
    model = make_model((Raster(), (Full(),)), (3, 4, 3))
    whole = generate(model, 2, seed=1)
    mask = torch.zeros(4, 3, dtype=torch.bool)
    mask[:2] = True
    assert torch.equal(generate(model, 2, seed=1, known=whole, known_mask=mask), whole)
    other = generate(model, 2, seed=1, known=255 - whole, known_mask=mask)
    assert not torch.equal(other[:, :, 2:], whole[:, :, 2:])


def test_all_known_is_returned_as_it_is():
    model = make_model()
    known = random_images(2, model.config.shape)
    assert torch.equal(generate(model, 2, known=known, known_mask=torch.ones(5, 4, dtype=torch.bool)), known)


def test_low_temperature_draws_the_likeliest():
    model = make_model((Raster(), (Full(),)), (1, 2, 2), likelihood="categorical")
    assert torch.equal(generate(model, 1, temperature=1e-6), generate(model, 1, seed=9, top_k=1))


def test_progress_reaches_the_end_and_training_mode_is_kept():
    model = make_model().train()
    calls = []
    generate(model, 3, batch=2, progress=lambda done, total: calls.append((done, total)))
    done, totals = zip(*calls, strict=True)
    assert list(done) == sorted(done)
    assert done[-1] == totals[-1] == 3 * len(model.schedule().steps)
    assert model.training


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "at least 1"),
        ({"seed": -1}, "seed must not be negative, got -1"),
        ({"seed": 1.5}, "seed must be a whole number, got 1.5"),
        ({"top_k": 2.0}, "top_k must be a whole number, got 2.0"),
        ({"top_k": math.nan}, "top_k must be"),
        ({"temperature": 0}, "temperature must be positive, got 0"),
        ({"temperature": math.nan}, "temperature must be positive"),
        ({"top_k": 0}, "top_k must be at least 1"),
        ({"batch": 0}, "at least 1"),
        ({"top_p": 1.5}, r"top_p must lie in \(0, 1\], got 1.5"),
        ({"known": random_images(2, (3, 5, 4))}, "together or not at all"),
        (
            {"known": random_images(3, (3, 5, 4)), "known_mask": torch.ones(5, 4).bool()},
            "one image for each of 2",
        ),
        ({"known": random_images(2, (3, 5, 4)), "known_mask": torch.ones(5, 4)}, "torch.bool tensor, got torch.float"),
        ({"known": random_images(2, (3, 5, 4)), "known_mask": torch.ones(4, 5).bool()}, r"broadcast to \(2, 3, 5, 4\)"),
        ({"known": torch.zeros(2, 3, 5, 4), "known_mask": torch.ones(5, 4).bool()}, "torch.uint8"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        generate(make_model(), **({"count": 2} | options))


def test_each_channel_of_a_mixture_pixel_has_its_own_noise():
    """The draws of one pixel, made again by hand from its conditionals and its numbers of noise, filtered or not."""
    model = make_model((Raster(), (Full(),)), (3, 1, 1))
    uniform = noise(6, range(20), 4)
    params = model(random_images(20, (3, 1, 1)))[:, 0]
    assert torch.equal(generate(model, 20, seed=6).flatten(1), model.likelihood.draw(params, uniform))
    values = torch.zeros(20, 0, dtype=torch.uint8)
    for channel in range(3):
        log_mass = model.likelihood.conditional(params, values)
        value = invert_cdf(log_mass, uniform[:, channel], top_p=0.9)
        values = torch.cat([values, value[:, None]], 1)
    assert torch.equal(generate(model, 20, seed=6, top_p=0.9).flatten(1), values)


def test_a_known_channel_says_something_of_the_others():
    """Red known, green and blue drawn: their frequencies are the model's given that red."""
    model = make_model((Raster(), (Full(),)), (3, 1, 1))
    red = torch.zeros(4000, 3, 1, 1, dtype=torch.uint8)
    red[:, 0] = 30
    only_red = torch.tensor([True, False, False])[:, None, None]
    drawn = generate(model, 4000, known=red, known_mask=only_red)
    assert (drawn[:, 0] == 30).all()
    params = model(red[:1])[:, 0]
    mass = model.likelihood.conditional(params, red[:1, :1, 0, 0]).exp()[0]
    cut = max(1, int((mass.cumsum(0) < 0.5).sum()))
    expected = mass[:cut].sum().item()
    found = (drawn[:, 1] < cut).double().mean().item()
    assert abs(found - expected) < 5 * math.sqrt(expected * (1 - expected) / 4000)


def test_the_cache_of_files_does_not_take_memory_from_a_container(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "CONTAINER", tmp_path)
    whole = memory.free_memory(torch.device("cpu"))
    for name, text in (("max", "1000000"), ("current", "999000"), ("stat", "anon 9\ninactive_file 600000\nslab 8\n")):
        (tmp_path / f"memory.{name}").write_text(text)
    assert memory.free_memory(torch.device("cpu")) == 601_000
    (tmp_path / "memory.max").write_text("max")
    assert memory.free_memory(torch.device("cpu")) == pytest.approx(whole, rel=0.5)


def test_batches_that_do_not_fit_into_memory_are_split(monkeypatch):
    model = make_model()
    whole = generate(model, 5, seed=2)
    sizes = []

    def decoder(context, batch, *args, **kwargs):
        sizes.append(batch)
        return type(model.network).decoder(model.network, context, batch, *args, **kwargs)

    monkeypatch.setattr(memory, "free_memory", lambda device: 30_000)
    monkeypatch.setattr(model.network, "decoder", decoder)
    assert torch.equal(generate(model, 5, seed=2), whole)
    assert 1 <= max(sizes) < 5


def test_naive_has_the_signature_of_generate():
    assert inspect.signature(generate_naive) == inspect.signature(generate)


# ---- what was wrong once ----


@pytest.mark.parametrize("draw", [generate, generate_naive])
def test_images_can_be_written_to(draw):
    images = draw(make_model(), 2)
    images[0] = 0
    assert not images[0].any() and not images.is_inference()


def test_filters_that_keep_everything_change_no_consistent_image():
    model = make_model((Wavefront(1), (Local1D(5, 4),)), (3, 4, 6), factor=2)
    how = {"low": random_images(3, (3, 2, 3)), "consistent": True}
    plain = generate(model, 3, **how)
    assert torch.equal(plain, generate(model, 3, top_k=256, **how))
    assert torch.equal(plain, generate(model, 3, top_p=1.0, **how))


@pytest.mark.parametrize("fields", [{"mix": 0}, {"mix": 1}, {"factor": 2}, {"temperature": 0.7}], ids=str)
@pytest.mark.parametrize("patterns", [(Nothing(), Nothing()), (Nothing(), Local1D(3, 4))], ids=str)
def test_layers_that_mix_or_attend_or_do_neither_are_cached_exactly(patterns, fields):
    model = make_model((Wavefront(1), patterns), (3, 4, 6), **fields)
    known, mask = random_images(2, (3, 4, 6)), torch.zeros(4, 6, dtype=torch.bool)
    mask[0] = mask[2, 3] = True
    told = {"low": random_images(2, (3, 2, 3))} if "factor" in fields else {}
    for given in ({}, {"known": known, "known_mask": mask}):
        assert torch.equal(generate(model, 2, **told, **given), generate_naive(model, 2, **told, **given))


def test_a_position_waits_for_the_states_of_its_neighbours_not_only_for_their_values():
    """Where nearly all is known: the value of a neighbour is there at once, its state may still wait for another pixel
    that is drawn first."""
    model = make_model((Wavefront(1), (Nothing(), Nothing())), (3, 2, 12))
    known, mask = random_images(4, (3, 2, 12)), torch.ones(2, 12, dtype=torch.bool)
    mask[1, 1] = mask[1, 5] = False  # 5 has no input from 1, but mixes in states of 3 and 4, which have
    assert not np.isin(model.layout.at[1, 1, 0], model.network.inputs[model.layout.at[1, 5, 0]])
    drawn = generate(model, 4, known=known, known_mask=mask)
    assert torch.equal(drawn, generate_naive(model, 4, known=known, known_mask=mask))


def test_a_built_in_temperature_holds_for_consistent_samples_as_for_their_likelihood():
    """A model that is sharper by itself draws and scores as one that is asked for it."""
    plain, sharp = (make_model((Wavefront(1), (Local1D(3, 4),)), (3, 4, 4), factor=2, temperature=t) for t in (1, 0.5))
    low = random_images(3, (3, 2, 2))
    drawn = generate(sharp, 3, low=low, consistent=True)
    assert torch.equal(drawn, generate(plain, 3, low=low, consistent=True, temperature=0.5))
    assert torch.equal(drawn, generate_naive(sharp, 3, low=low, consistent=True))
    assert torch.equal(box_mean(drawn, 2), low)
    held, free = (sharp.log_prob(drawn, low=low, consistent=c) for c in (True, False))
    assert (held.sum((1, 2, 3)) >= free.sum((1, 2, 3))).all() and held.isfinite().all()
    assert not torch.allclose(held, plain.log_prob(drawn, low=low, consistent=True))


def test_plans_of_the_cache_are_shared_by_equal_schedules():
    """Ten completions of the same part need one plan for each pattern and one for the neighbours that are mixed."""
    model = make_model((Wavefront(1), (Local1D(5, 4), Local1D(3, 6))))
    known, mask = random_images(1, (3, 5, 4)), torch.zeros(5, 4, dtype=torch.bool)
    mask[:2] = True
    cache_plan.cache_clear()
    for seed in range(10):
        generate(model, 1, seed=seed, known=known, known_mask=mask)
    assert cache_plan.cache_info().currsize == 3
    assert cache_plan.cache_info().maxsize <= 16


def test_the_naive_form_plans_memory_for_passes_over_all_positions(monkeypatch):
    model = make_model((Raster(), (Local1D(5, 4),)))
    assert model.network.pass_bytes(20) > 10 * model.network.pass_bytes(1)
    near, far, blind = (
        make_model(shape=(3, 32, 32), conditions=(Frames(1, sight),), look=look).network.pass_bytes(1024)
        for sight, look in (("near", True), ("all", True), ("near", False))
    )
    assert blind < near < far, "keys, values and scores of what layers look at"
    sizes = []
    forward = model.network.forward
    monkeypatch.setattr(
        model.network, "forward", lambda image, context: (sizes.append(len(image)), forward(image, context))[1]
    )
    monkeypatch.setattr(memory, "free_memory", lambda device: 8 * model.network.pass_bytes(20))
    generate_naive(model, 5)
    assert 1 <= max(sizes) <= 4


def test_a_known_image_of_a_wrong_shape_is_named():
    with pytest.raises(ValueError, match=r"^known must have shape \(b, 3, 5, 4\) for this model, got \(2, 3, 4, 5\)"):
        generate(make_model(), 2, known=random_images(2, (3, 4, 5)), known_mask=torch.ones(5, 4).bool())
