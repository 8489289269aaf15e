"""Which tile of shared memory each value of a block has in a CUDA program: its place in the image, its layout."""

from __future__ import annotations

import re
from collections.abc import Sequence

from blockfuse.errors import InternalError
from blockfuse.integers import round_up
from blockfuse.machine import Level, Loop, LoopKind, Node, Tile
from blockfuse.machine.affine import Affine, clip, quotient, var
from blockfuse.machine.layout import Layout
from blockfuse.machine.windows import WARP, lanes_of_window
from blockfuse.plan.banks import DepthwiseReads, PoolReads, matrix_pitch
from blockfuse.plan.cuda import CudaPlan
from blockfuse.plan.cuda_groups import is_sum, wide_block
from blockfuse.plan.fold import Folded, Term, Unit
from blockfuse.plan.footprint import Extent, Footprint, footprints
from blockfuse.plan.infeasible import Impossible
from blockfuse.plan.layouts import (
    apart,
    depthwise_layout,
    filled,
    is_in_vectors,
    is_summed,
    matrix_layout,
    pool_layout,
    readers,
    vector_layout,
)

CORE = 16  # channels of an mma tile
SHARE = "share"  # variable of the loop over shares of the result's channels


def place(folded: Folded, plan: CudaPlan) -> dict[int, Tile]:
    """The tile of every value that has one; offsets are not decided yet.

    Raises:
        InternalError: Two paths through the block move over a value at different steps.
    """
    places = _Places(folded, plan)
    return {value: places.tile(value) for value in range(len(folded.shapes)) if not folded.stays_in_memory(value)}


def stored_channels(folded: Folded, plan: CudaPlan, value: int) -> int:
    """Channels of a value that are computed: whole mma tiles, chunks and shares; those above the image's are zero."""
    shares = plan.split if value == len(folded.shapes) - 1 else 1
    return round_up(round_up(folded.shapes[value].channels, CORE), plan.homes[value].chunk * shares)


def chunk_count(folded: Folded, plan: CudaPlan, value: int) -> int:
    """Chunks of a value that one CTA makes."""
    shares = plan.split if value == len(folded.shapes) - 1 else 1
    return stored_channels(folded, plan, value) // plan.homes[value].chunk // shares


def chunk_number(folded: Folded, plan: CudaPlan, value: int, name: str) -> Affine:
    """Which chunk a CTA is at, by the loops over a value's chunks and over shares of the result's channels."""
    count = chunk_count(folded, plan, value)
    shares = var(SHARE) * count if plan.split > 1 and value == len(folded.shapes) - 1 else Affine()
    return shares + (var(f"{name}_c") if count > 1 else 0)


