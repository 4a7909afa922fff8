"""Laws of the measures: known answers by hand, exact distances, and networks that learn what they are for."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from image_transformer.geometry.boxes import box_mean, nearest
from image_transformer.measures import quality, two_sample
from image_transformer.measures.enlargers import fit_gan, fit_regression
from image_transformer.measures.fitting import shuffled
from image_transformer.measures.two_sample import two_sample_test

Pixels = NDArray[np.uint8]
N, H, W = 7, 12, 24  # all different, so that no swapped axis survives


def noise(n: int = N, channels: int = 3, height: int = H, width: int = W, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (n, channels, height, width), dtype=np.uint8)


def every_sum(factor: int) -> Pixels:
    """One box (1, factor, factor) for each sum that its sub-pixels can have."""
    area = factor**2
    sums = np.arange(255 * area + 1)[:, None]
    return (sums // area + (np.arange(area) < sums % area)).astype(np.uint8).reshape(-1, 1, factor, factor)


def smooth(n: int, seed: int = 0, size: int = 16) -> Pixels:
    """Images of one wave each, of random direction, length and phase."""
    rng = np.random.default_rng(seed)
    row, col = np.indices((size, size))
    angle, speed, phase = (rng.uniform(*span, (n, 1, 1, 1)) for span in ((0, math.pi), (0.2, 0.5), (0, 2 * math.pi)))
    wave = np.sin(speed * (np.cos(angle) * row + np.sin(angle) * col) + phase)
    return np.round(127.5 + 120 * wave).astype(np.uint8)


# ---- box means ----


@pytest.mark.parametrize("factor", [2, 3, 4, 5])
def test_a_box_mean_is_the_mean_with_halves_rounded_up(factor: int) -> None:
    boxes = every_sum(factor)
    assert np.array_equal(box_mean(boxes, factor)[:, 0, 0, 0], np.floor(boxes.mean((1, 2, 3)) + 0.5))


@pytest.mark.parametrize("factor", [2, 4])
def test_box_means_are_those_of_pillow_for_powers_of_2(factor: int) -> None:
    for images in (noise(), np.zeros_like(noise()), np.full_like(noise(), 255), noise() // 128 * 255):
        for image, low in zip(images, box_mean(images, factor), strict=True):
            reduced = Image.fromarray(image.transpose(1, 2, 0).copy()).reduce(factor)
            assert np.array_equal(np.asarray(reduced).transpose(2, 0, 1), low)
    boxes = every_sum(factor)
    reduced = [np.asarray(Image.fromarray(box[0]).reduce(factor)).item() for box in boxes]
    assert box_mean(boxes, factor).ravel().tolist() == reduced


@pytest.mark.parametrize("factor", [3, 5, 6])
def test_box_means_are_elsewhere_those_of_pillow_or_one_level_above(factor: int) -> None:
    boxes = every_sum(factor)
    reduced = np.array([np.asarray(Image.fromarray(box[0]).reduce(factor)).item() for box in boxes])
    just_enough = (np.arange(len(boxes)) + factor**2 // 2) % factor**2 == 0
    assert np.isin(box_mean(boxes, factor).ravel() - reduced, [0, 1]).all()
    assert np.array_equal(box_mean(boxes, factor).ravel()[~just_enough], reduced[~just_enough])


@pytest.mark.parametrize("factor", [2, 3])
def test_box_means_of_tensors_are_those_of_arrays(factor: int) -> None:
    means = box_mean(torch.from_numpy(noise()), factor)
    assert means.dtype == torch.uint8
    assert np.array_equal(means.numpy(), box_mean(noise(), factor))
    assert box_mean(noise(), factor).dtype == np.uint8


@pytest.mark.parametrize("factor", [2, 3])
def test_nearest_repeats_every_pixel_and_keeps_the_box_means(factor: int) -> None:
    low = noise()
    high = nearest(low, factor)
    assert high.dtype == np.uint8 and high.shape == (N, 3, H * factor, W * factor)
    for row in range(factor):
        for col in range(factor):
            assert np.array_equal(high[:, :, row::factor, col::factor], low)
    assert quality.inconsistency(high, low, factor) == 0


@pytest.mark.parametrize(
    ("images", "factor", "message"),
    [
        (noise().astype(np.float32), 2, "expected uint8 images .* got float32"),
        (torch.from_numpy(noise()).float(), 2, "expected uint8 images .* got torch.float32"),
        (noise()[0], 2, r"got uint8 \(3, 12, 24\)"),
        (noise(), 1, "factor of at least 2 .* got 1"),
        (noise(), 8, "divides 12 x 24, got 8"),
        (noise().swapaxes(2, 3), 8, "divides 24 x 12, got 8"),
    ],
    ids=["float array", "float tensor", "no batch axis", "factor 1", "height", "width"],
)
def test_what_has_no_box_means_is_refused(images: Pixels, factor: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        box_mean(images, factor)


# ---- against the truth ----


@pytest.mark.parametrize("channels", [1, 3])
def test_bicubic_is_that_of_pillow(channels: int) -> None:
    low = noise(channels=channels)
    for image, high in zip(low, quality.bicubic(low, 3), strict=True):
        picture = Image.fromarray(image[0] if channels == 1 else image.transpose(1, 2, 0).copy())
        expected = np.asarray(picture.resize((3 * W, 3 * H), Image.Resampling.BICUBIC)).reshape(3 * H, 3 * W, channels)
        assert np.array_equal(high.transpose(1, 2, 0), expected)


def test_psnr_of_constant_offsets_is_the_mean_over_images() -> None:
    truth = noise(230) // 2  # more than one batch
    offsets = np.arange(1, 231) % 100 + 1
    images = (truth + offsets[:, None, None, None]).astype(np.uint8)
    expected = np.mean([20 * math.log10(255 / offset) for offset in offsets])
    assert quality.psnr(images, truth) == pytest.approx(expected, rel=1e-5)
    assert quality.psnr(truth, images) == pytest.approx(expected, rel=1e-5)
    images[-1] = truth[-1]
    assert quality.psnr(images, truth) == math.inf


def test_ssim_of_constants_is_the_formula_of_luminance() -> None:
    """Wang et al. (2004), (6), where all variances are 0."""
    black, grey, white = (np.full((1, 3, H, W), level, np.uint8) for level in (0, 100, 255))
    c = (0.01 * 255) ** 2
    formula = {level: (2 * level * 255 + c) / (level**2 + 255**2 + c) for level in (0, 100)}
    images, truth = np.concatenate([black, grey]), np.concatenate([white, white])
    assert quality.ssim(images, truth) == pytest.approx((formula[0] + formula[100]) / 2, rel=1e-3)
    assert quality.ssim(noise(), noise()) == pytest.approx(1)
    assert quality.ssim(noise(), 255 - noise()) < 0


def test_inconsistency_is_the_squared_error_of_the_box_means() -> None:
    high = noise() // 2
    low = box_mean(high, 2)
    low[0] += 30
    assert quality.inconsistency(high, low, 2) == pytest.approx(900 / N)


@pytest.mark.parametrize("function", [quality.psnr, quality.ssim, two_sample_test])
def test_images_that_do_not_match_are_refused(function: object) -> None:
    with pytest.raises(ValueError, match="equal shape"):
        function(noise(), noise(N - 1))  # type: ignore[operator]
    for other in (noise().astype(float), noise(channels=2), noise()[:0], noise()[0]):
        with pytest.raises(ValueError, match="expected uint8 images"):
            function(other, other)  # type: ignore[operator]


def test_images_may_be_read_only_as_memory_maps_are() -> None:
    images = noise()
    images.flags.writeable = False
    assert quality.psnr(images, 255 - images) == quality.psnr(noise(), 255 - noise())
    assert fit_regression(images, 2, updates=1)(images).shape == (N, 3, 2 * H, 2 * W)


def test_ssim_of_images_smaller_than_its_window_is_refused() -> None:
    small = noise(height=10)
    with pytest.raises(ValueError, match="at least 11 x 11"):
        quality.ssim(small, small)


def test_a_missing_torchmetrics_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchmetrics.functional.image", None)
    for function in (quality.psnr, quality.ssim):
        with pytest.raises(ImportError, match=r"pip install 'image-transformer-pytorch\[eval\]'"):
            function(noise(), noise())


# ---- among themselves and the training images ----


def test_diversity_of_constants_is_their_standard_deviation() -> None:
    samples = np.zeros((2, 3, 3, H, W), np.uint8)
    samples[0] += np.array([10, 20, 30], np.uint8)[:, None, None, None]  # variance 100
    samples[1] += np.array([250, 250, 247], np.uint8)[:, None, None, None]  # variance 3
    assert quality.diversity(samples) == pytest.approx(math.sqrt((100 + 3) / 2))
    assert quality.diversity(noise()[:, None].repeat(2, axis=1)) == 0, "things that differ are no diversity"
    with pytest.raises(ValueError, match="s >= 2"):
        quality.diversity(samples[:, :1])


@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_an_image_is_its_own_nearest_neighbour(batch: int, tmp_path: Path) -> None:
    np.save(tmp_path / "train.npy", noise(20, height=32, width=32))
    train = np.load(tmp_path / "train.npy", mmap_mode="r")
    picks = np.array([13, 0, 19, 13])
    index, distance = quality.nearest_neighbours(train[picks], train, batch=batch)
    assert np.array_equal(index, picks) and not distance.any()


def test_distances_are_exact_where_float32_is_not() -> None:
    """Training images one level of one sub-pixel apart, whose squares are beyond what float32 holds."""
    base = noise(1, height=64, width=64).clip(1, 254) // 128 * 253 + 1  # 1 or 254
    train = base.repeat(5, axis=0)
    for i, pixel in enumerate([0, 3000, 5000, 7000, 12287]):
        train[i].reshape(-1)[pixel] += 1
    images = train[[4, 2, 0]].copy()
    images.reshape(3, -1)[:, 100] -= 1
    index, distance = quality.nearest_neighbours(images, train)
    assert index.tolist() == [4, 2, 0]
    assert np.array_equal(distance, np.sqrt(np.full(3, 1 / 12288)))


@pytest.mark.parametrize("levels", [255, 1])
def test_nearest_neighbours_are_those_of_whole_numbers(levels: int) -> None:
    """Far apart, and so near that many are equally near: then the first is meant."""
    images, train = (noise(n, 1, 2, 3, seed=n) // (256 // (levels + 1)) for n in (5, 50))
    squares = np.square(images[:, None].astype(int) - train[None]).sum((2, 3, 4))
    index, distance = quality.nearest_neighbours(images, train, batch=8)
    assert np.array_equal(index, squares.argmin(1))
    assert np.array_equal(distance, np.sqrt(squares.min(1) / 6))


# ---- the regression ----


@pytest.mark.parametrize(("channels", "factor"), [(1, 4), (3, 2)])
def test_the_regression_beats_plain_enlargements_on_waves(channels: int, factor: int) -> None:
    train, held_out = (smooth(n, seed).repeat(channels, axis=1) for n, seed in ((200, 0), (50, 1)))
    low = box_mean(held_out, factor)
    enlarged = fit_regression(train, factor, updates=300, width=32)(low)
    assert enlarged.shape == held_out.shape and enlarged.dtype == np.uint8
    plain = max(quality.psnr(images, held_out) for images in (nearest(low, factor), quality.bicubic(low, factor)))
    assert quality.psnr(enlarged, held_out) > plain + 1.5


def test_a_regression_without_training_is_the_nearest_enlargement() -> None:
    regression = fit_regression(noise(height=6, width=9), 3, updates=0)
    low = noise(130, height=5, width=4)  # of any size, in more than one batch
    assert np.array_equal(regression(low), nearest(low, 3))


def test_a_gan_draws_others_for_other_noise_and_comes_closer_by_training() -> None:
    train, held_out = smooth(200, 0), smooth(50, 1)
    low = box_mean(held_out, 4)
    start, trained = (fit_gan(train, 4, minutes=minutes, width=16, depth=1) for minutes in (1e-6, 0.1))
    assert quality.psnr(trained(low), held_out) > quality.psnr(start(low), held_out) + 1
    assert np.array_equal(trained(low), trained(low)) and not np.array_equal(trained(low), trained(low, seed=1))
    assert trained(low).shape == held_out.shape and trained(low).dtype == np.uint8


def test_what_is_fitted_is_a_function_of_the_seed_and_draws_nothing_else() -> None:
    def fitted(seed: int) -> Pixels:
        return fit_regression(smooth(40), 4, seed=seed, updates=5, width=4)(box_mean(smooth(9), 4))

    torch.manual_seed(5)
    first = fitted(0)
    drawn = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(3))
    assert np.array_equal(first, fitted(0)) and not np.array_equal(first, fitted(1))


def test_every_pass_takes_every_image_once() -> None:
    batches = shuffled(20, 8, seed=0)
    first, second = ([next(batches) for _ in range(3)] for _ in range(2))
    for part in (first, second):
        assert [len(rows) for rows in part] == [8, 8, 4]
        assert sorted(np.concatenate(part)) == list(range(20))
    assert not np.array_equal(first[0], second[0])


# ---- the two-sample test ----


def test_the_classifier_tells_structure_from_noise_on_images_it_has_not_seen() -> None:
    real = smooth(160)
    fake = np.random.default_rng(0).permuted(real.reshape(160, -1), axis=1).reshape(real.shape)  # the same values
    error, standard_error = two_sample_test(real, fake, passes=15)
    assert error < 0.05
    assert standard_error == pytest.approx(math.sqrt(error * (1 - error) / 160))


def test_the_classifier_cannot_tell_a_set_from_itself() -> None:
    assert two_sample_test(smooth(40), smooth(40), passes=1) == (0.5, math.sqrt(0.25 / 40))


def test_no_thing_is_both_learned_and_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Image i of both has a level that tells which it is."""
    seen = []
    fit, judge = two_sample._fit_classifier, two_sample.answers
    monkeypatch.setattr(two_sample, "_fit_classifier", lambda *a: seen.append([a[0], a[1]]) or fit(*a))
    monkeypatch.setattr(two_sample, "answers", lambda net, images: seen.append(images) or judge(net, images))
    ids = np.arange(21, dtype=np.uint8)[:, None, None, None] * np.ones((1, 1, 8, 8), np.uint8)
    two_sample_test(ids, ids + 100, passes=1)
    (learned, learned_fake), judged, judged_fake = seen
    assert np.array_equal(learned + 100, learned_fake) and np.array_equal(judged + 100, judged_fake)
    assert sorted([*learned[:, 0, 0, 0], *judged[:, 0, 0, 0]]) == list(range(21))


def test_the_two_sample_test_is_a_function_of_its_seed() -> None:
    real, fake = noise(30, height=8, width=8), noise(30, height=8, width=8, seed=1)
    errors = [two_sample_test(real, fake, seed=seed, passes=1)[0] for seed in (0, 1, 2, 3)]
    assert errors == [two_sample_test(real, fake, seed=seed, passes=1)[0] for seed in (0, 1, 2, 3)]
    assert len(set(errors)) > 1


def test_too_few_images_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 4"):
        two_sample_test(noise(3), noise(3))
