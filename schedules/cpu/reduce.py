"""REDUCE: the maximum or mean of every window of every channel; REDUCE over copies: their sum, element by element."""

from __future__ import annotations

from tvm import tirx

from blockfuse.errors import InternalError
from blockfuse.machine import Reduce, ReduceAcross
from blockfuse.schedules.cpu.context import Kernel
from blockfuse.schedules.cpu.epilogue import Finish
from blockfuse.schedules.cpu.slide import Place, Sliding
from blockfuse.schedules.cpu.vectors import panels, runs
from blockfuse.schedules.emit import Expr, Index, broadcast, constant, load


def lower_reduce(kernel: Kernel, node: Reduce) -> None:
    """Emit a region.

    Raises:
        InternalError: An unknown reduction.
    """
    if node.reduction not in {"max", "mean"}:
        raise InternalError(f"{node}: reduction {node.reduction!r} has no vector form")
    (_Max if node.reduction == "max" else _Mean)(kernel, node, skips_padding=True).lower()


class _Max(Sliding):
    def start(self, place: Place) -> Expr:
        return constant(float("-inf"), place.lanes)

    def add(self, place: Place, total: Expr, x: Expr, r: Index, s: Index) -> Expr:  # noqa: ARG002 - taps are alike
        return tirx.max(total, x)


class _Mean(Sliding):
    def start(self, place: Place) -> Expr:
        return constant(0.0, place.lanes)

    def add(self, place: Place, total: Expr, x: Expr, r: Index, s: Index) -> Expr:  # noqa: ARG002 - taps are alike
        return total + x

    def end(self, place: Place, total: Expr, pixel: int) -> Expr:
        columns = sum(pixel in pixels for pixels in self.taps(place.tile))
        count = place.rows * columns
        scale = 1.0 / count if isinstance(count, int) else constant(1.0) / count.astype("float32")
        return total * (constant(scale, place.lanes) if isinstance(count, int) else broadcast(scale, place.lanes))


def lower_reduce_across(kernel: Kernel, node: ReduceAcross) -> None:
    """Emit the sum of all copies of a tile.

    for row: for column: for vector of channels:
        target = steps(copy 0 + copy 1 + ...)
    """
    emitter = kernel.emitter
    finish = Finish(kernel, node.target, node.steps)
    copies = [kernel.vector_view(node.source, copy=i) for i in range(node.source.copies)]
    low, high = kernel.columns(node.region.cols)
    first, count = kernel.channels(node.region.channels)
    with kernel.rows(kernel.bounds(node.region.rows)) as h:
        finish.enter_row(h)
        rows = [emitter.bind("copy", view.row(h)) for view in copies]
        with emitter.loop(high - low, "w", start=low) as w:
            for panel, vectors in runs(panels(count, kernel.lanes, 1), lambda panel: panel.widths):
                with emitter.loop(vectors, "vector") as i:
                    channel = first + panel.first + i * panel.size
                    parts = [
                        load(v.buffer, row + w * v.pixel + channel, panel.size)
                        for v, row in zip(copies, rows, strict=True)
                    ]
                    finish.store(_total(parts), w, channel, panel.size)


def _total(parts: list[Expr]) -> Expr:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
