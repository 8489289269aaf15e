"""STORE: a tile from shared memory to memory, 16 bytes per thread where the channels allow it.

::

    for v in threads:                    v = (pixel, group of channels)
      if inside the image:
        target[v] = steps(source[v])     a residual that is read from memory is added here, where reads are coalesced
"""

from __future__ import annotations

from tvm import tirx

from blockfuse.machine import Store, Tile
from blockfuse.schedules.cuda.emitter import both, fp32
from blockfuse.schedules.cuda.finish import Element, finish, load_constants, pixel_tiles
from blockfuse.schedules.cuda.kernel import Kernel
from blockfuse.schedules.cuda.sweep import Access, Sweep, fills_sectors, sweep
from blockfuse.schedules.emit import Expr, Index, load


def lower(kernel: Kernel, node: Store) -> None:
    """Emit the loop over vectors of the region."""
    emit, region, image = kernel.emit, node.region, node.target.image
    cols, channels = region.cols.size.const, region.channels.size.const
    width = kernel.vector_width(node.target, *(tile for tile in pixel_tiles(node.steps) if tile.is_global))
    order = _order(kernel, node, channels // width, width)
    with emit.loop(-(-order.total // kernel.threads), "i") as i:
        number = emit.bind("vector", i * kernel.threads + emit.thread)
        pixel, group = order.split(number)
        pixel, channel = emit.bind("pixel", pixel), group * width
        row, col = pixel // cols, pixel % cols
        known = kernel.bounds(region.channels.high)[1] <= image.channels
        target = kernel.at(region.channels.low) + channel
        valid = both(
            order.exists(kernel.threads, number, pixel),
            kernel.inside(region, node.target, row, col),
            known or target < image.channels,
        )
        with emit.when(valid):
            _move(kernel, node, (row, col, channel), width)


def _order(kernel: Kernel, node: Store, groups: int, width: int) -> Sweep:
    """Patches only where each pixel's part of one is whole sectors of memory."""
    tiles = [node.target, *(tile for tile in pixel_tiles(node.steps) if tile.is_global)]
    if not fills_sectors(kernel, groups, width, tiles):
        return Sweep(node.region.rows.size.const * node.region.cols.size.const, groups)
    return sweep(kernel, node.region, groups, width, [Access(node.source)])


def _move(kernel: Kernel, node: Store, place: tuple[Index, Index, Index], width: int) -> None:
    """One vector of the region."""
    emit, region, tile = kernel.emit, node.region, node.source
    row, col, channel = place

    def memory(other: Tile) -> list[Index]:
        y, x, c = (kernel.at(part.low) for part in (region.rows, region.cols, region.channels))
        *pixel, first = kernel.element(other, y + row, x + col, c + channel)
        return [*pixel, _vector(first, width)]

    source = tile.offset + kernel.pixel(tile, region, row, col)
    value = load(kernel.shared, source + kernel.channel(tile, region.channels.low) + channel, width)
    if node.steps:
        halves = kernel.elements("halves")
        emit.store(halves, 0, value, width)
        constants = load_constants(kernel, node.steps, region.channels.low, channel, width)
        added: dict[Tile, list[Expr]] = {}
        for other in pixel_tiles(node.steps):
            held = kernel.elements(f"residual_{other.name}", 8)
            emit.store(held, 0, tirx.BufferLoad(kernel.memory[other], memory(other)), width)
            added[other] = [fp32(load(held, i)) for i in range(width)]
        for i in range(width):
            element = Element(i, constants, added)
            emit.store(halves, i, kernel.narrow(finish(node.steps, fp32(load(halves, i)), element)))
        value = load(halves, 0, width)
    emit.add(tirx.BufferStore(kernel.memory[node.target], value, memory(node.target)))


def _vector(position: Index, width: int) -> Index:
    return tirx.Ramp(position, 1, width) if width > 1 else position
