"""GEMM: sums of m16 x n16 tiles on the tensor cores; with several taps it is a dense convolution.

With mma.sync; :mod:`blockfuse.schedules.cuda.wgmma` has the other engine, :mod:`blockfuse.schedules.cuda.fma` float32::

    for tap:                                       row gather: a tap only shifts the addresses
      for k16:
        for j in mb:  a[j] = ldmatrix(source pixels of m16 tile j, 16 channels)      unless they are in registers
        for n in ni:  b = 16 bytes of packed weights
                      for j in mb:  acc[j, n] += a[j] * b          two mma
"""

from __future__ import annotations

from blockfuse.machine import Engine, Gemm, Level
from blockfuse.schedules.cuda import chain, fma, wgmma
from blockfuse.schedules.cuda.emitter import address
from blockfuse.schedules.cuda.kernel import Kernel
from blockfuse.schedules.cuda.mma import A_WORDS, B_WORDS, FRAGMENT, LOAD_MATRICES, MMA, SUMS, K
from blockfuse.schedules.cuda.pixels import corner, row_offsets
from blockfuse.schedules.cuda.warps import WarpShare, share
from blockfuse.schedules.emit import Buffer, Expr, Index, load

_UNROLL = 8  # k16 steps


def lower(kernel: Kernel, node: Gemm) -> None:
    """Emit the loops over taps and input channels."""
    if kernel.dtype == "float32":
        fma.lower(kernel, node)
        return
    if kernel.tiling(node.acc).engine is Engine.WGMMA:
        wgmma.lower(kernel, node)
        return
    emit, mine = kernel.emit, share(kernel, node.acc)
    taps, depth = node.weights.taps.size.const, node.weights.inputs.size.const // K
    inner = _UNROLL if depth % _UNROLL == 0 else _UNROLL // 2 if depth % (_UNROLL // 2) == 0 else depth
    in_registers = node.source.level is Level.REGISTER
    weights = kernel.weight_offset(node.weights, 4)
    rows = None if in_registers else row_offsets(kernel, node, mine)
    with emit.loop(taps, "tap") as tap:
        first = 0 if in_registers else corner(kernel, node, kernel.at(node.weights.taps.low) + tap)
        kind = "unrolled" if in_registers else "serial"
        with emit.loop(depth // inner, "ko", kind) as outer, emit.loop(inner, "ki", "unrolled") as ki:
            k = outer * inner + ki
            pixels = _pixels(kernel, node, mine, k) if rows is None else _load(kernel, mine, rows, first + k * K)
            with emit.loop(mine.ni, "n", "unrolled") as n:
                block = (tap * depth + k) * mine.blocks + mine.col * mine.ni + n
                _multiply(kernel, node, mine, pixels, weights + block * (FRAGMENT // 2), n)


def _load(kernel: Kernel, mine: WarpShare, rows: Buffer, source: Index) -> list[list[Expr]]:
    """Registers with the pixels of every m16 tile, loaded from shared memory."""
    a = kernel.registers("a", A_WORDS * kernel.most_tiles, "uint32")
    words = [[load(a, A_WORDS * j + i) for i in range(A_WORDS)] for j in range(mine.mb)]
    for j in range(mine.mb):
        with kernel.emit.when(mine.exists(j)):
            kernel.emit.ptx(LOAD_MATRICES, *words[j], address(kernel.shared, source + load(rows, j)))
    return words


def _pixels(kernel: Kernel, node: Gemm, mine: WarpShare, k: Index) -> list[list[Expr]]:
    """Registers with the pixels of every m16 tile, where they are already."""
    return [chain.operand(kernel, node.source, mine, j, k) for j in range(mine.mb)]


def _multiply(kernel: Kernel, node: Gemm, mine: WarpShare, pixels: list[list[Expr]], weights: Index, n: Index) -> None:
    """One B fragment pair against the pixels of all m16 tiles."""
    emit, sums = kernel.emit, kernel.sums(node.acc)
    b = kernel.registers("b", B_WORDS, "uint32")
    emit.store(b, 0, load(kernel.words, weights + kernel.lane * B_WORDS, B_WORDS), B_WORDS)
    for j in range(mine.mb):
        first = ((mine.first + j) * mine.ni + n) * SUMS
        with emit.when(mine.exists(j)):
            for half in range(2):
                d = [load(sums, first + half * 4 + i) for i in range(4)]
                emit.ptx(MMA[kernel.dtype], *d, *pixels[j], load(b, 2 * half), load(b, 2 * half + 1), *d)
