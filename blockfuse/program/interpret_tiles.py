"""Tiles of an interpreted program as numpy arrays: reads, epilogues, writes, and the search for missing barriers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from blockfuse.block import ParameterKey
from blockfuse.errors import InternalError
from blockfuse.machine import (
    Accumulate,
    Apply,
    Bias,
    EpilogueStep,
    Loop,
    LoopKind,
    Mask,
    MultiplyBy,
    Program,
    Region,
    Residual,
    ScaleBy,
    SlopeBy,
    Tile,
)
from blockfuse.stages import ACTIVATIONS, Array, Frame, Window


class Tiles:
    """Memory, the loop variables that say which part of it is meant, and what was touched since the last barrier."""

    def __init__(self, program: Program, inputs: Sequence[Array], parameters: Mapping[ParameterKey, Array]) -> None:
        self.program = program
        self.env: dict[str, int] = {}
        self.parameters = {key: np.asarray(data, np.float64) for key, data in parameters.items()}
        self.memory: dict[Tile, Array] = {
            tile: np.asarray(x, np.float64) for tile, x in zip(program.inputs, inputs, strict=True)
        }
        self.batch = len(inputs[0]) if program.any_batch else program.batch
        self.groups = -(-self.batch // program.together)
        for tile in program.outputs:
            shape = (self.batch, tile.height, tile.image.width, tile.image.channels)
            self.memory[tile] = np.full(shape, np.nan)
        self.shared: dict[Tile, Array] = {}  # seen by all trips of parallel loops
        self.forget_shared()
        self.arena: Array = np.empty(0)
        self.touched: list[tuple[Array, bool]] = []

    def forget(self) -> None:
        """Forget everything a task keeps to itself."""
        self.arena = np.full(self.program.arena, np.nan)
        for tile in self.program.tiles:
            if tile.offset < 0 and not tile.is_shared:
                self.memory[tile] = np.full(tile.size, np.nan)
        self.touched.clear()

    def forget_shared(self) -> None:
        """Forget what tasks leave to others."""
        shared = [tile for tile in self.program.tiles if tile.is_shared]
        self.shared = {tile: np.full(tile.copies * tile.size, np.nan) for tile in shared}

    def shape(self, region: Region) -> tuple[int, int, int]:
        """Rows, columns and channels of a region now."""
        return len(region.rows.at(self.env)), len(region.cols.at(self.env)), len(region.channels.at(self.env))

    def read(self, tile: Tile, region: Region, copy: int | None = None) -> Array:
        """What a tile holds of a region."""
        rows, cols, channels = (list(r.at(self.env)) for r in (region.rows, region.cols, region.channels))
        return self._gather(tile, rows, cols, channels, copy=copy)

    def framed(self, tile: Tile, framed: Tile, region: Region, frame: Frame) -> Array:
        """What a region of an image in a frame repeats of the image that a tile holds; NaN outside the frame."""
        rows = _repeated(frame, region.rows.at(self.env), frame.top, (tile.image.height, framed.image.height))
        cols = _repeated(frame, region.cols.at(self.env), frame.left, (tile.image.width, framed.image.width))
        return self._gather(tile, rows, cols, list(region.channels.at(self.env)), np.nan)

    def window(
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

    def inside(self, tile: Tile, region: Region, window: Window, tap: int) -> Array:
        """Which pixels under a tap lie inside the image, by row and column."""
        rows, cols = self._under(region, window, tap)
        return self._inside(tile, rows, cols)

    def _images(self, tile: Tile, rows: list[int]) -> tuple[Array, Array, Array]:
        """Of rows of a tile's image: the number of the image in memory, the row of that, and whether there is one."""
        where, period = _integers(rows), tile.stack.period if tile.stack else tile.image.height
        image, row = self.env["image"] * self.program.together + where // period, where % period
        exists = _within(rows, tile.image.height) & (row < tile.height) & (image < self.batch)
        return image, row, exists

    def _inside(self, tile: Tile, rows: list[int], cols: list[int]) -> Array:
        """Which pixels are of an image, by row and column."""
        return np.logical_and.outer(self._images(tile, rows)[2], _within(cols, tile.image.width))

    def _gather(
        self,
        tile: Tile,
        rows: list[int],
        cols: list[int],
        channels: list[int],
        outside: float = 0.0,
        copy: int | None = None,
    ) -> Array:
        inside = self._inside(tile, rows, cols)
        held = np.ones_like(inside) if tile.padded and outside == 0.0 else inside
        out = np.full((len(rows), len(cols), len(channels)), outside)
        if tile.is_global:
            kept = [c for c in channels if c < tile.image.channels]  # channels above are zero padding of the layout
            image, row, exists = self._images(tile, rows)
            rows_held = np.where(exists, row, 0) * tile.stride_h
            images = self.memory[tile.memory][np.where(exists, image, 0), rows_held, :: tile.stride_w]
            places = (
                _integers(list(range(len(rows)))),
                _clamped(cols, tile.image.width),
                _integers(kept) + tile.origin,
            )
            box = images[np.ix_(*places)]
            out[..., len(kept) :] = 0.0
            out[..., : len(kept)][held & inside] = box[held & inside]
            return out
        where = self._elements(tile, rows, cols, channels, held, copy)
        self.touch(tile, where[held], writes=False)
        out[held] = self.storage(tile)[where[held]]
        return out

    def write(self, tile: Tile, region: Region, value: Array, steps: tuple[EpilogueStep, ...]) -> None:
        """Store what the steps make of a value."""
        rows, cols, channels = (list(r.at(self.env)) for r in (region.rows, region.cols, region.channels))
        value = self._finish(tile, rows, cols, channels, value, steps)
        inside = self._inside(tile, rows, cols)
        if tile.is_global:
            kept = sum(c < tile.image.channels for c in channels)
            (image, row, keep_rows), keep_cols = self._images(tile, rows), _within(cols, tile.image.width)
            index = np.ix_(_integers(cols)[keep_cols], _integers(channels)[:kept] + tile.origin)
            places = (image[keep_rows][:, None, None], row[keep_rows][:, None, None], *(i[None] for i in index))
            self.memory[tile.memory][places] = value[np.ix_(keep_rows, keep_cols)][..., :kept]
            return
        held = np.ones_like(inside) if tile.padded else inside
        where = self._elements(tile, rows, cols, channels, held, None)
        self.touch(tile, where[held], writes=True)
        self.storage(tile)[where[held]] = value[held]

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
                case ScaleBy():
                    scale, shift = (_extended(self.parameters[key], channels) for key in step.keys)
                    value = value * scale + shift
                case SlopeBy():
                    value = np.where(value < 0, value * _extended(self.parameters[step.key], channels), value)
                case MultiplyBy():
                    at = ([0], [0]) if step.is_gate else (rows, cols)
                    value = value * self._gather(step.tile, *at, channels)
                case Accumulate():
                    value = value + self._gather(tile, rows, cols, channels)
                case Mask():
                    inside = self._inside(tile, rows, cols)
                    value = np.where(inside[..., None], value, 0.0)
        return value

    def storage(self, tile: Tile) -> Array:
        """The array that a tile lies in."""
        if tile.offset >= 0:
            return self.arena
        return (self.shared if tile.is_shared else self.memory)[tile.owner]

    def _elements(
        self, tile: Tile, rows: list[int], cols: list[int], channels: list[int], held: Array, copy: int | None
    ) -> Array:
        """Element numbers in the tile's storage of every (row, column, channel); checked where ``held``."""
        h = _integers(rows) % tile.rows if tile.ring else _integers(rows) - tile.top.at(self.env)
        w = _integers(cols) - tile.left.at(self.env)
        c = _integers(channels) - tile.first_channel.at(self.env)
        fits = np.logical_and.outer((h >= 0) & (h < tile.rows), (w >= 0) & (w < tile.cols))
        most = tile.image.channels if tile.within else tile.channels + tile.first_channel.at(self.env)
        if (held & ~fits).any() or (len(c) and (c.min() < 0 or max(channels) >= most)):
            raise InternalError(f"tile {tile}: rows {rows}, columns {cols}, channels {channels} are not all in it")
        base = max(tile.offset, 0)
        if tile.copies > 1:
            base += (self._share() if copy is None else copy) * tile.size
        return np.asarray(base + tile.layout.place(h[:, None], w)[..., None] + c)

    def _share(self) -> int:
        loops = [n for n in self.program.walk() if isinstance(n, Loop) and n.kind is LoopKind.CHANNEL_SPLIT]
        return next(self.env[loop.var] for loop in loops if loop.var in self.env)

    def touch(self, tile: Tile, where: Array, *, writes: bool) -> None:
        """Note the elements used; on a GPU, raise if a barrier is missing since they were last touched."""
        if tile.offset < 0:
            return
        for earlier, wrote in self.touched:
            if (writes or wrote) and np.intersect1d(earlier, where).size:
                raise InternalError(f"program {self.program.name}: no barrier between two uses of tile {tile}")
        self.touched.append((np.unique(where), writes))


def _repeated(frame: Frame, positions: range, before: int, sizes: tuple[int, int]) -> list[int]:
    """Where the pixels of a framed image come from; -1 for those outside it."""
    size, framed = sizes
    return [frame.source(at - before, size) if 0 <= at < framed else -1 for at in positions]


def _integers(values: list[int]) -> Array:
    return np.array(values, dtype=np.int64)


def _clamped(positions: list[int], size: int) -> Array:
    return np.asarray(np.clip(_integers(positions), 0, size - 1))


def _within(positions: list[int], size: int) -> Array:
    where = _integers(positions)
    return np.asarray((where >= 0) & (where < size))


def _extended(bias: Array, channels: list[int]) -> Array:
    out = np.zeros(len(channels))
    kept = [c for c in channels if c < len(bias)]
    out[: len(kept)] = bias[kept]
    return out
