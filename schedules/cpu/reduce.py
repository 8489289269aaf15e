"""REDUCE: the maximum, mean or L2 norm of every window of every channel; see slide.py for the loops."""

from __future__ import annotations

from tvm import tirx

from blockfuse.errors import InternalError
from blockfuse.machine import Reduce
from blockfuse.schedules.cpu.context import Kernel
from blockfuse.schedules.cpu.slide import Place, Sliding
from blockfuse.schedules.emit import Expr, Index, broadcast, constant


def lower_reduce(kernel: Kernel, node: Reduce) -> None:
    """Emit a region.

    Raises:
        InternalError: An unknown reduction.
    """
    form = _FORMS.get(node.reduction)
    if form is None:
        raise InternalError(f"{node}: reduction {node.reduction!r} has no vector form")
    form(kernel, node, skips_padding=True).lower()


class _Max(Sliding):
    def start(self, place: Place) -> Expr:
        return constant(float("-inf"), place.lanes)

    def add(self, place: Place, total: Expr, x: Expr, r: Index, s: Index, part: int) -> Expr:  # noqa: ARG002 - taps are alike
        return tirx.max(total, x)


class _Mean(Sliding):
    def start(self, place: Place) -> Expr:
        return constant(0.0, place.lanes)

    def add(self, place: Place, total: Expr, x: Expr, r: Index, s: Index, part: int) -> Expr:  # noqa: ARG002 - taps are alike
        return total + x

    def end(self, place: Place, total: Expr, pixel: int) -> Expr:
        columns = sum(pixel in pixels for pixels in self.taps(place.tile))
        given = self._node.count if isinstance(self._node, Reduce) else 0
        count = given or place.rows * columns
        scale = 1.0 / count if isinstance(count, int) else constant(1.0) / count.astype("float32")
        return total * (constant(scale, place.lanes) if isinstance(count, int) else broadcast(scale, place.lanes))


class _Length(Sliding):
    def start(self, place: Place) -> Expr:
        return constant(0.0, place.lanes)

    def add(self, place: Place, total: Expr, x: Expr, r: Index, s: Index, part: int) -> Expr:  # noqa: ARG002 - taps are alike
        return total + x * x

    def end(self, place: Place, total: Expr, pixel: int) -> Expr:  # noqa: ARG002 - pixels are alike
        return tirx.sqrt(total)


_FORMS: dict[str, type[Sliding]] = {"max": _Max, "mean": _Mean, "l2": _Length}
