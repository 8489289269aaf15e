"""GROUPED: a dense convolution within blocks of neighbouring groups, on the tensor cores.

::

    for unit of this warp:                   unit = (block of channels, mb m16 tiles)
      for step:                              two taps of 8 channels, or 16 channels of one tap
        for n8:  b = 8 bytes of packed weights
        for j in mb:  a = ldmatrix(pixels of m16 tile j; lanes 16-31 address the second half of the step)
                      for n8:  acc[j, n8] += a * b
      target[pixels, block] = steps(acc)
"""

from __future__ import annotations

from blockfuse.machine import Grouped
from blockfuse.machine.groups import NARROW, GroupBlock, block_steps, group_block, tap_pairs
from blockfuse.schedules.cuda import grouped_fma, grouped_rows
from blockfuse.schedules.cuda.emitter import address
from blockfuse.schedules.cuda.finish import load_constants
from blockfuse.schedules.cuda.kernel import Kernel
from blockfuse.schedules.cuda.mma import A_WORDS, LOAD_MATRICES, MMA, K, M
from blockfuse.schedules.cuda.pixels import pixel_offset, tap_offset
from blockfuse.schedules.cuda.results import Results, pixels_of, store_pair
from blockfuse.schedules.cuda.warps import WarpShare
from blockfuse.schedules.emit import Index, constant, load, quotient, remainder, smaller

_MOST = 8  # n8 tiles of a unit


def lower(kernel: Kernel, node: Grouped) -> None:
    """Emit the loop over units."""
    if kernel.dtype == "float32":
        grouped_fma.lower(kernel, node)
        return
    block = group_block(node.groups, node.source.image.channels, node.target.image.channels)
    if grouped_rows.suits(node, block):
        grouped_rows.lower(kernel, node)
        return
    region, warps = node.region, kernel.threads // 32
    pixels, cols = region.rows.size.const * region.cols.size.const, region.cols.size.const
    tiles = -(-pixels // M)
    together = -(-tiles // node.pixels)
    wide = max(d for d in range(1, _MOST + 1) if block.outputs // 8 % d == 0)
    parts = block.outputs // 8 // wide
    units = region.channels.size.const // block.outputs * parts * together
    with kernel.emit.loop(-(-units // warps), "unit") as trip:
        unit = kernel.emit.bind("unit_of_warp", trip * warps + kernel.warp)
        with kernel.emit.when(units % warps == 0 or unit < units):
            part, piece = quotient(unit, together), remainder(unit, together)
            mine = WarpShare(pixels, cols, 1, node.pixels, 0, 0, 0, 0, piece, together, 0)
            _unit(kernel, node, mine, block, part, wide)


def _unit(kernel: Kernel, node: Grouped, mine: WarpShare, block: GroupBlock, part: Index, wide: int) -> None:
    """``wide`` n8 tiles of a block for ``mb`` m16 tiles: part number ``part`` of all blocks' n8 tiles."""
    emit, parts = kernel.emit, block.outputs // 8 // wide
    sums = kernel.registers(f"acc_{node.weights.name}", mine.mb * wide * 4)
    rows = kernel.registers(f"rows_{node.weights.name}", mine.mb, "int32")
    for i in range(mine.mb * wide * 4):
        emit.store(sums, i, constant(0.0))
    for j in range(mine.mb):
        emit.store(rows, j, pixel_offset(kernel, node.source, mine, node.window, mine.tile(j)))
    channel = _channel(kernel, node, block, quotient(part, parts))
    _sum(kernel, node, mine, block, channel, part, wide)
    results = Results(node.region, node.target, node.steps)
    pixels = pixels_of(kernel, results, mine)
    for n in range(wide):
        channel = (part * wide + n) * 8 + remainder(kernel.lane, 4) * 2
        constants = load_constants(kernel, node.steps, node.region.channels.low, channel, 2)
        for pixel in pixels:
            with emit.when(pixel.exists):
                first = (pixel.j * wide + n) * 4 + pixel.half * 2
                store_pair(kernel, results, pixel, sums, first, channel, constants)


def _channel(kernel: Kernel, node: Grouped, block: GroupBlock, number: Index) -> Index:
    """First channel of a block in the source.

    Where blocks have more or fewer outputs, the region has all channels; the last block of the source stands in for
    those that only outputs of the layout's padding have.
    """
    if block.inputs == block.outputs:
        return kernel.channel(node.source, node.region.channels.low) + number * block.inputs
    return smaller(number * block.inputs, node.source.channels - block.inputs)


def _sum(
    kernel: Kernel, node: Grouped, mine: WarpShare, block: GroupBlock, channel: Index, part: Index, wide: int
) -> None:
    emit, parts, window = kernel.emit, block.outputs // 8 // wide, node.window
    steps, all_n8 = block_steps(block.inputs, window.r, window.s), block.outputs // 8
    b = kernel.registers(f"b_grouped{wide}", 2 * wide, "uint32")
    weights = kernel.weight_offset(node.weights, 4) + kernel.lane * 2
    base = quotient(part, parts) * (steps * all_n8) + remainder(part, parts) * wide
    corner = kernel.origin(node.source) + channel
    if block.inputs == NARROW:
        for step, offset in enumerate(_pair_offsets(kernel, node)):
            _load_weights(kernel, b, weights + (base + step * all_n8) * 64, wide)
            _multiply(kernel, node, mine, corner + offset, wide)
        return
    half = quotient(kernel.lane, 16) * 8
    with emit.loop(window.taps, "tap") as tap:
        place = corner + half + tap_offset(kernel, node.source, node.region, window, tap)
        with emit.loop(block.inputs // K, "k", "unrolled" if block.inputs <= 4 * K else "serial") as k:
            _load_weights(kernel, b, weights + (base + (tap * (block.inputs // K) + k) * all_n8) * 64, wide)
            _multiply(kernel, node, mine, place + k * K, wide)


def _pair_offsets(kernel: Kernel, node: Grouped) -> list[Index]:
    """Elements from a pixel's first tap to this lane's tap of every pair."""
    offsets: list[Index] = []
    for one, other in tap_pairs(node.window.r, node.window.s):
        near = tap_offset(kernel, node.source, node.region, node.window, one)
        far = tap_offset(kernel, node.source, node.region, node.window, one if other is None else other)
        offsets.append(near + quotient(kernel.lane, 16) * (far - near))
    return offsets


def _load_weights(kernel: Kernel, b: Index, place: Index, wide: int) -> None:
    for n in range(wide):
        kernel.emit.store(b, 2 * n, load(kernel.words, place + n * 64, 2), 2)


def _multiply(kernel: Kernel, node: Grouped, mine: WarpShare, place: Index, wide: int) -> None:
    emit = kernel.emit
    sums = kernel.registers(f"acc_{node.weights.name}", mine.mb * wide * 4)
    rows = kernel.registers(f"rows_{node.weights.name}", mine.mb, "int32")
    a, b = kernel.registers("a_grouped", A_WORDS, "uint32"), kernel.registers(f"b_grouped{wide}", 2 * wide, "uint32")
    pixels = [load(a, i) for i in range(A_WORDS)]
    for j in range(mine.mb):
        with emit.when(mine.exists(j)):
            emit.ptx(LOAD_MATRICES, *pixels, address(kernel.shared, place + load(rows, j)))
            for n in range(wide):
                d = [load(sums, (j * wide + n) * 4 + i) for i in range(4)]
                emit.ptx(MMA[kernel.dtype], *d, *pixels, load(b, 2 * n), load(b, 2 * n + 1), *d)
