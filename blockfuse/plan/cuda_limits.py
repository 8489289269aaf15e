"""Sizes that the rules of CUDA plans work with, and how channels and warps are divided by them."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from blockfuse.integers import round_up
from blockfuse.machine import WARPGROUP, Engine, WarpTiling

CORE = 16  # channels, and pixels, of an mma tile
_TENSOR_CYCLES = 1.6  # per m16n8k16 of one SM, estimated
_WGMMA_CYCLES = 1.04  # the same work with wgmma
_FRAGMENT_CYCLES = 4.0  # of shared memory, per 512-byte fragment load


@dataclass(frozen=True)
class Limits:
    """How generous a plan is with shared memory.

    Room is counted in bytes of elements of two bytes; where elements are float32, what is meant takes twice as many.

    Attributes:
        depth: Slots of the weight stream.
        item: Room of one item.
        chunk: Channels of a value that lives a chunk at a time.
        resident: Room of an input that is kept whole; a larger one arrives in chunks with the weights.
        engine: What makes sums.
        arriving: Channels of an input that arrive with an item; 0 for as many as ``chunk`` says.
    """

    depth: int
    item: int
    chunk: int
    resident: int
    engine: Engine = Engine.MMA
    arriving: int = 0


def multiples(size: int, step: int = CORE) -> list[int]:
    """Divisors of ``size`` that are multiples of ``step``, ascending."""
    return [d for d in range(step, size + 1, step) if size % d == 0]


def divisor(size: int, limit: int, step: int = CORE) -> int:
    """The largest divisor up to ``limit`` that is a multiple of ``step``; at least ``step``."""
    return max((d for d in multiples(size, step) if d <= limit), default=step)


def share(size: int, limit: int, step: int = CORE) -> int:
    """A chunk of up to ``limit`` channels: an even share if there is a good one, else what pads least."""
    even = divisor(size, limit, step)
    if even * 2 >= min(limit, size) or limit < 2 * step:
        return even
    most = limit // step * step
    return min(range(most, limit // 2, -step), key=lambda chunk: round_up(size, chunk))


@functools.lru_cache(maxsize=65536)
def tiling(pixels: int, channels: int, warps: int, engine: Engine = Engine.MMA) -> WarpTiling:
    """The split of warps that costs the slowest pipe least: tensor cores, or shared memory.

    Warps share the pipes, so what all of them take counts as what one takes. Fragments of weights are loaded by every
    warp along the pixels; wgmma reads them once for four of those, and never spreads fewer than four along the pixels.
    """
    tiles = -(-pixels // CORE)
    tensor_cycles = _TENSOR_CYCLES if engine is Engine.MMA else _WGMMA_CYCLES
    together = 1 if engine is Engine.MMA else WARPGROUP
    choices = []
    for wn in (n for n in range(1, warps + 1) if warps % (n * together) == 0 and channels % (CORE * n) == 0):
        mi, ni = -(-tiles // (warps // wn)), channels // CORE // wn
        weights = ni if engine is Engine.MMA else mi * ni / together
        tensor, fragments = 2 * mi * ni * tensor_cycles, (mi + weights) * _FRAGMENT_CYCLES
        choices.append((max(tensor, fragments), tensor + fragments, wn, mi))
    _, _, wn, mi = min(choices)
    return WarpTiling(warps // wn, wn, mi, engine)


def in_rows(pixels: int, warps: int, engine: Engine = Engine.MMA) -> WarpTiling:
    """All warps along the pixels, each with all channels: what sums that become an operand in registers need."""
    tiles = -(-pixels // CORE)
    return WarpTiling(warps, 1, -(-tiles // warps), engine)
