"""In which order the threads of a CTA take the pixels and channels of a region, several channels per thread.

Threads take one pixel after the other, or patches of 8 neighbouring pixels: then lanes whose accesses are one pass
through the banks have pixels that are not neighbours, but lie in different banks where neighbours do not. Where 4
lanes of 16 bytes share a pixel::

    lanes 0-3, 4-7:  pixels 0, 4        lanes 16-19, 20-23:  pixels 2, 6
    lanes 8-11, ..:  pixels 1, 5        lanes 24-27, ..:     pixels 3, 7

Which order it is, the tiles decide: the one that takes fewer passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd
from typing import Any

from blockfuse.machine import Region, Tile
from blockfuse.machine.banks import wavefronts
from blockfuse.schedules.cuda.kernel import Kernel
from blockfuse.schedules.emit import Expr, Index, quotient, remainder
from blockfuse.stages import Window

_PIXELS = 8  # of a patch
_LINE = 128  # bytes of all banks
_SECTOR = 32  # bytes
_WARPS = 12  # that are looked at


@dataclass(frozen=True)
class Sweep:
    """An order of the vectors of a region.

    Attributes:
        pixels: Of the region.
        groups: Vectors of a pixel.
        patch: Vectors of a pixel in a patch; 0 where pixels come one by one.
        together: Lanes of one pass.
    """

    pixels: int
    groups: int
    patch: int = 0
    together: int = 8

    @property
    def total(self) -> int:
        """Numbers of vectors, some of which may not exist."""
        return (-(-self.pixels // _PIXELS) * _PIXELS if self.patch else self.pixels) * self.groups

    def split(self, number: Index) -> tuple[Index, Index]:
        """Pixel and group of a vector."""
        if not self.patch:
            return quotient(number, self.groups), remainder(number, self.groups)
        size, step = _PIXELS * self.patch, _PIXELS * self.patch // self.together
        place, within = quotient(number, size), remainder(number, size)
        pixel = quotient(within, self.together) + quotient(remainder(within, self.together), self.patch) * step
        parts = self.groups // self.patch
        group = remainder(place, parts) * self.patch + remainder(within, self.patch)
        return quotient(place, parts) * _PIXELS + pixel, group

    def exists(self, threads: int, number: Index, pixel: Index) -> Expr:
        """Whether there is a vector of that number, given its pixel."""
        if self.total % threads == 0 and self.total == self.pixels * self.groups:
            return True
        return pixel < self.pixels if self.patch else number < self.total


@dataclass(frozen=True)
class Access:
    """A tile in shared memory that is read or written at every pixel of a region, or under a window's first tap."""

    tile: Tile
    window: Window = Window()  # noqa: RUF009 - it is frozen


def sweep(kernel: Kernel, region: Region, groups: int, width: int, accesses: Sequence[Access]) -> Sweep:
    """The order in which vectors of ``width`` channels, ``groups`` of a pixel, take fewest passes."""
    pixels = region.rows.size.const * region.cols.size.const
    together = max(1, _LINE // (width * kernel.bytes))
    plain, patch = Sweep(pixels, groups), gcd(groups, together)
    if together > 32 // 2 or patch == together or patch * _PIXELS < together:
        return plain
    patched = Sweep(pixels, groups, patch, together)
    return min((plain, patched), key=lambda order: _passes(kernel, region, order, width, accesses))


def fills_sectors(kernel: Kernel, groups: int, width: int, tiles: Sequence[Tile]) -> bool:
    """Whether parts of pixels, as patches have them, are whole sectors of global tiles."""
    patch = gcd(groups, _LINE // (width * kernel.bytes))
    parts = [part * kernel.bytes for tile in tiles for part in (tile.pitch, tile.first_channel.const)]
    return patch == groups or not any(part % _SECTOR for part in parts)


def _passes(kernel: Kernel, region: Region, order: Sweep, width: int, accesses: Sequence[Access]) -> float:
    """Passes of all accesses, per vector that exists."""
    numbers = range(min(order.total, _WARPS * 32))
    split: list[Any] = [order.split(number) for number in numbers]
    passes = 0
    for access in accesses:
        places = [
            _address(kernel, region, access, pixel, group * width) if pixel < order.pixels else None
            for pixel, group in split
        ]
        warps = [places[low : low + 32] for low in range(0, len(places), 32)]
        passes += sum(wavefronts(warp, width * kernel.bytes) for warp in warps)
    return float(passes / sum(pixel < order.pixels for pixel, _ in split))


def _address(kernel: Kernel, region: Region, access: Access, pixel: int, channel: int) -> int:
    tile, window = access.tile, access.window
    row, col = divmod(pixel, region.cols.size.const)
    y = kernel.constant(region.rows.low * window.stride_h - window.pad_top - tile.top) + row * window.stride_h
    x = kernel.constant(region.cols.low * window.stride_w - window.pad_left - tile.left) + col * window.stride_w
    place: int = tile.layout.place(y, x) + channel
    return place * kernel.bytes
