"""DEPTHWISE: every channel is convolved with its own filter; see slide.py for the loops."""

from __future__ import annotations

from blockfuse.errors import InternalError
from blockfuse.machine import Depthwise
from blockfuse.schedules.cpu.context import Kernel
from blockfuse.schedules.cpu.slide import Place, Sliding
from blockfuse.schedules.emit import Expr, Index, constant, load


def lower_depthwise(kernel: Kernel, node: Depthwise) -> None:
    """Emit a region."""
    _Depthwise(kernel, node).lower()


class _Depthwise(Sliding):
    """Sums of products; the weights of a vector of channels are [tap][lane]."""

    def __init__(self, kernel: Kernel, node: Depthwise) -> None:
        super().__init__(kernel, node, skips_padding=False)
        if node.weights.taps.size.const != node.window.taps or node.weights.outputs != node.region.channels:
            raise InternalError(f"{node} reads {node.weights}: not every tap of every channel")
        self._weights = kernel.emitter.bind("weights", kernel.layout.parts[node].at(kernel.env))

    def start(self, place: Place) -> Expr:
        return constant(0.0, place.lanes)

    def add(self, place: Place, total: Expr, x: Expr, r: Index, s: Index, part: int) -> Expr:  # noqa: ARG002 - one part
        tap = r * self.window.s + s
        weight = self._weights + place.before * self.window.taps + tap * place.lanes
        return total + x * load(self.kernel.weights, weight, place.lanes)
