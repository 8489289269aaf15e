"""The words of a tile program: tiles, instructions, loops.

A :class:`Program` says what one kernel does, for one plan and one target, in terms of regions of images held in tiles.
The lowering of each target and the float64 interpreter read nothing else. All coordinates are those of the image a tile
holds a part of: row and column 0 is the image's corner, whatever part of it the tile keeps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

from blockfuse.affine import Affine, Range
from blockfuse.block import ParameterKey
from blockfuse.stages import Function, ImageShape, Window


class Level(StrEnum):
    """Where a tile lives."""

    GLOBAL = "global"  # memory all kernels see
    LOCAL = "local"  # shared memory of an SM; a cache-resident buffer of a core
    REGISTER = "register"


@dataclass(frozen=True)
class Region:
    """A box of an image."""

    rows: Range
    cols: Range
    channels: Range

    def __str__(self) -> str:
        return f"[{self.rows}, {self.cols}, {self.channels}]"


@dataclass(eq=False)
class Tile:
    """Storage for a part of one image value.

    Attributes:
        name: Unique within the program.
        level: Where it lives.
        image: Shape of the whole value.
        rows: Rows it can hold.
        cols: Columns it can hold.
        channels: Channels it can hold.
        pitch: Elements from one pixel to the next.
        top: Image row in its first row. A ring has no fixed one.
        left: Image column in its first column.
        first_channel: Image channel in its first channel.
        ring: Whether row ``h`` of the image is in row ``h mod rows`` of the tile.
        padded: Whether it holds zeros for pixels outside the image; otherwise such pixels are not held and read as 0.
        split_columns: Whether even columns come before odd ones, so that stride-2 reads are neighbours.
        planar: Whether a global tile is stored channel by channel (N, C, H, W).
        copies: How many tiles of this shape lie behind each other, one per trip of the ``channel_split`` loop.
        offset: First element in the arena, or -1 where the tile has storage of its own.
    """

    name: str
    level: Level
    image: ImageShape
    rows: int
    cols: int
    channels: int
    pitch: int
    top: Affine = field(default_factory=Affine)
    left: Affine = field(default_factory=Affine)
    first_channel: Affine = field(default_factory=Affine)
    ring: bool = False
    padded: bool = False
    split_columns: bool = False
    planar: bool = False
    copies: int = 1
    offset: int = -1

    @property
    def size(self) -> int:
        """Elements of one copy."""
        return self.rows * self.cols * self.pitch

    @property
    def is_global(self) -> bool:
        """Whether every kernel sees it."""
        return self.level is Level.GLOBAL

    def __str__(self) -> str:
        return self.name


def global_tile(name: str, image: ImageShape, *, planar: bool = False) -> Tile:
    """A kernel's input or output: the whole image in memory."""
    return Tile(name, Level.GLOBAL, image, image.height, image.width, image.channels, image.channels, planar=planar)


@dataclass(frozen=True)
class WarpTiling:
    """How the warps of a CTA share a sum; m16n8k16 tiles number pixels and channels in the order of the region.

    Attributes:
        wm: Warps along the pixels; warp ``i`` takes every ``wm``-th m16 tile.
        wn: Warps along the channels, each with a contiguous share.
        mb: m16 tiles of one warp that are in registers together.
    """

    wm: int
    wn: int
    mb: int

    def __str__(self) -> str:
        return f"{self.wm}x{self.wn} warps, {self.mb} m16 tiles each"


@dataclass(eq=False)
class Accumulators:
    """float32 sums in registers for a region of one value.

    Attributes:
        name: Unique within the program.
        region: What is summed; a ``pixels`` loop works on it piece by piece.
        tiling: Which warp sums what, on a GPU.
    """

    name: str
    region: Region
    tiling: WarpTiling | None = None

    @property
    def registers(self) -> int:
        """Sums in one thread of a GPU: four per m16n8 tile."""
        if self.tiling is None:
            return 0
        return self.tiling.mb * self.region.channels.size.const // self.tiling.wn // 2

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class WeightSlice:
    """A box of one stage's filter: taps (r * S + s), input channels, output channels."""

    key: ParameterKey
    taps: Range
    inputs: Range
    outputs: Range
    name: str = field(default="", compare=False)

    def __str__(self) -> str:
        return f"{self.name}[taps {self.taps}, {self.inputs} -> {self.outputs}]"


