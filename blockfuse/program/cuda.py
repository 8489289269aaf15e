"""Block and plan -> tile program for a GPU.

One recursive function makes every value: :meth:`_Builder.produce` yields the nodes that make a chunk of its channels.
A contraction over a value that lives a chunk at a time asks for the chunks one by one and adds them up, so an
expand - depthwise - project block is::

    parallel image, tile_h, tile_w:
      LOAD x
      for depthwise_c:
        step expand:     pixels: ZERO, GEMM, EPILOGUE -> expand
        step depthwise:  DEPTHWISE expand -> depthwise
        step project:    GEMM += depthwise
      EPILOGUE, STORE
"""

from __future__ import annotations

from collections.abc import Callable

from blockfuse.errors import InternalError
from blockfuse.machine import (
    Accumulators,
    Apply,
    Bias,
    Depthwise,
    Epilogue,
    EpilogueStep,
    Gemm,
    Item,
    Load,
    Loop,
    LoopKind,
    Mask,
    Node,
    Pixels,
    Program,
    Reduce,
    Region,
    Residual,
    Ring,
    Step,
    Store,
    WeightSlice,
    Zero,
    global_tile,
    walk,
    written,
)
from blockfuse.machine.affine import Affine, span, var
from blockfuse.plan.cuda import CudaPlan, Slices
from blockfuse.plan.fold import Activate, AddBias, AddValue, Folded, Term, Unit
from blockfuse.program.check import check
from blockfuse.program.cuda_tiles import distinct, footprints_of, names, place, stored_channels
from blockfuse.program.passes import arena, barriers, number, rounded


def program_cuda(folded: Folded, plan: CudaPlan, name: str) -> Program:
    """Write the tile program of a plan.

    Args:
        folded: The block.
        plan: The choices; made for this block.
        name: For the kernel.

    Raises:
        InternalError: The plan does not fit the block, or the program breaks a rule of :mod:`blockfuse.program.check`.
    """
    builder = _Builder(folded, plan)
    nodes = builder.nodes()
    number(nodes)
    size = arena(nodes, builder.ring)
    barriers(nodes, builder.ring)
    program = Program(
        name,
        "cuda",
        folded.block.batch,
        builder.inputs,
        builder.output,
        tuple(builder.local.values()),
        folded.block.parameter_shapes(),
        _in_grid(folded, plan, nodes),
        dtype=folded.block.dtype,
        arena=size,
        ring=builder.ring,
        lanes=plan.lanes,
        threads=32 * plan.warps,
        min_blocks=plan.min_blocks,
    )
    check(program)
    return program


