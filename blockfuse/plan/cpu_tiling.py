"""Register tiles of CPU kernels: how many pixels and vectors of channels are computed together, and what that takes."""

from __future__ import annotations

import functools
import itertools

from blockfuse.plan.cpu import UnitTiling, shares_vectors
from blockfuse.plan.device import Device
from blockfuse.plan.units import Folded

FLOAT = 4
"""Bytes of a value."""
_LARGE_PANEL = 400_000  # bytes of one weight panel beyond which it is applied one filter row at a time
_WAYS = 7  # pixels that fit the 8 places of one set of the nearest cache, next to weights
_TIE = 1.02  # tiles predicted this close are equally fast; more pixels read the weights fewer times
_STREAMED_VECTORS = 8  # of a panel that is read once: enough sums to hide latency, long enough runs for the hardware
_UNROLLED = 224  # multiply-adds of one filter row that are written out, for narrow groups


def unit_tiling(folded: Folded, index: int, device: Device) -> UnitTiling:
    """The register tile of one unit.

    A tile of MR pixels and NR vectors keeps MR * NR sums, NR weights and a pixel in registers; per channel it takes
    max(MR NR, MR + NR) / 2 cycles (two multiply-adds or two loads per cycle), but no less than the latency of 4. A
    fully connected layer reads every weight once, one panel after the other, so that memory decides.
    """
    unit = folded.units[index]
    width, channels = unit.shape.width, unit.shape.channels
    if unit.kind in {"pool", "border", "map"} or unit.is_join:
        return UnitTiling(1, 1)
    if unit.kind == "norm":
        return UnitTiling(_even_pixels(width, min(7, (device.registers - 4) // 3)), 1)
    if unit.kind == "depthwise":
        return UnitTiling(_even_pixels(width, min(14, device.registers - 4)), 1)
    if is_narrow(folded, index, device.lanes):
        per_pixel = unit.terms[0].window.s * folded.depth(index) // unit.terms[0].window.taps
        limit = min(14, device.registers - 4, _UNROLLED // per_pixel)
        return UnitTiling(_even_pixels(width, max(1, limit)), 1)
    if unit.shape.pixels == 1:
        return UnitTiling(1, _STREAMED_VECTORS)
    depth, channels = folded.depth(index), channels // unit.groups
    crowded = any(t.source < folded.input_count and is_page(folded.shapes[t.source].channels) for t in unit.terms)
    widest = min(width, _WAYS) if crowded else width
    pixels, vectors = _fastest_tile(width, channels, device.lanes, depth, device.registers, widest)
    panel_bytes = depth * vectors * device.lanes * FLOAT
    kxk = unit.kind == "contract" and all(term.window.r > 1 for term in unit.terms)
    sweeps = unit.shape.height * -(-width // pixels)
    prefetch = (
        unit.kind == "contract"
        and sweeps <= vectors * device.lanes
        and depth * channels * FLOAT > device.local_bytes // 4
    )
    return UnitTiling(pixels, vectors, prefetch, kxk and panel_bytes > _LARGE_PANEL)


@functools.lru_cache(maxsize=4096)
def _fastest_tile(width: int, channels: int, lanes: int, depth: int, registers: int, widest: int) -> tuple[int, int]:
    """Pixels and vectors of the tile that takes the fewest cycles per row; of equally fast ones the widest."""
    options = [
        (mr, nr)
        for mr, nr in itertools.product(range(1, 15), range(1, 17))
        if mr * nr + nr + 1 <= registers and mr <= widest
    ]
    cycles = {option: tile_cycles(width, channels, lanes, depth, *option) for option in options}
    limit = min(cycles.values()) * _TIE
    near = [option for option in options if cycles[option] <= limit]
    return min(near, key=lambda option: (-option[0], cycles[option]))


def is_page(channels: int) -> bool:
    """Whether neighbouring pixels are a multiple of 4096 bytes apart, so that all fall into one set of the cache.

    Rings of rows then get a pitch of their own; what comes from memory gets narrower tiles.
    """
    return channels * FLOAT % 4096 == 0


def is_narrow(folded: Folded, index: int, lanes: int) -> bool:
    """Whether a unit is a grouped convolution whose groups lie side by side in vectors."""
    unit = folded.units[index]
    if unit.kind != "grouped":
        return False
    inputs = folded.shapes[unit.terms[0].source].channels
    return shares_vectors(inputs // unit.groups, unit.shape.channels // unit.groups, lanes)


def tile_cycles(width: int, channels: int, lanes: int, depth: int, mr: int, nr: int) -> float:
    """Cycles for one row of pixels: sums over column tiles and panels, plus start and finish of every tile."""
    tiles = -(-width // mr)
    widths = [width // tiles + (1 if i < width % tiles else 0) for i in range(tiles)]
    widths = [max(widths)] * tiles
    vectors = _vector_count(channels, lanes)
    panels = [nr] * (vectors // nr) + ([vectors % nr] if vectors % nr else [])
    total = 0.0
    for m, n in itertools.product(widths, panels):
        total += depth * max(m * n / 2, (m + n) / 2, 4.0) + m * n + 4
    return total


def _vector_count(channels: int, lanes: int) -> int:
    """Vectors that hold the channels: whole ones, then one each of the powers of two that are left."""
    return channels // lanes + (channels % lanes).bit_count()


def _even_pixels(width: int, limit: int) -> int:
    """Pixels of a tile, no more than ``limit``, so that tiles of a row are equal where possible."""
    for pixels in (14, 7, 8, 10, 12, 6, 4):
        if pixels <= limit and width % pixels == 0:
            return pixels
    tiles = -(-width // limit)
    return -(-width // tiles)
