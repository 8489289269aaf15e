"""EPILOGUE: sums in registers -> steps -> tile in shared memory.

::

    for n8 in this warp's channels:          bias of two channels
      for j in mb, half in 2:                one pixel per lane: row l / 4 of each half of the m16 tile
        target[pixel, n, n+1] = steps(acc[j, n8, half])
"""

from __future__ import annotations

from dataclasses import dataclass

from blockfuse.machine import Epilogue, Level, Tile
from blockfuse.schedules.cuda import chain
from blockfuse.schedules.cuda.finish import (
    Constants,
    Element,
    finish,
    has_mask,
    load_constants,
    load_values,
    pixel_tiles,
)
from blockfuse.schedules.cuda.kernel import Kernel, clamped
from blockfuse.schedules.cuda.mma import M
from blockfuse.schedules.cuda.warps import WarpShare, share
from blockfuse.schedules.emit import Expr, Index, load, quotient, remainder


@dataclass(frozen=True)
class _Pixel:
    """One of this lane's pixels.

    Attributes:
        j: Its m16 tile.
        half: Its half of that tile.
        target: Number of the pixel in the target tile.
        added: Its number in every tile that is added.
        exists: Whether it is in the region at all.
        inside: Whether it is in the image.
    """

    j: int
    half: int
    target: Index
    added: dict[Tile, Index]
    exists: Expr
    inside: Expr


def lower(kernel: Kernel, node: Epilogue) -> None:
    """Emit the loop over this warp's channels."""
    if node.target.level is Level.REGISTER:
        chain.lower(kernel, node)
        return
    emit, mine, channels = kernel.emit, share(kernel, node.acc), node.acc.region.channels
    pixels = [_pixel(kernel, node, mine, j, half) for j in range(mine.mb) for half in range(2)]
    with emit.loop(2 * mine.ni, "n", "unrolled") as n:
        channel = (mine.col * (2 * mine.ni) + n) * 8 + remainder(kernel.lane, 4) * 2
        constants = load_constants(kernel, node.steps, channels.low, channel, 2)
        for pixel in pixels:
            first = ((mine.first + pixel.j) * (2 * mine.ni) + n) * 4 + pixel.half * 2
            with emit.when(pixel.exists):
                _store(kernel, node, pixel, (first, channel), constants)


def _pixel(kernel: Kernel, node: Epilogue, mine: WarpShare, j: int, half: int) -> _Pixel:
    emit, region = kernel.emit, node.acc.region
    number = mine.tile(j) * M + quotient(kernel.lane, 4) + half * 8
    exists = mine.holds(j, number)
    place = emit.bind("pixel", number if exists is True else clamped(number, mine.pixels))
    row, col = quotient(place, mine.cols), remainder(place, mine.cols)
    inside = kernel.inside(region, node.target, row, col) if has_mask(node.steps) else True

    def held(tile: Tile) -> Index:
        same = tile.cols == mine.cols and not tile.split_columns and kernel.starts_at(tile, region)
        return place if same else emit.bind("place", kernel.pixel(tile, region, row, col))

    return _Pixel(
        j,
        half,
        held(node.target),
        {tile: held(tile) for tile in pixel_tiles(node.steps)},
        exists,
        inside if isinstance(inside, bool) else emit.bind("inside", inside),
    )


def _store(kernel: Kernel, node: Epilogue, pixel: _Pixel, place: tuple[Index, Index], constants: Constants) -> None:
    """Two neighbouring channels of one pixel."""
    emit, (first, channel), region = kernel.emit, place, node.acc.region
    sums, result = kernel.sums(node.acc), kernel.elements("halves")
    values = load_values(kernel, node.steps, pixel.added.__getitem__, region, channel, 2)
    for i in range(2):
        element = Element(i, constants, values, pixel.inside)
        emit.store(result, i, kernel.narrow(finish(node.steps, load(sums, first + i), element)))
    tile = node.target
    target = tile.offset + pixel.target * tile.pitch + kernel.channel(tile, region.channels.low) + channel
    emit.store(kernel.shared, target, load(result, 0, 2), 2)
