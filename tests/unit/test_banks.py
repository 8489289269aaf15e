"""Shared-memory wavefronts and pitches."""

import pytest

from blockfuse.plan.banks import DepthwiseReads, best_pitch, fragment_store, matrix_conflicts, matrix_pitch, wavefronts


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
    assert fragment_store(40) == 1
    assert fragment_store(64) == 8


def reads(stride: int = 1) -> DepthwiseReads:
    return DepthwiseReads(48, 4, 128, 13 * stride + 3, 14, 7, stride, stride, 3)


def test_the_best_pitch_costs_no_more_than_any_other():
    pitch, split = best_pitch(reads(), 48, may_split=False)
    assert not split
    assert pitch % 4 == 0
    assert all(reads().cost(pitch, split=False) <= reads().cost(p, split=False) + 1e-9 for p in range(48, 81, 4))


def test_columns_are_split_only_where_it_is_allowed_and_pays():
    pitch, split = best_pitch(reads(2), 48, may_split=True)
    other, never = best_pitch(reads(2), 48, may_split=False)
    assert not never
    assert reads(2).cost(pitch, split=split) <= reads(2).cost(other, split=False)


def test_idle_threads_read_nothing():
    pattern = DepthwiseReads(48, 4, 128, 16, 14, 7, 1, 1, 3)  # 12 groups: 120 of 128 threads work
    assert pattern.addresses(3, 48, split=False)[-8:] == [None] * 8


def test_rows_of_eight_pixels_are_read_without_conflicts():
    assert matrix_conflicts(72, 10, 8, 1, 1, 64) == 1
    assert matrix_conflicts(72, 16, 14, 1, 1, 112) > 1  # 8 neighbours wrap to the next row
    assert matrix_conflicts(72, 6, 4, 1, 1, 16) > 1
    assert matrix_conflicts(72, 17, 8, 2, 2, 64) == 2  # a stride of two pixels hits every other bank group
