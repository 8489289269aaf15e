"""Shared-memory wavefronts and pitches."""

import numpy as np
import pytest

from blockfuse.machine.banks import wavefronts
from blockfuse.machine.layout import Layout
from blockfuse.plan.banks import DepthwiseReads, matrix_pitch
from blockfuse.plan.layouts import Walk, cost, depthwise_layout, laid_out


@pytest.mark.parametrize(
    ("addresses", "width", "expected"),
    [
        ([4 * lane for lane in range(32)], 4, 1),
        ([0] * 32, 4, 1),  # a broadcast
        ([8 * lane for lane in range(32)], 4, 2),
        ([128 * lane for lane in range(32)], 4, 32),
        ([2 * lane for lane in range(32)], 2, 1),  # two lanes in a word
        ([8 * lane for lane in range(32)], 8, 2),  # 256 bytes take two passes
        ([16 * lane for lane in range(32)], 16, 4),
        ([None] * 31 + [0], 16, 1),
        ([None] * 32, 4, 0),
    ],
)
def test_wavefronts(addresses, width, expected):
    assert wavefronts(addresses, width) == expected


@pytest.mark.parametrize("channels", [16, 32, 48, 64, 128])
def test_matrix_rows_fall_into_different_banks(channels):
    rows = [row * matrix_pitch(channels) * 2 for row in range(8)]
    assert wavefronts(rows + [None] * 24, 16) == 1


def test_fragment_stores_conflict_on_some_pitches():
    assert Walk(1, 8).passes(Layout(1, 8, 40)) == 1
    assert Walk(1, 8).passes(Layout(1, 8, 64)) == 8
    assert Walk(1, 8).passes(Layout(1, 8, 68)) == 2  # 4 words of every pixel, 2 words apart


@pytest.mark.parametrize(
    ("size", "apart", "gap", "padding"), [((7, 9), (1, 1), 0, 24), ((15, 14), (2, 2), 8, 16), ((9, 11), (3, 4), 40, 8)]
)
def test_every_pixel_of_a_layout_has_a_place_of_its_own(size, apart, gap, padding):
    rows, cols = size
    layout = Layout(rows, cols, 24, *apart, gap, padding)
    places = [layout.place(y, x) for y in range(rows) for x in range(cols)]
    assert len(set(places)) == rows * cols
    assert max(places) + 24 <= layout.size
    assert all(place % 8 == 0 for place in places)
    y, x = np.arange(rows)[:, None], np.arange(cols)
    assert layout.place(y, x).ravel().tolist() == places
    assert layout.place(apart[0], 0) == layout.step_h(apart[0])
    assert layout.place(0, 2 * apart[1]) == layout.step_w(2 * apart[1])


WINDOWS = [  # rows and columns of the result, of the tile, strides
    ((7, 7), (9, 9), (1, 1)),  # 8 neighbours wrap to the next row
    ((8, 14), (10, 16), (1, 1)),
    ((7, 7), (14, 14), (2, 2)),
    ((7, 7), (15, 15), (2, 2)),
    ((5, 6), (20, 24), (4, 4)),
    ((5, 9), (14, 9), (3, 1)),
]


@pytest.mark.parametrize("channels", [16, 64, 96])
@pytest.mark.parametrize(("out", "tile", "strides"), WINDOWS)
def test_gathers_of_one_window_never_conflict(out, tile, strides, channels):
    walk = Walk(*out, *strides, weight=9)
    plain = Layout(*tile, matrix_pitch(channels))
    found = laid_out(Layout(*tile, matrix_pitch(channels), *strides), (walk,))
    passes = [max(gathered_passes(walk, layout)) for layout in (plain, found)]
    assert passes[1] == 1 < passes[0]
    assert found.size < 1.2 * plain.size


def gathered_passes(walk: Walk, layout: Layout) -> list[int]:
    """Passes of every access, address by address."""
    places = [place * 2 for place in walk.places(layout, walk.rows)]
    return [wavefronts(places[low : low + 8], 16) for low in range(0, len(places), 8)]


@pytest.mark.parametrize("seed", range(8))
def test_conflicts_of_walks_are_those_of_their_addresses(seed):
    rng = np.random.default_rng(seed)
    out = rng.integers(2, 10, 2).tolist()
    strides = rng.integers(1, 4, 2).tolist()
    rows, cols = (size * stride + 2 for size, stride in zip(out, strides, strict=True))
    layout = Layout(rows, cols, 8 * int(rng.integers(2, 9)), 1, int(rng.integers(1, 3)), 8, 8 * int(rng.integers(0, 4)))
    walk = Walk(*out, *strides, top=1, left=2)
    passes = gathered_passes(walk, layout)
    assert walk.passes(layout) == pytest.approx(sum(passes) / len(passes))


def test_a_tile_that_is_filled_and_gathered_costs_least_together():
    walks = (Walk(7, 7, 2, 2, weight=9), Walk(15, 15))
    found = laid_out(Layout(15, 15, 72, 2, 2), walks)
    others = [Layout(15, 15, 72, 2, 2, gap) for gap in range(0, 64, 8)]
    assert cost(found, walks) <= min(cost(other, walks) for other in others)
    assert walks[0].passes(found) == 1
    assert found.gap


def reads(stride: int = 1) -> DepthwiseReads:
    return DepthwiseReads(48, 4, 128, 7 * stride + 2, 13 * stride + 3, 14, 7, stride, stride, 3)


def plain(pattern: DepthwiseReads, pitch: int) -> Layout:
    return Layout(pattern.rows, pattern.cols, pitch)


def test_the_best_layout_costs_no_more_than_any_pitch():
    found = depthwise_layout(reads(), 48, (1, 1), None)
    assert (found.apart_h, found.apart_w) == (1, 1)
    assert found.pitch % 4 == 0
    assert all(reads().cost(found) <= reads().cost(plain(reads(), p)) + 1e-9 for p in range(48, 81, 4))


def test_columns_are_kept_apart_only_where_it_is_allowed_and_pays():
    found = depthwise_layout(reads(2), 48, (2, 2), None)
    never = depthwise_layout(reads(2), 48, (1, 1), None)
    assert never.apart_w == 1
    assert reads(2).cost(found) <= reads(2).cost(never)


def test_idle_threads_read_nothing():
    pattern = DepthwiseReads(48, 4, 128, 9, 16, 14, 7, 1, 1, 3)  # 12 groups: 120 of 128 threads work
    assert pattern.addresses(3, plain(pattern, 48))[-8:] == [None] * 8
