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

from blockfuse.errors import InternalError
from blockfuse.integers import round_up
from blockfuse.machine import (
    Depthwise,
    Engine,
    EpilogueStep,
    Grouped,
    Item,
    Load,
    Loop,
    Map,
    Node,
    Normalize,
    Pixels,
    Program,
    Reduce,
    Region,
    Ring,
    Step,
    Store,
    WeightSlice,
    Zero,
    walk,
    written,
)
from blockfuse.machine.affine import Affine, span
from blockfuse.machine.groups import DEPTH, block_steps, group_block
from blockfuse.plan.cuda import CudaPlan
from blockfuse.plan.cuda_groups import is_sum
from blockfuse.plan.partial import parts_of
from blockfuse.plan.stack import over_stacks
from blockfuse.plan.units import Folded, Term, Unit
from blockfuse.program.check import WGMMA_ALIGNMENT, check
from blockfuse.program.cuda_builder import Builder
from blockfuse.program.cuda_direct import draft_direct
from blockfuse.program.cuda_sums import contract
from blockfuse.program.cuda_tiles import in_grid
from blockfuse.program.passes import ALIGNMENT, arena, barriers, number


def program_cuda(folded: Folded, plan: CudaPlan, name: str) -> Program:
    """Write the tile program of a plan.

    Args:
        folded: The block.
        plan: The choices; made for this block.
        name: For the kernel.

    Raises:
        InternalError: The plan does not fit the block, or the program breaks a rule of :mod:`blockfuse.program.check`.
    """
    program = _program(folded, plan, name, draft=False)
    check(program)
    return program


def draft_cuda(folded: Folded, plan: CudaPlan, name: str) -> Program:
    """The same without numbers of items, barriers and checks, to see what a plan would need.

    Raises:
        InternalError: The plan does not fit the block.
    """
    return _program(folded, plan, name, draft=True)


def _program(folded: Folded, plan: CudaPlan, name: str, *, draft: bool) -> Program:
    if plan.direct:
        return draft_direct(folded, plan, name)
    tiles = parts_of(folded, plan) if folded.block.pooled else None
    batch, folded = folded.block.batch, over_stacks(folded, plan.images)
    builder = _Builder(folded, plan, tiles)
    nodes = builder.nodes()
    line = WGMMA_ALIGNMENT // 2 if plan.engine is Engine.WGMMA else ALIGNMENT
    ring = Ring(plan.depth, round_up(builder.slot, line), alignment=line) if builder.slot else None
    size = arena(nodes, ring)
    if not draft:
        number(nodes)
        barriers(nodes, ring)
    return Program(
        name,
        "cuda",
        batch,
        builder.inputs,
        builder.output,
        (*builder.local.values(), *builder.extra),
        folded.block.parameter_shapes(),
        in_grid(folded, plan, nodes),
        dtype=folded.block.dtype,
        arena=size,
        ring=ring,
        lanes=plan.lanes,
        threads=32 * plan.warps,
        min_blocks=plan.resident,
        any_batch=folded.block.any_batch,
        parts=builder.parts,
    )