# ---- epilogue steps --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bias:
    """Add the sum of these per-channel constants."""

    keys: tuple[ParameterKey, ...]

    def __str__(self) -> str:
        return "bias"


@dataclass(frozen=True)
class Apply:
    """Apply an activation function."""

    function: Function

    def __str__(self) -> str:
        return str(self.function)


@dataclass(frozen=True)
class Residual:
    """Add the pixel of another tile that holds the same image coordinates."""

    tile: Tile

    def __str__(self) -> str:
        return f"add {self.tile}"


@dataclass(frozen=True)
class Accumulate:
    """Add what the target already holds."""

    def __str__(self) -> str:
        return "accumulate"


@dataclass(frozen=True)
class Mask:
    """Set pixels outside the image to zero, because the next stage pads its input with zeros."""

    def __str__(self) -> str:
        return "mask"


EpilogueStep: TypeAlias = Bias | Apply | Residual | Accumulate | Mask


# ---- instructions ----------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Load:
    """``target[region] = source[region]``; pixels outside the image become zero where the target is padded."""

    source: Tile
    target: Tile
    region: Region

    def __str__(self) -> str:
        return f"LOAD      {self.target} <- {self.source}{self.region}"


@dataclass(eq=False)
class Zero:
    """Set accumulators, a region of a tile, or all that a tile can hold, to zero."""

    target: Accumulators | Tile
    region: Region | None = None

    def __str__(self) -> str:
        return f"ZERO      {self.target}{self.region or ''}"


@dataclass(eq=False)
class Gemm:
    """``acc[p, q, k] += sum over taps and channels of source[p*stride + r, q*stride + s, c] * weights``.

    With several taps and a stride it is a dense convolution.
    """

    acc: Accumulators
    source: Tile
    weights: WeightSlice
    window: Window
    prefetch: bool = False

    def __str__(self) -> str:
        hint = "  prefetch" if self.prefetch else ""
        return f"GEMM      {self.acc} += {self.source} * {self.weights}{hint}"


@dataclass(eq=False)
class Epilogue:
    """``target[region of acc] = steps(acc)``."""

    acc: Accumulators
    target: Tile
    steps: tuple[EpilogueStep, ...]

    def __str__(self) -> str:
        return f"EPILOGUE  {self.target} <- {self.acc}  {_steps_text(self.steps)}"


@dataclass(eq=False)
class Depthwise:
    """``target[region] = steps(sum over taps of source * weights)``, every channel by itself."""

    source: Tile
    target: Tile
    weights: WeightSlice
    window: Window
    region: Region
    steps: tuple[EpilogueStep, ...]
    pixels: int = 1

    def __str__(self) -> str:
        return f"DEPTHWISE {self.target}{self.region} <- {self.source} * {self.weights}  {_steps_text(self.steps)}"


@dataclass(eq=False)
class Reduce:
    """``target[region] = steps(max or mean of each window of source)``, every channel by itself."""

    source: Tile
    target: Tile
    reduction: str
    window: Window
    region: Region
    steps: tuple[EpilogueStep, ...]
    pixels: int = 1

    def __str__(self) -> str:
        what = f"{self.reduction} {self.window}"
        return f"REDUCE    {self.target}{self.region} <- {what} of {self.source}  {_steps_text(self.steps)}"


@dataclass(eq=False)
class ReduceAcross:
    """``target[region] = steps(sum of all copies of source)``."""

    source: Tile
    target: Tile
    region: Region
    steps: tuple[EpilogueStep, ...]

    def __str__(self) -> str:
        return (
            f"REDUCE    {self.target}{self.region} <- all {self.source.copies} {self.source}  {_steps_text(self.steps)}"
        )


@dataclass(eq=False)
class Store:
    """``target[region] = steps(source[region])`` for the pixels inside the image."""

    source: Tile
    target: Tile
    region: Region
    steps: tuple[EpilogueStep, ...] = ()

    def __str__(self) -> str:
        return f"STORE     {self.target}{self.region} <- {self.source}  {_steps_text(self.steps)}"


