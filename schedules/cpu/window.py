"""Where windows of output pixels lie in the input: column tiles, taps inside the image, filter rows inside it.

Columns are known when code is made: tiles at the left and right edge get code of their own that leaves out the taps
outside the image. Rows are not: the loop over filter rows gets bounds that leave them out. Neither costs anything in
the inner loops.
"""

from __future__ import annotations

from dataclasses import dataclass

from blockfuse.errors import InternalError
from blockfuse.machine.affine import Affine, Range
from blockfuse.schedules.emit import Index, larger, quotient, smaller
from blockfuse.stages import ImageShape, Window


@dataclass(frozen=True)
class ColumnTile:
    """Neighbouring output pixels of one row.

    Attributes:
        number: Tiles of the row before it.
        first: Column of its first pixel.
        width: Number of pixels.
    """

    number: int
    first: int
    width: int


def column_tiles(low: int, high: int, pixels: int) -> list[ColumnTile]:
    """Columns ``low .. high - 1`` as the fewest tiles of at most ``pixels``, of equal width but for the last."""
    if high <= low:
        return []
    count = -(-(high - low) // pixels)
    width = -(-(high - low) // count)
    return [ColumnTile(i, first, min(width, high - first)) for i, first in enumerate(range(low, high, width))]


def taps_inside(window: Window, image: ImageShape, tile: ColumnTile) -> tuple[tuple[int, ...], ...]:
    """For every filter column, the pixels of the tile for which it lies inside the image."""
    return tuple(
        tuple(p for p in range(tile.width) if 0 <= input_column(window, tile.first + p, s) < image.width)
        for s in range(window.s)
    )


def all_taps(window: Window, tile: ColumnTile) -> tuple[tuple[int, ...], ...]:
    """For every filter column, all pixels of the tile."""
    return (tuple(range(tile.width)),) * window.s


def input_column(window: Window, column: int, s: int) -> int:
    """Input column under filter column ``s`` of an output column."""
    return column * window.stride_w + s * window.dilation_w - window.pad_left


def input_row(window: Window, row: Index, r: Index) -> Index:
    """Input row under filter row ``r`` of an output row."""
    return row * window.stride_h + r * window.dilation_h - window.pad_top


def filter_rows(window: Window, taps: Range) -> tuple[Affine, int]:
    """First filter row and number of filter rows of a slice of taps.

    Raises:
        InternalError: The slice does not consist of whole filter rows.
    """
    low, size = taps.low, taps.size
    coefficients = (low.const, *(coefficient for _, coefficient in low.terms))
    if not size.is_constant or size.const % window.s or any(c % window.s for c in coefficients):
        raise InternalError(f"taps {taps} of a {window} window are not whole filter rows")
    first = Affine(low.const // window.s, tuple((atom, c // window.s) for atom, c in low.terms))
    return first, size.const // window.s


def rows_may_leave(window: Window, image: ImageShape) -> bool:
    """Whether the windows of some output rows reach over the image's upper or lower edge."""
    return bool(window.pad_top) or _reaches_below(window, image)


def rows_inside(window: Window, image: ImageShape, row: Index, first: Index, count: Index) -> tuple[Index, Index]:
    """Bounds ``low, high`` of those filter rows ``first .. first + count - 1`` that lie inside the image.

    Args:
        window: The window.
        image: The input image.
        row: The output row.
        first: First filter row.
        count: Number of filter rows.
    """
    low, high = first, first + count
    if window.pad_top:
        low = larger(low, _falling(window.pad_top + window.dilation_h - 1, row * window.stride_h, window.dilation_h))
    if _reaches_below(window, image):
        last = image.height - 1 + window.pad_top
        high = smaller(high, _falling(last, row * window.stride_h, window.dilation_h) + 1)
    return low, high


def _falling(start: int, place: Index, divisor: int) -> Index:
    """``(start - place) / divisor`` rounded down, as the quotient of something that grows with ``place``.

    TVM 0.27 takes one for the other: it makes ``row // -2`` of ``(1 - row) // 2``.
    """
    most = -(-start // divisor)
    return most - quotient(place + (most * divisor - start + divisor - 1), divisor)


def _reaches_below(window: Window, image: ImageShape) -> bool:
    last, _ = window.output_size(image.height, image.width)
    return bool(input_row(window, last - 1, window.r - 1) >= image.height)
