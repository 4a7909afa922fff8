"""Patterns say what their pictures say; tiles, cache and fast path give what `sees` promises, no more and no less."""

import numpy as np
import pytest
import torch
from conftest import SCHEMES, every_scheme, every_shape, layouts, receptive_field
from torch.nn.functional import conv2d, scaled_dot_product_attention

from image_transformer.geometry.neighbours import nearest_generated
from image_transformer.geometry.order import BlockRaster, Raster, Wavefront, layout
from image_transformer.geometry.patterns import Dilated, Full, Local1D, Local2D, Near, Nothing, tiles
from image_transformer.networks import attention
from image_transformer.networks.attention import TiledAttention


def dense(pattern, lay):
    p = lay.positions
    return pattern.sees(p[:, None], p[None])


def seen_from(pattern, lay, query):
    return np.flatnonzero(dense(pattern, lay)[query]).tolist()


def test_local1d_sees_its_block_and_the_memory_before_it():
    lay = layout(Raster(), (3, 3, 5), False)
    pattern = Local1D(query=4, memory=3)
    assert seen_from(pattern, lay, 0) == [0]
    assert seen_from(pattern, lay, 3) == [0, 1, 2, 3]
    assert seen_from(pattern, lay, 9) == [5, 6, 7, 8, 9]
    assert seen_from(pattern, lay, 14) == [9, 10, 11, 12, 13, 14]


def test_dilated_sees_memory_blocks_between_gaps():
    lay = layout(Raster(), (3, 4, 5), False)
    pattern = Dilated(query=4, memory=2, count=2, gap=3)
    # |. . . . M M . . . M M . . . q|: from block start 16, gaps 15-13 and 10-8, memory 12-11 and 7-6
    assert seen_from(pattern, lay, 17) == [6, 7, 11, 12, 16, 17]
    assert seen_from(Dilated(query=4, memory=2, count=0, gap=1), lay, 6) == [4, 5, 6]


def test_local2d_sees_rows_above_to_both_sides_and_columns_to_the_left():
    """Rows above reach past the block to both sides; beside it only what is to the left; rectangular on purpose."""
    lay = layout(BlockRaster((2, 3)), (3, 6, 8), False)
    pattern = Local2D(query=(2, 3), memory=(1, 2))
    query = lay.at[3, 4, 0]  # second row, second column of the block of rows 2-3, columns 3-5
    picture = np.full((6, 8), ".")
    p = lay.positions
    for k in seen_from(pattern, lay, query):
        picture[p.row[k], p.col[k]] = "k"
    assert ["".join(row) for row in picture] == [
        "........",
        ".kkkkkkk",
        ".kkkkk..",
        ".kkkk...",
        "........",
        "........",
    ]


def test_local2d_in_raster_order_sees_the_same_rectangle():
    """At the block's own height nothing to its right, though raster order has generated some of it already."""
    lay = layout(Raster(), (3, 6, 8), False)
    p = lay.positions
    seen = {(p.row[k], p.col[k]) for k in seen_from(Local2D((2, 3), (1, 2)), lay, lay.at[3, 4, 0])}
    expected = {(1, c) for c in range(1, 8)} | {(2, c) for c in range(1, 6)} | {(3, c) for c in range(1, 5)}
    assert seen == expected


@every_scheme
@every_shape
def test_no_pattern_sees_the_future_and_all_see_their_own_slot(scheme, shape):
    for lay in layouts(scheme, shape):
        for pattern in scheme[1]:
            sees, front = dense(pattern, lay), lay.positions.front
            assert not sees[front[None] > front[:, None]].any()
            assert sees.diagonal().all()


@every_scheme
@every_shape
def test_tiles_hold_every_query_once_and_exactly_what_it_sees(scheme, shape):
    for lay in layouts(scheme, shape):
        for pattern in scheme[1]:
            found = np.zeros((lay.num_positions, lay.num_positions), int)
            queries = []
            for group in tiles(pattern, lay):
                queries += group.queries.reshape(-1).tolist()
                masks = np.broadcast_to(group.allowed, (len(group.queries), *group.allowed.shape[1:]))
                for q, k, allowed in zip(group.queries, group.keys, masks, strict=True):
                    found[np.ix_(q, k)] += allowed
                assert group.allowed.any(1).all(), "a key that no query of the tile sees is computed in vain"
            assert sorted(queries) == list(range(lay.num_positions))
            assert np.array_equal(found, dense(pattern, lay))


@every_scheme
@every_shape
def test_tiled_attention_equals_dense_attention(scheme, shape):
    for lay in layouts(scheme, shape):
        for pattern in scheme[1]:
            torch.manual_seed(0)
            q, k, v = (torch.randn(2, 3, lay.num_positions, 4, dtype=torch.float64, requires_grad=True) for _ in "qkv")
            expected = scaled_dot_product_attention(q, k, v, torch.from_numpy(dense(pattern, lay)))
            weights = torch.randn_like(expected)
            tiled = TiledAttention(pattern, lay)(q, k, v)
            torch.testing.assert_close(tiled, expected)
            wanted = torch.autograd.grad((expected * weights).sum(), (q, k, v))
            torch.testing.assert_close(torch.autograd.grad((tiled * weights).sum(), (q, k, v)), wanted)


