"""Operands that are in registers: EPILOGUE and LOAD into a register tile, and how GEMM finds them there.

The layout of sums (C of an mma) is that of pixels (A of an mma): of 16 pixels x 16 channels, lane l holds pixels l / 4
and l / 4 + 8, channels l % 4 * 2 and the next, and those 8 further, in both. So sums become operands where they are::

    EPILOGUE:  for n8 in channels:                      for j in mb, half in 2:
                 a[j, n8 / 2, n8 % 2, half] = steps(acc[j, n8, half])      two channels, one 32-bit register

    LOAD:      for j in all m16 tiles, k16 in channels:  a[j, k16] = ldmatrix(pixels of tile j, 16 channels)
"""

from __future__ import annotations

from blockfuse.errors import InternalError
from blockfuse.machine import Epilogue, Gemm, Load, Tile
from blockfuse.schedules.cuda.emitter import address
from blockfuse.schedules.cuda.finish import Element, finish, load_constants
from blockfuse.schedules.cuda.kernel import Kernel
from blockfuse.schedules.cuda.mma import A_WORDS, LOAD_MATRICES, K
from blockfuse.schedules.cuda.pixels import row_offset, tap_offset
from blockfuse.schedules.cuda.warps import WarpShare, share
from blockfuse.schedules.emit import Buffer, Expr, Index, load, remainder
from blockfuse.stages import Window


def lower(kernel: Kernel, node: Epilogue) -> None:
    """Sums become the operand of the next sums."""
    emit, mine, channels = kernel.emit, share(kernel, node.acc), node.acc.region.channels
    sums, operand = kernel.sums(node.acc), _elements(kernel, node.target, mine.mb)
    with emit.loop(2 * mine.ni, "n", "unrolled") as n:
        channel = n * 8 + remainder(kernel.lane, 4) * 2
        constants = load_constants(kernel, node.steps, channels.low, channel, 2)
        for j in range(mine.mb):
            for i in range(4):
                place = (j * 2 * mine.ni + n) * 4 + i
                element = Element(i % 2, constants)
                emit.store(operand, place, kernel.narrow(finish(node.steps, load(sums, place), element)))


def hold(kernel: Kernel, node: Load) -> None:
    """All pixels of this warp into registers."""
    gemm = next((n for n in kernel.program.walk() if isinstance(n, Gemm) and n.source is node.target), None)
    if gemm is None:
        raise InternalError(f"program {kernel.program.name}: nothing reads {node.target}")
    mine = share(kernel, gemm.acc)
    count = -(-mine.tiles // mine.wm)
    depth = node.target.channels // K
    words = _words(kernel, node.target, count)
    corner = node.source.offset + kernel.channel(node.source, node.region.channels.low)
    corner = corner + tap_offset(kernel, node.source, node.region, Window(), 0)
    for j in range(count):
        number = j * mine.wm + mine.row
        with kernel.emit.when((j + 1) * mine.wm <= mine.tiles or number < mine.tiles):
            row = kernel.emit.bind("row", row_offset(kernel, node.source, mine, Window(), number))
            for k in range(depth):
                into = [load(words, (j * depth + k) * A_WORDS + i) for i in range(A_WORDS)]
                kernel.emit.ptx(LOAD_MATRICES, *into, address(kernel.shared, corner + row + k * K))


def operand(kernel: Kernel, tile: Tile, mine: WarpShare, j: int, k: Index) -> list[Expr]:
    """The registers with 16 pixels x 16 channels of a register tile, for the ``j``-th m16 tile of this trip."""
    piece, depth = kernel.piece, tile.channels // K
    if piece is None:
        raise InternalError(f"{tile} is read outside a pixels loop")
    own = tile in piece.own
    words = _words(kernel, tile, mine.mb if own else -(-mine.tiles // mine.wm))
    first = j if own else piece.number * piece.tiles + j
    return [load(words, (first * depth + k) * A_WORDS + i) for i in range(A_WORDS)]


def _elements(kernel: Kernel, tile: Tile, tiles: int) -> Buffer:
    return kernel.elements(f"operand_{tile.name}", tiles * tile.channels // K * A_WORDS * 2)


def _words(kernel: Kernel, tile: Tile, tiles: int) -> Buffer:
    """A register tile as 32-bit words of two elements."""
    size = tiles * tile.channels // K * A_WORDS
    return kernel.word_view(_elements(kernel, tile, tiles), f"words_{tile.name}", size)
