"""GROUPED: groups of channels side by side in a vector; see slide.py for the loops.

for input column under the tile:           loaded once
  for channel c of a group:
    spread = value[lane // width * width + c]      every lane has channel c of its own group
    for pixel, filter column over it:
      sums[p] += spread * w[tap][c]
"""

from __future__ import annotations

from tvm import tirx

from blockfuse.errors import InternalError
from blockfuse.machine import Grouped
from blockfuse.schedules.cpu.context import Kernel
from blockfuse.schedules.cpu.slide import Place, Sliding
from blockfuse.schedules.emit import Expr, Index, constant, load


def lower_grouped(kernel: Kernel, node: Grouped) -> None:
    """Emit a region."""
    _Grouped(kernel, node).lower()


class _Grouped(Sliding):
    """Sums of products; the weights of a vector of channels are [tap][channel of the group][lane]."""

    def __init__(self, kernel: Kernel, node: Grouped) -> None:
        super().__init__(kernel, node, skips_padding=False)
        self._width = node.width
        everything = (node.window.taps, node.width, node.region.channels)
        if (node.weights.taps.size.const, node.weights.inputs.size.const, node.weights.outputs) != everything:
            raise InternalError(f"{node} reads {node.weights}: not every product of every channel")
        if node.width & (node.width - 1) or node.width > kernel.lanes:
            raise InternalError(f"groups of {node.width} channels do not lie side by side in {kernel.lanes} lanes")
        self._weights = kernel.emitter.bind("weights", kernel.layout.parts[node].at(kernel.env))

    def start(self, place: Place) -> Expr:
        return constant(0.0, place.lanes)

    def parts(self, place: Place, x: Expr) -> list[Expr]:
        return [_spread(x, c, self._width, place.lanes) for c in range(self._width)]

    def add(self, place: Place, total: Expr, x: Expr, r: Index, s: Index, part: int) -> Expr:
        product = (r * self.window.s + s) * self._width + part
        weight = self._weights + place.before * self.window.taps * self._width + product * place.lanes
        return total + x * load(self.kernel.weights, weight, place.lanes)


def _spread(x: Expr, c: int, width: int, lanes: int) -> Expr:
    """Channel ``c`` of every group in all lanes of the group."""
    if width == 1:
        return x
    return tirx.Shuffle([x], [tirx.const(lane // width * width + c, "int32") for lane in range(lanes)])
