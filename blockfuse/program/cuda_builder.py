"""What the parts of a CUDA program's construction share: tiles by value, regions, and the stream of weights so far."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from blockfuse.block import PARTIAL
from blockfuse.machine import (
    Apply,
    Bias,
    EpilogueStep,
    Loop,
    LoopKind,
    Mask,
    MultiplyBy,
    Node,
    Region,
    Residual,
    ScaleBy,
    SlopeBy,
    Tile,
    global_tile,
)
from blockfuse.machine.affine import Affine, Range, span, var
from blockfuse.plan.cuda import CudaPlan
from blockfuse.plan.partial import Parts
from blockfuse.plan.units import (
    Activate,
    AddBias,
    AddValue,
    Folded,
    MultiplyValue,
    ScaleChannels,
    SlopeChannels,
    Term,
    Unit,
)
from blockfuse.program.cuda_tiles import (
    chunk_count,
    chunk_number,
    distinct,
    footprints_of,
    names,
    place,
    stored_channels,
)


class Builder(ABC):
    """The program under construction.

    Attributes:
        parts: What tiles of the result are reduced to, where it is pooled; ``tiles`` says what these are.
        local: Tile on the chip of every value that has one.
        extra: Further tiles, that hold parts of values.
        stored: Channels of every value as kept on the chip.
        streamed: Elements of weights so far.
        slot: Elements of the largest item so far.
    """

    def __init__(self, folded: Folded, plan: CudaPlan, tiles: Parts | None = None) -> None:
        self.folded, self.plan, self.shapes, self.tiles = folded, plan, folded.shapes, tiles
        self.last = len(self.shapes) - 1
        types = dict.fromkeys(folded.block.partial, PARTIAL)
        self.inputs = tuple(
            global_tile(f"input_{i}", shape, stack=folded.stack(i), dtype=types.get(i, ""))
            for i, shape in enumerate(folded.block.inputs)
        )
        self.output = global_tile("result", self.shapes[-1], stack=folded.stack(self.last))
        self.parts = global_tile("result_parts", tiles.image, stack=tiles.stack, dtype=PARTIAL) if tiles else None
        self.prints = footprints_of(folded, plan)
        self.local = place(folded, plan)
        self.extra: list[Tile] = []
        self.names = names(folded)
        self.stage_names = distinct([stage.name for stage in folded.block.stages])
        self.stored = [stored_channels(folded, plan, value) for value in range(len(self.shapes))]
        self.streamed = 0
        self.slot = 0

    @abstractmethod
    def produce(self, value: int, c: Affine) -> list[Node]:
        """Nodes that make chunk ``c`` of a value's channels available in its tile."""

    # ---- values ------------------------------------------------------------------------------------------------------
    def index(self, value: int) -> int:
        """Number of the unit that makes a value."""
        return value - self.folded.input_count

    def is_input(self, value: int) -> bool:
        """Whether a value is read from memory."""
        return value < self.folded.input_count

    def chunks(self, value: int, body: Callable[[Affine], list[Node]], some: int = 0) -> list[Node]:
        """``body`` for every chunk of a value's channels; for ``some`` of an input's, numbered from 0, where given."""
        count = some or chunk_count(self.folded, self.plan, value)
        number = chunk_number(self.folded, self.plan, value, self.names[value])
        number = (var(f"{self.names[value]}_c") if some > 1 else Affine()) if some else number
        return body(number) if count == 1 else [Loop(f"{self.names[value]}_c", count, LoopKind.CHUNK, body(number))]

    def source(self, term: Term, c: Affine) -> list[Node]:
        """Makes the chunk that a unit without a sum over channels reads, where it is not there already."""
        is_there = self.plan.homes[term.source].whole or self.is_input(term.source)
        return [] if is_there else self.produce(term.source, c)

    # ---- places ------------------------------------------------------------------------------------------------------
    def region(self, value: int, low: Affine, channels: int) -> Region:
        """What is computed of a value: all of its tile, less what is known to lie outside the image."""
        tile, place = self.local[value], self.prints[value]
        rows = span(tile.top + (place.rows.before - place.made_rows.before), place.made_rows.size)
        cols = span(tile.left + (place.cols.before - place.made_cols.before), place.made_cols.size)
        return Region(rows, cols, span(low, channels))

    def held(self, value: int) -> Region:
        """All pixels of an input's tile, and all channels it holds at a time."""
        tile = self.local[value]
        channels = span(tile.first_channel, tile.channels)
        return Region(span(tile.top, tile.rows), span(tile.left, tile.cols), channels)

    def place_of_parts(self) -> tuple[Range, Range]:
        """Rows and columns of the pixels that a CTA's tile is reduced to: one, or one for each image of a stack."""
        out, plan = self.shapes[self.last], self.plan
        if self.tiles is not None and self.tiles.stack is not None:
            return span(0, self.tiles.stack.images), span(0, 1)
        top = var("tile_h") if out.height > plan.tile_p else Affine()
        left = var("tile_w") if out.width > plan.tile_q else Affine()
        return span(top, 1), span(left, 1)

    # ---- steps and stream --------------------------------------------------------------------------------------------
    def steps(self, unit: Unit, value: int) -> tuple[tuple[EpilogueStep, ...], tuple[EpilogueStep, ...]]:
        """What follows the sums: in the epilogue, and, from a value that is read from memory on, while storing."""
        early: list[EpilogueStep] = []
        late: list[EpilogueStep] = []
        for step in unit.epilogue:
            steps = late or early
            match step:
                case AddBias():
                    steps.append(Bias(tuple((stage, "bias") for stage in step.stages)))
                case Activate():
                    steps.append(Apply(step.function))
                case ScaleChannels():
                    steps.append(ScaleBy(((step.stage, "scale"), (step.stage, "shift"))))
                case SlopeChannels():
                    steps.append(SlopeBy((step.stage, "slope")))
                case MultiplyValue() if step.value in self.local and not self.local[step.value].streamed:
                    steps.append(MultiplyBy(self.local[step.value]))
                case MultiplyValue():
                    gate = MultiplyBy(self.inputs[step.value])
                    (steps if gate.is_gate else late).append(gate)
                case AddValue() if step.value in self.local and not self.local[step.value].streamed:
                    steps.append(Residual(self.local[step.value]))
                case AddValue():
                    late.append(Residual(self.inputs[step.value]))
        if self.local[value].padded:
            early.append(Mask())
        return tuple(early), tuple(late)

    def reserve(self, size: int, count: int, pixels: int = 0) -> int:
        """First element of ``count`` items of the stream, each with room for ``pixels`` elements of an image."""
        base = self.streamed
        self.streamed += size * count
        self.slot = max(self.slot, size + pixels)
        return base
