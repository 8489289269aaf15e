"""MAP: the steps of an epilogue applied to what a tile holds; REDUCE_ACROSS: to the sum of all copies of a tile.

for row: for column: for vector of channels:
    target = steps(copy 0 + copy 1 + ...)

Where there is a frame around the image of a MAP, rows and columns are those that stand at their place in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add

from blockfuse.machine import Map, ReduceAcross
from blockfuse.schedules.cpu.context import Kernel
from blockfuse.schedules.cpu.epilogue import Finish
from blockfuse.schedules.cpu.vectors import panels, runs
from blockfuse.schedules.cpu.view import View
from blockfuse.schedules.emit import framed, load


def lower_map(kernel: Kernel, node: Map) -> None:
    """Emit a region."""
    _lower(kernel, node, [kernel.vector_view(node.source)])


def lower_reduce_across(kernel: Kernel, node: ReduceAcross) -> None:
    """Emit the sum of all copies of a tile."""
    _lower(kernel, node, [kernel.vector_view(node.source, copy=i) for i in range(node.source.copies)])


def _lower(kernel: Kernel, node: Map | ReduceAcross, copies: Sequence[View]) -> None:
    emitter, frame = kernel.emitter, getattr(node, "frame", None)
    finish = Finish(kernel, node.target, node.steps)
    low, high = kernel.columns(node.region.cols)
    first, count = kernel.channels(node.region.channels)
    with kernel.rows(kernel.bounds(node.region.rows)) as h:
        finish.enter_row(h)
        row_of = framed(frame, h - frame.top, node.source.image.height) if frame else h
        rows = [emitter.bind("copy", view.row(row_of)) for view in copies]
        with emitter.loop(high - low, "w", start=low) as w:
            column = emitter.bind("column", framed(frame, w - frame.left, node.source.image.width)) if frame else w
            for panel, vectors in runs(panels(count, kernel.lanes, 1), lambda panel: panel.widths):
                with emitter.loop(vectors, "vector") as i:
                    channel = first + panel.first + i * panel.size
                    parts = [
                        load(view.buffer, row + column * view.pixel + channel, panel.size)
                        for view, row in zip(copies, rows, strict=True)
                    ]
                    finish.store(reduce(add, parts), w, channel, panel.size)
