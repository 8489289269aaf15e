"""EPILOGUE: from a sum to the value in memory; also the end of every other instruction with steps."""

from __future__ import annotations

from tvm import tirx

from blockfuse.block import ParameterKey
from blockfuse.errors import InternalError
from blockfuse.machine import Accumulate, Apply, Bias, EpilogueStep, MultiplyBy, Residual, ScaleBy, SlopeBy, Tile
from blockfuse.schedules.cpu.activations import activate
from blockfuse.schedules.cpu.context import Kernel
from blockfuse.schedules.cpu.view import View
from blockfuse.schedules.emit import Expr, Index, constant, load


class Finish:
    """Applies steps to sums and stores them, row by row of the target."""

    def __init__(self, kernel: Kernel, target: Tile, steps: tuple[EpilogueStep, ...]) -> None:
        self._kernel = kernel
        self._steps = steps
        added = {step.tile for step in steps if isinstance(step, Residual | MultiplyBy)}
        self._target = kernel.vector_view(target)
        self._added = {tile: kernel.vector_view(tile) for tile in added}
        self._rows: dict[Tile, Index] = {}

    def enter_row(self, h: Index) -> None:
        """Compute the addresses of row ``h`` once."""
        bind = self._kernel.emitter.bind
        gates = {step.tile for step in self._steps if isinstance(step, MultiplyBy) and step.is_gate}
        self._rows = {
            tile: bind(f"{tile.name}_row", view.row(0 if tile in gates else h)) for tile, view in self._added.items()
        }
        self._rows[self._target.tile] = bind(f"{self._target.tile.name}_row", self._target.row(h))

    def store(self, value: Expr, column: Index, channel: Index, lanes: int) -> None:
        """Finish one vector of sums: ``target[row, column, channel : channel + lanes] = steps(value)``."""
        for step in self._steps:
            value = self._apply(step, value, column, channel, lanes)
        self._kernel.emitter.store(self._target.buffer, self._position(self._target, column, channel), value, lanes)

    def _apply(self, step: EpilogueStep, value: Expr, column: Index, channel: Index, lanes: int) -> Expr:
        match step:
            case Bias():
                return value + constants(self._kernel, step.keys, channel, lanes)
            case Apply():
                return activate(step.function, self._kernel.emitter.bind("sum", value), lanes)
            case ScaleBy():
                scale, shift = (constants(self._kernel, (key,), channel, lanes) for key in step.keys)
                return value * scale + shift
            case SlopeBy():
                value, zero = self._kernel.emitter.bind("sum", value), constant(0.0, lanes)
                slope = constants(self._kernel, (step.key,), channel, lanes)
                return tirx.max(value, zero) + tirx.min(value, zero) * slope
            case MultiplyBy():
                return value * self._load(self._added[step.tile], 0 if step.is_gate else column, channel, lanes)
            case Residual():
                return value + self._load(self._added[step.tile], column, channel, lanes)
            case Accumulate():
                return value + self._load(self._target, column, channel, lanes)
        raise InternalError(f"epilogue step {step} is not for CPUs")

    def _load(self, view: View, column: Index, channel: Index, lanes: int) -> Expr:
        return load(view.buffer, self._position(view, column, channel), lanes)

    def _position(self, view: View, column: Index, channel: Index) -> Index:
        return self._rows[view.tile] + column * view.pixel + channel


def constants(kernel: Kernel, keys: tuple[ParameterKey, ...], channel: Index, lanes: int) -> Expr:
    """The sums of per-channel constants for ``lanes`` channels."""
    return load(kernel.weights, kernel.layout.constants[keys] + channel, lanes)