def first_summed(folded: Folded, plan: CudaPlan, unit: Unit, value: int, c: Affine) -> Affine:
    """The first channel of an operand that chunk ``c`` of a sum is made of: where its share of the groups begins.

    Chunks behind the last share, which only the layout has, are made of the last one's.
    """
    block, channels = wide_block(folded, unit), folded.shapes[value].channels
    if block is None or block.outputs >= channels:
        return Affine()
    share = quotient(c, block.outputs // plan.homes[value].chunk)
    is_within = stored_channels(folded, plan, value) <= channels
    return (share if is_within else clip(share, 0, channels // block.outputs - 1)) * block.inputs


def footprints_of(folded: Folded, plan: CudaPlan) -> list[Footprint]:
    """The footprints at the plan's tile.

    Raises:
        InternalError: Two paths through the block move over a value at different steps.
    """
    prints = footprints(folded, plan.tile_p, plan.tile_q)
    if isinstance(prints, Impossible):
        raise InternalError(f"block {folded.block.name}: {prints}")
    return prints


def in_grid(folded: Folded, plan: CudaPlan, nodes: list[Node]) -> list[Node]:
    """What one CTA does, inside the loops over shares of channels, tiles and images."""
    out = folded.shapes[-1]
    if plan.split > 1:
        nodes = [Loop(SHARE, plan.split, LoopKind.CHANNEL_SPLIT, nodes)]
    grid = (
        ("tile_w", -(-out.width // plan.tile_q), LoopKind.TILE_W),
        ("tile_h", -(-out.height // plan.tile_p), LoopKind.TILE_H),
        ("image", folded.block.batch, LoopKind.IMAGE),
    )
    for variable, count, kind in grid:
        nodes = [Loop(variable, count, kind, nodes)]
    return nodes


def names(folded: Folded) -> list[str]:
    """A distinct identifier per value: the units' names, and x for inputs."""
    inputs = ["x" if i == 0 else f"x{i}" for i in range(folded.input_count)]
    return distinct([*inputs, *(unit.name for unit in folded.units)])


def distinct(wanted: Sequence[str]) -> list[str]:
    """C identifiers close to the wanted names, all different, none of them that of the output's tile."""
    found: list[str] = []
    for name in wanted:
        text = re.sub(r"\W", "_", name)
        text = f"s_{text}" if not text or text[0].isdigit() else text
        while text in {*found, "out"}:
            text = f"{text}_{len(found)}"
        found.append(text)
    return found


class _Places:
    """Decides the tiles one by one."""

    def __init__(self, folded: Folded, plan: CudaPlan) -> None:
        self.folded, self.plan, self.shapes = folded, plan, folded.shapes
        self.last = len(self.shapes) - 1
        self.prints = footprints_of(folded, plan)
        self.names = names(folded)
        self.stored = [stored_channels(folded, plan, value) for value in range(len(self.shapes))]

    def tile(self, value: int) -> Tile:
        home, shape, place = self.plan.homes[value], self.shapes[value], self.prints[value]
        is_out = value == self.last
        channels = self.stored[value] if home.whole and not is_out else home.chunk
        layout = self._layout(value, channels)
        return Tile(
            "out" if is_out else self.names[value],
            Level.REGISTER if home.registers else Level.LOCAL,
            shape,
            place.rows.size,
            place.cols.size,
            channels,
            layout.pitch,
            top=self._corner(place.rows, "tile_h", self.plan.tile_p, self.shapes[-1].height),
            left=self._corner(place.cols, "tile_w", self.plan.tile_q, self.shapes[-1].width),
            first_channel=self._first_channel(value, channels),
            padded=self._is_padded(value),
            apart_h=layout.apart_h,
            apart_w=layout.apart_w,
            gap=layout.gap,
            padding=layout.padding,
            streamed=value < self.folded.input_count and not home.whole,
            stack=self.folded.stack(value),
        )

    def _first_channel(self, value: int, channels: int) -> Affine:
        """The first of the channels that a value's tile holds at a time."""
        units = [unit for unit in self.folded.units if any(term.source == value for term in unit.terms)]
        block = wide_block(self.folded, units[0]) if units else None
        if block is not None and value < self.folded.input_count and not self.plan.homes[value].whole:
            made = self.folded.value(self.folded.units.index(units[0]))
            low = first_summed(self.folded, self.plan, units[0], made, self._chunk_number(made))
            return low + (var(f"{self.names[value]}_c") * channels if channels < block.inputs else 0)
        owner = self._chunk_owner(value)
        return self._chunk_number(owner) * channels if channels < self.stored[value] else Affine()

    def _chunk_number(self, value: int) -> Affine:
        return chunk_number(self.folded, self.plan, value, self.names[value])

    @staticmethod
    def _corner(extent: Extent, variable: str, tile: int, size: int) -> Affine:
        first = var(variable) * (tile * extent.step) if size > tile else Affine()
        return first - extent.before

    def _chunk_owner(self, value: int) -> int:
        """The value whose chunk loop runs around the making of a chunk of this one."""
        if value == self.last or self.plan.homes[value].whole:
            return value
        readers = [i for i, u in enumerate(self.folded.units) if any(t.source == value for t in u.terms)]
        is_summed = is_sum(self.folded, self.folded.units[readers[0]])
        return value if is_summed else self._chunk_owner(self.folded.value(readers[0]))

    def _is_padded(self, value: int) -> bool:
        """Whether a convolution reads zeros around the image."""
        terms = [t for u in self.folded.units if u.kind not in {"pool", "border"} for t in u.terms if t.source == value]
        return any(term.window.has_padding for term in terms)

    def _layout(self, value: int, channels: int) -> Layout:
        """How a value's tile lies in shared memory, for the way it is written and read."""
        rows, cols = self.prints[value].rows.size, self.prints[value].cols.size
        if self.plan.homes[value].registers:
            return Layout(rows, cols, channels)
        reads = readers(self.folded, value)
        kinds = {self.folded.units[index].kind for index, _ in reads}
        if self.plan.dense and kinds == {"depthwise"}:
            return Layout(rows, cols, channels)
        if kinds == {"depthwise"} and len(reads) == 1:
            return self._depthwise_layout(value, channels, *reads[0])
        pattern = self._pool_reads(*reads[0]) if kinds == {"pool"} and len(reads) == 1 else None
        if pattern is not None:
            return pool_layout(pattern, Layout(rows, cols, channels, *apart(self.folded, value)))
        if is_in_vectors(self.folded, value):
            return vector_layout(self.folded, self.prints, value, channels)
        return matrix_layout(self.folded, self.prints, value, matrix_pitch(channels), dense=self.plan.dense)

    def _pool_reads(self, index: int, term: Term) -> PoolReads | None:
        """How a pool reads its tile where several lanes share a window; None where each has one of its own."""
        made, lanes = self.folded.value(index), self.plan.lanes
        place, groups, window = self.prints[made], self.plan.homes[made].chunk // lanes, term.window
        shared_by = lanes_of_window(place.pixels * groups, window.taps, WARP * self.plan.warps)
        return PoolReads(shared_by, groups, lanes, place.pixels, place.cols.size, window) if shared_by > 1 else None

    def _depthwise_layout(self, value: int, channels: int, index: int, term: Term) -> Layout:
        result, window = self.folded.value(index), term.window
        pattern = DepthwiseReads(
            self.plan.homes[result].chunk,
            self.plan.lanes,
            32 * self.plan.warps,
            self.prints[value].rows.size,
            self.prints[value].cols.size,
            self.prints[result].made_cols.size,
            self.plan.units[index].segment,
            window.stride_h,
            window.stride_w,
            window.r,
        )
        fill = filled(self.folded, self.prints, value) if is_summed(self.folded, value) else None
        makers = self.folded.units[value - self.folded.input_count :][:1] if value >= self.folded.input_count else ()
        in_vectors = not makers or makers[0].kind == "norm"  # LOAD and NORM write 16 bytes at a time
        return depthwise_layout(pattern, channels, apart(self.folded, value), fill, multiple=8 if in_vectors else 4)
