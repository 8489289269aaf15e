"""Where a lane's ldmatrix row of pixels is in a tile: one row offset per m16 tile, plus one per tap of a window.

::

    element = corner of the tile + channel + tap_offset(r, s) + row_offset(m16 tile, lane)

Lanes 0-15 address the 16 pixels, 8 channels of each; lanes 16-31 the same pixels, the next 8 channels. Pixels past the
end of the region repeat the last one; their sums are never stored.
"""

from __future__ import annotations

from blockfuse.machine import Gemm, Region, Tile
from blockfuse.schedules.cuda.kernel import Kernel, clamped, placed
from blockfuse.schedules.cuda.mma import K, M
from blockfuse.schedules.cuda.warps import WarpShare
from blockfuse.schedules.emit import Buffer, Index, quotient, remainder
from blockfuse.stages import Window


def row_offset(kernel: Kernel, source: Tile, mine: WarpShare, window: Window, number: Index) -> Index:
    """Elements from the first pixel under a tap to this lane's, for m16 tile ``number``."""
    half = quotient(kernel.lane, 16) * (K // 2)
    return pixel_offset(kernel, source, mine, window, number) + half


def pixel_offset(kernel: Kernel, source: Tile, mine: WarpShare, window: Window, number: Index) -> Index:
    """The same for the first channel, in lanes 16-31 too."""
    pixel = clamped(number * M + remainder(kernel.lane, 16), mine.pixels)
    return place_offset(source, mine, window, pixel)


def place_offset(source: Tile, mine: WarpShare, window: Window, pixel: Index, unit: int = 1) -> Index:
    """Distance from the first pixel under a tap to that of ``pixel``, in units of so many elements."""
    layout = source.layout
    down, right = layout.step_h(window.stride_h) // unit, layout.step_w(window.stride_w) // unit
    if down == mine.cols * right:
        return pixel * right
    return quotient(pixel, mine.cols) * down + remainder(pixel, mine.cols) * right


def tap_offset(kernel: Kernel, source: Tile, region: Region, window: Window, tap: Index) -> Index:
    """Elements from the corner of a tile to the pixel under a tap of the region's first pixel."""
    r, s = quotient(tap, window.s), remainder(tap, window.s)
    y = kernel.at(region.rows.low * window.stride_h - window.pad_top - source.top) + r * window.dilation_h
    x = kernel.at(region.cols.low * window.stride_w - window.pad_left - source.left) + s * window.dilation_w
    return placed(source, y, x)


def corner(kernel: Kernel, node: Gemm, tap: Index) -> Index:
    """Element of the source under a tap of the first pixel, at the first channel."""
    channel = kernel.channel(node.source, node.weights.inputs.low + node.channel)
    return kernel.origin(node.source) + channel + tap_offset(kernel, node.source, node.acc.region, node.window, tap)


def row_offsets(kernel: Kernel, node: Gemm, mine: WarpShare) -> Buffer:
    """Element offset in the source tile of this lane's ldmatrix row, for the m16 tiles of this trip."""
    rows = kernel.registers(f"rows_{node.acc}_{node.source}", mine.mb, "int32")
    key = (node.acc, node.source, node.window)
    if kernel.piece is None and not kernel.once(key):
        return rows
    offsets = [row_offset(kernel, node.source, mine, node.window, mine.tile(j)) for j in range(mine.mb)]
    if kernel.piece is not None:
        for j, offset in enumerate(offsets):
            kernel.emit.store(rows, j, offset)
        return rows
    with kernel.emit.hoisted():
        for j, offset in enumerate(offsets):
            kernel.emit.store(rows, j, offset)
    return rows
