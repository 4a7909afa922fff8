"""Classes and low-resolution images: heard everywhere, leaking nothing, exact with and without consistency."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import FAMILIES, LIKELIHOODS, assert_no_future, make_model, random_images, shrunken
from torch.nn.functional import interpolate

from image_transformer import checkpoint
from image_transformer.conditions.label import Label
from image_transformer.conditions.low import Low
from image_transformer.config.data import DataConfig
from image_transformer.config.model import Modern
from image_transformer.data.images import DataError, class_labels
from image_transformer.data.loading import load_data
from image_transformer.geometry.boxes import box_mean
from image_transformer.geometry.order import BlockRaster, Raster, Wavefront
from image_transformer.geometry.patterns import Full, Local1D, Local2D
from image_transformer.inference.sampling import generate, generate_naive
from image_transformer.inference.scoring import bits_per_dim, classify, evaluate
from image_transformer.model import ImageModel
from image_transformer.networks.attention import full_attention
from image_transformer.recipes import recipe
from image_transformer.show.records import read_metrics
from image_transformer.training.loop import train

SHAPE, LOW = (3, 4, 6), (3, 2, 3)
TOLD = (Low(2),)
NAMES = ("cat", "dog", "owl")
SCHEMES = {
    "raster": (Raster(), (Local1D(5, 4),)),
    "blocks": (BlockRaster((2, 3)), (Local2D((2, 3), (1, 2)),)),
    "wavefront": (Wavefront(1), (Local1D(5, 4), Local1D(3, 6))),
}
every_conditional = pytest.mark.parametrize(
    ("scheme", "family", "likelihood"),
    [c for c in itertools.product(SCHEMES, FAMILIES, LIKELIHOODS) if c[:2] != ("wavefront", "paper")],
)


def conditional_model(scheme="wavefront", family="modern", likelihood="dmol", **fields):
    options = {"shape": SHAPE, "factor": 2, "classes": NAMES, "encoder_depth": 1} | fields
    return make_model(SCHEMES[scheme], family=family, likelihood=likelihood, **options)


# ---- what the conditions reach ----


@every_conditional
def test_no_condition_lets_the_future_in(scheme, family, likelihood):
    given = {"label": torch.tensor([1]), "low": random_images(1, LOW, seed=2)}
    assert_no_future(conditional_model(scheme, family, likelihood), random_images(1, SHAPE), given)


@every_conditional
def test_every_low_resolution_value_and_the_class_reach_every_prediction(scheme, family, likelihood):
    model = conditional_model(scheme, family, likelihood)
    image, low = random_images(1, SHAPE), random_images(1, LOW, seed=2)
    with torch.inference_mode():
        params = model(image, {"label": torch.tensor([1]), "low": low})
        assert (model(image, {"label": torch.tensor([2]), "low": low}) != params).any(-1).all()
        for place in range(low.numel()):
            other = low.clone()
            other.view(-1)[place] ^= 0x80
            assert (model(image, {"label": torch.tensor([1]), "low": other}) != params).any(-1).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_reach_every_weight_of_the_encoder_and_the_class(family):
    model = conditional_model("raster", family, "categorical", depth=2)
    low = random_images(2, LOW, seed=2)
    model.log_prob(random_images(2, SHAPE), label=[0, 2], low=low).sum().backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None and weight.grad.abs().sum() > 0, name
    assert model.network.vectors.label.weight.grad[1].abs().sum() == 0, "a class that is not there learns nothing"


def test_the_low_resolution_image_says_what_is_left_of_each_box():
    """By hand, in raster order: before the last value of a box, four times the mean less the other three."""
    model = conditional_model("raster", shape=(1, 2, 2), classes=None)
    image = torch.tensor([[[[10, 20], [30, 200]]]], dtype=torch.uint8)
    low = torch.full((1, 1, 1, 1), 65, dtype=torch.uint8)
    features = model.network.local.low(image, low, slice(None))[0]
    rest = (features[:, -1] + 1) * 127.5
    torch.testing.assert_close(rest, torch.tensor([65.0, (260 - 10) / 3, (260 - 30) / 2, 260 - 60.0]))
    torch.testing.assert_close((features[:, :-1] + 1) * 127.5, torch.full((4, 1), 65.0))


def test_the_mean_of_its_own_box_is_told_to_each_position():
    model = conditional_model("raster", shape=(3, 2, 6), classes=None)
    low = torch.arange(9, dtype=torch.uint8).view(1, 3, 1, 3)
    features = model.network.local.low(torch.zeros(1, 3, 2, 6, dtype=torch.uint8), low, slice(None))[0]
    told = ((features[:, :3] + 1) * 127.5).round().int().tolist()
    assert told == 2 * [[0, 3, 6], [0, 3, 6], [1, 4, 7], [1, 4, 7], [2, 5, 8], [2, 5, 8]]


def test_cross_attention_knows_where_things_are_but_not_absolutely():
    """Rotations of boxes' centres: scores depend on the distance between a pixel and a box alone."""
    network = conditional_model("raster", shape=(1, 8, 12), classes=None, width=24).network
    cross, encoder = network.blocks[0].cross, network.encoders.low
    with torch.no_grad():  # queries like keys, so that a score is the same from one side as from the other
        cross.query.weight.copy_(cross.key_value.weight[:24])
        cross.gain.fill_(1)
    state = torch.randn(1, 1, 24, dtype=torch.float64)
    encoded = state.expand(1, 24, 24)  # the same content everywhere: only places differ
    keys, _ = cross.keys_and_values(encoded, tuple(r.double() for r in encoder.rotary(slice(None))))
    seen = {}
    cross.output = torch.nn.Identity()
    for row, col in itertools.product(range(8), range(12)):
        rotate = tuple(r.double() for r in network.rotary(slice(row * 12 + col, row * 12 + col + 1)))
        for m in range(24):
            value = torch.eye(keys.shape[-1], dtype=torch.float64)[:1].expand(1, 3, 1, -1)
            # two keys, one of them zero: the weight of the other says its score
            k = torch.stack([keys[:, :, m], torch.zeros_like(keys[:, :, m])], 2)
            v = torch.cat([value, torch.zeros_like(value)], 2)
            weight = cross(state, rotate, k, v, full_attention)[0, 0, 0].item()
            seen.setdefault((row - m // 6 * 2, col - m % 6 * 2), []).append(weight)
    assert all(max(w) - min(w) < 1e-6 for w in seen.values())
    far = [w[0] for w in seen.values()]
    assert max(far) - min(far) > 0.05
    assert seen[0, 0][0] == pytest.approx(seen[1, 1][0]), "a box's centre is as far from its first pixel as its last"
    assert seen[0, 1][0] == pytest.approx(seen[1, 0][0]) and seen[0, 0][0] > max(seen[4, 4][0], seen[-4, 3][0])


def test_the_closed_form_start_fits_each_place_of_a_box_by_itself():
    """Images that are the nearest enlargement of noise are known to the start, but for the rounding of its scales."""
    torch.manual_seed(0)
    config = Modern(
        shape=(3, 8, 8), conditions=(Low(2),), depth=1, width=16, heads=2, feed_forward=8, attention=(Full(),)
    )
    model = ImageModel(config).eval()
    images = interpolate(random_images(400, (3, 4, 4)).float(), scale_factor=2).byte()
    before = bits_per_dim(model, images[:50])
    model.network.closed_form_start(images, {"low": box_mean(images, 2)})
    assert bits_per_dim(model, images[:50]) < 0.2 < before


def test_the_closed_form_start_gives_each_place_its_own_scales_and_couples_channels():
    """Noise common to the channels, at the last pixel of each box ten times as strong as elsewhere."""
    torch.manual_seed(0)
    config = Modern(
        shape=(3, 8, 8), conditions=(Low(2),), depth=1, width=16, heads=2, feed_forward=8, attention=(Full(),)
    )
    model, rng = ImageModel(config).double(), np.random.default_rng(0)
    strength = np.tile([[2.0, 2.0], [2.0, 20.0]], (4, 4))
    noise = rng.normal(size=(500, 1, 8, 8)) * strength + rng.normal(size=(500, 3, 8, 8)) * 0.5
    images = torch.from_numpy(np.clip(128 + noise, 0, 255).round().astype(np.uint8))
    model.network.closed_form_start(images, {"low": torch.full((500, 3, 4, 4), 128, dtype=torch.uint8)})
    skip = model.network.skip
    _, _, log_scales, coefficients = model.likelihood.split(skip.bias.unflatten(0, (4, -1)))
    red = log_scales[:, 0].mean(-1)
    assert red[3] - red[:3].max() > math.log(4) and red[:3].max() - red[:3].min() < 0.3
    assert (coefficients.tanh()[:, 0] > 0.7).all(), "green follows red"


def test_a_start_without_any_residual_is_finite():
    for likelihood in ("dmol", "chained"):
        config = Modern(
            shape=(3, 8, 8), conditions=TOLD, depth=1, width=16, heads=2, feed_forward=8, attention=(Full(),),
            likelihood=likelihood,
        )  # fmt: skip
        model, black = ImageModel(config), torch.zeros(20, 3, 8, 8, dtype=torch.uint8)
        model.network.closed_form_start(black, {"low": box_mean(black, 2)})
        assert all(p.isfinite().all() for p in model.parameters())
        assert math.isfinite(bits_per_dim(model, black))


# ---- sampling ----


@every_conditional
@pytest.mark.parametrize("consistent", [False, True])
def test_cached_equals_naive_with_conditions(scheme, family, likelihood, consistent):
    model = conditional_model(scheme, family, likelihood)
    low = random_images(3, LOW, seed=2)
    options = {"label": ["owl", 0, "dog"], "low": low, "consistent": consistent, "temperature": 0.9}
    assert torch.equal(generate(model, 3, batch=2, **options), generate_naive(model, 3, **options))
    known, mask = random_images(3, SHAPE, seed=4), torch.zeros(SHAPE[1:], dtype=torch.bool)
    mask[:2, :4] = True
    options["low"] = torch.where(box_mean(mask.expand(3, *SHAPE).byte(), 2).bool(), box_mean(known, 2), low)
    fast = generate(model, 3, known=known, known_mask=mask, top_p=0.9, **options)
    assert torch.equal(fast, generate_naive(model, 3, known=known, known_mask=mask, top_p=0.9, **options))
    assert torch.equal(fast[..., mask], known[..., mask])


def test_grouped_key_value_heads_and_the_encoder():
    model = conditional_model(heads=4, kv_heads=2, width=16)
    low = random_images(2, LOW, seed=2)
    assert torch.equal(generate(model, 2, label=0, low=low), generate_naive(model, 2, label=0, low=low))
    other = low.clone()
    other[0, 0, 1, 2] ^= 0x80
    one, two = (
        model(random_images(2, SHAPE), {"label": torch.zeros(2, dtype=torch.int64), "low": x}) for x in (low, other)
    )
    assert (one != two)[0].any(-1).all() and torch.equal(one[1], two[1])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_consistent_image_does_not_depend_on_what_is_known_of_others(family):
    """Not even where a short window lets known pixels shorten the way: the order in a box is that of the scores."""
    fields = {"shape": (1, 2, 4), "classes": None, "family": family, "likelihood": "categorical"}
    model = make_model((Raster(), (Local1D(4, 0),)), factor=2, encoder_depth=1, **fields)
    known = random_images(6, (1, 2, 4))
    low, mask = box_mean(known, 2), torch.zeros(6, 1, 2, 4, dtype=torch.bool)
    mask[..., 0, 3] = True
    mixed = mask.clone()
    mixed[1::2] = False
    alone, among = (generate(model, 6, low=low, consistent=True, known=known, known_mask=m)[::2] for m in (mask, mixed))
    assert torch.equal(alone, among)


@every_conditional
def test_consistent_samples_have_exactly_the_given_box_means(scheme, family, likelihood):
    model = conditional_model(scheme, family, likelihood)
    low = random_images(6, LOW, seed=3)
    low[0], low[1] = 0, 255
    drawn = generate(model, 6, label=1, low=low, consistent=True)
    assert torch.equal(box_mean(drawn, 2), low)
    assert not torch.equal(box_mean(generate(model, 6, label=1, low=low), 2), low)
    sharp = generate(model, 6, label=1, low=low, consistent=True, top_k=1)
    assert torch.equal(box_mean(sharp, 2), low)


def test_consistent_samples_keep_known_pixels_or_say_why_they_cannot():
    model = conditional_model()
    known, mask = random_images(2, SHAPE), torch.rand(SHAPE[1:], generator=torch.Generator().manual_seed(0)) < 0.4
    low = box_mean(known, 2)  # possible: the known image itself has these means
    drawn = generate(model, 2, label=0, low=low, consistent=True, known=known, known_mask=mask)
    assert torch.equal(box_mean(drawn, 2), low) and torch.equal(drawn[..., mask], known[..., mask])
    impossible = torch.zeros(SHAPE[1:], dtype=torch.bool)
    impossible[0, 0] = True
    white, black = torch.full((1, *LOW), 255, dtype=torch.uint8), torch.zeros(1, *SHAPE, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"row 0, column 0, channel 0 .*the other 3 are, their mean cannot be 255"):
        generate(model, 1, label=0, low=white, consistent=True, known=black, known_mask=impossible)


# ---- exact likelihoods ----


def test_a_known_box_of_another_mean_is_refused():
    model, known = conditional_model(), random_images(1, SHAPE)
    mask = torch.zeros(SHAPE[1:], dtype=torch.bool)
    mask[2:, 2:4] = True
    with pytest.raises(ValueError, match=r"row 1, column 1, channel 0 .*the other 0 are"):
        generate(model, 1, label=0, low=box_mean(known, 2) ^ 0x40, consistent=True, known=known, known_mask=mask)


def images_of_mean(value: int, boxes: int) -> torch.Tensor:
    """All images (n, 1, 2, 2 boxes) whose boxes of 2 x 2 all have the mean 0 or 255."""
    near = range(3) if value == 255 else range(2)  # distances from black or white that are still rounded there
    box = [v for v in itertools.product(near, repeat=4) if sum(v) <= near[-1]]
    images = torch.tensor(list(itertools.product(box, repeat=boxes))).view(-1, boxes, 2, 2).transpose(1, 2)
    images = images.reshape(-1, 1, 2, 2 * boxes)
    return (255 - images if value == 255 else images).byte()


@every_conditional
@pytest.mark.parametrize("value", [0, 255])
def test_the_probabilities_of_all_images_of_given_means_sum_to_one(scheme, family, likelihood, value):
    model = conditional_model(scheme, family, likelihood, shape=(1, 2, 4), classes=None)
    images = images_of_mean(value, 2)
    assert len(images) == (25 if value == 0 else 225)
    low = torch.full((len(images), 1, 1, 2), value, dtype=torch.uint8)
    assert torch.equal(box_mean(images, 2), low)
    nats = model.log_prob(images, low=low, consistent=True).flatten(1).sum(1)
    assert nats.exp().sum().item() == pytest.approx(1, abs=1e-9)


@every_conditional
def test_consistency_raises_the_likelihood_of_true_images_and_excludes_others(scheme, family, likelihood):
    model = conditional_model(scheme, family, likelihood)
    images = random_images(3, SHAPE)
    low = box_mean(images, 2)
    free = model.log_prob(images, label=0, low=low)
    held = model.log_prob(images, label=0, low=low, consistent=True)
    assert (held >= free - 1e-9).all() and held.sum() > free.sum() + 1
    assert (model.log_prob(images, label=0, low=low ^ 0x80, consistent=True).flatten(1).sum(1) == -math.inf).all()
    assert bits_per_dim(model, images, label=0, consistent=True) == pytest.approx(
        -held.sum().item() / images.numel() / math.log(2)
    )


@pytest.mark.parametrize("likelihood", ["categorical", "dmol"])
def test_consistent_draws_have_the_probabilities_that_are_scored(likelihood):
    """Frequencies of all 25 images of two black boxes, drawn 20,000 times, against their scores."""
    model = conditional_model(shape=(1, 2, 4), classes=None, likelihood=likelihood)
    images, count = images_of_mean(0, 2), 20_000
    low = torch.zeros(count, 1, 1, 2, dtype=torch.uint8)
    drawn = generate(model, count, low=low, consistent=True).flatten(1).numpy()
    expected = model.log_prob(images, low=low[:25], consistent=True).flatten(1).sum(1).exp().detach().numpy()
    seen = np.array([(drawn == image).all(1).mean() for image in images.flatten(1).numpy()])
    assert seen.sum() == pytest.approx(1)
    assert (np.abs(seen - expected) < 5 * np.sqrt(expected * (1 - expected) / count) + 1e-4).all()


@pytest.mark.parametrize("batch", [2, 5])
def test_evaluation_gives_each_image_its_own_class_and_low_resolution(batch):
    model = conditional_model()
    images, label = random_images(5, SHAPE), torch.tensor([0, 2, 1, 1, 0])
    nats = model.log_prob(images, label=label, low=box_mean(images, 2)).flatten(1).sum(1)
    expected = (-nats / math.log(2) / images[0].numel()).detach().numpy()
    np.testing.assert_allclose(evaluate(model, images, label=label, batch=batch).per_image, expected, rtol=1e-6)


# ---- the Bayes classifier ----


def test_the_bayes_classifier_takes_the_likeliest_class():
    model = conditional_model(factor=None)
    images = random_images(8, SHAPE)
    scores = torch.stack([model.log_prob(images, label=c).flatten(1).sum(1) for c in range(3)])
    seen = []
    assert classify(model, images, batch=3, progress=lambda *at: seen.append(at)).tolist() == scores.argmax(0).tolist()
    assert len(set(scores.argmax(0).tolist())) > 1 and seen[-1] == (24, 24)
    with pytest.raises(ValueError, match="only a class-conditional model can classify"):
        classify(make_model(), images)


@pytest.fixture
def classes_file(tmp_path):
    """Dark, grey and bright images, labelled so."""
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    images = np.clip(60 + 70 * labels[:, None, None, None] + rng.normal(0, 12, (90, 3, 6, 7)), 0, 255).astype(np.uint8)
    np.savez(tmp_path / "classes.npz", train=images, train_labels=labels)
    return tmp_path / "classes.npz"


def test_training_takes_the_classes_from_the_data_and_uses_them(classes_file, tmp_path):
    config = shrunken(recipe("small-class"))
    assert config.model.conditions == (Label(),)
    config = replace(
        config, data=DataConfig(str(classes_file)), train=replace(config.train, images=320, validate_every=320)
    )
    train(config, tmp_path / "run", show_progress=False)
    model, test = checkpoint.load(tmp_path / "run"), load_data(str(classes_file), "test")
    assert model.config.conditions == (Label(("0", "1", "2")),)
    assert (classify(model, test.images) == test.labels).all()
    held_out, said = load_data(str(classes_file), "validation"), read_metrics(tmp_path / "run" / "metrics.jsonl")
    expected = evaluate(model, held_out.images[:3], label=torch.from_numpy(held_out.labels[:3])).bits_per_dim
    assert [m["bpd"] for m in said if m["kind"] == "validation"][-1] == pytest.approx(expected, abs=1e-5)
    train(replace(config, train=replace(config.train, images=324)), tmp_path / "run", resume=True, show_progress=False)


# ---- errors ----


def test_missing_unwanted_and_misfit_conditions_are_refused():
    model, plain = conditional_model(), make_model(shape=SHAPE)
    images, low = random_images(2, SHAPE), random_images(2, LOW)
    for call in (lambda **given: model.log_prob(images, **given), lambda **given: generate(model, 2, **given)):
        with pytest.raises(ValueError, match=r"label= is missing \(one of 3 classes\)"):
            call(low=low)
        with pytest.raises(ValueError, match="low= is missing"):
            call(label=0)
        with pytest.raises(ValueError, match=r"low must have shape \(b, 3, 2, 3\) .* got \(2, 3, 4, 6\)"):
            call(label=0, low=images)
        with pytest.raises(ValueError, match=r"low must be a torch\.uint8 tensor"):
            call(label=0, low=low.float())
        with pytest.raises(ValueError, match="low must hold one image for each of 2"):
            call(label=0, low=low[:1])
        with pytest.raises(ValueError, match="unknown class 'dogg'; did you mean 'dog'"):
            call(label="dogg", low=low)
        with pytest.raises(ValueError, match="unknown class 3; the model knows 3, 0 to 2"):
            call(label=torch.tensor([0, 3]), low=low)
        with pytest.raises(ValueError, match="label must hold 2 classes"):
            call(label=[1], low=low)
        for wrong in (torch.tensor([0.5, 1]), [0.5, 1], [None, 0]):
            with pytest.raises(ValueError, match="whole numbers or names of classes"):
                call(label=wrong, low=low)
    with pytest.raises(ValueError, match="not conditional on label"):
        plain.log_prob(images, label=0)
    with pytest.raises(ValueError, match="not conditional on low"):
        generate(plain, 2, low=low)
    for call in (lambda: plain.log_prob(images, consistent=True), lambda: generate(plain, 2, consistent=True)):
        with pytest.raises(ValueError, match="is for super-resolution"):
            call()
    with pytest.raises(ValueError, match=r"must have shape \(b, 3, 4, 6\)"):
        evaluate(model, random_images(2, (3, 5, 5)), label=0)


def class_numbers(value, count):
    return Label(NAMES).check(value, count, SHAPE)


def test_class_numbers_are_names_or_numbers_one_or_many():
    assert class_numbers("dog", 2).tolist() == [1, 1]
    assert class_numbers("2", 1).tolist() == [2]
    assert class_numbers(["owl", 0], 2).tolist() == [2, 0]
    assert class_numbers(torch.tensor([1, 2], dtype=torch.uint8), 2).tolist() == [1, 2]
    assert class_numbers(np.array([2, 0]), 2).tolist() == [2, 0]
    assert class_numbers(np.int64(1), 2).tolist() == [1, 1]
    assert Label(("1", "0")).check(["1", "0", 1], 3, SHAPE).tolist() == [0, 1, 1], "names before numbers"


def test_configurations_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="must be at least 2 and divide the height 32 and width 32, got 5"):
        Modern(conditions=(Low(5),))
    with pytest.raises(ValueError, match="'a' is there more than once"):
        Modern(conditions=(Label(("a", "b", "a")),))
    with pytest.raises(ValueError, match="needs the names"):
        ImageModel(Modern(conditions=(Label(),)))


def test_labels_are_matched_by_name(classes_file, images_file):
    data = replace(load_data(str(classes_file), "test"), classes=NAMES)
    assert (class_labels(data, ("owl", "cat", "dog")) == np.array([1, 2, 0])[data.labels]).all()
    with pytest.raises(DataError, match=r"its class 'owl' is not one of the model's: cat, dog"):
        class_labels(data, ("cat", "dog"))
    for wrong in (-1, 3):  # -1 stands for an unknown label in many data sets
        with pytest.raises(DataError, match=f"expected labels from 0 to 2, got {wrong}"):
            class_labels(replace(data, labels=np.array([0, wrong, 1])), NAMES)
    with pytest.raises(DataError, match="no labels"):
        class_labels(load_data(str(images_file), "test"), NAMES)


@pytest.mark.parametrize("factor", [3, 4, 8])
def test_any_whole_factor(factor):
    """Where a front of the wavefront holds up to `factor` pixels of one box."""
    shape = (3, factor, 2 * factor)
    model = conditional_model(shape=shape, factor=factor, classes=None)
    low = random_images(2, (3, 1, 2))
    drawn = generate(model, 2, low=low, consistent=True)
    assert torch.equal(box_mean(drawn, factor), low)
    assert torch.equal(generate_naive(model, 2, low=low, consistent=True), drawn)
    assert model.log_prob(drawn, low=low, consistent=True).isfinite().all()
    with pytest.raises(ValueError, match="low must have shape"):
        generate(model, 2, low=random_images(2, (3, 2, 2)))


def test_names_of_classes_are_a_tuple_of_names_and_nothing_told_is_missing():
    for wrong in ("cat", ["cat"], ("",), (1, 2)):
        with pytest.raises(ValueError, match="label needs a tuple of names"):
            Label(wrong)
    model = conditional_model(factor=None)
    with pytest.raises(ValueError, match=r"label= is missing"):
        model.log_prob(random_images(1, SHAPE), label=None)
