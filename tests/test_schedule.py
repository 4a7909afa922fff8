"""What is drawn together cannot see each other, and waits for nothing in vain; the cache holds what is still seen."""

import numpy as np
import pytest
from conftest import SCHEMES, every_scheme, every_shape, layouts, make_model

from image_transformer.geometry.neighbours import neighbour_table
from image_transformer.geometry.order import BlockRaster, Raster, Wavefront, layout
from image_transformer.geometry.patterns import Full, Local1D, Local2D
from image_transformer.geometry.schedule import as_early_as_possible, cache_plan, front_by_front


def neighbours(lay):
    table = neighbour_table(lay)
    return np.where(table >= 0, lay.position_of[table], -1)


def shifted(lay):
    return np.arange(lay.num_positions)[:, None] - 1


def longest_chain(patterns, inputs, lay, known):
    """The steps by brute force: the l x l graph of all that a slot depends on, relaxed until nothing moves."""
    p, length = lay.positions, lay.num_positions
    sees = np.any([pattern.sees(p[:, None], p[None]) for pattern in patterns], 0)
    enters = np.zeros((length, length), bool)
    for q, sources in enumerate(inputs):
        enters[q, sources[sources >= 0]] = True
    enters &= ~known[None]
    step = np.zeros(length, int)
    for _ in range(2 * length):
        step = np.maximum(step, np.where(sees, step, 0).max(1))
        step = np.maximum(step, np.where(enters, step + 1, 0).max(1))
    return step


@every_scheme
@every_shape
def test_every_position_is_drawn_as_early_as_its_longest_chain_allows(scheme, shape):
    for lay in layouts(scheme, shape):
        number = np.arange(lay.num_positions)
        for inputs in (neighbours(lay), *([] if isinstance(scheme[0], Wavefront) else [shifted(lay)])):
            for known in (number < 0, number < lay.num_positions // 2, number % 4 == 1, number >= 0):
                step = as_early_as_possible(scheme[1], inputs, lay, known).step
                assert np.array_equal(step, longest_chain(scheme[1], inputs, lay, known))


def num_steps(order, pattern, make_inputs=neighbours, shape=(3, 32, 32)):
    lay = layout(order, shape, False)
    return len(as_early_as_possible((pattern,) * 3, make_inputs(lay), lay).steps)


def test_steps_of_32_by_32_pixels():
    """Wavefront: width + (height - 1)(slope + 1). Raster and the paper's shift are chains, but for ends of rows."""
    assert num_steps(Wavefront(1), Local1D(256, 256)) == 94
    assert num_steps(Wavefront(2), Local1D(256, 256)) == 125
    assert num_steps(Wavefront(1), Local1D(256, 256), shape=(3, 16, 40)) == 70
    assert num_steps(Wavefront(1), Local2D((8, 8), (8, 8))) == 94
    assert num_steps(Raster(), Local1D(256, 256)) == 1024 - 31  # a row's first pixel does not take the last one's value
    assert num_steps(Raster(), Local1D(256, 256), shifted) == 1024
    assert num_steps(BlockRaster((8, 8)), Local2D((8, 8), (8, 8)), shifted) == 1024
    assert num_steps(BlockRaster((8, 8)), Local2D((8, 8), (8, 8))) == 561


def test_blocks_that_see_each_others_values_go_in_wavefronts_of_blocks():
    """If every slot took in the value of each slot that it sees: 4 + 2 * 3 fronts of blocks, 64 steps each."""
    lay = layout(BlockRaster((8, 8)), (3, 32, 32), False)
    p, pattern = lay.positions, Local2D((8, 8), (8, 8))
    before = pattern.sees(p[:, None], p[None]) & ~np.eye(lay.num_positions, dtype=bool)
    inputs = np.where(before, np.arange(lay.num_positions)[None], -1)
    assert len(as_early_as_possible((pattern,), inputs, lay).steps) == 640


def test_known_pixels_shorten_the_schedule():
    model = make_model((Wavefront(1), (Local1D(16, 16),)), (3, 8, 8))
    upper = model.layout.positions.row < 4
    assert len(model.schedule().steps) == 22
    assert len(model.schedule(upper).steps) == 14  # those of 4 rows
    assert len(model.schedule(np.ones(64, bool)).steps) == 1
    assert model.schedule(np.zeros(64, bool)) is model.schedule()


@every_scheme
@every_shape
@pytest.mark.parametrize("prefilled", [False, True])
def test_cache_holds_exactly_what_can_still_be_seen(scheme, shape, prefilled):
    for lay in layouts(scheme, shape):
        p = lay.positions
        early = as_early_as_possible(scheme[1], neighbours(lay), lay, p.row < shape[1] // 2)
        for schedule in (early, front_by_front(lay)):
            for pattern in scheme[1]:
                sees = pattern.sees(p[:, None], p[None])
                plan = cache_plan(pattern, lay, schedule, prefilled)
                held, most = {}, 0
                for number, members in enumerate(schedule.steps):
                    held |= {plan.slot[q]: q for q in members if plan.slot[q] >= 0}
                    later = schedule.step >= max(number, 1 if prefilled else 0)
                    most = max(most, (sees[later].any(0) & (schedule.step <= number)).sum())
                    if number or not prefilled:
                        for q in members:
                            readable = {position for slot, position in held.items() if plan.allowed[q, slot]}
                            assert readable == set(np.flatnonzero(sees[q]))
                assert plan.allowed.shape[1] == most


def test_cache_does_not_grow_with_the_image():
    """In raster order not at all; by wavefront only by the length of a front, which is drawn at once."""
    for order, allowed in ((Raster(), [32] * 3), (Wavefront(1), [32 + 4, 32 + 8, 32 + 16])):
        for side, most in zip((8, 16, 32), allowed, strict=True):
            lay = layout(order, (3, side, side), False)
            schedule = (
                front_by_front(lay) if order == Raster() else as_early_as_possible((Full(),), neighbours(lay), lay)
            )
            assert cache_plan(Local1D(16, 16), lay, schedule).allowed.shape[1] <= most


def test_schemes_cover_every_order():
    assert {type(order) for order, _ in SCHEMES} == {Raster, BlockRaster, Wavefront}
