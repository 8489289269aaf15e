"""Where the sums of a lane go: two neighbouring channels of a pixel per 8x8 part of an m16n8 result.

::

    pixel (j, half) of a lane = row l / 4 of that half of m16 tile j;  channels n8 * 8 + l % 4 * 2 and the next
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from blockfuse.machine import EpilogueStep, Region, Tile
from blockfuse.schedules.cuda.finish import Constants, Element, finish, has_mask, load_values, pixel_tiles
from blockfuse.schedules.cuda.kernel import Kernel, clamped
from blockfuse.schedules.cuda.mma import M
from blockfuse.schedules.cuda.warps import WarpShare
from blockfuse.schedules.emit import Buffer, Expr, Index, load, quotient, remainder


@dataclass(frozen=True)
class Results:
    """What sums become.

    Attributes:
        region: Of the sums.
        target: The tile they go to.
        steps: Applied to each.
    """

    region: Region
    target: Tile
    steps: Sequence[EpilogueStep]


@dataclass(frozen=True)
class Pixel:
    """One of this lane's pixels.

    Attributes:
        j: Its m16 tile.
        half: Its half of that tile.
        target: Elements from the corner of the target tile to it.
        added: The same in every other tile that is read.
        exists: Whether it is in the region at all.
        inside: Whether it is in the image.
    """

    j: int
    half: int
    target: Index
    added: dict[Tile, Index]
    exists: Expr
    inside: Expr


def pixels_of(kernel: Kernel, results: Results, mine: WarpShare) -> list[Pixel]:
    """The pixels of this lane in all m16 tiles of the trip."""
    return [_pixel(kernel, results, mine, j, half) for j in range(mine.mb) for half in range(2)]


def _pixel(kernel: Kernel, results: Results, mine: WarpShare, j: int, half: int) -> Pixel:
    emit, region, target = kernel.emit, results.region, results.target
    number = mine.tile(j) * M + quotient(kernel.lane, 4) + half * 8
    exists = mine.holds(j, number)
    place = emit.bind("pixel", number if exists is True else clamped(number, mine.pixels))
    row, col = quotient(place, mine.cols), remainder(place, mine.cols)
    inside = kernel.inside(region, target, row, col) if has_mask(results.steps) else True

    def held(tile: Tile) -> Index:
        same = tile.cols == mine.cols and tile.layout.is_plain and kernel.starts_at(tile, region)
        return place * tile.pitch if same else emit.bind("place", kernel.pixel(tile, region, row, col))

    return Pixel(
        j,
        half,
        held(target),
        {tile: held(tile) for tile in pixel_tiles(results.steps)},
        exists,
        inside if isinstance(inside, bool) else emit.bind("inside", inside),
    )


def store_pair(
    kernel: Kernel, results: Results, pixel: Pixel, sums: Buffer, first: Index, channel: Index, constants: Constants
) -> None:
    """Finish sums ``first`` and ``first`` + 1, which belong to ``channel`` of the region and the next."""
    emit, region, tile = kernel.emit, results.region, results.target
    result = kernel.elements("halves")
    values = load_values(kernel, results.steps, pixel.added.__getitem__, region, channel, 2)
    for i in range(2):
        element = Element(i, constants, values, pixel.inside)
        emit.store(result, i, kernel.narrow(finish(results.steps, load(sums, first + i), element)))
    target = tile.offset + pixel.target + kernel.channel(tile, region.channels.low) + channel
    emit.store(kernel.shared, target, load(result, 0, 2), 2)