def _in_grid(folded: Folded, plan: CudaPlan, nodes: list[Node]) -> list[Node]:
    """What one CTA does, inside the loops over tiles and images."""
    out = folded.shapes[-1]
    grid = (
        ("tile_w", -(-out.width // plan.tile_q), LoopKind.TILE_W),
        ("tile_h", -(-out.height // plan.tile_p), LoopKind.TILE_H),
        ("image", folded.block.batch, LoopKind.IMAGE),
    )
    for variable, count, kind in grid:
        nodes = [Loop(variable, count, kind, nodes)]
    return nodes


class _Builder:
    """The program under construction: tiles by value, and the stream of weights so far."""

    def __init__(self, folded: Folded, plan: CudaPlan) -> None:
        self.folded, self.plan, self.shapes = folded, plan, folded.shapes
        self.last = len(self.shapes) - 1
        self.inputs = tuple(global_tile(f"input_{i}", shape) for i, shape in enumerate(folded.block.inputs))
        self.output = global_tile("result", self.shapes[-1])
        self.prints = footprints_of(folded, plan)
        self.local = place(folded, plan)
        self.names = names(folded)
        self.stage_names = distinct([stage.name for stage in folded.block.stages])
        self.stored = [stored_channels(folded, plan, value) for value in range(len(self.shapes))]
        self.streamed = 0  # elements of weights so far
        self.slot = 0
        self.ring: Ring | None = None

    # ---- the whole ---------------------------------------------------------------------------------------------------
    def nodes(self) -> list[Node]:
        """What one CTA does."""
        nodes: list[Node] = [
            Load(self.inputs[v], tile, self._held(v)) for v, tile in self.local.items() if v < self.folded.input_count
        ]
        for index in range(len(self.folded.units)):
            value = self.folded.value(index)
            if value == self.last or self.plan.homes[value].whole:
                made = self._chunks(value, lambda c, value=value: self.produce(value, c))  # type: ignore[misc]
                nodes += [*self._borders(made), *made]
        if self.slot:
            self.ring = Ring(self.plan.depth, rounded(self.slot))
        return nodes

    def _chunks(self, value: int, body: Callable[[Affine], list[Node]]) -> list[Node]:
        """``body`` for every chunk of a value's channels."""
        count = self.stored[value] // self.plan.homes[value].chunk
        if count == 1:
            return body(Affine())
        variable = f"{self.names[value]}_c"
        return [Loop(variable, count, LoopKind.CHUNK, body(var(variable)))]

    def produce(self, value: int, c: Affine) -> list[Node]:
        """Nodes that make chunk ``c`` of a value's channels available in its tile."""
        unit = self.folded.units[value - self.folded.input_count]
        chunk = self.plan.homes[value].chunk
        region = self._region(value, c * chunk, chunk)
        make = {"contract": self._contract, "depthwise": self._depthwise, "pool": self._pool}[unit.kind]
        early, late = self._steps(unit, value)
        nodes = make(unit, value, c, region, early)
        return [*nodes, Store(self.local[value], self.output, region, late)] if value == self.last else nodes

    # ---- units -------------------------------------------------------------------------------------------------------
    def _contract(
        self, unit: Unit, value: int, c: Affine, region: Region, steps: tuple[EpilogueStep, ...]
    ) -> list[Node]:
        plan = self.plan.units[value - self.folded.input_count]
        acc = Accumulators(f"acc_{self.names[value]}", region, plan.tiling)
        if plan.tiling is None or len(plan.slices) != len(unit.terms):
            raise InternalError(f"unit {unit.name} has no tiling")
        begin, end = Zero(acc), Epilogue(acc, self.local[value], steps)
        sums = [self._term(term, s, acc, c, value) for term, s in zip(unit.terms, plan.slices, strict=True)]
        alone = sums[0][0]
        if len(sums) == 1 and isinstance(alone, Step) and len(sums[0]) == 1:
            alone.body = [Pixels(region, plan.tiling.mb, 0, [begin, *alone.body, end])]
            return [alone]
        return [begin, *(node for nodes in sums for node in nodes), end]

    def _term(self, term: Term, slices: Slices, acc: Accumulators, c: Affine, value: int) -> list[Node]:
        """``acc`` += all of one term."""
        home, channels = self.plan.homes[term.source], self.stored[term.source]
        held = channels if home.whole else home.chunk
        per_tap, per_chunk = held // slices.ks, term.window.taps // slices.taps
        if per_tap * slices.ks != held or per_chunk * slices.taps != term.window.taps:
            raise InternalError(f"{term.window} filter of {held} channels does not split into {slices}")
        count = channels // held * per_tap * per_chunk
        output_chunks = self.stored[value] // self.plan.homes[value].chunk
        size = slices.taps * slices.ks * acc.region.channels.size.const
        base = self._reserve(size, count * output_chunks)

        def sums(chunk: Affine) -> list[Node]:
            index = (c * (channels // held) + chunk) * (per_tap * per_chunk)
            return self._slices(term, slices, acc, chunk * held, (per_chunk, per_tap), (base, index, size))

        if home.whole:
            return sums(Affine())
        return self._chunks(term.source, lambda chunk: [*self.produce(term.source, chunk), *sums(chunk)])

    def _slices(
        self,
        term: Term,
        slices: Slices,
        acc: Accumulators,
        low: Affine,
        counts: tuple[int, int],
        where: tuple[int, Affine, int],
    ) -> list[Node]:
        """A step per group of taps and of input channels: ``where`` is the first one's base, index and size."""
        (tap_groups, groups), (base, index, size) = counts, where
        name = self.stage_names[term.stage]
        tap = var(f"{name}_tap") if tap_groups > 1 else Affine()
        group = var(f"{name}_k") if groups > 1 else Affine()
        inputs = span(low + group * slices.ks, slices.ks)
        taps = span(tap * slices.taps, slices.taps)
        weights = WeightSlice((term.stage, "weight"), taps, inputs, acc.region.channels, name)
        item = Item(name, (weights,), base, index + tap * groups + group, size)
        nodes: list[Node] = [Step(item, [Gemm(acc, self.local[term.source], weights, term.window)])]
        if groups > 1:
            nodes = [Loop(f"{name}_k", groups, LoopKind.SLICE, nodes)]
        return [Loop(f"{name}_tap", tap_groups, LoopKind.SLICE, nodes)] if tap_groups > 1 else nodes

    def _depthwise(
        self, unit: Unit, value: int, c: Affine, region: Region, steps: tuple[EpilogueStep, ...]
    ) -> list[Node]:
        term, chunk = unit.terms[0], self.plan.homes[value].chunk
        size = rounded(term.window.taps * chunk)
        before = self._source(term, c)
        base = self._reserve(size, self.stored[value] // chunk)
        name = self.stage_names[term.stage]
        weights = WeightSlice((term.stage, "weight"), span(0, term.window.taps), span(0, 1), region.channels, name)
        segment = self.plan.units[value - self.folded.input_count].segment
        source, target = self.local[term.source], self.local[value]
        body: list[Node] = [Depthwise(source, target, weights, term.window, region, steps, segment)]
        return [*before, Step(Item(name, (weights,), base, c, size), body)]

    def _pool(self, unit: Unit, value: int, c: Affine, region: Region, steps: tuple[EpilogueStep, ...]) -> list[Node]:
        term = unit.terms[0]
        reduce = Reduce(self.local[term.source], self.local[value], unit.reduction, term.window, region, steps)
        return [*self._source(term, c), reduce]

    def _source(self, term: Term, c: Affine) -> list[Node]:
        """Makes the chunk that a unit without a sum over channels reads, where it is not there already."""
        return [] if self.plan.homes[term.source].whole else self.produce(term.source, c)

    def _steps(self, unit: Unit, value: int) -> tuple[tuple[EpilogueStep, ...], tuple[EpilogueStep, ...]]:
        """What follows the sums: in the epilogue, and, from a residual that is read from memory on, while storing."""
        early: list[EpilogueStep] = []
        late: list[EpilogueStep] = []
        for step in unit.epilogue:
            steps = late or early
            match step:
                case AddBias():
                    steps.append(Bias(tuple((stage, "bias") for stage in step.stages)))
                case Activate():
                    steps.append(Apply(step.function))
                case AddValue() if step.value in self.local:
                    steps.append(Residual(self.local[step.value]))
                case AddValue():
                    late.append(Residual(self.inputs[step.value]))
        if self.local[value].padded:
            early.append(Mask())
        return tuple(early), tuple(late)

    # ---- tiles and stream --------------------------------------------------------------------------------------------
    def _reserve(self, size: int, count: int) -> int:
        base = self.streamed
        self.streamed += size * count
        self.slot = max(self.slot, size)
        return base

    def _region(self, value: int, low: Affine, channels: int) -> Region:
        """What is computed of a value: all of its tile, less what is known to lie outside the image."""
        tile, place = self.local[value], self.prints[value]
        rows = span(tile.top + (place.rows.before - place.made_rows.before), place.made_rows.size)
        cols = span(tile.left + (place.cols.before - place.made_cols.before), place.made_cols.size)
        return Region(rows, cols, span(low, channels))

    def _held(self, value: int) -> Region:
        """All pixels and channels of an input's tile."""
        tile = self.local[value]
        return Region(span(tile.top, tile.rows), span(tile.left, tile.cols), span(0, tile.channels))

    def _borders(self, nodes: list[Node]) -> list[Node]:
        """ZERO for the tiles that these nodes fill but for pixels outside the image."""
        filled = {tile for node in walk(nodes) if not isinstance(node, Loop | Pixels | Step) for tile in written(node)}
        return [Zero(tile) for value, tile in self.local.items() if tile in filled and self.prints[value].has_border]
