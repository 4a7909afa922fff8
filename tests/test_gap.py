"""The entropy gap and the width of conditionals: known answers, since a model is perfect on what it draws itself."""

import math

import numpy as np
import pytest
import torch
from conftest import SCHEMES, make_model, random_images

from image_transformer.data.images import ImageData
from image_transformer.geometry.boxes import box_mean
from image_transformer.inference.sampling import generate
from image_transformer.measures.gap import (
    EntropyGap,
    _entropy,
    calibrate,
    entropy_gap,
    overconfidence,
    with_temperature,
)

WAVEFRONT = SCHEMES[8]
LABELLED = {"classes": ("a", "b")}


def own_world(model, count, **options):
    """Images that the model itself draws: the photographs of a world in which it is perfect."""
    labels = np.arange(count) % 2
    told = {"label": torch.from_numpy(labels)} if model.config.conditions else {}
    drawn = generate(model, count, seed=77, **told, **options)
    return ImageData("own", "test", drawn.numpy(), labels, LABELLED["classes"])


@pytest.mark.parametrize("fields", [{}, LABELLED], ids=["plain", "by class"])
@pytest.mark.parametrize("likelihood", ["dmol", "chained", "categorical"])
def test_a_model_is_perfect_on_what_it_draws(likelihood, fields):
    model = make_model(WAVEFRONT, (3, 4, 4), likelihood=likelihood, **fields)
    data = own_world(model, 300)
    *_, gap, error = entropy_gap(model, data).of_rows()
    assert abs(gap) < 3.5 * error < 0.5
    surprise = overconfidence(model, data)
    assert abs(surprise.mean()) < 3.5 * surprise.std() / math.sqrt(len(surprise)) < 0.5


def test_images_likelier_than_its_own_show_as_a_gap_and_as_too_wide_conditionals():
    model = make_model(WAVEFRONT, (3, 4, 4))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.1)
        model.likelihood.split(model.network.skip.bias)[2].sub_(3)  # scales of 6 levels
    data = own_world(model, 300, temperature=0.5)
    *_, gap, error = entropy_gap(model, data).of_rows()
    assert gap > 5 * error
    surprise = overconfidence(model, data)
    assert surprise.mean() < -5 * surprise.std() / math.sqrt(len(surprise))


def test_the_expected_surprise_is_the_entropy_of_256_masses():
    model = make_model(WAVEFRONT, (1, 2, 2))
    image = torch.tensor([[[[3, 200], [90, 17]]]], dtype=torch.uint8)
    log_prob = []
    for value in range(256):  # the first position, of which nothing comes before
        image[0, 0, 0, 0] = value
        log_prob.append(model.log_prob(image)[0, 0, 0, 0].item())
    log_prob = np.array(log_prob)
    entropy = -(np.exp(log_prob) * log_prob).sum()
    params = model(image)
    assert _entropy(model, params, image.flatten(1)[:, model.values][..., :0])[0, 0].item() == pytest.approx(entropy)


def test_samples_are_told_what_the_photographs_are_and_scored_as_such():
    model = make_model(WAVEFRONT, (3, 4, 4), factor=2)
    images = random_images(20, (3, 4, 4))
    gap = entropy_gap(model, ImageData("own", "test", images.numpy()), seed=3, batch=7)
    given = {"low": box_mean(images, 2)}
    drawn = generate(model, 20, seed=3, **given)
    assert not torch.equal(box_mean(drawn, 2), given["low"])  # so that it matters what they are told
    for found, of in ((gap.samples, drawn), (gap.photographs, images)):
        expected = -model.log_prob(of, **given).mean((1, 3)) / math.log(2)
        np.testing.assert_allclose(found, expected.detach().numpy(), rtol=1e-6)
    *_, error = gap.of_rows()
    difference = (gap.samples - gap.photographs).mean(1)
    assert gap.paired
    assert error == pytest.approx(difference.std(ddof=1) / math.sqrt(20))


def test_rows_and_their_error():
    rng = np.random.default_rng(0)
    photographs, samples = rng.normal(3, 1, (50, 10)), rng.normal(4, 1, (60, 10))
    gap = EntropyGap(photographs, samples, paired=False)
    first = slice(0, 2)
    a, b, difference, error = gap.of_rows(first)
    assert (a, b) == pytest.approx((photographs[:, :2].mean(), samples[:, :2].mean()))
    assert difference == b - a
    errors = [x[:, first].mean(1).std(ddof=1) / math.sqrt(len(x)) for x in (photographs, samples)]
    assert error == pytest.approx(math.hypot(*errors))
    names = [row[0] for row in gap.table().rows]
    assert (names[0], names[1], names[-1], len(names)) == ("all rows", "row 1", "row 10", 9)


def test_calibration_finds_the_temperature_of_a_world_that_the_model_is_too_wide_for():
    """The photographs are draws of the model at 0.7: there the gap is 0, and bits/dim are best."""
    model = make_model(WAVEFRONT, (3, 4, 4))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.1)
        model.likelihood.split(model.network.skip.bias)[2].sub_(3)
    data = own_world(model, 400, temperature=0.7)
    tried = []
    found, left = calibrate(model, data, seed=3, tell=lambda temperature, gap: tried.append((temperature, gap)))
    assert found == pytest.approx(0.7, abs=0.04)
    assert tried[0][0] == 1 and len(tried) <= 5
    assert (found, left) in tried
    *_, gap, error = left.of_rows()
    assert abs(gap) < 3 * error
    with pytest.raises(ValueError, match="at least 2 images, got 1"):
        calibrate(model, data.some(1))
    wide, right = (with_temperature(model, t).log_prob(torch.from_numpy(data.images)).mean() for t in (1.0, found))
    assert right > wide + 0.02
