"""GEMM: sums of m16 x n16 tiles on the tensor cores; with several taps it is a dense convolution.

::

    for tap:                                       row gather: a tap only shifts the addresses
      for k16:
        for j in mb:  a[j] = ldmatrix(source pixels of m16 tile j, 16 channels)
        for n in ni:  b = 16 bytes of packed weights
                      for j in mb:  acc[j, n] += a[j] * b          two mma

Pixels past the end of the region repeat the last one; their sums are never stored.
"""

from __future__ import annotations

from blockfuse.machine import Gemm
from blockfuse.schedules.cuda.emitter import address
from blockfuse.schedules.cuda.kernel import Kernel, clamped, column
from blockfuse.schedules.cuda.mma import A_WORDS, B_WORDS, FRAGMENT, LOAD_MATRICES, MMA, SUMS, K, M
from blockfuse.schedules.cuda.warps import WarpShare, share
from blockfuse.schedules.emit import Buffer, Index, load, quotient, remainder

_UNROLL = 8  # k16 steps


def lower(kernel: Kernel, node: Gemm) -> None:
    """Emit the loops over taps and input channels."""
    emit, mine = kernel.emit, share(kernel, node.acc)
    rows = _row_offsets(kernel, node, mine)
    taps, depth = node.weights.taps.size.const, node.weights.inputs.size.const // K
    inner = _UNROLL if depth % _UNROLL == 0 else _UNROLL // 2 if depth % (_UNROLL // 2) == 0 else depth
    channel = kernel.channel(node.source, node.weights.inputs.low)
    weights = kernel.weight_offset(node.weights, 4)
    with emit.loop(taps, "tap") as tap:
        source = node.source.offset + channel + _tap_offset(kernel, node, kernel.at(node.weights.taps.low) + tap)
        with emit.loop(depth // inner, "ko") as outer, emit.loop(inner, "ki", "unrolled") as ki:
            k = outer * inner + ki
            _load_pixels(kernel, mine, rows, source + k * K)
            with emit.loop(mine.ni, "n", "unrolled") as n:
                block = (tap * depth + k) * mine.blocks + mine.col * mine.ni + n
                _multiply(kernel, node, mine, weights + block * (FRAGMENT // 2), n)


def _row_offsets(kernel: Kernel, node: Gemm, mine: WarpShare) -> Buffer:
    """Element offset in the source tile of this lane's ldmatrix row, for every m16 tile, before any tap."""
    rows = kernel.registers(f"rows_{node.acc}_{node.source}", mine.mb, "int32")
    if kernel.in_pieces:
        for j in range(mine.mb):
            kernel.emit.store(rows, j, _row_offset(kernel, node, mine, j))
    elif kernel.once((node.acc, node.source)):
        with kernel.emit.hoisted():
            for j in range(mine.mb):
                kernel.emit.store(rows, j, _row_offset(kernel, node, mine, j))
    return rows


def _row_offset(kernel: Kernel, node: Gemm, mine: WarpShare, j: int) -> Index:
    source, window = node.source, node.window
    pixel = clamped(mine.tile(j) * M + remainder(kernel.lane, 16), mine.pixels)
    half = quotient(kernel.lane, 16) * (K // 2)
    if (window.stride_h, window.stride_w) == (1, 1) and source.cols == mine.cols:
        return pixel * source.pitch + half
    y, x = quotient(pixel, mine.cols), remainder(pixel, mine.cols)
    step = 1 if source.split_columns else window.stride_w
    return (y * (window.stride_h * source.cols) + x * step) * source.pitch + half


def _tap_offset(kernel: Kernel, node: Gemm, tap: Index) -> Index:
    """Elements from a lane's row to the pixel under a tap."""
    source, window, region = node.source, node.window, node.acc.region
    r, s = quotient(tap, window.s), remainder(tap, window.s)
    y = kernel.constant(region.rows.low * window.stride_h - window.pad_top - source.top) + r * window.dilation_h
    x = kernel.constant(region.cols.low * window.stride_w - window.pad_left - source.left) + s * window.dilation_w
    return (y * source.cols + column(source, x)) * source.pitch


def _load_pixels(kernel: Kernel, mine: WarpShare, rows: Buffer, source: Index) -> None:
    a = kernel.registers("a", A_WORDS * kernel.most_tiles, "uint32")
    for j in range(mine.mb):
        with kernel.emit.when(mine.exists(j)):
            words = [load(a, A_WORDS * j + i) for i in range(A_WORDS)]
            kernel.emit.ptx(LOAD_MATRICES, *words, address(kernel.shared, source + load(rows, j)))


def _multiply(kernel: Kernel, node: Gemm, mine: WarpShare, weights: Index, n: Index) -> None:
    """One B fragment pair against the pixels of all m16 tiles."""
    emit, sums = kernel.emit, kernel.sums(node.acc)
    a, b = kernel.registers("a", A_WORDS * kernel.most_tiles, "uint32"), kernel.registers("b", B_WORDS, "uint32")
    emit.store(b, 0, load(kernel.words, weights + kernel.lane * B_WORDS, B_WORDS), B_WORDS)
    for j in range(mine.mb):
        first = (j * mine.ni + n) * SUMS
        with emit.when(mine.exists(j)):
            for half in range(2):
                d = [load(sums, first + half * 4 + i) for i in range(4)]
                pixels = [load(a, A_WORDS * j + i) for i in range(A_WORDS)]
                emit.ptx(MMA[kernel.dtype], *d, *pixels, load(b, 2 * half), load(b, 2 * half + 1), *d)
