"""ZERO: sums in registers, or all of a tile in shared memory.

::

    for i in sums of this thread:  acc[i] = 0        unless wgmma is about to overwrite them; for wgmma, settled here:
                                                     else the compiler may make the zeros between fence and product
    for v in threads:              16 bytes of the tile = 0
"""

from __future__ import annotations

from tvm import tirx

from blockfuse.errors import InternalError
from blockfuse.machine import Accumulators, Engine, Tile, Zero
from blockfuse.schedules.cuda import wgmma
from blockfuse.schedules.cuda.kernel import Kernel
from blockfuse.schedules.emit import constant, load

_WORDS = 4  # of 16 bytes


def lower(kernel: Kernel, node: Zero) -> None:
    """Emit the stores."""
    if isinstance(node.target, Accumulators):
        _clear_sums(kernel, node.target)
    elif node.region is None:
        _clear_tile(kernel, node.target)
    else:
        raise InternalError(f"{node}: only whole tiles are zeroed on this target")


def _clear_sums(kernel: Kernel, acc: Accumulators) -> None:
    sums, by_wgmma = kernel.sums(acc), kernel.tiling(acc).engine is Engine.WGMMA
    if by_wgmma and kernel.piece is not None and acc in kernel.piece.own:
        kernel.fresh.add(acc)  # the first product of the piece does not read them
        return
    with kernel.emit.loop(acc.registers, "i", "unrolled") as i:
        kernel.emit.store(sums, i, constant(0.0))
        if by_wgmma:
            wgmma.settle(kernel, load(sums, i))


def _clear_tile(kernel: Kernel, tile: Tile) -> None:
    """The last vector may reach past the end, but not into another tile: those start at multiples of 128 bytes."""
    emit, vectors = kernel.emit, -(-tile.size // kernel.vector)
    with emit.loop(-(-vectors // kernel.threads), "i") as i:
        vector = i * kernel.threads + emit.thread
        with emit.when(vectors % kernel.threads == 0 or vector < vectors):
            zeros = tirx.Broadcast(tirx.const(0, "uint32"), _WORDS)
            emit.store(kernel.words, tile.offset * kernel.bytes // 4 + vector * _WORDS, zeros, _WORDS)
