"""GROUPED, 3x3 in blocks of 8 channels, going down the rows: a matrix of pixels serves three output rows.

::

    for unit of this warp:                       unit = (16 columns, block of 8 channels); its weights in registers
      for source row h:
        m[h mod 3] = 16 + 2 pixels of row h      three 16 x 8 matrices, shifted by 0, 1, 2 columns: 6 registers
        row h - 2 of the result:  acc = sum over 5 pairs of taps;  target = steps(acc)
"""

from __future__ import annotations

from blockfuse.machine import Grouped
from blockfuse.machine.groups import NARROW, GroupBlock, tap_pairs
from blockfuse.schedules.cuda.emitter import address
from blockfuse.schedules.cuda.finish import Constants, Element, finish, has_mask, load_constants, load_values
from blockfuse.schedules.cuda.kernel import Kernel
from blockfuse.schedules.cuda.mma import LOAD_MATRICES, MMA
from blockfuse.schedules.cuda.pixels import tap_offset
from blockfuse.schedules.emit import Buffer, Index, constant, load, quotient, remainder
from blockfuse.stages import Window

_COLUMNS = 16
_MOST_ROWS = 32  # unrolled
_LOAD_TWO = LOAD_MATRICES.replace("x4", "x2")


def suits(node: Grouped, block: GroupBlock) -> bool:
    """Whether the convolution and its region have this form."""
    window, region = node.window, node.region
    shape = Window(3, 3, 1, 1, 1, 1, window.pad_top, window.pad_left, window.pad_bottom, window.pad_right)
    fits = region.cols.size.const % _COLUMNS == 0 and region.rows.size.const <= _MOST_ROWS
    return block == GroupBlock(NARROW, NARROW) and window == shape and fits and node.source.apart_w == 1


def lower(kernel: Kernel, node: Grouped) -> None:
    """Emit the loop over units."""
    emit, warps, region = kernel.emit, kernel.threads // 32, node.region
    columns = region.cols.size.const // _COLUMNS
    units = columns * (region.channels.size.const // NARROW)
    pairs = len(tap_pairs(3, 3))
    b = kernel.registers("b_rows", 2 * pairs, "uint32")
    weights = kernel.weight_offset(node.weights, 4) + kernel.lane * 2
    with emit.loop(-(-units // warps), "unit") as trip:
        unit = emit.bind("unit_of_warp", trip * warps + kernel.warp)
        with emit.when(units % warps == 0 or unit < units):
            block, x = quotient(unit, columns), remainder(unit, columns) * _COLUMNS
            for pair in range(pairs):
                emit.store(b, 2 * pair, load(kernel.words, weights + (block * pairs + pair) * 64, 2), 2)
            channel = block * NARROW + remainder(kernel.lane, 4) * 2
            constants = load_constants(kernel, node.steps, region.channels.low, channel, 2)
            _rows(kernel, node, block, x, channel, constants)


def _rows(kernel: Kernel, node: Grouped, block: Index, x: Index, channel: Index, constants: Constants) -> None:
    source, region = node.source, node.region
    matrices = kernel.registers("matrices", 18, "uint32")
    base = kernel.registers("row_base", 1, "int32")
    half = quotient(kernel.lane, 16)
    corner = kernel.origin(source) + kernel.channel(source, region.channels.low) + block * NARROW
    corner = corner + tap_offset(kernel, source, region, node.window, 0)
    pixel = x + remainder(kernel.lane, 16)
    kernel.emit.store(base, 0, corner + (pixel + half) * source.pitch)
    for h in range(region.rows.size.const + 2):
        m = [load(matrices, h % 3 * 6 + i) for i in range(6)]
        place = load(base, 0) + h * source.layout.row
        kernel.emit.ptx(LOAD_MATRICES, *m[:4], address(kernel.shared, place))
        kernel.emit.ptx(_LOAD_TWO, *m[4:], address(kernel.shared, place + (2 - half) * source.pitch))
        if h >= 2:
            _row(kernel, node, h - 2, x, channel, constants)


def _row(kernel: Kernel, node: Grouped, y: int, x: Index, channel: Index, constants: Constants) -> None:
    """Sum and finish one row of the result."""
    emit = kernel.emit
    sums, matrices = kernel.registers("acc_row", 4), kernel.registers("matrices", 18, "uint32")
    b = kernel.registers("b_rows", 2 * len(tap_pairs(3, 3)), "uint32")
    for i in range(4):
        emit.store(sums, i, constant(0.0))
    for number, (one, other) in enumerate(tap_pairs(3, 3)):
        a = [*_matrix(matrices, y, one), *_matrix(matrices, y, one if other is None else other)]
        d = [load(sums, i) for i in range(4)]
        emit.ptx(MMA[kernel.dtype], *d, *a, load(b, 2 * number), load(b, 2 * number + 1), *d)
    for half in range(2):
        _store(kernel, node, y, x + quotient(kernel.lane, 4) + half * 8, half, channel, constants)


def _matrix(matrices: Buffer, y: int, tap: int) -> list[Index]:
    """The two registers with 16 pixels x 8 channels under a tap of row ``y``."""
    r, s = divmod(tap, 3)
    return [load(matrices, (y + r) % 3 * 6 + s * 2 + i) for i in range(2)]


def _store(kernel: Kernel, node: Grouped, y: int, x: Index, half: int, channel: Index, constants: Constants) -> None:
    emit, region, tile = kernel.emit, node.region, node.target
    inside = kernel.inside(region, tile, y, x) if has_mask(node.steps) else True
    values = load_values(kernel, node.steps, lambda t: kernel.pixel(t, region, y, x), region, channel, 2)
    sums, result = kernel.registers("acc_row", 4), kernel.elements("halves")
    for i in range(2):
        element = Element(i, constants, values, inside)
        emit.store(result, i, kernel.narrow(finish(node.steps, load(sums, half * 2 + i), element)))
    place = tile.offset + kernel.pixel(tile, region, y, x)
    emit.store(kernel.shared, place + kernel.channel(tile, region.channels.low) + channel, load(result, 0, 2), 2)
