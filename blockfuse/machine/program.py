"""Loops around instructions, and the program they make up, as data and as text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

from blockfuse.block import ParameterKey
from blockfuse.machine.affine import Affine
from blockfuse.machine.instructions import Gemm, Instruction, Load
from blockfuse.machine.sums import Engine, WeightSlice
from blockfuse.machine.tiles import Region, Tile

# ---- control ---------------------------------------------------------------------------------------------------------


class LoopKind(StrEnum):
    """What the trips of a loop are."""

    IMAGE = "image"  # parallel: images of the batch
    TILE_H = "tile_h"  # parallel: rows of output tiles
    TILE_W = "tile_w"  # parallel: columns of output tiles
    BAND = "band"  # parallel: bands of output rows
    CHANNEL_SPLIT = "channel_split"  # parallel: shares of the channels
    PHASE = "phase"  # parallel, of one trip: what one task does after all before it and before all behind it
    ROWS = "rows"  # sequential: rings of rows carry over
    CHUNK = "chunk"  # sequential: groups of channels
    SLICE = "slice"  # sequential: groups of taps or input channels of one sum

    @property
    def is_parallel(self) -> bool:
        """Whether trips may run at the same time."""
        return self not in {LoopKind.ROWS, LoopKind.CHUNK, LoopKind.SLICE}


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
        size: Elements of weights in one item.
        pixels: Part of an image that comes with them, into a streamed tile; or None.
    """

    name: str
    slices: tuple[WeightSlice, ...]
    base: int
    index: Affine
    size: int
    pixels: Load | None = None

    @property
    def space(self) -> int:
        """Elements it takes in its slot."""
        return self.size + (self.pixels.target.size if self.pixels else 0)

    def __str__(self) -> str:
        pixels = f" and {self.pixels.target} <- {self.pixels.source}{self.pixels.region}" if self.pixels else ""
        return f"{self.name}[{self.index}] {self.size} elements{pixels}"


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
        any_batch: Whether ``batch`` is only what was planned for: the kernel reads the number from its arguments.
        parts: Global tile of a second result: what every CTA's tile of the first one is reduced to; or None.
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
    any_batch: bool = False
    parts: Tile | None = None

    @property
    def outputs(self) -> tuple[Tile, ...]:
        """Global tiles of all results, the main one first."""
        return (self.output, *((self.parts,) if self.parts else ()))

    @property
    def together(self) -> int:
        """Images of one trip of the ``image`` loop."""
        return self.output.stack.images if self.output.stack else 1

    def walk(self) -> Iterator[Node]:
        """All nodes, outermost first, in order."""
        return walk(self.body)

    def instructions(self) -> list[Instruction]:
        """All instructions, in order."""
        return [node for node in self.walk() if not isinstance(node, Loop | Pixels | Step)]

    def uses(self, engine: Engine) -> bool:
        """Whether any sum is made with an engine."""
        tilings = [node.acc.tiling for node in self.walk() if isinstance(node, Gemm)]
        return any(tiling is not None and tiling.engine is engine for tiling in tilings)

    def __str__(self) -> str:
        return "\n".join((_header(self), *_lines(self.body, 1), *_sum_lines(self), *_tile_lines(self)))


@dataclass(eq=False)
class Ring:
    """The slots that weight items pass through, in the order of steps.

    Attributes:
        depth: Number of slots.
        slot: Elements of one slot.
        offset: First element in the arena.
        alignment: Elements that the ring's offset, and so every slot's, is a multiple of.
    """

    depth: int
    slot: int
    offset: int = -1
    alignment: int = 1


def walk(nodes: list[Node]) -> Iterator[Node]:
    """All nodes below, outermost first, in order."""
    for node in nodes:
        yield node
        if isinstance(node, Loop | Pixels | Step):
            yield from walk(node.body)


# ---- text ------------------------------------------------------------------------------------------------------------


def _header(program: Program) -> str:
    inputs = ", ".join(f"{tile} {tile.image}{' planar' if tile.planar else ''}" for tile in program.inputs)
    images = f"any batch, planned for {program.batch}," if program.any_batch else str(program.batch)
    results = ", ".join(str(tile.image) for tile in program.outputs)
    return f"program {program.name} ({program.target}): {images} x ({inputs}) -> {results}"


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
                out.append(f"{pad}step {node.item}  #{node.number}:")
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
        traits += [f"apart {tile.apart_h}x{tile.apart_w}"] if (tile.apart_h, tile.apart_w) != (1, 1) else []
        traits += [f"{word} {getattr(tile, word)}" for word in ("gap", "padding") if getattr(tile, word)]
        traits += [word for word in ("ring", "padded", "streamed", "shared") if getattr(tile, word)]
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
