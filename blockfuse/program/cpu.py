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
from blockfuse.machine import Level, Load, Loop, LoopKind, Node, Program, ReduceAcross, Tile, Zero, global_tile
from blockfuse.machine.affine import Affine, Range, clip, first, span, var
from blockfuse.plan.cpu import CpuPlan
from blockfuse.plan.cpu_tiling import is_page
from blockfuse.plan.row_span import RowSpan, row_spans
from blockfuse.plan.units import Folded
from blockfuse.program.cpu_units import Units, box
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
        any_batch=folded.block.any_batch,
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
        self.units = Units(folded, plan.lanes, self.readable)

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
            body += self.units.unit(
                unit, plan.units[index], self._new_rows(spans[value], self.shapes[value], h0, h1, steps)
            )
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
        body = self.units.unit(unit, tiling, rows, span(var("share") * share, share))
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
            *self.units.unit(expand, plan.units[0], span(0, expand.shape.height), chunk),
            *self.units.unit(depthwise, plan.units[1], span(0, depthwise.shape.height), chunk),
            *self.units.partial(project, plan.units[2], partial, chunk),
        ]
        if trips > 1:
            body = [Loop("chunk", trips, LoopKind.CHUNK, body)]
        everything = box(project.shape)
        split = Loop("share", plan.tasks, LoopKind.CHANNEL_SPLIT, [Zero(partial, everything), *body])
        row = box(project.shape, span(var("band"), 1))
        gather = ReduceAcross(partial, self.tiles[len(self.shapes) - 1], row, self.units.steps(project.epilogue))
        together = Loop("band", project.shape.height, LoopKind.BAND, [gather])
        if self.folded.block.any_batch:  # the partial sums are those of one image
            return self._images([split, together])
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
        pitch = channels + self.plan.lanes if is_page(channels) else channels
        tile = Tile(name, Level.LOCAL, shape, rows, shape.width, channels, pitch)
        tile.ring = rows < shape.height
        tile.first_channel = first_channel or Affine()
        self.local.append(tile)
        self.readable[value] = tile

    def _load(self, value: int, rows: Range) -> Load:
        return Load(self.tiles[value], self.readable[value], box(self.shapes[value], rows))


def _size(shape: ImageShape) -> tuple[int, int, int, int]:
    return shape.height, shape.width, shape.channels, shape.channels
