"""Stages folded into units: one that needs a sweep over the pixels, and the elementwise ones behind it as its epilogue.

A unit is what one sweep over the pixels computes. A 1x1 projection that is only added to another convolution is
folded into it as a second term of the same sum. An elementwise stage that follows no unit it could join, such as the
activation that begins a pre-activation block or the gate of a squeeze-excite block, becomes a unit of its own.
"""

from __future__ import annotations

from dataclasses import replace

from blockfuse.block import Block
from blockfuse.errors import InternalError
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
    UnitKind,
    UnitStep,
)
from blockfuse.stages import (
    Activation,
    Add,
    Border,
    Concat,
    Conv,
    Depthwise,
    Grouped,
    ImageShape,
    Multiply,
    Norm,
    Pool,
    Scale,
    Slice,
    Slope,
    Stage,
    Window,
)

__all__ = [
    "Activate",
    "AddBias",
    "AddValue",
    "Folded",
    "MultiplyValue",
    "ScaleChannels",
    "SlopeChannels",
    "Term",
    "Unit",
    "UnitKind",
    "UnitStep",
    "fold",
    "unfoldable",
]


def fold(block: Block) -> Folded:
    """Fold a block's elementwise stages into the units before them.

    Raises:
        InternalError: A stage kind has no rule; :func:`unfoldable` says so beforehand.
    """
    reason = unfoldable(block)
    if reason:
        raise InternalError(f"block {block.name}: {reason}")
    return _Folding(block).run()


_FOLDED = (Activation, Add, Border, Concat, Conv, Depthwise, Grouped, Multiply, Norm, Pool, Scale, Slice, Slope)


def unfoldable(block: Block) -> str:
    """Why a block cannot be folded into units, or "" if it can."""
    unknown = [stage for stage in block.stages if not isinstance(stage, _FOLDED)]
    return f"stage kind {type(unknown[0]).__name__} has no folding rule" if unknown else ""


