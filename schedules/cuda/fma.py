"""GEMM in float32, on the ordinary arithmetic units; sums lie in registers as those of the tensor cores do.

::

    for tap:
      for group of 4 input channels:
        for j in mb, half in 2:  a[j, half] = 16 bytes of pixel l / 4 of that half of m16 tile j
        for c in 4, n8:          b = weights [c, n8 * 8 + l % 4 * 2 and the next]
                                 for j in mb, half in 2:  acc[j, n8, half] += a[j, half, c] * b
"""

from __future__ import annotations

from blockfuse.machine import Gemm
from blockfuse.schedules.cuda.kernel import Kernel, clamped
from blockfuse.schedules.cuda.mma import M, N
from blockfuse.schedules.cuda.pixels import corner, place_offset
from blockfuse.schedules.cuda.warps import WarpShare, share
from blockfuse.schedules.emit import Buffer, Index, load, quotient, remainder

_GROUP = 4  # input channels of 16 bytes


def lower(kernel: Kernel, node: Gemm) -> None:
    """Emit the loops over taps and input channels."""
    emit, mine = kernel.emit, share(kernel, node.acc)
    depth, width = node.weights.inputs.size.const, mine.blocks * N
    rows = _rows(kernel, node, mine)
    a = kernel.registers("a_fma", 2 * mine.mb * _GROUP)
    weights = kernel.weight_offset(node.weights, _GROUP)
    with emit.loop(node.weights.taps.size.const, "tap") as tap:
        first = corner(kernel, node, kernel.at(node.weights.taps.low) + tap)
        with emit.loop(depth // _GROUP, "k") as k:
            for i in range(2 * mine.mb):
                with emit.when(mine.exists(i // 2)):
                    place = first + k * _GROUP + load(rows, i) * _GROUP
                    emit.store(a, i * _GROUP, load(kernel.shared, place, _GROUP), _GROUP)
            for c in range(_GROUP):
                row = weights + (tap * depth + k * _GROUP + c) * width
                _multiply(kernel, node, mine, a, row, c)


def _rows(kernel: Kernel, node: Gemm, mine: WarpShare) -> Buffer:
    """This lane's pixels of the trip, in units of 16 bytes from the first pixel under a tap."""
    rows = kernel.registers(f"rows_{node.acc}_{node.source}", 2 * mine.mb, "int32")
    for i in range(2 * mine.mb):
        number = mine.tile(i // 2) * M + i % 2 * 8 + quotient(kernel.lane, 4)
        pixel = clamped(number, mine.pixels)
        offset = place_offset(node.source, mine, node.window, pixel, _GROUP)
        kernel.emit.store(rows, i, offset)
    return rows


def _multiply(kernel: Kernel, node: Gemm, mine: WarpShare, a: Buffer, row: Index, c: int) -> None:
    """One input channel times this warp's output channels."""
    emit, sums, b = kernel.emit, kernel.sums(node.acc), kernel.registers("b_fma", 2)
    with emit.loop(2 * mine.ni, "n", "unrolled") as n:
        channel = (mine.col * (2 * mine.ni) + n) * 8 + remainder(kernel.lane, 4) * 2
        emit.store(b, 0, load(kernel.shared, row + channel, 2), 2)
        for i in range(2 * mine.mb):
            first = ((mine.first + i // 2) * (2 * mine.ni) + n) * 4 + i % 2 * 2
            with emit.when(mine.exists(i // 2)):
                for lane in range(2):
                    product = load(a, i * _GROUP + c) * load(b, lane)
                    emit.store(sums, first + lane, load(sums, first + lane) + product)