@dataclass(eq=False)
class Sync:
    """Wait until all threads of the CTA have come here."""

    def __str__(self) -> str:
        return "SYNC"


Instruction: TypeAlias = Load | Zero | Gemm | Epilogue | Depthwise | Reduce | ReduceAcross | Store | Sync


# ---- control ---------------------------------------------------------------------------------------------------------


class LoopKind(StrEnum):
    """What the trips of a loop are."""

    IMAGE = "image"  # parallel: images of the batch
    TILE_H = "tile_h"  # parallel: rows of output tiles
    TILE_W = "tile_w"  # parallel: columns of output tiles
    BAND = "band"  # parallel: bands of output rows
    CHANNEL_SPLIT = "channel_split"  # parallel: shares of the channels
    ROWS = "rows"  # sequential: rings of rows carry over
    CHUNK = "chunk"  # sequential: groups of channels
    SLICE = "slice"  # sequential: groups of taps or input channels of one sum

    @property
    def is_parallel(self) -> bool:
        """Whether trips may run at the same time."""
        return self in {LoopKind.IMAGE, LoopKind.TILE_H, LoopKind.TILE_W, LoopKind.BAND, LoopKind.CHANNEL_SPLIT}


@dataclass(eq=False)
class Loop:
    """``body`` for ``var`` in 0 .. count-1. All parallel loops around each other form one grid."""

    var: str
    count: int
    kind: LoopKind
    body: list[Node]


@dataclass(eq=False)
class Pixels:
    """``body`` for pieces of a region: each piece is zeroed, summed and finished while it is in registers.

    Attributes:
        region: The accumulators' region; pieces together cover it once.
        pixels: Pixels of a piece: columns of one row on a CPU, m16 tiles per warp on a GPU.
        vectors: Channel vectors of a piece on a CPU.
        body: ZERO, GEMMs, EPILOGUE.
    """

    region: Region
    pixels: int
    vectors: int
    body: list[Node]


@dataclass(frozen=True)
class Item:
    """What a step takes from the weight stream.

    Attributes:
        name: For people.
        slices: The weights in it, in the order they are packed.
        base: First element of the item with index 0 in the packed stream.
        index: Which item of its kind this is.
        size: Elements of one item.
    """

    name: str
    slices: tuple[WeightSlice, ...]
    base: int
    index: Affine
    size: int


@dataclass(eq=False)
class Step:
    """``body`` with one item of the weight stream present in its slot; begins with a barrier.

    ``number`` is the position of the step in execution order.
    """

    item: Item
    body: list[Node]
    number: Affine = field(default_factory=Affine)


Node: TypeAlias = Instruction | Loop | Pixels | Step


@dataclass(eq=False)
class Program:
    """One kernel for one plan.

    Attributes:
        name: Used for the kernel; carries the block's name.
        target: ``cpu`` or ``cuda``: whose sentences these are.
        batch: Number of images.
        inputs: Global tiles of the block's inputs, in order.
        output: Global tile of the result.
        tiles: All tiles that are not global.
        parameters: Shape of every constant that is read.
        body: The nodes.
        dtype: Of tiles in memory.
        arena: Elements of the local arena (0: tiles have storage of their own).
        ring: Slots of the weight stream and elements per slot, with the tile it lies in; None without a stream.
        lanes: Channels per vector on a CPU, per thread in DEPTHWISE on a GPU.
        threads: Threads per CTA, or the number of cores planned for.
        min_blocks: CTAs that an SM must be able to hold, which bounds the registers; 0 leaves them to the compiler.
    """

    name: str
    target: str
    batch: int
    inputs: tuple[Tile, ...]
    output: Tile
    tiles: tuple[Tile, ...]
    parameters: dict[ParameterKey, tuple[int, ...]]
    body: list[Node]
    dtype: str = "float32"
    arena: int = 0
    ring: Ring | None = None
    lanes: int = 16
    threads: int = 1
    min_blocks: int = 0

    def walk(self) -> Iterator[Node]:
        """All nodes, outermost first, in order."""
        return walk(self.body)

    def instructions(self) -> list[Instruction]:
        """All instructions, in order."""
        return [node for node in self.walk() if not isinstance(node, Loop | Pixels | Step)]

    def __str__(self) -> str:
        return "\n".join((_header(self), *_lines(self.body, 1), *_sum_lines(self), *_tile_lines(self)))