class _Folding:
    """The fold in progress: units so far, and which unit (or input) now stands for each value of the block."""

    def __init__(self, block: Block) -> None:
        self.block = block
        self.shapes = block.shapes
        self.units: list[Unit] = []
        self.holder: dict[int, int] = {i: i for i in range(len(block.inputs))}  # block value -> folded value
        self.readers = {
            value: sum(stage.inputs.count(value) for stage in block.stages)
            for value in range(len(block.inputs) + len(block.stages))
        }

    def run(self) -> Folded:
        inputs = len(self.block.inputs)
        for number, stage in enumerate(self.block.stages):
            held = self._place(stage, number, self.shapes[inputs + number])
            self.holder[inputs + number] = held
            unit = self.units[held - inputs]
            self.units[held - inputs] = replace(unit, stages=tuple(sorted({*unit.stages, number})))
        return self._compact()

    def _place(self, stage: Stage, number: int, shape: ImageShape) -> int:
        source = self.holder[stage.inputs[0]]
        match stage:
            case Conv():
                term = Term(source, number, stage.window)
                return self._new(Unit("contract", (term,), shape, (AddBias((number,)),), name=stage.name))
            case Grouped():
                term, steps = Term(source, number, stage.window), (AddBias((number,)),)
                return self._new(Unit("grouped", (term,), shape, steps, groups=stage.groups, name=stage.name))
            case Depthwise():
                term = Term(source, number, stage.window)
                return self._new(Unit("depthwise", (term,), shape, (AddBias((number,)),), name=stage.name))
            case Pool():
                term = Term(source, number, stage.window)
                return self._new(Unit("pool", (term,), shape, (), stage.reduction, stage.count, name=stage.name))
            case Border():
                term = Term(source, number, stage.frame.window)
                return self._new(Unit("border", (term,), shape, (), frame=stage.frame, name=stage.name))
            case Norm():
                term, scale = Term(source, number, Window()), (ScaleChannels(number),)
                unit = Unit(
                    "norm", (term,), shape, scale, epsilon=stage.epsilon, divisor=stage.divisor, name=stage.name
                )
                return self._new(unit)
            case Concat() | Slice():
                return self._join(stage, number, shape)
        return self._elementwise(stage, number)

    def _join(self, stage: Concat | Slice, number: int, shape: ImageShape) -> int:
        """A unit of what only says where channels are."""
        terms = tuple(Term(self.holder[value], number, Window()) for value in stage.inputs)
        if isinstance(stage, Slice):
            return self._new(Unit("slice", terms, shape, first=stage.first, name=stage.name))
        return self._new(Unit("concat", terms, shape, name=stage.name))

    def _elementwise(self, stage: Stage, number: int) -> int:
        """A step of a unit that is there already, or a unit of its own."""
        match stage:
            case Activation():
                return self._extend(stage, number, stage.inputs[0], Activate(stage.function))
            case Scale():
                return self._extend(stage, number, stage.inputs[0], ScaleChannels(number))
            case Slope():
                return self._extend(stage, number, stage.inputs[0], SlopeChannels(number))
            case Add():
                return self._add(stage, number)
            case Multiply():
                return self._multiply(stage, number)
        raise InternalError(f"stage kind {type(stage).__name__} has no folding rule")

    def _new(self, unit: Unit) -> int:
        self.units.append(unit)
        return len(self.block.inputs) + len(self.units) - 1

    def _is_open(self, value: int) -> bool:
        """Whether a block value is a unit's result that nothing else reads, so that a stage can still join it."""
        held = self.holder[value] - len(self.block.inputs)
        return held >= 0 and self.readers[value] == 1 and not self.units[held].is_join

    def _extend(self, stage: Stage, number: int, value: int, step: UnitStep) -> int:
        """Apply a step to a value: in the epilogue of the unit that makes it, or in a unit of its own."""
        held = self.holder[value]
        if not self._is_open(value):
            term = Term(held, number, Window())
            return self._new(Unit("map", (term,), self.shapes[value], (step,), name=stage.name))
        index = held - len(self.block.inputs)
        unit = self.units[index]
        self.units[index] = replace(unit, epilogue=(*unit.epilogue, step))
        return held

    def _add(self, stage: Stage, number: int) -> int:
        a, b = sorted(stage.inputs, key=lambda value: self.holder[value])
        if a != b and self._is_open(b) and self._can_merge(a, b):
            return self._merge(a, b)
        return self._extend(stage, number, b, AddValue(self.holder[a]))

    def _multiply(self, stage: Stage, number: int) -> int:
        """The product joins the unit of the value made last, unless that is the gate of a larger one."""
        a, b = sorted(stage.inputs, key=lambda value: self.holder[value])
        if self.shapes[b].pixels >= self.shapes[a].pixels:
            return self._extend(stage, number, b, MultiplyValue(self.holder[a]))
        step, held = MultiplyValue(self.holder[b]), self.holder[a]
        return self._new(Unit("map", (Term(held, number, Window()),), self.shapes[a], (step,), name=stage.name))

    def _can_merge(self, a: int, b: int) -> bool:
        """Whether value ``a`` is a bare convolution read by this add alone, and ``b`` is one too."""
        if not self._is_open(a):
            return False
        units = [self.units[self.holder[value] - len(self.block.inputs)] for value in (a, b)]
        return all(u.kind == "contract" and len(u.epilogue) == 1 for u in units)

    def _merge(self, a: int, b: int) -> int:
        inputs = len(self.block.inputs)
        first, last = self.units[self.holder[a] - inputs], self.units[self.holder[b] - inputs]
        main, side = sorted((first, last), key=lambda unit: unit.terms[0].source, reverse=True)
        stages = tuple(s for u in (main, side) for e in u.epilogue if isinstance(e, AddBias) for s in e.stages)
        self.units[self.holder[b] - inputs] = replace(
            main,
            terms=(*main.terms, *side.terms),
            epilogue=(AddBias(stages),),
            stages=tuple(sorted((*main.stages, *side.stages))),
        )
        self.units[self.holder[a] - inputs] = replace(first, terms=())  # dropped by _compact
        return self.holder[b]

    def _compact(self) -> Folded:
        inputs = len(self.block.inputs)
        kept = [i for i, unit in enumerate(self.units) if unit.terms]
        number = {i: i for i in range(inputs)} | {inputs + old: inputs + new for new, old in enumerate(kept)}
        units = []
        for index in kept:
            unit = self.units[index]
            terms = tuple(replace(term, source=number[term.source]) for term in unit.terms)
            steps = tuple(
                replace(e, value=number[e.value]) if isinstance(e, AddValue | MultiplyValue) else e
                for e in unit.epilogue
            )
            units.append(replace(unit, terms=terms, epilogue=steps))
        return Folded(self.block, tuple(units))
