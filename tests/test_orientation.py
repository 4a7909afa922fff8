"""Orientations are a group; the measure is its definition; completion turns images there and back."""

import itertools

import numpy as np
import pytest
import torch
from conftest import every_scheme, layouts, make_model, random_images

from image_transformer.config.data import DataConfig
from image_transformer.geometry.boxes import box_mean
from image_transformer.geometry.order import BlockRaster, Raster, Wavefront, layout
from image_transformer.geometry.orientation import (
    AS_IT_IS,
    EIGHT,
    LEFT_RIGHT,
    Orientation,
    conditioned,
    most_conditioned,
    named,
)
from image_transformer.geometry.patterns import Full, Local1D
from image_transformer.inference.completion import Completions, complete, known_side
from image_transformer.inference.sampling import generate

SQUARE = (3, 6, 6)
UPSIDE_DOWN = Orientation(vertical=True)
IMAGE = np.arange(3 * 5 * 7).reshape(3, 5, 7)


def by_name(name):
    return named(name, EIGHT)


# ---- the group ----


def test_the_eight_are_different_and_closed_under_composition():
    turned = [orientation.apply(IMAGE) for orientation in EIGHT]
    assert len({(image.shape, image.tobytes()) for image in turned}) == 8
    for first, second in itertools.product(EIGHT, EIGHT):
        both = second.apply(first.apply(IMAGE))
        assert sum(np.array_equal(both, image) for image in turned) == 1


@pytest.mark.parametrize("orientation", EIGHT, ids=lambda o: o.name)
def test_inverses_undo(orientation):
    assert np.array_equal(orientation.inverse.apply(orientation.apply(IMAGE)), IMAGE)
    assert np.array_equal(orientation.apply(orientation.inverse.apply(IMAGE)), IMAGE)
    assert np.array_equal(orientation.apply(torch.from_numpy(IMAGE)).numpy(), orientation.apply(IMAGE))


def test_names_mean_what_they_say():
    axes = (-2, -1)
    for name, expected in {
        "as it is": IMAGE,
        "flipped left-right": np.fliplr(IMAGE[0])[None],
        "upside down": np.flipud(IMAGE[0])[None],
        "turned by 180": np.rot90(IMAGE, 2, axes),
        "transposed": IMAGE.transpose(0, 2, 1),
        "turned left by 90": np.rot90(IMAGE, 1, axes),
        "turned right by 90": np.rot90(IMAGE, -1, axes),
        "transposed and turned by 180": np.rot90(IMAGE.transpose(0, 2, 1), 2, axes),
    }.items():
        assert np.array_equal(by_name(name).apply(IMAGE)[:1], expected[:1])
        assert by_name(by_name(name).word) == by_name(name)


def test_a_run_tells_the_orientations_it_was_trained_for():
    assert DataConfig().trained_orientations == (AS_IT_IS,)
    assert DataConfig(flips=True).trained_orientations == (AS_IT_IS, LEFT_RIGHT)
    assert DataConfig(flips=True, orientations=True).trained_orientations == EIGHT


# ---- the measure ----


@every_scheme
def test_the_measure_counts_the_pairs_in_the_right_order(scheme):
    known = np.random.default_rng(0).random((5, 4)) < 0.4
    for lay in layouts(scheme, (3, 5, 4)):
        positions = lay.positions
        given = known[positions.row, positions.col]
        pairs = [
            positions.front[k] < positions.front[q]
            for k in np.flatnonzero(given)
            for q in np.flatnonzero(~given)
        ]  # fmt: skip
        assert conditioned(lay, known) == pytest.approx(np.mean(pairs), abs=1e-12)


@pytest.mark.parametrize(
    ("order", "percent"),
    [
        (Raster(), [100, 0, 51.6, 48.4]),
        (Wavefront(1), [95.6, 3.9, 70.8, 28.1]),
        (BlockRaster((8, 8)), [100, 0, 62.5, 37.5]),
    ],
    ids=str,
)
def test_known_answers_at_32x32(order, percent):
    """The figures of the README. Trained in all orientations, every side is as good as the top."""
    lay = layout(order, (3, 32, 32), False)
    sides = {side: known_side(0.5, (3, 32, 32), side) for side in ("top", "bottom", "left", "right")}
    assert [round(100 * conditioned(lay, known), 1) for known in sides.values()] == percent
    best = {side: most_conditioned(lay, known, EIGHT) for side, known in sides.items()}
    assert {much for _, much in best.values()} == {conditioned(lay, sides["top"])}
    names = {side: orientation.name for side, (orientation, _) in best.items()}
    assert names == {"top": "as it is", "bottom": "upside down", "left": "transposed", "right": "turned left by 90"}
    assert most_conditioned(lay, sides["right"], (AS_IT_IS, LEFT_RIGHT))[0] == LEFT_RIGHT


def test_ties_go_to_the_image_as_it_is():
    lay, centre = layout(Raster(), SQUARE, False), np.zeros((6, 6), np.bool_)
    centre[2:4, 2:4] = True
    assert most_conditioned(lay, centre, EIGHT[::-1])[0] == AS_IT_IS
    for nothing in (np.zeros_like(centre), np.ones_like(centre)):
        assert most_conditioned(lay, nothing, EIGHT) == (AS_IT_IS, 1.0)


