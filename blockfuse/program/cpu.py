"""Block and plan -> tile program for a CPU.

A band of output rows is made step by step. Every intermediate value lives in a ring of rows that only ever holds what
the rows still to be made need, so nothing is computed twice inside a band::

    parallel image, band:
      for step:                       rows [h0, h1) of the output
        pixels of expand[new rows]:   the rows that this step needs and no earlier step made
        DEPTHWISE ...
        pixels of project[h0:h1]
"""

from __future__ import annotations

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
    Level,
    Load,
    Loop,
    LoopKind,
    Node,
    Pixels,
    Program,
    Reduce,
    ReduceAcross,
    Region,
    Residual,
    Tile,
    WeightSlice,
    Zero,
    global_tile,
)
from blockfuse.machine.affine import Affine, Range, clip, first, span, var
from blockfuse.plan.cpu import CpuPlan, UnitTiling
from blockfuse.plan.fold import Activate, AddBias, AddValue, Folded, Term, Unit, UnitStep
from blockfuse.plan.row_span import RowSpan, row_spans
from blockfuse.stages import ImageShape


def program_cpu(folded: Folded, plan: CpuPlan, name: str, planar: tuple[bool, ...] = ()) -> Program:
    """Write the tile program of a plan.

    Args:
        folded: The block.
        plan: The choices.
        name: For the kernel.
        planar: For each input, whether memory holds it channel by channel (N, C, H, W).
    """
    builder = _Builder(folded, plan, planar or (False,) * folded.input_count)
    body = {"rows": builder.rows, "panels": builder.panels, "channels": builder.channels}[plan.mode]()
    return Program(
        name,
        "cpu",
        folded.block.batch,
        tuple(builder.tiles[i] for i in range(folded.input_count)),
        builder.tiles[len(folded.shapes) - 1],
        tuple(builder.local),
        folded.block.parameter_shapes(),
        body,
        lanes=plan.lanes,
        threads=plan.threads,
    )


