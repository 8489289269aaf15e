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
    Accumulate,
    Accumulators,
    Apply,
    Bias,
    Depthwise,
    Epilogue,
    EpilogueStep,
    Gemm,
    Instruction,
    Load,
    Loop,
    LoopKind,
    Mask,
    Node,
    Pixels,
    Program,
    Reduce,
    ReduceAcross,
    Region,
    Residual,
    Step,
    Store,
    Sync,
    Tile,
    WeightSlice,
    Zero,
)
from blockfuse.stages import ACTIVATIONS, Array, Window


def interpret(program: Program, inputs: Sequence[Array], parameters: Mapping[ParameterKey, Array]) -> Array:
    """The program's result.

    Args:
        program: Any program, of any target.
        inputs: One N, H, W, C array per block input.
        parameters: The block's constants.

    Returns:
        N, P, Q, K in float64; NaN where nothing was stored.

    Raises:
        InternalError: The program leaves a tile, reads weights that are not in its stream item, or lacks a barrier.
    """
    return _Run(program, inputs, parameters).run()


class _Run:
    """One execution: memory, loop variables, accumulators, and what was touched since the last barrier."""

    def __init__(self, program: Program, inputs: Sequence[Array], parameters: Mapping[ParameterKey, Array]) -> None:
        self.program = program
        self.env: dict[str, int] = {}
        self.parameters = {key: np.asarray(data, np.float64) for key, data in parameters.items()}
        self.memory: dict[Tile, Array] = {
            tile: np.asarray(x, np.float64) for tile, x in zip(program.inputs, inputs, strict=True)
        }
        out = program.output.image
        self.result = np.full((program.batch, out.height, out.width, out.channels), np.nan)
        self.memory[program.output] = self.result
        self.shared: dict[Tile, Array] = {  # seen by all trips of parallel loops
            tile: np.full(tile.copies * tile.size, np.nan) for tile in program.tiles if tile.copies > 1
        }
        self.arena: Array = np.empty(0)
        self.sums: dict[Accumulators, Array] = {}
        self.slices: tuple[WeightSlice, ...] | None = None
        self.touched: list[tuple[Array, bool]] = []

    def run(self) -> Array:
        self._fresh()
        self._nodes(self.program.body)
        return self.result

    # ---- control -----------------------------------------------------------------------------------------------------
    def _fresh(self) -> None:
        """Forget everything a task keeps to itself."""
        self.arena = np.full(self.program.arena, np.nan)
        for tile in self.program.tiles:
            if tile.offset < 0 and tile.copies == 1:
                self.memory[tile] = np.full(tile.size, np.nan)
        self.sums.clear()
        self.touched.clear()

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
        for trip in range(loop.count):
            self.env[loop.var] = trip
            if loop.kind.is_parallel and innermost:
                self._fresh()
            self._nodes(loop.body)
        del self.env[loop.var]

    def _step(self, step: Step) -> None:
        """A barrier, and the arrival in the ring of the item that runs ``depth - 1`` steps later."""
        self.touched.clear()
        ring = self.program.ring
        if ring is None:
            raise InternalError(f"program {self.program.name} has a step and no ring")
        slot = (step.number.at(self.env) + ring.depth - 1) % ring.depth
        low = ring.offset + slot * ring.slot
        self.arena[low : low + ring.slot] = np.nan
        self.slices = step.item.slices
        self._nodes(step.body)
        self.slices = None

    # ---- instructions ------------------------------------------------------------------------------------------------
    def _instruction(self, instruction: Instruction) -> None:
        match instruction:
            case Load() | Store():
                steps = instruction.steps if isinstance(instruction, Store) else ()
                value = self._read(instruction.source, instruction.region)
                self._write(instruction.target, instruction.region, value, steps)
            case Zero(target=Accumulators() as acc):
                self.sums[acc] = np.zeros(self._shape(acc.region))
            case Zero(target=Tile() as tile, region=None):
                self._clear(tile)
            case Zero(target=Tile() as tile, region=Region() as region):
                self._write(tile, region, np.zeros(self._shape(region)), ())
            case Gemm():
                self._gemm(instruction)
            case Epilogue():
                value = self._sums(instruction.acc)
                self._write(instruction.target, instruction.acc.region, value, instruction.steps)
            case Depthwise():
                self._depthwise(instruction)
            case Reduce():
                self._reduce(instruction)
            case ReduceAcross():
                parts = [
                    self._read(instruction.source, instruction.region, i) for i in range(instruction.source.copies)
                ]
                self._write(instruction.target, instruction.region, np.sum(parts, axis=0), instruction.steps)
            case Sync():
                self.touched.clear()
            case _:
                raise InternalError(f"the interpreter does not know {instruction}")

    def _clear(self, tile: Tile) -> None:
        """Set everything that a tile can hold to zero."""
        where = max(tile.offset, 0) + np.arange(tile.size)
        self._touch(tile, where, writes=True)
        self._storage(tile)[where] = 0.0

    def _gemm(self, gemm: Gemm) -> None:
        weights = self._weights(gemm.weights)
        region = gemm.acc.region
        total = self._sums(gemm.acc)
        channels = list(gemm.weights.inputs.at(self.env))
        for index, tap in enumerate(gemm.weights.taps.at(self.env)):
            pixels = self._window(gemm.source, region, gemm.window, tap, channels)
            total = total + pixels @ weights[:, :, index].T
        self.sums[gemm.acc] = total

    def _sums(self, acc: Accumulators) -> Array:
        """The sums as they are; NaN where nothing has set them for this piece."""
        found, shape = self.sums.get(acc), self._shape(acc.region)
        return found if found is not None and found.shape == shape else np.full(shape, np.nan)

    def _depthwise(self, instruction: Depthwise) -> None:
        weights = self._weights(instruction.weights)
        channels = list(instruction.region.channels.at(self.env))
        total = np.zeros(self._shape(instruction.region))
        for index, tap in enumerate(instruction.weights.taps.at(self.env)):
            pixels = self._window(instruction.source, instruction.region, instruction.window, tap, channels)
            total += pixels * weights[:, 0, index]
        self._write(instruction.target, instruction.region, total, instruction.steps)

    def _reduce(self, instruction: Reduce) -> None:
        region, window = instruction.region, instruction.window
        channels = list(region.channels.at(self.env))
        taps = range(window.taps)
        outside = -np.inf if instruction.reduction == "max" else 0.0
        stack = np.stack([self._window(instruction.source, region, window, tap, channels, outside) for tap in taps])
        if instruction.reduction == "max":
            value = stack.max(0)
        else:
            counted = [self._inside(instruction.source, region, window, tap) for tap in taps]
            value = stack.sum(0) / np.sum(counted, axis=0)[..., None]
        self._write(instruction.target, region, value, instruction.steps)

    def _weights(self, wanted: WeightSlice) -> Array:
        """The slice as [outputs, inputs, taps], checked against the item that is present."""
        if self.program.ring is not None and not self._is_present(wanted):
            raise InternalError(f"{wanted} is not in the weight stream item of its step")
        data = self.parameters[wanted.key]
        flat = data.reshape(data.shape[0], data.shape[1], -1)
        boxes = [
            _padded(r.at(self.env), size)
            for r, size in zip((wanted.outputs, wanted.inputs, wanted.taps), flat.shape, strict=True)
        ]
        out = np.zeros([count for _, count in boxes])
        part = flat[np.ix_(*[kept for kept, _ in boxes])]
        out[tuple(slice(0, n) for n in part.shape)] = part
        return out

    def _is_present(self, wanted: WeightSlice) -> bool:
        for held in self.slices or ():
            if held.key == wanted.key and all(
                set(getattr(wanted, part).at(self.env)) <= set(getattr(held, part).at(self.env))
                for part in ("taps", "inputs", "outputs")
            ):
                return True
        return False

    # ---- tiles -------------------------------------------------------------------------------------------------------
    def _shape(self, region: Region) -> tuple[int, int, int]:
        return len(region.rows.at(self.env)), len(region.cols.at(self.env)), len(region.channels.at(self.env))

    def _read(self, tile: Tile, region: Region, copy: int | None = None) -> Array:
        rows, cols, channels = (list(r.at(self.env)) for r in (region.rows, region.cols, region.channels))
        return self._gather(tile, rows, cols, channels, copy=copy)

    def _window(
        self, tile: Tile, region: Region, window: Window, tap: int, channels: list[int], outside: float = 0.0
    ) -> Array:
        """The pixels of ``tile`` under one tap of every output pixel of ``region``."""
        rows, cols = self._under(region, window, tap)
        return self._gather(tile, rows, cols, channels, outside)

    def _under(self, region: Region, window: Window, tap: int) -> tuple[list[int], list[int]]:
        r, s = divmod(tap, window.s)
        rows = [h * window.stride_h - window.pad_top + r * window.dilation_h for h in region.rows.at(self.env)]
        cols = [w * window.stride_w - window.pad_left + s * window.dilation_w for w in region.cols.at(self.env)]
        return rows, cols

    def _inside(self, tile: Tile, region: Region, window: Window, tap: int) -> Array:
        rows, cols = self._under(region, window, tap)
        return np.logical_and.outer(_within(rows, tile.image.height), _within(cols, tile.image.width))

    def _gather(
        self,
        tile: Tile,
        rows: list[int],
        cols: list[int],
        channels: list[int],
        outside: float = 0.0,
        copy: int | None = None,
    ) -> Array:
        inside = np.logical_and.outer(_within(rows, tile.image.height), _within(cols, tile.image.width))
        held = np.ones_like(inside) if tile.padded and outside == 0.0 else inside
        out = np.full((len(rows), len(cols), len(channels)), outside)
        if tile.is_global:
            kept = [c for c in channels if c < tile.image.channels]  # channels above are zero padding of the layout
            near = np.ix_(_clamped(rows, tile.image.height), _clamped(cols, tile.image.width), _integers(kept))
            box = self.memory[tile][self.env["image"]][near]
            out[..., len(kept) :] = 0.0
            out[..., : len(kept)][held & inside] = box[held & inside]
            return out
        where = self._elements(tile, rows, cols, channels, held, copy)
        self._touch(tile, where[held], writes=False)
        out[held] = self._storage(tile)[where[held]]
        return out

    def _write(self, tile: Tile, region: Region, value: Array, steps: tuple[EpilogueStep, ...]) -> None:
        rows, cols, channels = (list(r.at(self.env)) for r in (region.rows, region.cols, region.channels))
        value = self._finish(tile, rows, cols, channels, value, steps)
        inside = np.logical_and.outer(_within(rows, tile.image.height), _within(cols, tile.image.width))
        if tile.is_global:
            kept = sum(c < tile.image.channels for c in channels)
            image = self.memory[tile][self.env["image"]]
            keep_rows, keep_cols = _within(rows, tile.image.height), _within(cols, tile.image.width)
            index = np.ix_(_integers(rows)[keep_rows], _integers(cols)[keep_cols], _integers(channels)[:kept])
            image[index] = value[np.ix_(keep_rows, keep_cols)][..., :kept]
            return
        held = np.ones_like(inside) if tile.padded else inside
        where = self._elements(tile, rows, cols, channels, held, None)
        self._touch(tile, where[held], writes=True)
        self._storage(tile)[where[held]] = value[held]

    def _finish(
        self,
        tile: Tile,
        rows: list[int],
        cols: list[int],
        channels: list[int],
        value: Array,
        steps: tuple[EpilogueStep, ...],
    ) -> Array:
        for step in steps:
            match step:
                case Bias():
                    value = value + sum(_extended(self.parameters[key], channels) for key in step.keys)
                case Apply():
                    value = ACTIVATIONS[step.function.kind](value, step.function)
                case Residual():
                    value = value + self._gather(step.tile, rows, cols, channels)
                case Accumulate():
                    value = value + self._gather(tile, rows, cols, channels)
                case Mask():
                    inside = np.logical_and.outer(_within(rows, tile.image.height), _within(cols, tile.image.width))
                    value = np.where(inside[..., None], value, 0.0)
        return value

    def _storage(self, tile: Tile) -> Array:
        if tile.offset >= 0:
            return self.arena
        return self.shared[tile] if tile.copies > 1 else self.memory[tile]

    def _elements(
        self, tile: Tile, rows: list[int], cols: list[int], channels: list[int], held: Array, copy: int | None
    ) -> Array:
        """Element numbers in the tile's storage of every (row, column, channel); checked where ``held``."""
        h = _integers(rows) % tile.rows if tile.ring else _integers(rows) - tile.top.at(self.env)
        w = _integers(cols) - tile.left.at(self.env)
        c = _integers(channels) - tile.first_channel.at(self.env)
        fits = np.logical_and.outer((h >= 0) & (h < tile.rows), (w >= 0) & (w < tile.cols))
        if (held & ~fits).any() or (len(c) and (c.min() < 0 or c.max() >= tile.channels)):
            raise InternalError(f"tile {tile}: rows {rows}, columns {cols}, channels {channels} are not all in it")
        if tile.split_columns:
            w = w % 2 * -(-tile.cols // 2) + w // 2
        base = max(tile.offset, 0)
        if tile.copies > 1:
            base += (self._share() if copy is None else copy) * tile.size
        return np.asarray(base + ((h[:, None] * tile.cols + w) * tile.pitch)[..., None] + c)

    def _share(self) -> int:
        loops = [n for n in self.program.walk() if isinstance(n, Loop) and n.kind is LoopKind.CHANNEL_SPLIT]
        return next(self.env[loop.var] for loop in loops if loop.var in self.env)

    def _touch(self, tile: Tile, where: Array, *, writes: bool) -> None:
        """Note the elements used; on a GPU, raise if a barrier is missing since they were last touched."""
        if tile.offset < 0:
            return
        for earlier, wrote in self.touched:
            if (writes or wrote) and np.intersect1d(earlier, where).size:
                raise InternalError(f"program {self.program.name}: no barrier between two uses of tile {tile}")
        self.touched.append((np.unique(where), writes))


def _integers(values: list[int]) -> Array:
    return np.array(values, dtype=np.int64)


def _clamped(positions: list[int], size: int) -> Array:
    return np.asarray(np.clip(_integers(positions), 0, size - 1))


def _within(positions: list[int], size: int) -> Array:
    where = _integers(positions)
    return np.asarray((where >= 0) & (where < size))


def _padded(wanted: range, size: int) -> tuple[list[int], int]:
    """The indices below ``size``, and how many there are in all: channels above are zero padding."""
    return [i for i in wanted if i < size], len(wanted)


def _extended(bias: Array, channels: list[int]) -> Array:
    out = np.zeros(len(channels))
    kept = [c for c in channels if c < len(bias)]
    out[: len(kept)] = bias[kept]
    return out