class _Builder(Builder):
    """The nodes of every value, by the kind of unit that makes it."""

    def nodes(self) -> list[Node]:
        """What one CTA does."""
        nodes: list[Node] = [
            Load(self.inputs[v], tile, self.held(v))
            for v, tile in self.local.items()
            if self.is_input(v) and not tile.streamed
        ]
        for index in range(len(self.folded.units)):
            value = self.folded.value(index)
            if value == self.last or self.plan.homes[value].whole:
                made = self.chunks(value, lambda c, value=value: self.produce(value, c))  # type: ignore[misc]
                nodes += [*self._borders(made), *made]
        return nodes

    def produce(self, value: int, c: Affine) -> list[Node]:
        """Nodes that make chunk ``c`` of a value's channels available in its tile."""
        unit = self.folded.units[self.index(value)]
        chunk = self.plan.homes[value].chunk
        region = self.region(value, c * chunk, chunk)
        early, late = self.steps(unit, value)
        match unit.kind:
            case "contract" | "grouped" if is_sum(self.folded, unit):
                nodes = contract(self, unit, value, c, region, early)
            case "depthwise":
                nodes = self._depthwise(unit, value, c, region, early)
            case "pool":
                nodes = self._pool(unit, value, c, region, early)
            case "grouped":
                nodes = self._grouped(unit, value, c, region, early)
            case "norm" | "border" | "map":
                nodes = self._elementwise(unit, value, c, region, early)
        return [*nodes, *self._leaving(region, late)] if value == self.last else nodes

    def _leaving(self, region: Region, late: tuple[EpilogueStep, ...]) -> list[Node]:
        """Stores a chunk of the result, and reduces it where it is pooled."""
        out = self.local[self.last]
        nodes: list[Node] = [Store(out, self.output, region, late)]
        if self.parts is None or self.tiles is None:
            return nodes
        if late:
            raise InternalError(f"block {self.folded.block.name}: what is pooled would be complete only in memory")
        rows, cols = self.place_of_parts()
        pixels, count = Region(rows, cols, region.channels), int(self.folded.block.pooled == "mean")
        reduce = Reduce(out, self.parts, self.folded.block.pooled, self.tiles.window, pixels, (), count=count)
        return [*nodes, reduce]

    def _depthwise(
        self, unit: Unit, value: int, c: Affine, region: Region, steps: tuple[EpilogueStep, ...]
    ) -> list[Node]:
        term, chunk = unit.terms[0], self.plan.homes[value].chunk
        size = round_up(term.window.taps * chunk, ALIGNMENT)
        before = self.source(term, c)
        name = self.stage_names[term.stage]
        weights = WeightSlice((term.stage, "weight"), span(0, term.window.taps), span(0, 1), region.channels, name)
        segment = self.plan.units[self.index(value)].segment
        source, target = self.local[term.source], self.local[value]
        body: list[Node] = [Depthwise(source, target, weights, term.window, region, steps, segment)]
        return [*before, self._step(term, value, c, (weights,), size, body)]

    def _grouped(
        self, unit: Unit, value: int, c: Affine, region: Region, steps: tuple[EpilogueStep, ...]
    ) -> list[Node]:
        term, chunk, window = unit.terms[0], self.plan.homes[value].chunk, unit.terms[0].window
        channels = self.shapes[term.source].channels
        width = channels // unit.groups
        block = group_block(unit.groups, channels, unit.shape.channels)
        size = chunk * block_steps(block.inputs, window.r, window.s) * DEPTH
        before = self.source(term, c)
        name = self.stage_names[term.stage]
        weights = WeightSlice((term.stage, "weight"), span(0, window.taps), span(0, width), region.channels, name)
        together = self.plan.units[self.index(value)].segment
        source, target = self.local[term.source], self.local[value]
        body: list[Node] = [Grouped(source, target, weights, window, width, region, steps, together)]
        return [*before, self._step(term, value, c, (weights,), size, body)]

    def _step(
        self, term: Term, value: int, c: Affine, slices: tuple[WeightSlice, ...], size: int, body: list[Node]
    ) -> Step:
        """A step with part of a filter, and with the input's channels where those arrive in chunks."""
        source, count = self.local[term.source], self.stored[value] // self.plan.homes[value].chunk
        pixels = Load(self.inputs[term.source], source, self.held(term.source)) if source.streamed else None
        base = self.reserve(size, count, source.size if source.streamed else 0)
        return Step(Item(self.stage_names[term.stage], slices, base, c, size, pixels), body)

    def _elementwise(
        self, unit: Unit, value: int, c: Affine, region: Region, steps: tuple[EpilogueStep, ...]
    ) -> list[Node]:
        source, target = self.local[unit.terms[0].source], self.local[value]
        if unit.kind == "norm":
            norm = Normalize(source, target, unit.epsilon, region, steps, divisor=unit.divisor)
            return [*self.source(unit.terms[0], c), norm]
        return self._without_weights(unit.terms[0], value, c, Map(source, target, region, steps, unit.frame))

    def _pool(self, unit: Unit, value: int, c: Affine, region: Region, steps: tuple[EpilogueStep, ...]) -> list[Node]:
        term = unit.terms[0]
        source = self.local.get(term.source) or self.inputs[term.source]
        reduce = Reduce(source, self.local[value], unit.reduction, term.window, region, steps, count=unit.count)
        return self._without_weights(term, value, c, reduce)

    def _without_weights(self, term: Term, value: int, c: Affine, node: Map | Reduce) -> list[Node]:
        """An instruction behind what makes its operand; in a step if that arrives in chunks."""
        if node.source.streamed:
            return [self._step(term, value, c, (), 0, [node])]
        return [*self.source(term, c), node]

    def _borders(self, nodes: list[Node]) -> list[Node]:
        """ZERO for the tiles that these nodes fill but for pixels outside the image."""
        filled = {tile for node in walk(nodes) if not isinstance(node, Loop | Pixels | Step) for tile in written(node)}
        placed = {tile for tile in filled if tile.is_placed}
        return [Zero(tile) for value, tile in self.local.items() if tile in placed and self.prints[value].has_border]