@dataclass(eq=False)
class Ring:
    """The slots that weight items pass through, in the order of steps.

    Attributes:
        depth: Number of slots.
        slot: Elements of one slot.
        offset: First element in the arena.
    """

    depth: int
    slot: int
    offset: int = -1


def walk(nodes: list[Node]) -> Iterator[Node]:
    """All nodes below, outermost first, in order."""
    for node in nodes:
        yield node
        if isinstance(node, Loop | Pixels | Step):
            yield from walk(node.body)


def reads(instruction: Instruction) -> tuple[Tile, ...]:
    """Tiles an instruction reads, those of its epilogue included."""
    steps: tuple[EpilogueStep, ...] = getattr(instruction, "steps", ())
    added = tuple(step.tile for step in steps if isinstance(step, Residual))
    source: Tile | None = getattr(instruction, "source", None)
    own = written(instruction) if any(isinstance(step, Accumulate) for step in steps) else ()
    return (*((source,) if source else ()), *added, *own)


def written(instruction: Instruction) -> tuple[Tile, ...]:
    """Tiles an instruction writes."""
    target: Tile | Accumulators | None = getattr(instruction, "target", None)
    return (target,) if isinstance(target, Tile) else ()


# ---- text ------------------------------------------------------------------------------------------------------------


def _steps_text(steps: tuple[EpilogueStep, ...]) -> str:
    return ", ".join(map(str, steps))


def _header(program: Program) -> str:
    inputs = ", ".join(f"{tile} {tile.image}{' planar' if tile.planar else ''}" for tile in program.inputs)
    return f"program {program.name} ({program.target}): {program.batch} x ({inputs}) -> {program.output.image}"


def _lines(nodes: list[Node], depth: int) -> list[str]:
    pad = "  " * depth
    out: list[str] = []
    for node in nodes:
        match node:
            case Loop():
                word = "parallel" if node.kind.is_parallel else "for"
                out += [f"{pad}{word} {node.var} in {node.count} ({node.kind}):", *_lines(node.body, depth + 1)]
            case Pixels():
                size = f"{node.pixels} x {node.vectors} vectors" if node.vectors else f"{node.pixels} m16 tiles"
                out += [f"{pad}pixels of {node.region} by {size}:", *_lines(node.body, depth + 1)]
            case Step():
                item = node.item
                out.append(f"{pad}step {item.name}[{item.index}] {item.size} elements  #{node.number}:")
                out += _lines(node.body, depth + 1)
            case _:
                out.append(pad + str(node).rstrip())
    return out


def _sum_lines(program: Program) -> list[str]:
    sums = dict.fromkeys(node.acc for node in program.walk() if isinstance(node, Gemm) and node.acc.tiling)
    return [f"  sums {acc}: {acc.region} by {acc.tiling}" for acc in sums]


def _tile_lines(program: Program) -> list[str]:
    out = []
    for tile in program.tiles:
        shape = f"{tile.rows}x{tile.cols}x{tile.channels}"
        traits = [f"pitch {tile.pitch}"] if tile.pitch != tile.channels else []
        traits += [word for word in ("ring", "padded", "split_columns") if getattr(tile, word)]
        traits += [f"{tile.copies} copies"] if tile.copies > 1 else []
        if any(part != Affine() for part in (tile.top, tile.left, tile.first_channel)):
            traits.append(f"from ({tile.top}, {tile.left}, {tile.first_channel})")
        traits += [f"at {tile.offset}"] if tile.offset >= 0 else []
        out.append(f"  tile {tile.name}: {tile.level} {shape} of {tile.image}{''.join(', ' + t for t in traits)}")
    if program.ring:
        out.append(f"  ring: {program.ring.depth} slots of {program.ring.slot} at {program.ring.offset}")
    if program.arena:
        out.append(f"  arena: {program.arena} elements")
    return out
