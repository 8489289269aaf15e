"""Units -> instructions of a CPU program: what one sweep over the pixels of a region is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from blockfuse.machine import (
    Accumulate,
    Accumulators,
    Apply,
    Bias,
    Depthwise,
    Epilogue,
    EpilogueStep,
    Gemm,
    Grouped,
    Loop,
    LoopKind,
    Map,
    MultiplyBy,
    Node,
    Normalize,
    Pixels,
    Reduce,
    Region,
    Residual,
    ScaleBy,
    SlopeBy,
    Tile,
    WeightSlice,
    Zero,
    channels_of,
)
from blockfuse.machine.affine import Affine, Range, span, var
from blockfuse.plan.cpu import UnitTiling, shares_vectors
from blockfuse.plan.homes import Home, copied
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
    UnitStep,
)
from blockfuse.stages import ImageShape


@dataclass(frozen=True)
class Units:
    """Writes the units of a block.

    Attributes:
        folded: The block.
        lanes: Channels per vector.
        readable: The tile in which units find each value.
        homes: Values that lie in others, or are made there.
    """

    folded: Folded
    lanes: int
    readable: Mapping[int, Tile]
    homes: Mapping[int, Home]

    def unit(self, unit: Unit, tiling: UnitTiling, rows: Range, channels: Range | None = None) -> list[Node]:
        """What makes these rows and channels of a unit's result; everything but the rows by default."""
        region = box(unit.shape, rows, channels)
        target = self.readable[self.folded.value(self.folded.units.index(unit))]
        steps = self.steps(unit.epilogue)
        term = unit.terms[0]
        source = self.readable[term.source]
        match unit.kind:
            case "contract":
                return self._contract(unit, tiling, region, target, steps)
            case "grouped":
                return self._grouped(unit, tiling, region, target, steps)
            case "depthwise":
                taps = span(0, term.window.taps)
                weights = WeightSlice((term.stage, "weight"), taps, span(0, 1), region.channels, unit.name)
                return [Depthwise(source, target, weights, term.window, region, steps, tiling.pixels)]
            case "pool":
                return [Reduce(source, target, unit.reduction, term.window, region, steps, tiling.pixels, unit.count)]
            case "norm":
                return [Normalize(source, target, unit.epsilon, region, steps, tiling.pixels, unit.divisor)]
            case "concat" | "slice":
                return self._join(unit, rows, target)
        return [Map(source, target, region, steps, unit.frame)]

    def _join(self, unit: Unit, rows: Range, target: Tile) -> list[Node]:
        """Copies of what is not where it is to be."""
        nodes: list[Node] = []
        for value, first in copied(self.folded, self.homes, self.folded.units.index(unit)):
            source, to = self.readable[value], target
            if unit.kind == "slice":
                source = channels_of(source, f"{target}_of_{source}", first, target.image.channels)
            else:
                to = channels_of(target, f"{source}_in_{target}", first, source.image.channels)
            nodes.append(Map(source, to, box(to.image, rows), ()))
        return nodes

    def _contract(
        self, unit: Unit, tiling: UnitTiling, region: Region, target: Tile, steps: tuple[EpilogueStep, ...]
    ) -> list[Node]:
        if not tiling.filter_rows:
            acc = Accumulators(f"acc_{unit.name}", region)
            gemms = [self._gemm(acc, term, tiling) for term in unit.terms]
            return [Pixels(region, tiling.pixels, tiling.vectors, [Zero(acc), *gemms, Epilogue(acc, target, steps)])]
        return self._by_filter_rows(unit, tiling, region, target, steps)

    def _grouped(
        self, unit: Unit, tiling: UnitTiling, region: Region, target: Tile, steps: tuple[EpilogueStep, ...]
    ) -> list[Node]:
        """Narrow groups side by side in vectors; wider ones as one dense convolution each, group by group."""
        term = unit.terms[0]
        source, taps = self.readable[term.source], span(0, term.window.taps)
        inputs, outputs = source.image.channels // unit.groups, unit.shape.channels // unit.groups
        if shares_vectors(inputs, outputs, self.lanes):
            weights = WeightSlice((term.stage, "weight"), taps, span(0, inputs), region.channels, unit.name)
            return [Grouped(source, target, weights, term.window, inputs, region, steps, tiling.pixels)]
        group = var("group") if unit.groups > 1 else Affine()
        part = _with_channels(region, span(group * outputs, outputs))
        acc = Accumulators(f"acc_{unit.name}", part)
        weights = WeightSlice((term.stage, "weight"), taps, span(0, inputs), part.channels, unit.name)
        gemm = Gemm(acc, source, weights, term.window, tiling.prefetch, group * inputs)
        body: list[Node] = [Zero(acc), gemm, Epilogue(acc, target, steps)]
        pixels: list[Node] = [Pixels(part, tiling.pixels, tiling.vectors, body)]
        return [Loop("group", unit.groups, LoopKind.CHUNK, pixels)] if unit.groups > 1 else pixels

    def _by_filter_rows(
        self, unit: Unit, tiling: UnitTiling, region: Region, target: Tile, steps: tuple[EpilogueStep, ...]
    ) -> list[Node]:
        """Panel by panel, one filter row over all pixels at a time; the target holds the sums in between."""
        panel = tiling.vectors * self.lanes
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

    def partial(self, unit: Unit, tiling: UnitTiling, partial: Tile, inputs: Range) -> list[Node]:
        """What adds the products with some input channels of a pointwise contraction to a tile."""
        acc = Accumulators(f"acc_{unit.name}", box(unit.shape))
        gemm = self._gemm(acc, unit.terms[0], tiling, inputs=inputs)
        body: list[Node] = [Zero(acc), gemm, Epilogue(acc, partial, (Accumulate(),))]
        return [Pixels(acc.region, tiling.pixels, tiling.vectors, body)]

    def _gemm(
        self, acc: Accumulators, term: Term, tiling: UnitTiling, taps: Range | None = None, inputs: Range | None = None
    ) -> Gemm:
        taps = taps or span(0, term.window.taps)
        inputs = inputs or span(0, self.readable[term.source].image.channels)
        name = self.folded.block.stages[term.stage].name
        weights = WeightSlice((term.stage, "weight"), taps, inputs, acc.region.channels, name)
        return Gemm(acc, self.readable[term.source], weights, term.window, tiling.prefetch)

    def steps(self, steps: tuple[UnitStep, ...]) -> tuple[EpilogueStep, ...]:
        """A unit's epilogue in the words of programs."""
        out: list[EpilogueStep] = []
        for step in steps:
            match step:
                case AddBias():
                    out.append(Bias(tuple((stage, "bias") for stage in step.stages)))
                case Activate():
                    out.append(Apply(step.function))
                case AddValue():
                    out.append(Residual(self.readable[step.value]))
                case ScaleChannels():
                    out.append(ScaleBy(((step.stage, "scale"), (step.stage, "shift"))))
                case SlopeChannels():
                    out.append(SlopeBy((step.stage, "slope")))
                case MultiplyValue():
                    out.append(MultiplyBy(self.readable[step.value]))
        return tuple(out)


def box(shape: ImageShape, rows: Range | None = None, channels: Range | None = None) -> Region:
    """All columns of an image, and all rows and channels unless given."""
    return Region(rows or span(0, shape.height), span(0, shape.width), channels or span(0, shape.channels))


def _with_channels(region: Region, channels: Range) -> Region:
    return Region(region.rows, region.cols, channels)
