"""Stages folded into units: one that moves data over pixels, and the elementwise stages behind it as its epilogue.

A unit is what one sweep over the pixels computes. A 1x1 projection that is only added to another convolution is
folded into it as a second term of the same sum.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from blockfuse.block import Block
from blockfuse.errors import InternalError
from blockfuse.stages import Activation, Add, Conv, Depthwise, Function, ImageShape, Pool, Stage, Window

UnitKind: TypeAlias = Literal["contract", "depthwise", "pool"]


@dataclass(frozen=True)
class Term:
    """One operand of a unit.

    Attributes:
        source: Number of the value read.
        stage: Number of the block's stage that owns the weights.
        window: How output pixels read input pixels.
    """

    source: int
    stage: int
    window: Window


@dataclass(frozen=True)
class AddBias:
    """Add the sum of the biases of these stages, per channel."""

    stages: tuple[int, ...]

    def __str__(self) -> str:
        return "bias"


@dataclass(frozen=True)
class Activate:
    """Apply an activation function."""

    function: Function

    def __str__(self) -> str:
        return str(self.function)


@dataclass(frozen=True)
class AddValue:
    """Add another value of the block, pixel by pixel."""

    value: int

    def __str__(self) -> str:
        return f"add %{self.value}"


UnitStep: TypeAlias = AddBias | Activate | AddValue


@dataclass(frozen=True)
class Unit:
    """A data-moving stage and the elementwise stages folded behind it.

    Attributes:
        kind: ``contract`` sums over channels and taps, ``depthwise`` over taps, ``pool`` reduces each window.
        terms: What is summed; a pool or depthwise unit has one.
        shape: Of the result.
        epilogue: Applied to every element of the sum, in order.
        reduction: ``max`` or ``mean`` for a pool, else "".
        name: For people.
        stages: Numbers of the block's stages that were folded into it, ascending.
    """

    kind: UnitKind
    terms: tuple[Term, ...]
    shape: ImageShape
    epilogue: tuple[UnitStep, ...] = ()
    reduction: str = ""
    name: str = field(default="", compare=False)
    stages: tuple[int, ...] = field(default=(), compare=False)

    @property
    def added(self) -> tuple[int, ...]:
        """Values that the epilogue adds."""
        return tuple(step.value for step in self.epilogue if isinstance(step, AddValue))

    @property
    def reads(self) -> tuple[int, ...]:
        """All values read."""
        return tuple(dict.fromkeys((*(term.source for term in self.terms), *self.added)))


@dataclass(frozen=True)
class Folded:
    """A block as units. Values are numbered: the block's inputs, then one per unit.

    Attributes:
        block: Where it came from.
        units: In execution order; the last one makes the output.
    """

    block: Block
    units: tuple[Unit, ...]

    @property
    def input_count(self) -> int:
        """Number of block inputs."""
        return len(self.block.inputs)

    @property
    def shapes(self) -> tuple[ImageShape, ...]:
        """Shape of every value."""
        return (*self.block.inputs, *(unit.shape for unit in self.units))

    def value(self, unit: int) -> int:
        """Number of the value a unit makes."""
        return self.input_count + unit

    def operations(self, unit: int) -> int:
        """Arithmetic operations of one unit for one image; a multiply-accumulate counts two."""
        this = self.units[unit]
        if this.kind == "pool":
            return 0
        per_output = sum(
            term.window.taps * (self.shapes[term.source].channels if this.kind == "contract" else 1)
            for term in this.terms
        )
        return 2 * per_output * this.shape.elements


def fold(block: Block) -> Folded:
    """Fold a block's elementwise stages into the units before them.

    Raises:
        InternalError: An elementwise stage has no unit to join; :func:`unfoldable` says so beforehand.
    """
    reason = unfoldable(block)
    if reason:
        raise InternalError(f"block {block.name}: {reason}")
    return _Folding(block).run()


def unfoldable(block: Block) -> str:
    """Why the elementwise stages of a block cannot join units, or "" if they can."""
    try:
        _Folding(block).run()
    except _NoUnitError as error:
        return str(error)
    return ""


class _NoUnitError(Exception):
    """An elementwise stage cannot join a unit."""


class _Folding:
    """The fold in progress: units so far, and which unit (or input) now stands for each value of the block."""

    def __init__(self, block: Block) -> None:
        self.block = block
        self.units: list[Unit] = []
        self.holder: dict[int, int] = {i: i for i in range(len(block.inputs))}  # block value -> folded value
        self.readers = {
            value: sum(stage.inputs.count(value) for stage in block.stages)
            for value in range(len(block.inputs) + len(block.stages))
        }

    def run(self) -> Folded:
        shapes = self.block.shapes
        inputs = len(self.block.inputs)
        for number, stage in enumerate(self.block.stages):
            held = self._place(stage, number, shapes[inputs + number])
            self.holder[inputs + number] = held
            unit = self.units[held - inputs]
            self.units[held - inputs] = replace(unit, stages=tuple(sorted({*unit.stages, number})))
        return self._compact()

    def _place(self, stage: Stage, number: int, shape: ImageShape) -> int:
        match stage:
            case Conv():
                return self._new("contract", stage, number, shape, stage.window, (AddBias((number,)),))
            case Depthwise():
                return self._new("depthwise", stage, number, shape, stage.window, (AddBias((number,)),))
            case Pool():
                return self._new("pool", stage, number, shape, stage.window, (), stage.reduction)
            case Activation():
                return self._extend(stage, stage.inputs[0], Activate(stage.function))
            case Add():
                return self._add(stage)
        raise InternalError(f"stage kind {type(stage).__name__} has no folding rule")

    def _new(
        self,
        kind: UnitKind,
        stage: Stage,
        number: int,
        shape: ImageShape,
        window: Window,
        epilogue: tuple[UnitStep, ...],
        reduction: str = "",
    ) -> int:
        term = Term(self.holder[stage.inputs[0]], number, window)
        self.units.append(Unit(kind, (term,), shape, epilogue, reduction, stage.name))
        return len(self.block.inputs) + len(self.units) - 1

    def _is_open(self, value: int) -> bool:
        """Whether a block value is a unit's result that nothing else reads, so that a stage can still join it."""
        return self.holder[value] >= len(self.block.inputs) and self.readers[value] == 1

    def _extend(self, stage: Stage, value: int, step: UnitStep) -> int:
        if not self._is_open(value):
            raise _NoUnitError(f"{stage.name} ({stage.describe()}) follows no convolution or pool it could join")
        held = self.holder[value]
        index = held - len(self.block.inputs)
        unit = self.units[index]
        self.units[index] = replace(unit, epilogue=(*unit.epilogue, step))
        return held

    def _add(self, stage: Stage) -> int:
        a, b = sorted(stage.inputs, key=lambda value: self.holder[value])
        if a != b and self._is_open(b):
            if self._can_merge(a, b):
                return self._merge(a, b)
            return self._extend(stage, b, AddValue(self.holder[a]))
        raise _NoUnitError(f"{stage.name} (add) follows no convolution or pool it could join")

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
            steps = tuple(AddValue(number[e.value]) if isinstance(e, AddValue) else e for e in unit.epilogue)
            units.append(replace(unit, terms=terms, epilogue=steps))
        return Folded(self.block, tuple(units))