# ---- completion ----


@pytest.mark.parametrize("order", [Raster(), Wavefront(1)], ids=str)
def test_completion_from_below_is_turning_completing_and_turning_back(order):
    model = make_model((order, (Local1D(7, 7),)), SQUARE)
    originals, known = random_images(2, SQUARE), known_side(0.5, SQUARE, "bottom")
    done = complete(model, originals.numpy(), known, samples=3, orientations=EIGHT, seed=4)
    assert done.orientation == UPSIDE_DOWN
    repeated = originals.repeat_interleave(3, 0).flip(-2)
    mask = torch.from_numpy(known).flip(-2)
    expected = generate(model, 6, seed=4, known=repeated, known_mask=mask).flip(-2)
    assert np.array_equal(done.images.reshape(6, *SQUARE), expected.numpy())
    assert done.conditioned == conditioned(model.layout, mask.numpy())


@pytest.mark.parametrize("orientation", EIGHT, ids=lambda o: o.name)
def test_known_pixels_stay_in_every_orientation(orientation):
    model = make_model((Wavefront(1), (Local1D(7, 7),)), SQUARE)
    originals, known = random_images(2, SQUARE).numpy(), np.random.default_rng(1).random((6, 6)) < 0.5
    known = known[::-1]  # a mask may have any strides
    done = complete(model, originals, known, samples=2, orientations=(orientation,))
    assert (done.images[..., known] == originals[:, None][..., known]).all()
    assert (done.images[:, 0][..., ~known] != originals[..., ~known]).any()


def test_what_is_conditioned_on_changes_what_is_drawn():
    """With the lower half given, the upper one takes notice of it upside down, and not as it is."""
    model = make_model((Raster(), (Full(),)), SQUARE)
    original, known = random_images(1, SQUARE).numpy(), known_side(0.5, SQUARE, "bottom")
    for orientations, notices in (((AS_IT_IS,), False), (EIGHT, True)):
        one, other = (
            complete(model, image, known, samples=2, orientations=orientations).images[..., :3, :]
            for image in (original, 255 - original)
        )
        assert np.array_equal(one, other) != notices


def test_diversity_is_the_root_mean_variance_of_what_was_drawn():
    known = known_side(0.5, SQUARE)
    images = np.full((2, 2, *SQUARE), 9, np.uint8)
    images[0, 1, :, 3:] = 15  # variances 18 and 0
    done = Completions(images[:, 0], known, images, AS_IT_IS, 1.0)
    assert done.diversity == pytest.approx(3)
    assert "diversity 3.0 levels" in done.summary()
    single = Completions(images[:, 0], known, images[:, :1], AS_IT_IS, 0.9999)
    assert single.diversity is None
    assert single.summary().endswith("conditioned on 99.9 % of the given ones, on average")


def test_known_sides():
    with pytest.raises(ValueError, match="side must be one of top, bottom, left, right, got 'upper'"):
        known_side(0.5, SQUARE, "upper")
    assert known_side(0.4, (3, 5, 7), "bottom").sum(1).tolist() == [0, 0, 0, 7, 7]
    assert known_side(0.4, (3, 5, 7), "left").sum(0).tolist() == [5, 5, 5, 0, 0, 0, 0]
    assert known_side(0.4, (3, 5, 7), "right").sum(0).tolist() == [0, 0, 0, 0, 5, 5, 5]


@pytest.mark.parametrize(
    ("shape", "known", "message"),
    [
        (SQUARE, np.ones((6, 6), np.bool_), "nothing is left to draw"),
        (SQUARE, np.zeros((6, 5), np.bool_), r"known must be a bool array of shape \(6, 6\), got bool \(6, 5\)"),
        (SQUARE, np.zeros((6, 6)), "got float64"),
        ((3, 5, 4), np.zeros((5, 4), np.bool_), "5x4 pixels cannot be transposed"),
    ],
    ids=str,
)
def test_bad_masks_are_refused(shape, known, message):
    with pytest.raises(ValueError, match=message):
        complete(make_model(shape=shape), random_images(1, shape).numpy(), known, orientations=EIGHT)


@pytest.mark.parametrize("name", ["upside down", "turned left by 90", "transposed"])
def test_what_a_model_is_told_is_turned_with_its_image(name):
    """Completing in another orientation, with the box means told or taken from the originals: those of the image."""
    model = make_model((Wavefront(1), (Local1D(5, 4),)), SQUARE, factor=2)
    images, how = random_images(2, SQUARE), by_name(name)
    known = how.inverse.apply(known_side(0.5, SQUARE))
    done = complete(model, images, known, samples=1, orientations=(how,), consistent=True)
    assert done.orientation == how
    assert torch.equal(box_mean(torch.from_numpy(done.images[:, 0]), 2), box_mean(images, 2))
    told = complete(model, images, known, samples=1, orientations=(how,), consistent=True, low=box_mean(images, 2))
    assert np.array_equal(told.images, done.images)