@every_scheme
@pytest.mark.parametrize("chunk", [1, 200, 2**20])
def test_attention_in_bfloat16_by_chunks_equals_dense_attention(scheme, chunk, monkeypatch):
    """Forwards and backwards, to the precision of bfloat16, whether a chunk holds one tile, some, or all of them."""
    monkeypatch.setattr(attention, "CHUNK", chunk)
    lay = layouts(scheme, (3, 5, 4))[1]
    for pattern in scheme[1]:
        torch.manual_seed(0)
        exact = [torch.randn(2, 3, lay.num_positions, 4, requires_grad=True) for _ in "qkv"]
        rounded = [x.detach().bfloat16().requires_grad_() for x in exact]
        expected = scaled_dot_product_attention(*exact, torch.from_numpy(dense(pattern, lay)))
        weights = torch.randn_like(expected)
        found = TiledAttention(pattern, lay)(*rounded)
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.05)
        wanted = torch.autograd.grad((expected * weights).sum(), exact)
        for one, other in zip(torch.autograd.grad((found * weights).sum(), rounded), wanted, strict=True):
            torch.testing.assert_close(one.float(), other, rtol=0.1, atol=0.1)


@every_scheme
def test_grouped_heads_share_keys_and_values(scheme):
    """Four heads of queries on two of keys equal four on four whose keys are repeated."""
    lay = layouts(scheme, (3, 5, 4))[1]
    torch.manual_seed(0)
    q = torch.randn(2, 4, lay.num_positions, 4, dtype=torch.float64)
    k, v = torch.randn(2, 2, 2, lay.num_positions, 4, dtype=torch.float64).unbind()
    for pattern in scheme[1]:
        expected = TiledAttention(pattern, lay)(q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1))
        torch.testing.assert_close(TiledAttention(pattern, lay, groups=2)(q, k, v), expected)
        rounded = TiledAttention(pattern, lay, groups=2)(q.bfloat16(), k.bfloat16(), v.bfloat16())
        torch.testing.assert_close(rounded.double(), expected, rtol=0.05, atol=0.05)


def test_heads_that_look_at_one_offset_each_are_a_masked_convolution():
    """One head for each pixel that a square of two rows and three columns covers."""
    lay = layout(Raster(), (3, 6, 7), False)
    offsets = [(-1, -1), (-1, 0), (-1, 1), (0, -1)]  # rows and columns, of pixels drawn before
    own = torch.eye(42, dtype=torch.float64)
    asked = torch.stack([torch.roll(own, 7 * down + right, 1) for down, right in offsets])  # whom each head asks for
    torch.manual_seed(0)
    v, weight = torch.randn(42, 42, dtype=torch.float64), torch.randn(4, 42, 3, dtype=torch.float64)
    attend = TiledAttention(Local1D(query=7, memory=14), lay)
    heads = attend(1e4 * asked[None], *(each.expand(1, 4, 42, 42) for each in (own, v)))
    found = torch.einsum("ale,aed->dl", heads[0], weight).view(3, 6, 7)
    kernel = torch.zeros(3, 42, 2, 3, dtype=torch.float64)
    for (down, right), part in zip(offsets, weight, strict=True):
        kernel[:, :, down + 1, right + 1] = part.T
    expected = conv2d(v.T.view(1, 42, 6, 7), kernel)[0]  # where the square lies inside of the image
    torch.testing.assert_close(found[:, 1:, 1:-1], expected)


def test_no_tile_grows_with_the_image():
    """Local attention on an image four times as large computes four times as much, and no more."""
    for pattern in (Local1D(16, 16), Dilated(16, 8, 2, 8), Local2D((4, 4), (4, 4))):
        order = BlockRaster((4, 4)) if isinstance(pattern, Local2D) else Raster()
        work = []
        for side in (16, 32):
            groups = tiles(pattern, layout(order, (3, side, side), False))
            work.append(sum(len(g.queries) * g.allowed[0].size for g in groups))
        assert work[0] * 3.5 < work[1] < work[0] * 5.5  # 4, but for what the edges lack


def test_receptive_field_grows_by_a_memory_a_layer():
    """T2T's local 1D attention reaches n B + o + 1 inputs back after n layers (o: place in the block)."""
    lay = layout(Raster(), (1, 1, 30), True)
    for depth in (1, 2, 3):
        reach = receptive_field((Local1D(6, 6),) * depth, lay)
        for query in (20, 25, 29):
            assert reach[query].sum() == min(query + 1, depth * 6 + query % 6 + 1)


@pytest.mark.parametrize(
    "bad", [lambda: Local1D(0, 1), lambda: Local1D(2, -1), lambda: Local2D((0, 1), (1, 1)), lambda: Dilated(1, 0, 1, 1)]
)
def test_impossible_sizes_are_refused(bad):
    with pytest.raises(ValueError, match="needs query"):
        bad()


@pytest.mark.parametrize("sub_pixels", [True, False])
@pytest.mark.parametrize("order", [Raster(), Wavefront(0), Wavefront(1), BlockRaster((2, 3))], ids=str)
def test_the_table_of_neighbours_is_what_is_seen(order, sub_pixels):
    lay = layout(order, (3, 4, 5), sub_pixels)
    near, p = Near(nearest_generated(order)[:6]), lay.positions
    table = near.table(lay)
    for q in range(lay.num_positions):
        seen = {k for k in range(lay.num_positions) if near.sees(p[np.array([q])], p[np.array([k])])[0]}
        assert seen == {q, *table[:, q][table[:, q] >= 0].tolist()}
        assert all(p.front[k] < p.front[q] and p.channel[k] == p.channel[q] for k in seen - {q})


def test_schemes_cover_every_pattern():
    assert {type(p) for _, patterns in SCHEMES for p in patterns} == {Full, Local1D, Local2D, Dilated, Nothing}
