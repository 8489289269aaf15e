"""LOAD and ZERO of tiles: copies with a change of layout or of padding, and clearing.

for row: for column: for vector of channels:      target = source
for row: for column: for channel:                 the same with scalars, where the source is planar
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from tvm import tirx

from blockfuse.errors import InternalError
from blockfuse.machine import Load, Region, Tile, Zero
from blockfuse.machine.affine import Range, span
from blockfuse.schedules.cpu.context import Kernel
from blockfuse.schedules.cpu.vectors import panels, runs
from blockfuse.schedules.emit import Expr, Index, constant, load
from blockfuse.stages import ImageShape

Values: TypeAlias = Callable[[Index, Index, int], Expr]
"""Column, image channel and lanes -> what is stored there."""


def lower_load(kernel: Kernel, node: Load) -> None:
    """Emit the copy of a region; a padded target gets zeros for what lies outside the image."""
    image, target = node.source.image, node.target
    source, to = kernel.view(node.source), kernel.vector_view(target)
    low, high = kernel.columns(node.region.cols)
    left, right = max(low, 0), min(high, image.width)
    with kernel.rows(kernel.bounds(node.region.rows)) as h:
        row = kernel.emitter.bind("to", to.row(h))

        def copy_row() -> None:
            start = kernel.emitter.bind("from", source.row(h))
            _fill(kernel, target, row, (low, left), node.region.channels, _zeros)

            def values(w: Index, c: Index, lanes: int) -> Expr:
                return load(source.buffer, start + w * source.pixel + c * source.channel, lanes)

            scalars = source.channel > 1
            _fill(kernel, target, row, (left, right), node.region.channels, values, scalars=scalars)
            _fill(kernel, target, row, (right, high), node.region.channels, _zeros)

        def clear_row() -> None:
            _fill(kernel, target, row, (low, high), node.region.channels, _zeros)

        kernel.emitter.branch(_is_inside(h, image) if target.padded else True, copy_row, clear_row)


def lower_zero(kernel: Kernel, node: Zero) -> None:
    """Emit the clearing of a region of a tile, or of all of it.

    Raises:
        InternalError: The target is a set of accumulators outside a PIXELS node.
    """
    if not isinstance(node.target, Tile):
        raise InternalError(f"{node} stands outside a pixels loop")
    tile = node.target
    region = node.region or _everything(tile)
    view = kernel.vector_view(tile)
    with kernel.rows(kernel.bounds(region.rows)) as h:
        row = kernel.emitter.bind("to", view.row(h))
        _fill(kernel, tile, row, kernel.columns(region.cols), region.channels, _zeros)


def _fill(
    kernel: Kernel,
    tile: Tile,
    row: Index,
    columns: tuple[int, int],
    channels: Range,
    values: Values,
    *,
    scalars: bool = False,
) -> None:
    """``tile[row, columns, channels] = values``, by vectors or by scalars."""
    emitter, buffer = kernel.emitter, kernel.buffers[tile]
    low, high = columns
    if high <= low:
        return
    first, count = kernel.channels(channels)
    with emitter.loop(high - low, "w", start=low) as w:
        for panel, vectors in runs(panels(count, 1 if scalars else kernel.lanes, 1), lambda panel: panel.widths):
            with emitter.loop(vectors, "vector") as i:
                c = first + panel.first + i * panel.size
                emitter.store(buffer, row + w * tile.pitch + c, values(w, c, panel.size), panel.size)


def _zeros(w: Index, c: Index, lanes: int) -> Expr:  # noqa: ARG001 - the same everywhere
    return constant(0.0, lanes)


def _is_inside(h: Index, image: ImageShape) -> Expr:
    return 0 <= h < image.height if isinstance(h, int) else tirx.all(h >= 0, h < image.height)


def _everything(tile: Tile) -> Region:
    return Region(span(tile.top, tile.rows), span(tile.left, tile.cols), span(tile.first_channel, tile.channels))
