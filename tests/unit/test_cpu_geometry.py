"""Vectors of channels, tiles of columns, and which taps of a window lie inside the image."""

import itertools

import pytest

from blockfuse.errors import InternalError
from blockfuse.machine.affine import Affine, span, var
from blockfuse.schedules.cpu.vectors import Panel, panels, runs, widths
from blockfuse.schedules.cpu.window import (
    column_tiles,
    filter_rows,
    input_row,
    rows_inside,
    rows_may_leave,
    taps_inside,
)
from blockfuse.stages import ImageShape, Window

WINDOWS = [
    Window(r, s, stride, stride, dilation, dilation, top, left, bottom, right)
    for r, s, stride, dilation, (top, left, bottom, right) in itertools.product(
        (1, 3), (2, 3), (1, 2), (1, 2), ((0, 0, 0, 0), (1, 1, 1, 1), (2, 0, 0, 3), (4, 4, 4, 4))
    )
]


@pytest.mark.parametrize(
    ("channels", "expected"),
    [(16, [16]), (3, [2, 1]), (20, [16, 4]), (40, [16, 16, 8]), (31, [16, 8, 4, 2, 1]), (1, [1])],
)
def test_widths(channels, expected):
    assert widths(channels, 16) == expected


def test_panels_cover_the_channels_in_order():
    assert panels(88, 16, 2) == [Panel(0, (16, 16)), Panel(32, (16, 16)), Panel(64, (16, 8))]
    assert panels(88, 16, 2)[2].vectors == [(0, 16), (16, 8)]


def test_runs():
    assert runs([1, 3, 2, 4, 5], lambda n: n % 2) == [(1, 2), (2, 2), (5, 1)]


@pytest.mark.parametrize("pixels", [1, 3, 7, 14, 30])
@pytest.mark.parametrize("width", [1, 5, 14, 29])
def test_column_tiles_cover_the_columns_once(width, pixels):
    tiles = column_tiles(2, 2 + width, pixels)
    columns = [tile.first + p for tile in tiles for p in range(tile.width)]
    assert columns == list(range(2, 2 + width))
    assert max(tile.width for tile in tiles) <= pixels
    assert len({tile.width for tile in tiles[:-1]}) <= 1
    assert [tile.number for tile in tiles] == list(range(len(tiles)))


@pytest.mark.parametrize("size", [1, 4, 7])
def test_taps_inside(size):
    image = ImageShape(9, size, 1)
    for window in WINDOWS:
        for tile in column_tiles(0, window.output_size(9, size)[1], 3):
            for s, pixels in enumerate(taps_inside(window, image, tile)):
                columns = [(tile.first + p) * window.stride_w + s * window.dilation_w for p in range(tile.width)]
                inside = [p for p, column in enumerate(columns) if 0 <= column - window.pad_left < size]
                assert list(pixels) == inside, window


@pytest.mark.parametrize("size", [1, 4, 7])
def test_rows_inside(size):
    image = ImageShape(size, 9, 1)
    for window in WINDOWS:
        for row in range(window.output_size(size, 9)[0]):
            inside = [r for r in range(window.r) if 0 <= input_row(window, row, r) < size]
            assert list(range(*rows_inside(window, image, row, 0, window.r))) == inside, window
            assert rows_may_leave(window, image) or len(inside) == window.r, window


def test_filter_rows():
    window = Window(5, 3)
    assert filter_rows(window, span(0, 15)) == (Affine(), 5)
    assert filter_rows(window, span(var("slice") * 6 + 3, 6)) == (var("slice") * 2 + 1, 2)
    for taps in (span(1, 3), span(0, 4), span(var("slice") * 2, 3)):
        with pytest.raises(InternalError, match="not whole filter rows"):
            filter_rows(window, taps)
