"""Seeded random blocks: short chains of stages with awkward sizes, strides, paddings, channel counts and residuals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal

import numpy as np

from blockfuse.block import Block
from blockfuse.stages import (
    ACTIVATIONS,
    Activation,
    Add,
    Border,
    Concat,
    Conv,
    Depthwise,
    Frame,
    Function,
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

CHANNELS = (3, 8, 16, 20, 24, 40)
GROUP_WIDTHS = (1, 2, 3, 4, 5, 8, 16, 24)
CONSTANTS = {
    "clip": (0.0, 6.0),
    "elu": (0.0, 0.0, 1.5, 0.0, 1.1, 0.8),
    "hard_sigmoid": (0.0, 0.0, 1 / 6, 0.5),
    "leaky_relu": (0.0, 0.0, 0.1),
}
FUNCTIONS = tuple(Function(kind, *CONSTANTS.get(kind, ())) for kind in ACTIVATIONS)


@dataclass(frozen=True)
class Ranges:
    """What sizes are drawn from.

    Attributes:
        sides: Heights and widths of input images lie below.
        channels: Channel counts.
        batches: Batch sizes.
        moves: At most so many.
        windows: Sizes of dense filters.
        group_windows: Sizes of grouped and depthwise filters.
        strides: Of windows that have one.
    """

    sides: int = 20
    channels: tuple[int, ...] = CHANNELS
    batches: tuple[int, ...] = (1, 3)
    moves: int = 4
    windows: tuple[int, ...] = (2, 3, 3, 5)
    group_windows: tuple[int, ...] | None = None
    strides: tuple[int, ...] = (2,)


WIDE = Ranges(
    sides=34,
    channels=(*CHANNELS, 1, 2, 4, 7, 12, 17, 31, 33, 48, 64, 65, 96),
    batches=(1, 2, 3, 5),
    moves=7,
    windows=(1, 2, 3, 3, 3, 4, 5, 7),
    group_windows=(1, 2, 3, 3, 4, 5, 7),
    strides=(2, 2, 3),
)
"""For fuzzing: more of everything."""

KINDS = ("pointwise", "pointwise", "dense", "dense", "depthwise", "depthwise", "pool")
"""Kinds of moves that a block is made of, each as likely as it is often there."""
OTHERS = ("slope", "border", "product", "gate", "response")
JOINS = ("concat", "share", "shares")
"""Moves that only say where channels are; on a GPU no kernel holds them."""
ALL_KINDS = (*KINDS, "grouped", "grouped", "grouped", "norm", "norm", "scale", *OTHERS)
CPU_KINDS = (*ALL_KINDS, *JOINS, *JOINS)


def random_block(
    rng: np.random.Generator, *, dtype: str = "float32", kinds: tuple[str, ...] = KINDS, ranges: Ranges = Ranges()
) -> Block:
    """A block of a few moves with activations between them and, where shapes allow, a residual.

    Args:
        rng: Source of every choice; the same state gives the same block.
        dtype: Of inputs and output.
        kinds: What moves there may be.
        ranges: What sizes there may be.

    Returns:
        A checked block with parameters.
    """
    height, width = (int(rng.integers(1, ranges.sides)) for _ in range(2))
    chain = _Chain(rng, [ImageShape(height, width, int(rng.choice(ranges.channels)))], ranges)
    moves: list[Callable[[], None]] = [getattr(chain, kind) for kind in kinds]
    for _ in range(int(rng.integers(1, ranges.moves + 1))):
        moves[int(rng.integers(len(moves)))]()
        chain.maybe_activation(0.6)
    residual: Callable[[], None] = (chain.identity, chain.projection, chain.extra_input, _nothing)[int(rng.integers(4))]
    residual()
    seed = int(rng.integers(2**31))
    block = Block(
        tuple(chain.inputs),
        tuple(chain.stages),
        batch=int(rng.choice(ranges.batches)),
        dtype=dtype,
        name=f"random_{seed}",
    ).with_random_parameters(seed)
    block.check()
    return block


def _nothing() -> None:
    """No residual."""


_SAME = Window(3, 3, pad_top=1, pad_left=1, pad_bottom=1, pad_right=1)


@dataclass
class _Chain:
    """Stages so far. Value numbers count from a single input until :meth:`extra_input` shifts them."""

    rng: np.random.Generator
    inputs: list[ImageShape]
    ranges: Ranges
    stages: list[Stage] = field(default_factory=list)

    @property
    def last(self) -> int:
        return len(self.inputs) + len(self.stages) - 1

    @property
    def shape(self) -> ImageShape:
        return self.shapes[-1]

    @property
    def shapes(self) -> tuple[ImageShape, ...]:
        return Block(tuple(self.inputs), tuple(self.stages)).shapes

    def _chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def _channels(self) -> int:
        """Often the input's channels, so that identity residuals occur."""
        return self.inputs[0].channels if self._chance(0.4) else int(self.rng.choice(self.ranges.channels))

    def _window(self, sizes: tuple[int, ...]) -> Window:
        """A window that fits the current image; same-padded, unpadded, or padded unevenly."""
        r, s = int(self.rng.choice(sizes)), int(self.rng.choice(sizes))
        if self._chance(0.7):
            s = r
        dilation = 2 if self._chance(0.15) else 1
        stride = self.ranges.strides[int(self.rng.integers(len(self.ranges.strides)))]
        stride_h, stride_w = ((stride, stride) if self._chance(0.3) else (stride, 1)) if self._chance(0.4) else (1, 1)
        extent_h, extent_w = (r - 1) * dilation + 1, (s - 1) * dilation + 1
        pads = (extent_h // 2, extent_w // 2, (extent_h - 1) // 2, (extent_w - 1) // 2)
        if self._chance(0.25):
            pads = (0, pads[1], pads[2], int(self.rng.integers(0, extent_w)))
        window = Window(r, s, stride_h, stride_w, dilation, dilation, *pads)
        p, q = window.output_size(self.shape.height, self.shape.width)
        if p < 1 or q < 1:
            return Window(
                r, s, stride_h, stride_w, dilation, dilation, r * dilation, s * dilation, r * dilation, s * dilation
            )
        return window

    def _add(self, stage: Stage) -> None:
        self.stages.append(stage)

    def _name(self, kind: str) -> str:
        return f"{kind}{len(self.stages)}"

    def pointwise(self) -> None:
        stride = 2 if self._chance(0.15) else 1
        window = Window(1, 1, stride, stride)
        self._add(Conv(self._name("pointwise"), (self.last,), self._channels(), window))

    def dense(self) -> None:
        self._add(Conv(self._name("conv"), (self.last,), self._channels(), self._window(self.ranges.windows)))

    def depthwise(self) -> None:
        window = self._window(self.ranges.group_windows or (3, 3, 5))
        self._add(Depthwise(self._name("depthwise"), (self.last,), window))

    def pool(self) -> None:
        shape = self.shape
        reduction: Literal["max", "mean"] = "max" if self._chance(0.5) else "mean"
        window = Window(shape.height, shape.width) if self._chance(0.2) else self._pool_window()
        self._add(Pool(self._name("pool"), (self.last,), reduction, window))

    def _pool_window(self) -> Window:
        """Every window of a pool must hold at least one pixel of the image."""
        stride = int(self.rng.integers(1, 3))
        window = Window(3, 3, stride, stride, pad_top=1, pad_left=1, pad_bottom=1, pad_right=1)
        p, q = window.output_size(self.shape.height, self.shape.width)
        return window if p >= 1 and q >= 1 else Window()

    def grouped(self) -> None:
        """Groups of any width, often with as many outputs as inputs."""
        channels = self.shape.channels
        width = int(self.rng.choice([w for w in GROUP_WIDTHS if channels % w == 0]))
        groups = channels // width
        outputs = width if self._chance(0.6) else int(self.rng.integers(1, 12))
        window = self._window(self.ranges.group_windows or (1, 3, 3, 5))
        self._add(Grouped(self._name("grouped"), (self.last,), groups * outputs, groups, window))

    def border(self) -> None:
        """A frame of the image's own pixels."""
        rule: Literal["reflect", "edge"] = "reflect" if self._chance(0.6) else "edge"
        most = [min(3, size - 1) if rule == "reflect" else 2 for size in (self.shape.height, self.shape.width)]
        widths = [int(self.rng.integers(0, most[axis % 2] + 1)) for axis in range(4)]
        self._add(Border(self._name("border"), (self.last,), Frame(rule, *widths)))

    def norm(self) -> None:
        self._add(Norm(self._name("norm"), (self.last,), 1e-6))

    def response(self) -> None:
        """Global response normalization: the lengths of channels over their mean, and the image times the result."""
        value, shape = self.last, self.shape
        self._add(Pool(self._name("lengths"), (value,), "l2", Window(shape.height, shape.width)))
        self._add(Norm(self._name("response"), (self.last,), 1e-6, "mean"))
        self._add(Multiply(self._name("weigh"), (value, self.last)))

    def scale(self) -> None:
        self._add(Scale(self._name("scale"), (self.last,)))

    def slope(self) -> None:
        self._add(Slope(self._name("slope"), (self.last,)))

    def product(self) -> None:
        """The last value times a function of it, which both read it."""
        value = self.last
        self._activation()
        self._add(Multiply(self._name("product"), (value, self.last) if self._chance(0.5) else (self.last, value)))

    def gate(self) -> None:
        """Squeeze-excite: the image's mean through two layers, and the image times the result."""
        value, shape = self.last, self.shape
        self._add(Pool(self._name("squeeze"), (value,), "mean", Window(shape.height, shape.width)))
        self._add(Conv(self._name("reduce"), (self.last,), int(self.rng.choice((3, 8, 20))), Window()))
        self._activation()
        self._add(Conv(self._name("expand"), (self.last,), shape.channels, Window()))
        self._add(Activation(self._name("sigmoid"), (self.last,), Function("sigmoid")))
        self._add(Multiply(self._name("gate"), (value, self.last)))

    def concat(self) -> None:
        """The last value next to earlier ones of its size, or to itself, in any order."""
        size = (self.shape.height, self.shape.width)
        readable = [i for i, shape in enumerate(self.shapes) if (shape.height, shape.width) == size]
        values = [self.last, *(int(self.rng.choice(readable)) for _ in range(int(self.rng.integers(1, 3))))]
        self._add(Concat(self._name("concat"), tuple(int(value) for value in self.rng.permutation(values))))

    def share(self) -> None:
        """Some channels of the last value."""
        first = int(self.rng.integers(self.shape.channels))
        self._add(
            Slice(self._name("slice"), (self.last,), first, int(self.rng.integers(1, self.shape.channels - first + 1)))
        )

    def shares(self) -> None:
        """All channels of the last value in shares, of which some are convolved, and then side by side again."""
        source, channels = self.last, self.shape.channels
        cuts = sorted({0, channels, *(int(self.rng.integers(channels + 1)) for _ in range(2))})
        made: list[int] = []
        for first, end in pairwise(cuts):
            self._add(Slice(self._name("slice"), (source,), first, end - first))
            if self._chance(0.6):
                self._add(Depthwise(self._name("depthwise"), (self.last,), _SAME))
                self.maybe_activation(0.5)
            if made and self._chance(0.5) and self.shapes[made[-1]] == self.shape:
                self._add(Add(self._name("add"), (self.last, made[-1])))
            made.append(self.last)
        self._add(Concat(self._name("concat"), tuple(made)))

    def maybe_activation(self, probability: float) -> None:
        if self._chance(probability):
            self._activation()

    def _activation(self) -> None:
        function = FUNCTIONS[int(self.rng.integers(len(FUNCTIONS)))]
        self._add(Activation(self._name(function.kind), (self.last,), function))

    def identity(self) -> None:
        """Add the earliest other value of the result's shape, if there is one the last stage does not read."""
        readable = [i for i, shape in enumerate(self.shapes[:-1]) if shape == self.shape and self._can_add(i)]
        if readable:
            self._add(Add(self._name("add"), (self.last, readable[0])))
            self.maybe_activation(0.5)

    def _can_add(self, value: int) -> bool:
        """Whether ``value`` is not merely the last one before its activation (which a fold could not keep apart)."""
        return value < len(self.inputs) or not isinstance(self.stages[value + 1 - len(self.inputs)], Activation)

    def projection(self) -> None:
        """Add a 1x1 convolution of the input that reaches the result's size, if some stride does."""
        main, source, target = self.last, self.inputs[0], self.shape
        strides = [
            (h, w)
            for h in (1, 2, 4)
            for w in (1, 2, 4)
            if Window(1, 1, h, w).output_size(source.height, source.width) == (target.height, target.width)
        ]
        if not strides:
            return
        self._add(Conv(self._name("shortcut"), (0,), target.channels, Window(1, 1, *strides[0])))
        self._add(Add(self._name("add"), (main, self.last)))
        self.maybe_activation(0.5)

    def extra_input(self) -> None:
        """Add a second block input."""
        target = self.shape
        renumber = {value: value + 1 if value else 0 for value in range(len(self.stages) + 1)}
        self.inputs.append(target)
        self.stages = [_renumbered(stage, renumber) for stage in self.stages]
        self._add(Add(self._name("add"), (self.last, 1)))
        self.maybe_activation(0.5)


def _renumbered(stage: Stage, number: dict[int, int]) -> Stage:
    return replace(stage, inputs=tuple(number[value] for value in stage.inputs))
