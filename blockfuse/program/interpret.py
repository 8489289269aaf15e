"""Run a tile program in float64 on numpy arrays: the meaning of every instruction, without any target.

Storage starts as NaN, so that what no instruction wrote is seen. Tiles with an arena offset share one array, as they
share memory on the device. On a GPU program, touching elements that another instruction touched since the last barrier
is an error unless both only read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from blockfuse.block import ParameterKey
from blockfuse.errors import InternalError
from blockfuse.machine import (
    Accumulators,
    Depthwise,
    Epilogue,
    Gemm,
    Grouped,
    Instruction,
    Load,
    Loop,
    LoopKind,
    Map,
    Node,
    Normalize,
    Pixels,
    Program,
    Reduce,
    ReduceAcross,
    Region,
    Step,
    Store,
    Sync,
    Tile,
    WeightSlice,
    Zero,
)
from blockfuse.program.filters import filter_slice
from blockfuse.program.interpret_tiles import Tiles
from blockfuse.program.passes import step_count
from blockfuse.stages import Array, Frame, normalized


def interpret(program: Program, inputs: Sequence[Array], parameters: Mapping[ParameterKey, Array]) -> Array:
    """The program's main result; see :func:`interpret_all`."""
    return interpret_all(program, inputs, parameters)[0]


def interpret_all(
    program: Program, inputs: Sequence[Array], parameters: Mapping[ParameterKey, Array]
) -> tuple[Array, ...]:
    """All results of the program, the main one first.

    Args:
        program: Any program, of any target.
        inputs: One N, H, W, C array per block input.
        parameters: The block's constants.

    Returns:
        Each N, P, Q, K in float64; NaN where nothing was stored.

    Raises:
        InternalError: The program leaves a tile, reads weights that are not in its stream item, or lacks a barrier.
    """
    return _Run(program, inputs, parameters).run()