class _Builder:
    """The program under construction: tiles by value, and how a unit becomes nodes."""

    def __init__(self, folded: Folded, plan: CpuPlan, planar: tuple[bool, ...]) -> None:
        self.folded, self.plan, self.planar = folded, plan, planar
        self.shapes = folded.shapes
        self.per_band = -(-self.shapes[-1].height // plan.tasks)
        self.step_rows = min(plan.rows, self.per_band)
        self.local: list[Tile] = []
        self.tiles: dict[int, Tile] = {
            i: global_tile("x" if i == 0 else f"x{i}", shape, planar=planar[i])
            for i, shape in enumerate(folded.block.inputs)
        }
        self.tiles[len(self.shapes) - 1] = global_tile("y", self.shapes[-1])
        self.readable = dict(self.tiles)  # what units read: a loaded copy where the input is planar

    # ---- modes -------------------------------------------------------------------------------------------------------
    def rows(self) -> list[Node]:
        """Bands of output rows, made step by step."""
        plan = self.plan
        steps = -(-self.per_band // self.step_rows)
        h0, h1 = self._output_rows(steps)
        spans = row_spans(self.folded)
        for value in range(len(self.shapes) - 1):
            self._place(value, spans[value])
        body: list[Node] = []
        body += [
            self._load(value, self._new_rows(spans[value], self.shapes[value], h0, h1, steps))
            for value in range(self.folded.input_count)
            if self.planar[value]
        ]
        for index, unit in enumerate(self.folded.units):
            value = self.folded.value(index)
            body += self._unit(unit, plan.units[index], self._new_rows(spans[value], self.shapes[value], h0, h1, steps))
        if steps > 1:
            body = [Loop("step", steps, LoopKind.ROWS, body)]
        return self._images([Loop("band", plan.tasks, LoopKind.BAND, body)])

    def panels(self) -> list[Node]:
        """Shares of the output channels of a single contraction."""
        (unit,), (tiling,) = self.folded.units, self.plan.units
        share = unit.shape.channels // self.plan.tasks
        if share * self.plan.tasks != unit.shape.channels or any(self.planar):
            raise InternalError(
                f"{unit.name}: {unit.shape.channels} channels cannot be shared by {self.plan.tasks} tasks"
            )
        rows = span(0, unit.shape.height)
        body = self._unit(unit, tiling, rows, span(var("share") * share, share))
        return self._images([Loop("share", self.plan.tasks, LoopKind.CHANNEL_SPLIT, body)])

    def channels(self) -> list[Node]:
        """Shares of the hidden channels; every task makes a partial result, then all are summed."""
        expand, depthwise, project = self.folded.units
        plan, hidden = self.plan, expand.shape.channels
        trips = hidden // (plan.tasks * plan.chunk)
        if trips * plan.tasks * plan.chunk != hidden or self.folded.block.batch != 1 or any(self.planar):
            raise InternalError(f"{expand.name}: {hidden} hidden channels do not split {plan.tasks} x {plan.chunk}")
        low = var("share") * (trips * plan.chunk)
        low = low + var("chunk") * plan.chunk if trips > 1 else low
        for value in (self.folded.value(0), self.folded.value(1)):
            self._hold(value, self.shapes[value].height, channels=plan.chunk, first_channel=low)
        partial = Tile("partial", Level.LOCAL, project.shape, *_size(project.shape), copies=plan.tasks)
        self.local.append(partial)
        chunk = span(low, plan.chunk)
        body = [
            *self._unit(expand, plan.units[0], span(0, expand.shape.height), chunk),
            *self._unit(depthwise, plan.units[1], span(0, depthwise.shape.height), chunk),
            *self._partial(project, plan.units[2], partial, chunk),
        ]
        if trips > 1:
            body = [Loop("chunk", trips, LoopKind.CHUNK, body)]
        everything = _region(project.shape)
        split = Loop("share", plan.tasks, LoopKind.CHANNEL_SPLIT, [Zero(partial, everything), *body])
        row = _region(project.shape, span(var("band"), 1))
        gather = ReduceAcross(partial, self.tiles[len(self.shapes) - 1], row, self._steps(project.epilogue))
        together = Loop("band", project.shape.height, LoopKind.BAND, [gather])
        return [*self._images([split]), *self._images([together])]

    def _images(self, body: list[Node]) -> list[Node]:
        return [Loop("image", self.folded.block.batch, LoopKind.IMAGE, body)]

    # ---- rows and tiles ----------------------------------------------------------------------------------------------
    def _output_rows(self, steps: int) -> tuple[Affine, Affine]:
        """First and last-plus-one output row of a step."""
        height, rows, per_band = self.shapes[-1].height, self.step_rows, self.per_band
        start = var("band") * per_band if self.plan.tasks > 1 else Affine()
        h0 = start + var("step") * rows if steps > 1 else start
        if per_band * self.plan.tasks == height and steps * rows == per_band:
            return h0, h0 + rows
        end = clip(start + per_band, 0, height)
        return h0, clip(h0 + rows, 0, end)

    def _new_rows(self, needed: RowSpan, shape: ImageShape, h0: Affine, h1: Affine, steps: int) -> Range:
        """Rows of a value that this step needs and no earlier step of the band made."""
        if needed == RowSpan():
            return Range(h0, h1)
        low = clip(h0 * needed.stride - needed.before, 0, shape.height)
        high = clip((h1 - 1) * needed.stride + needed.after, 0, shape.height)
        if steps == 1 or needed.after + needed.before < needed.stride:
            return Range(low, high)
        made = clip((h0 - 1) * needed.stride + needed.after, 0, shape.height)
        return Range(first("step", low, made), high)

    def _place(self, value: int, needed: RowSpan) -> None:
        """Give an intermediate value, or a planar input, a ring of rows."""
        if value >= self.folded.input_count or self.planar[value]:
            self._hold(value, min(self.shapes[value].height, needed.alive(self.step_rows)))

    def _hold(self, value: int, rows: int, channels: int = 0, first_channel: Affine | None = None) -> None:
        shape = self.shapes[value]
        channels = channels or shape.channels
        inputs = self.folded.input_count
        name = (
            f"{self.tiles[value].name}_rows" if value < inputs else f"v{value}_{self.folded.units[value - inputs].name}"
        )
        tile = Tile(name, Level.LOCAL, shape, rows, shape.width, channels, channels)
        tile.ring = rows < shape.height
        tile.first_channel = first_channel or Affine()
        self.local.append(tile)
        self.readable[value] = tile

    # ---- units -------------------------------------------------------------------------------------------------------
    def _load(self, value: int, rows: Range) -> Load:
        return Load(self.tiles[value], self.readable[value], _region(self.shapes[value], rows))

    def _unit(self, unit: Unit, tiling: UnitTiling, rows: Range, channels: Range | None = None) -> list[Node]:
        region = _region(unit.shape, rows, channels)
        target = self.readable[self.folded.value(self.folded.units.index(unit))]
        steps = self._steps(unit.epilogue)
        if unit.kind == "contract":
            return self._contract(unit, tiling, region, target, steps)
        term = unit.terms[0]
        source = self.readable[term.source]
        if unit.kind == "pool":
            return [Reduce(source, target, unit.reduction, term.window, region, steps, tiling.pixels)]
        weights = WeightSlice((term.stage, "weight"), span(0, term.window.taps), span(0, 1), region.channels, unit.name)
        return [Depthwise(source, target, weights, term.window, region, steps, tiling.pixels)]

    def _contract(
        self, unit: Unit, tiling: UnitTiling, region: Region, target: Tile, steps: tuple[EpilogueStep, ...]
    ) -> list[Node]:
        if not tiling.filter_rows:
            acc = Accumulators(f"acc_{unit.name}", region)
            gemms = [self._gemm(acc, term, tiling) for term in unit.terms]
            return [Pixels(region, tiling.pixels, tiling.vectors, [Zero(acc), *gemms, Epilogue(acc, target, steps)])]
        return self._by_filter_rows(unit, tiling, region, target, steps)

    def _by_filter_rows(
        self, unit: Unit, tiling: UnitTiling, region: Region, target: Tile, steps: tuple[EpilogueStep, ...]
    ) -> list[Node]:
        """Panel by panel, one filter row over all pixels at a time; the target holds the sums in between."""
        panel = tiling.vectors * self.plan.lanes
        size = region.channels.size.const
        whole, rest = divmod(size, panel)
        nodes: list[Node] = []
        if whole:
            low = region.channels.low + var("panel") * panel if whole > 1 else region.channels.low
            swept = self._sweeps(unit, tiling, _with_channels(region, span(low, panel)), target, steps)
            nodes += [Loop("panel", whole, LoopKind.CHUNK, swept)] if whole > 1 else swept
        if rest:
            last = span(region.channels.low + whole * panel, rest)
            nodes += self._sweeps(unit, tiling, _with_channels(region, last), target, steps)
        return nodes

    def _sweeps(
        self, unit: Unit, tiling: UnitTiling, region: Region, target: Tile, steps: tuple[EpilogueStep, ...]
    ) -> list[Node]:
        parts = [(term, r) for term in unit.terms for r in range(term.window.r)]
        nodes: list[Node] = []
        for number, (term, r) in enumerate(parts):
            acc = Accumulators(f"acc_{unit.name}", region)
            before: tuple[EpilogueStep, ...] = (Accumulate(),) if number else ()
            after = steps if number == len(parts) - 1 else ()
            gemm = self._gemm(acc, term, tiling, span(r * term.window.s, term.window.s))
            body: list[Node] = [Zero(acc), gemm, Epilogue(acc, target, (*before, *after))]
            nodes.append(Pixels(region, tiling.pixels, tiling.vectors, body))
        return nodes

    def _partial(self, unit: Unit, tiling: UnitTiling, partial: Tile, inputs: Range) -> list[Node]:
        acc = Accumulators(f"acc_{unit.name}", _region(unit.shape))
        gemm = self._gemm(acc, unit.terms[0], tiling, inputs=inputs)
        body: list[Node] = [Zero(acc), gemm, Epilogue(acc, partial, (Accumulate(),))]
        return [Pixels(acc.region, tiling.pixels, tiling.vectors, body)]

    def _gemm(
        self, acc: Accumulators, term: Term, tiling: UnitTiling, taps: Range | None = None, inputs: Range | None = None
    ) -> Gemm:
        taps = taps or span(0, term.window.taps)
        inputs = inputs or span(0, self.shapes[term.source].channels)
        name = self.folded.block.stages[term.stage].name
        weights = WeightSlice((term.stage, "weight"), taps, inputs, acc.region.channels, name)
        return Gemm(acc, self.readable[term.source], weights, term.window, tiling.prefetch)

    def _steps(self, steps: tuple[UnitStep, ...]) -> tuple[EpilogueStep, ...]:
        out: list[EpilogueStep] = []
        for step in steps:
            match step:
                case AddBias():
                    out.append(Bias(tuple((stage, "bias") for stage in step.stages)))
                case Activate():
                    out.append(Apply(step.function))
                case AddValue():
                    out.append(Residual(self.readable[step.value]))
        return tuple(out)


def _size(shape: ImageShape) -> tuple[int, int, int, int]:
    return shape.height, shape.width, shape.channels, shape.channels


def _region(shape: ImageShape, rows: Range | None = None, channels: Range | None = None) -> Region:
    return Region(rows or span(0, shape.height), span(0, shape.width), channels or span(0, shape.channels))


def _with_channels(region: Region, channels: Range) -> Region:
    return Region(region.rows, region.cols, channels)
