"""Block and plan -> tile program for a CPU.

A band of output rows is made step by step. Every intermediate value lives in a ring of rows that only ever holds what
the rows still to be made need, so nothing is computed twice inside a band::

    parallel image, band:
      for step:                       rows [h0, h1) of the output
        pixels of expand[new rows]:   the rows that this step needs and no earlier step made
        DEPTHWISE ...
        pixels of project[h0:h1]

Where a gate needs the whole image, such loops follow each other, and what later ones read is in memory as a whole::

    for image:
      parallel band:                  expand, DEPTHWISE, the mean of every row
      one task:                       the mean of the means, and the layers of the gate
      parallel band:                  scale, project
"""

from __future__ import annotations

from blockfuse.errors import InternalError
from blockfuse.machine import (
    Level,
    Load,
    Loop,
    LoopKind,
    Node,
    Program,
    ReduceAcross,
    Tile,
    Zero,
    channels_of,
    global_tile,
)
from blockfuse.machine.affine import Affine, Range, span, var
from blockfuse.plan.cpu import CpuPlan
from blockfuse.plan.cpu_tiling import is_page
from blockfuse.plan.homes import homes
from blockfuse.plan.phases import Phase, by_rows, is_by_channels, phases
from blockfuse.plan.units import Folded
from blockfuse.program.cpu_bands import Bands
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
    folded = by_rows(folded)
    if len(folded.units) != len(plan.units):
        raise InternalError(f"block {folded.block.name} has {len(folded.units)} units, its plan {len(plan.units)}")
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
        self.local: list[Tile] = []
        self.tiles: dict[int, Tile] = {
            i: global_tile("x" if i == 0 else f"x{i}", shape, planar=planar[i])
            for i, shape in enumerate(folded.block.inputs)
        }
        self.tiles[len(self.shapes) - 1] = global_tile("y", self.shapes[-1])
        self.readable = dict(self.tiles)  # what units read: a loaded copy where the input is planar
        self.phases = phases(folded)
        self.homes = homes(folded, self.phases, plan.tasks, planar)
        self.units = Units(folded, plan.lanes, self.readable, self.homes)

    # ---- modes -------------------------------------------------------------------------------------------------------
    def rows(self) -> list[Node]:
        """Bands of rows, made step by step; phase after phase, with all tasks of one before any of the next."""
        found, tasks = self.phases, self.plan.tasks
        if len(found) == 1:
            return self._images([Loop("band", tasks, LoopKind.BAND, self._phase(found[0], 0))])
        bodies = [self._phase(phase, number) for number, phase in enumerate(found)]
        if tasks == 1:  # every task makes whole images
            return self._images([node for body in bodies for node in body])
        return self._images([self._grid(*each) for each in zip(range(len(found)), found, bodies, strict=True)])

    def _grid(self, number: int, phase: Phase, body: list[Node]) -> Node:
        if phase.height == 1:
            return Loop("gate", 1, LoopKind.PHASE, body)
        if number in self.plan.by_channels:
            return Loop("share", self.plan.tasks, LoopKind.CHANNEL_SPLIT, body)
        return Loop("band", self.plan.tasks, LoopKind.BAND, body)

    def _phase(self, phase: Phase, number: int) -> list[Node]:
        """What one task of a phase does."""
        folded, split = self.folded, number in self.plan.by_channels
        bands = Bands(phase.height, 1 if split or phase.height == 1 else self.plan.tasks, self.plan.rows)
        share = self._share(phase) if split else None
        loaded = [value for value in phase.spans if value < folded.input_count and self.planar[value]]
        made = [folded.value(index) for index in phase.units]
        for value in (*loaded, *(value for value in made if value not in self.homes)):
            self._place(value, phase, bands, share, number)
        for value in (value for value in made if value in self.homes):
            self._view(value)
        ranges = {value: bands.new_rows(needed, self.shapes[value]) for value, needed in phase.spans.items()}
        body: list[Node] = [self._load(value, ranges[value]) for value in loaded]
        for index in phase.units:
            unit, tiling = folded.units[index], self.plan.units[index]
            body += self.units.unit(unit, tiling, ranges[folded.value(index)], share)
        return [Loop("step", bands.steps, LoopKind.ROWS, body)] if bands.steps > 1 else body

    def _share(self, phase: Phase) -> Range:
        """The channels of a task."""
        channels, tasks = self.folded.units[phase.units[0]].shape.channels, self.plan.tasks
        if channels % tasks or not is_by_channels(self.folded, phase):
            raise InternalError(f"{channels} channels of a phase do not split in {tasks}")
        return span(var("share") * (channels // tasks), channels // tasks)

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

    # ---- tiles -------------------------------------------------------------------------------------------------------
    def _place(self, value: int, phase: Phase, bands: Bands, share: Range | None, number: int) -> None:
        """Give a value a ring of rows, or, where later phases read it, memory for all of it."""
        if value == len(self.shapes) - 1:
            return
        height = self.shapes[value].height
        if value in phase.kept:
            self._hold(value, height).shared = self.plan.tasks > 1
            return
        inside = [each for each, home in self.homes.items() if home.value == value and each in phase.spans]
        rows = min(height, max(phase.spans[each].alive(bands.step_rows) for each in (value, *inside)))
        if value < self.folded.input_count:
            self._hold(value, rows, suffix=f"_{number}" if number else "")
        elif share is None:
            self._hold(value, rows)
        else:
            self._hold(value, rows, channels=share.size.const, first_channel=share.low)

    def _hold(
        self, value: int, rows: int, channels: int = 0, first_channel: Affine | None = None, suffix: str = ""
    ) -> Tile:
        shape = self.shapes[value]
        channels = channels or shape.channels
        name = self._name(value) if value >= self.folded.input_count else f"{self.tiles[value].name}_rows{suffix}"
        pitch = channels + self.plan.lanes if is_page(channels) else channels
        tile = Tile(name, Level.LOCAL, shape, rows, shape.width, channels, pitch)
        tile.ring = rows < shape.height
        tile.first_channel = first_channel or Affine()
        self.local.append(tile)
        self.readable[value] = tile
        return tile

    def _view(self, value: int) -> None:
        """Let a value be some channels of another one."""
        home, channels = self.homes[value], self.shapes[value].channels
        self.readable[value] = channels_of(self.readable[home.value], self._name(value), home.first, channels)

    def _name(self, value: int) -> str:
        return f"v{value}_{self.folded.units[value - self.folded.input_count].name}"

    def _load(self, value: int, rows: Range) -> Load:
        return Load(self.tiles[value], self.readable[value], box(self.shapes[value], rows))


def _size(shape: ImageShape) -> tuple[int, int, int, int]:
    return shape.height, shape.width, shape.channels, shape.channels