class _Run(Tiles):
    """One execution: loop variables and sums, over the tiles' memory."""

    def __init__(self, program: Program, inputs: Sequence[Array], parameters: Mapping[ParameterKey, Array]) -> None:
        super().__init__(program, inputs, parameters)
        self.sums: dict[Accumulators, Array] = {}
        self.slices: tuple[WeightSlice, ...] | None = None
        self.steps = step_count(program.body)

    def run(self) -> tuple[Array, ...]:
        self._fresh()
        self._nodes(self.program.body)
        return tuple(self.memory[tile] for tile in self.program.outputs)

    # ---- control -----------------------------------------------------------------------------------------------------
    def _fresh(self) -> None:
        """Forget everything a task keeps to itself."""
        self.forget()
        self.sums.clear()

    def _nodes(self, nodes: list[Node]) -> None:
        for node in nodes:
            match node:
                case Loop():
                    self._loop(node)
                case Step():
                    self._step(node)
                case Pixels():
                    self._nodes(node.body)
                case _:
                    self._instruction(node)

    def _loop(self, loop: Loop) -> None:
        innermost = not any(isinstance(n, Loop) and n.kind.is_parallel for n in loop.body)
        for trip in range(self.groups if loop.kind is LoopKind.IMAGE else loop.count):
            self.env[loop.var] = trip
            if loop.kind.is_parallel and innermost:
                self._fresh()
            if loop.kind is LoopKind.IMAGE and len(loop.body) > 1:  # an image's phases are all in it
                self.forget_shared()
            self._nodes(loop.body)
        del self.env[loop.var]

    def _step(self, step: Step) -> None:
        """A barrier, and the arrival in the ring of the item that runs ``depth - 1`` steps later."""
        self.touched.clear()
        ring = self.program.ring
        if ring is None:
            raise InternalError(f"program {self.program.name} has a step and no ring")
        upcoming = step.number.at(self.env) + ring.depth - 1
        low = ring.offset + upcoming % ring.depth * ring.slot
        if upcoming < self.steps:
            self.arena[low : low + ring.slot] = np.nan
        self.slices = step.item.slices
        streamed = step.item.pixels
        if streamed:
            self._instruction(streamed)
        self._nodes(step.body)
        if streamed:
            self.memory[streamed.target] = np.full(streamed.target.size, np.nan)
        self.slices = None

    # ---- instructions ------------------------------------------------------------------------------------------------
    def _instruction(self, instruction: Instruction) -> None:
        match instruction:
            case Map(frame=Frame() as frame):
                value = self.framed(instruction.source, instruction.target, instruction.region, frame)
                self.write(instruction.target, instruction.region, value, instruction.steps)
            case Load() | Store() | Map():
                steps = () if isinstance(instruction, Load) else instruction.steps
                value = self.read(instruction.source, instruction.region)
                self.write(instruction.target, instruction.region, value, steps)
            case Zero(target=Accumulators() as acc):
                self.sums[acc] = np.zeros(self.shape(acc.region))
            case Zero(target=Tile() as tile, region=None):
                self._clear(tile)
            case Zero(target=Tile() as tile, region=Region() as region):
                self.write(tile, region, np.zeros(self.shape(region)), ())
            case Gemm():
                self._gemm(instruction)
            case Epilogue():
                value = self._sums(instruction.acc)
                self.write(instruction.target, instruction.acc.region, value, instruction.steps)
            case Sync():
                self.touched.clear()
            case _:
                self._whole(instruction)

    def _whole(self, instruction: Instruction) -> None:
        """Instructions that make a region from beginning to end."""
        match instruction:
            case Depthwise():
                self._depthwise(instruction)
            case Grouped():
                self._grouped(instruction)
            case Normalize():
                value = self.read(instruction.source, instruction.region)
                kept = instruction.source.image.channels  # those above are zero padding of the layout
                value[..., :kept] = normalized(value[..., :kept], instruction.epsilon, instruction.divisor)
                value[..., kept:] = 0.0
                self.write(instruction.target, instruction.region, value, instruction.steps)
            case Reduce():
                self._reduce(instruction)
            case ReduceAcross():
                parts = [self.read(instruction.source, instruction.region, i) for i in range(instruction.source.copies)]
                self.write(instruction.target, instruction.region, np.sum(parts, axis=0), instruction.steps)
            case _:
                raise InternalError(f"the interpreter does not know {instruction}")

    def _clear(self, tile: Tile) -> None:
        """Set everything that a tile can hold to zero."""
        where = max(tile.offset, 0) + np.arange(tile.size)
        self.touch(tile, where, writes=True)
        self.storage(tile)[where] = 0.0

    def _gemm(self, gemm: Gemm) -> None:
        weights = self._weights(gemm.weights)
        region = gemm.acc.region
        total = self._sums(gemm.acc)
        start = gemm.channel.at(self.env)
        channels = [start + c for c in gemm.weights.inputs.at(self.env)]
        for index, tap in enumerate(gemm.weights.taps.at(self.env)):
            pixels = self.window(gemm.source, region, gemm.window, tap, channels)
            total = total + pixels @ weights[:, :, index].T
        self.sums[gemm.acc] = total

    def _sums(self, acc: Accumulators) -> Array:
        """The sums as they are; NaN where nothing has set them for this piece."""
        found, shape = self.sums.get(acc), self.shape(acc.region)
        return found if found is not None and found.shape == shape else np.full(shape, np.nan)

    def _depthwise(self, instruction: Depthwise) -> None:
        weights = self._weights(instruction.weights)
        channels = list(instruction.region.channels.at(self.env))
        total = np.zeros(self.shape(instruction.region))
        for index, tap in enumerate(instruction.weights.taps.at(self.env)):
            pixels = self.window(instruction.source, instruction.region, instruction.window, tap, channels)
            total += pixels * weights[:, 0, index]
        self.write(instruction.target, instruction.region, total, instruction.steps)

    def _grouped(self, instruction: Grouped) -> None:
        weights = self._weights(instruction.weights)
        outputs = list(instruction.region.channels.at(self.env))
        total = np.zeros(self.shape(instruction.region))
        for index, tap in enumerate(instruction.weights.taps.at(self.env)):
            for c in instruction.weights.inputs.at(self.env):
                groups = [k // instruction.outputs if k < instruction.target.image.channels else 0 for k in outputs]
                channels = [group * instruction.width + c for group in groups]
                pixels = self.window(instruction.source, instruction.region, instruction.window, tap, channels)
                total += pixels * weights[:, c, index]
        self.write(instruction.target, instruction.region, total, instruction.steps)

    def _reduce(self, instruction: Reduce) -> None:
        region, window = instruction.region, instruction.window
        channels = list(region.channels.at(self.env))
        taps = range(window.taps)
        outside = -np.inf if instruction.reduction == "max" else 0.0
        stack = np.stack([self.window(instruction.source, region, window, tap, channels, outside) for tap in taps])
        if instruction.reduction == "max":
            value = stack.max(0)
        elif instruction.reduction == "l2":
            value = np.sqrt((stack**2).sum(0))
        elif instruction.count:
            value = stack.sum(0) / instruction.count
        else:
            counted = [self.inside(instruction.source, region, window, tap) for tap in taps]
            value = stack.sum(0) / np.sum(counted, axis=0)[..., None]
        self.write(instruction.target, region, value, instruction.steps)

    def _weights(self, wanted: WeightSlice) -> Array:
        """The slice as [outputs, inputs, taps], checked against the item that is present."""
        if self.program.ring is not None and not self._is_present(wanted):
            raise InternalError(f"{wanted} is not in the weight stream item of its step")
        return filter_slice(wanted, self.parameters[wanted.key], self.env).transpose(2, 1, 0)

    def _is_present(self, wanted: WeightSlice) -> bool:
        for held in self.slices or ():
            if held.key == wanted.key and all(
                set(getattr(wanted, part).at(self.env)) <= set(getattr(held, part).at(self.env))
                for part in ("taps", "inputs", "outputs")
            ):
                return True
        return False
