"""The state of one kernel while its program is lowered: buffers, thread numbers, loop variables, register names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tvm import tirx

from blockfuse.errors import InternalError
from blockfuse.machine import (
    Accumulators,
    Engine,
    Gemm,
    Loop,
    LoopKind,
    Program,
    Region,
    Step,
    Tile,
    WarpTiling,
    WeightSlice,
)
from blockfuse.machine.affine import Affine, Clip, Quotient, Range
from blockfuse.program.check import WGMMA_ALIGNMENT, stream_length
from blockfuse.schedules.cuda.emitter import CudaEmitter, both
from blockfuse.schedules.cuda.packing import slice_offset, vector_layout, vector_length
from blockfuse.schedules.emit import Buffer, Expr, Index, index, quotient, remainder, smaller

BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}
"""Size of an element of every type that images may have."""


@dataclass(frozen=True)
class Piece:
    """One trip of a ``pixels`` loop.

    Attributes:
        number: Of the trip.
        tiles: m16 tiles of a warp in a piece.
        count: Number of trips.
        own: Sums and tiles in registers that begin and end with the trip; others have registers for all pieces.
    """

    number: Index
    tiles: int
    count: int
    own: frozenset[Accumulators | Tile]


class Kernel:
    """What every instruction's lowering needs; the parameters are made in the order callers pass them.

    Attributes:
        program: What is lowered.
        emit: The statements so far.
        env: Value of every loop variable in scope.
        dtype: Of images, on chip and in memory.
        vector: Elements of 16 bytes.
        shared: Shared memory as elements; ``words`` is the same as 32-bit words.
        warp: Number of the warp in its CTA.
        lane: Number of the thread in its warp.
        threads: Threads of the CTA.
        copies_pending: Whether LOAD has started copies that no barrier has waited for yet.
        piece: The piece of the ``pixels`` loop around, or None.
        place: The step that is lowered, for comments.
        fresh: Sums that are zero although nothing has been stored there: the next product must overwrite them.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        if program.dtype not in BYTES:
            raise InternalError(f"program {program.name}: images of {program.dtype} have no CUDA lowering")
        self.dtype, self.bytes = program.dtype, BYTES[program.dtype]
        self.vector = 16 // self.bytes
        self.loops = [node for node in program.walk() if isinstance(node, Loop)]
        self.batch: Index = tirx.Var("batch", "int32") if program.any_batch else program.batch
        grid: Index = 1
        for loop in self.parallel:
            grid = self._trips(loop) * grid
        self.threads = program.threads
        self.emit = CudaEmitter(grid, program.threads, max(1, program.min_blocks))  # else ptxas spills for occupancy
        self._registers: dict[str, Buffer] = {}
        self._done: set[object] = set()
        self.copies_pending = False
        self.piece: Piece | None = None
        self.place = ""
        self.fresh: set[Accumulators] = set()
        self._parameters()
        alignment = {"alignment": WGMMA_ALIGNMENT} if program.uses(Engine.WGMMA) else {}
        if program.arena:
            self.shared = self.emit.shared("shared", program.arena, self.dtype, **alignment)
            self.words = self.emit.view(self.shared, "shared_words", "uint32", program.arena * self.bytes // 4)
        with self.emit.hoisted():
            self.warp = self.emit.bind("warp", quotient(self.emit.thread, 32))
            self.lane = self.emit.bind("lane", remainder(self.emit.thread, 32))
            self.env: dict[str, Index] = self._grid_position()
        self._step: Step | None = None
        self._slot: Index = 0

    @property
    def parallel(self) -> list[Loop]:
        """The loops that make the grid, outermost first."""
        return [loop for loop in self.loops if loop.kind.is_parallel]

    def _parameters(self) -> None:
        program, emit = self.program, self.emit
        self.memory: dict[Tile, Buffer] = {}
        self.vector_layout = vector_layout(program)

        def image(tile: Tile, name: str) -> None:
            shape = (self.batch, tile.height, tile.image.width, tile.channels)
            self.memory[tile] = emit.image(name, shape, tile.dtype or self.dtype)

        for number, tile in enumerate(program.inputs):
            image(tile, f"input_{number}")
        if self.vector_layout:
            self.vectors = emit.parameter("packed_vectors", (vector_length(program),))
        if stream_length(program):
            self.weights = emit.parameter("packed_weights", (stream_length(program),), self.dtype)
        for tile, name in zip(program.outputs, ("result", "result_parts"), strict=False):
            image(tile, name)

    def _grid_position(self) -> dict[str, Index]:
        env: dict[str, Index] = {}
        inner = 1
        for loop in reversed(self.parallel):
            trip: Index = quotient(self.emit.cta, inner)
            if not self._is_open(loop):  # else it is the outermost
                trip = remainder(trip, loop.count) if loop.count > 1 else 0
            env[loop.var] = self.emit.bind(loop.var, trip)
            inner *= loop.count
        return env

    def _is_open(self, loop: Loop) -> bool:
        return loop.kind is LoopKind.IMAGE and self.program.any_batch

    def _trips(self, loop: Loop) -> Index:
        """Trips of a parallel loop; those over images may be a variable."""
        return self.batch if self._is_open(loop) else loop.count

    # ---- values ------------------------------------------------------------------------------------------------------
    def at(self, value: Affine | int) -> Index:
        """An index expression of the program, at this place."""
        return index(value, self.env)

    def constant(self, value: Affine) -> int:
        """An expression that must not depend on any loop, such as the distance of a region from its tile's corner."""
        if not value.is_constant:
            raise InternalError(f"program {self.program.name}: {value} is not constant")
        return value.const

    def bounds(self, value: Affine) -> tuple[int, int]:
        """The least and greatest value that an expression of loop variables takes."""
        trips = {loop.var: loop.count - 1 for loop in self.loops if not self._is_open(loop)}
        low = high = value.const
        for atom, coefficient in value.terms:
            if isinstance(atom, Quotient):
                least, most = (bound // atom.divisor for bound in self.bounds(atom.value))
            elif isinstance(atom, Clip):
                least, most = self.bounds(atom.low)[0], self.bounds(atom.high)[1]
            elif isinstance(atom, str) and atom in trips:
                least, most = 0, trips[atom]
            else:
                raise InternalError(f"program {self.program.name}: {value} has no known bounds")
            ends = (coefficient * least, coefficient * most)
            low, high = low + min(ends), high + max(ends)
        return low, high

    def registers(self, name: str, size: int, dtype: str = "float32") -> Buffer:
        """The registers of that name; made on first use."""
        if name not in self._registers:
            self._registers[name] = self.emit.registers(name, size, dtype)
        if int(self._registers[name].shape[0]) < size:
            raise InternalError(f"registers {name} were made for fewer than {size} elements")
        return self._registers[name]

    def elements(self, name: str, size: int = 8) -> Buffer:
        """Registers of that name for elements as memory has them."""
        return self.registers(name, size, self.dtype)

    def word_view(self, buffer: Buffer, name: str, size: int) -> Buffer:
        """Registers as 32-bit words; made on first use."""
        if name not in self._registers:
            self._registers[name] = self.emit.register_view(buffer, name, "uint32", size)
        return self._registers[name]

    def narrow(self, value: Expr) -> Expr:
        """A float32 value rounded to the type of images."""
        return value if self.dtype == "float32" else tirx.Cast(self.dtype, value)

    def sums(self, acc: Accumulators) -> Buffer:
        """The registers of a sum."""
        return self.registers(acc.name, acc.registers)

    def origin(self, tile: Tile) -> Index:
        """First element of a tile in shared memory; a streamed one lies behind the weights of the present item."""
        if not tile.streamed:
            return tile.offset
        if self._step is None:
            raise InternalError(f"{tile} is used outside a step")
        return self._slot * self.vector + self._step.item.size

    @property
    def most_tiles(self) -> int:
        """The most m16 tiles that any GEMM of the program works on together."""
        tilings = [node.acc.tiling for node in self.program.walk() if isinstance(node, Gemm)]
        return max((tiling.mb for tiling in tilings if tiling), default=1)

    def once(self, key: object) -> bool:
        """Whether this is the first call with that key: for statements that are hoisted."""
        is_first = key not in self._done
        self._done.add(key)
        return is_first

    def tiling(self, acc: Accumulators) -> WarpTiling:
        """How the warps share a sum."""
        if acc.tiling is None:
            raise InternalError(f"{acc} has no warp tiling")
        return acc.tiling

    # ---- the item of the stream that is present ----------------------------------------------------------------------
    def enter(self, step: Step, slot: Index) -> None:
        """``step``'s item is in shared memory from ``slot`` on, in units of 16 bytes."""
        self._step, self._slot = step, slot

    def weight_offset(self, weights: WeightSlice, per: int) -> Index:
        """Where a slice starts in shared memory, in elements of which ``per`` make 16 bytes."""
        if self._step is None:
            raise InternalError(f"{weights} is used outside a step")
        return self._slot * per + slice_offset(self._step, weights) * per // self.vector

    # ---- places ------------------------------------------------------------------------------------------------------
    def inside(self, region: Region, tile: Tile, row: Index, col: Index) -> Expr:
        """Whether (row, col) of a region is a pixel of the tile's image; ``True`` where it cannot be otherwise."""
        rows = self._within(region.rows, row, tile.image.height)
        rows = both(rows, self._is_of_an_image(tile, self.at(region.rows.low) + row))
        return both(rows, self._within(region.cols, col, tile.image.width))

    def _is_of_an_image(self, tile: Tile, row: Index) -> Expr:
        """Whether a row of a stack is not between two images, and in memory not behind the last one of the batch."""
        stack, batch = tile.stack, self.program.batch
        if stack is None:
            return True
        between = stack.height < stack.period
        last = tile.is_global and batch % stack.images > 0
        image = self.env["image"] * stack.images + quotient(row, stack.period)
        return both(not between or remainder(row, stack.period) < stack.height, not last or image < batch)

    def _within(self, span: Range, position: Index, size: int) -> Expr:
        low, high = self.bounds(span.low)
        where = self.at(span.low) + position
        return both(low >= 0 or where >= 0, high + span.size.const <= size or where < size)

    def starts_at(self, tile: Tile, region: Region) -> bool:
        """Whether a region's corner is the tile's."""
        return region.rows.low == tile.top and region.cols.low == tile.left

    def pixel(self, tile: Tile, region: Region, row: Index, col: Index) -> Index:
        """Elements from the corner of a tile to the pixel that holds (row, col) of a region."""
        y = row + self.constant(region.rows.low - tile.top)
        x = col + self.constant(region.cols.low - tile.left)
        return placed(tile, y, x)

    def channel(self, tile: Tile, low: Affine) -> Index:
        """Where an image channel is in a tile."""
        return self.at(low - tile.first_channel)

    def element(self, tile: Tile, row: Index, col: Index, channel: Index) -> list[Index]:
        """Position in memory of (row, column, channel) of the present image; between images of a stack, a near one."""
        image, stack = self.env["image"], tile.stack
        if stack is not None:
            image, row = image * stack.images + quotient(row, stack.period), remainder(row, stack.period)
            image = smaller(image, self.program.batch - 1) if self.program.batch % stack.images else image
            row = smaller(row, stack.height - 1) if stack.height < stack.period else row
        return [image, row * tile.stride_h, col * tile.stride_w, channel - tile.memory.first_channel.const]

    def vector_width(self, *tiles: Tile) -> int:
        """The most elements, up to 16 bytes, in which whole pixels of global tiles can be moved."""
        sizes = [size for tile in tiles for size in (tile.image.channels, tile.pitch, tile.first_channel.const)]
        return next(width for width in (8, 4, 2, 1) if width <= self.vector and not any(size % width for size in sizes))


def placed(tile: Tile, y: Index, x: Index) -> Index:
    """Elements from the corner of a tile to the pixel in row ``y`` and column ``x`` of it."""
    found: Index = tile.layout.place(y, x, quotient, remainder)
    return found


def clamped(position: Index, size: int) -> Index:
    """``position``, but at most the last one of ``size``."""
    return smaller(position, size - 1)


def shifted(env: Mapping[str, Index], trips: Mapping[str, Affine]) -> dict[str, Index]:
    """The loop variables of another trip."""
    return {**env, **{name: index(trip, env) for name, trip in trips.items()}}
