"""Orders are bijections, and positions, values and their inverses agree."""

import numpy as np
import pytest

from image_transformer.geometry.order import BlockRaster, Raster, Wavefront, layout

ORDERS = [
    Raster(),
    BlockRaster((2, 3)),
    BlockRaster((3, 2)),
    BlockRaster((8, 8)),
    BlockRaster((1, 1)),
    Wavefront(0),
    Wavefront(1),
    Wavefront(3),
]
SHAPES = [(3, 5, 7), (1, 4, 3), (3, 1, 6), (3, 1, 1)]


@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("sub_pixels", [True, False])
def test_positions_are_a_bijection(order, shape, sub_pixels):
    lay = layout(order, shape, sub_pixels)
    p = lay.positions
    assert np.array_equal(lay.at[p.row, p.col, p.channel], np.arange(lay.num_positions))
    assert sorted(lay.values.reshape(-1)) == list(range(lay.num_dims))
    assert np.array_equal(
        lay.position_of[lay.values], np.tile(np.arange(lay.num_positions), (lay.values.shape[1], 1)).T
    )
    assert (np.diff(p.front) >= 0).all()


def test_values_lie_where_the_positions_say():
    shape = (3, 4, 5)
    image = np.arange(60).reshape(shape)
    for sub_pixels in (True, False):
        lay = layout(BlockRaster((2, 3)), shape, sub_pixels)
        for l in range(lay.num_positions):
            p = lay.positions[l]
            expected = image[p.channel, p.row, p.col] if sub_pixels else image[:, p.row, p.col]
            assert np.array_equal(image.reshape(-1)[lay.values[l]], np.atleast_1d(expected))


def test_block_raster_as_drawn():
    """The picture in the docstring of BlockRaster: 3 x 5 pixels in blocks of 2 x 2."""
    drawn = [[0, 1, 4, 5, 8], [2, 3, 6, 7, 9], [10, 11, 12, 13, 14]]
    assert layout(BlockRaster((2, 2)), (3, 3, 5), False).at[:, :, 0].tolist() == drawn


def test_wavefront_as_drawn():
    """The picture in the docstring of Wavefront: the fronts of 3 x 5 pixels; from the top row down in each."""
    lay = layout(Wavefront(1), (3, 3, 5), False)
    fronts = lay.positions.front[lay.at[:, :, 0]]
    assert fronts.tolist() == [[0, 1, 2, 3, 4], [2, 3, 4, 5, 6], [4, 5, 6, 7, 8]]
    assert [lay.positions.row[lay.positions.front == f].tolist() for f in (2, 4)] == [[0, 1], [0, 1, 2]]
    assert lay.at[:, :, 0].tolist() == [[0, 1, 2, 4, 6], [3, 5, 7, 9, 11], [8, 10, 12, 13, 14]]


@pytest.mark.parametrize(("slope", "height", "width"), [(1, 32, 32), (2, 32, 32), (0, 5, 9), (3, 7, 4)])
def test_wavefront_has_width_plus_slope_plus_one_fronts_a_row(slope, height, width):
    front = layout(Wavefront(slope), (3, height, width), False).positions.front
    assert front.max() + 1 == width + (height - 1) * (slope + 1)


def test_sub_pixels_of_a_wavefront_have_fronts_of_their_own():
    p = layout(Wavefront(1), (3, 3, 4), True).positions
    assert np.array_equal(p.front, 3 * (p.col + 2 * p.row) + p.channel)
    with pytest.raises(ValueError, match="slope >= 0, got -1"):
        Wavefront(-1)


def test_channels_are_innermost_in_red_green_blue_order():
    p = layout(Raster(), (3, 2, 2), True).positions
    assert p.channel.tolist() == [0, 1, 2] * 4
    assert p.col.tolist() == [0, 0, 0, 1, 1, 1] * 2


@pytest.mark.parametrize("block", [(0, 2), (2, 0), (-1, 1)])
def test_empty_blocks_are_refused(block):
    with pytest.raises(ValueError, match="at least 1 row and 1 column"):
        BlockRaster(block)
