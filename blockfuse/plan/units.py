"""What a block is folded into: units, each of which one sweep over the pixels computes."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from blockfuse.block import Block
from blockfuse.machine import Stack
from blockfuse.stages import Divisor, Frame, Function, ImageShape, Window

UnitKind: TypeAlias = Literal["contract", "grouped", "depthwise", "pool", "norm", "border", "map", "concat", "slice"]


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


@dataclass(frozen=True)
class ScaleChannels:
    """Multiply every channel by one constant of a stage and add another."""

    stage: int

    def __str__(self) -> str:
        return "scale"


@dataclass(frozen=True)
class SlopeChannels:
    """Multiply what is below zero by one constant of a stage per channel."""

    stage: int

    def __str__(self) -> str:
        return "slope"


@dataclass(frozen=True)
class MultiplyValue:
    """Multiply by another value of the block, pixel by pixel; one of 1x1 pixels counts for every pixel."""

    value: int

    def __str__(self) -> str:
        return f"multiply %{self.value}"


UnitStep: TypeAlias = AddBias | Activate | AddValue | ScaleChannels | SlopeChannels | MultiplyValue


@dataclass(frozen=True)
class Unit:
    """A stage that needs a sweep of its own, and the elementwise stages folded behind it.

    Attributes:
        kind: ``contract`` sums over channels and taps, ``grouped`` over those of a group, ``depthwise`` over taps;
            ``pool`` reduces each window, ``norm`` normalizes each pixel, ``border`` frames the image; ``map`` only
            applies the epilogue; ``concat`` has its terms side by side and ``slice`` some channels of its term, both
            without an epilogue.
        terms: What is summed, or lies side by side; only a contraction or a concatenation can have more than one.
        shape: Of the result.
        epilogue: Applied to every element of the sum, in order.
        reduction: ``max``, ``mean`` or ``l2`` for a pool, else "".
        count: What the mean of a pool divides by; 0 for the pixels of each window that are in the image.
        groups: Groups of channels of a grouped unit, else 1.
        first: First channel of a slice, else 0.
        epsilon: Of a norm.
        divisor: Of a norm.
        frame: Of a border.
        name: For people.
        stages: Numbers of the block's stages that were folded into it, ascending.
    """

    kind: UnitKind
    terms: tuple[Term, ...]
    shape: ImageShape
    epilogue: tuple[UnitStep, ...] = ()
    reduction: str = ""
    count: int = 0
    groups: int = 1
    first: int = 0
    epsilon: float = 0.0
    divisor: Divisor = "deviation"
    frame: Frame | None = None
    name: str = field(default="", compare=False)
    stages: tuple[int, ...] = field(default=(), compare=False)

    @functools.cached_property
    def added(self) -> tuple[int, ...]:
        """Values that the epilogue adds or multiplies by."""
        return tuple(step.value for step in self.epilogue if isinstance(step, AddValue | MultiplyValue))

    @property
    def is_join(self) -> bool:
        """Whether it computes nothing, and only says where channels are."""
        return self.kind in {"concat", "slice"}

    def is_gate(self, value: int, shape: ImageShape) -> bool:
        """Whether a value of that shape is only a factor of one pixel for all of this unit's."""
        factors = [step for step in self.epilogue if isinstance(step, MultiplyValue) and step.value == value]
        return shape.pixels == 1 and len(factors) == self.added.count(value) > 0

    @property
    def can_be_direct(self) -> bool:
        """Whether every element can be made by itself from memory: one window of one value."""
        return len(self.terms) == 1 and self.kind in {"contract", "grouped", "depthwise", "pool"}

    @functools.cached_property
    def reads(self) -> tuple[int, ...]:
        """All values read."""
        return tuple(dict.fromkeys((*(term.source for term in self.terms), *self.added)))


@dataclass(frozen=True)
class Folded:
    """A block as units. Values are numbered: the block's inputs, then one per unit.

    Attributes:
        block: Where it came from.
        units: In execution order; the last one makes the output.
        stacks: For every value, how several images make the one it stands for; empty where it is one image.
    """

    block: Block
    units: tuple[Unit, ...]
    stacks: tuple[Stack, ...] = ()

    @functools.cached_property
    def input_count(self) -> int:
        """Number of block inputs."""
        return len(self.block.inputs)

    def stack(self, value: int) -> Stack | None:
        """How several images make the one that a value is; None where they do not."""
        return self.stacks[value] if self.stacks else None

    @functools.cached_property
    def shapes(self) -> tuple[ImageShape, ...]:
        """Shape of every value."""
        return (*self.block.inputs, *(unit.shape for unit in self.units))

    @functools.cached_property
    def footprints(self) -> dict[tuple[int, int], Any]:
        """What :func:`blockfuse.plan.footprint.footprints` found, by the size of the tile."""
        return {}

    @functools.cached_property
    def over_images(self) -> dict[int, Any]:
        """What :func:`blockfuse.plan.stack.stacked` found, by the number of images."""
        return {}

    @functools.cached_property
    def facts(self) -> dict[str, Any]:
        """What planners found out that depends on the block alone, by names of their own."""
        return {}

    def value_of(self, unit: Unit) -> int:
        """The value that a unit makes."""
        return self._values[id(unit)]

    @functools.cached_property
    def _values(self) -> dict[int, int]:
        return {id(unit): self.input_count + index for index, unit in enumerate(self.units)}

    def stays_in_memory(self, value: int) -> bool:
        """Whether a value is an input that no unit needs on the chip of a GPU.

        That is a gate of one pixel, a partial result, or what the last unit alone adds or multiplies by: it is read
        while storing.
        """
        if value in self.block.partial:
            return True
        if value >= self.input_count or any(term.source == value for unit in self.units for term in unit.terms):
            return False
        readers = [unit for unit in self.units if value in unit.reads]
        is_stored = len(readers) == 1 and self.adds_while_storing(readers[0])
        return is_stored or all(unit.is_gate(value, self.shapes[value]) for unit in readers)

    def adds_while_storing(self, unit: Unit) -> bool:
        """Whether what a unit adds may come from memory while its result is stored: nothing else needs the result."""
        return unit == self.units[-1] and not self.block.pooled

    def value(self, unit: int) -> int:
        """Number of the value a unit makes."""
        return self.input_count + unit

    def depth(self, unit: int) -> int:
        """Products that are summed for one element of a unit's result."""
        return self._depths[unit]

    def operations(self, unit: int) -> int:
        """Arithmetic operations of one unit for one image; a multiply-accumulate counts two."""
        return 2 * self._depths[unit] * self.units[unit].shape.elements

    @functools.cached_property
    def _depths(self) -> tuple[int, ...]:
        return tuple(self._depth(index) for index in range(len(self.units)))

    def _depth(self, unit: int) -> int:
        this = self.units[unit]
        match this.kind:
            case "contract" | "grouped":
                return sum(term.window.taps * self.shapes[term.source].channels for term in this.terms) // this.groups
            case "depthwise":
                return this.terms[0].window.taps
        return 0
