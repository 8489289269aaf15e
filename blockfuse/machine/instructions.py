"""What a program does to tiles: one dataclass per instruction."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from blockfuse.machine.affine import Affine
from blockfuse.machine.epilogue import Accumulate, EpilogueStep, MultiplyBy, Residual, steps_text
from blockfuse.machine.sums import Accumulators, WeightSlice
from blockfuse.machine.tiles import Region, Tile
from blockfuse.stages import Divisor, Frame, Window


@dataclass(eq=False)
class Load:
    """``target[region] = source[region]``; pixels outside the image become zero where the target is padded."""

    source: Tile
    target: Tile
    region: Region

    def __str__(self) -> str:
        return f"LOAD      {self.target} <- {self.source}{self.region}"


@dataclass(eq=False)
class Zero:
    """Set accumulators, a region of a tile, or all that a tile can hold, to zero."""

    target: Accumulators | Tile
    region: Region | None = None

    def __str__(self) -> str:
        return f"ZERO      {self.target}{self.region or ''}"


@dataclass(eq=False)
class Gemm:
    """``acc[p, q, k] += sum over taps and channels of source[p*stride + r, q*stride + s, c] * weights``.

    With several taps and a stride it is a dense convolution; of one group of channels where ``channel`` says so.

    Attributes:
        acc: The sums, and the region of the result they are for.
        source: What is multiplied with the weights.
        weights: Taps, input and output channels of the filter that are summed.
        window: Of the convolution, whatever part of its taps the weights are.
        prefetch: Whether, on a CPU, the sweep over one panel of weights fetches the next one into the cache.
        channel: Channel of the source that input channel 0 of the filter is multiplied with.
    """

    acc: Accumulators
    source: Tile
    weights: WeightSlice
    window: Window
    prefetch: bool = False
    channel: Affine = field(default_factory=Affine)

    def __str__(self) -> str:
        hint = "  prefetch" if self.prefetch else ""
        part = f" from channel {self.channel}" if self.channel != Affine() else ""
        return f"GEMM      {self.acc} += {self.source}{part} * {self.weights}{hint}"


@dataclass(eq=False)
class Epilogue:
    """``target[region of acc] = steps(acc)``."""

    acc: Accumulators
    target: Tile
    steps: tuple[EpilogueStep, ...]

    def __str__(self) -> str:
        return f"EPILOGUE  {self.target} <- {self.acc}  {steps_text(self.steps)}"


@dataclass(eq=False)
class Depthwise:
    """``target[region] = steps(sum over taps of source * weights)``, every channel by itself.

    Attributes:
        source: What is read.
        target: What is written.
        weights: The filter's taps for the channels of the region.
        window: Of the convolution.
        region: What is written of the target.
        steps: Applied to every sum.
        pixels: Pixels whose sums are in registers together: columns of a row on a CPU, rows of one thread on a GPU.
    """

    source: Tile
    target: Tile
    weights: WeightSlice
    window: Window
    region: Region
    steps: tuple[EpilogueStep, ...]
    pixels: int = 1

    def __str__(self) -> str:
        return f"DEPTHWISE {self.target}{self.region} <- {self.source} * {self.weights}  {steps_text(self.steps)}"


@dataclass(eq=False)
class Grouped:
    """``target[region] = steps(sum over taps and a group's channels of source * weights)``, for narrow groups.

    Attributes:
        source: What is read.
        target: What is written.
        weights: The filter's taps and input channels for the output channels of the region.
        window: Of the convolution.
        width: Channels of a group of the source.
        region: What is written of the target.
        steps: Applied to every sum.
        pixels: How many are in registers together: columns of a row on a CPU, m16 tiles of a warp on a GPU.
    """

    source: Tile
    target: Tile
    weights: WeightSlice
    window: Window
    width: int
    region: Region
    steps: tuple[EpilogueStep, ...]
    pixels: int = 1

    @property
    def groups(self) -> int:
        """Number of groups."""
        return self.source.image.channels // self.width

    @property
    def outputs(self) -> int:
        """Channels of a group of the target."""
        return self.target.image.channels // self.groups

    def __str__(self) -> str:
        what = f"{self.source} * {self.weights} in groups of {self.width}"
        return f"GROUPED   {self.target}{self.region} <- {what}  {steps_text(self.steps)}"


@dataclass(eq=False)
class Normalize:
    """``target[region] = steps((source - mean) / sqrt(variance + epsilon))``, both over the channels of each pixel.

    Or ``steps(source / (mean + epsilon))`` where the divisor is the mean.

    Attributes:
        source: What is read.
        target: What is written.
        epsilon: Added to what is divided by, or to the variance under the root.
        region: What is written of the target.
        steps: Applied to every quotient.
        pixels: Columns of a row that a CPU has in registers together.
        divisor: ``deviation``, or ``mean``.
    """

    source: Tile
    target: Tile
    epsilon: float
    region: Region
    steps: tuple[EpilogueStep, ...]
    pixels: int = 1
    divisor: Divisor = "deviation"

    def __str__(self) -> str:
        by = " by mean" if self.divisor == "mean" else ""
        what = f"{self.source}{by} epsilon {self.epsilon:g}"
        return f"NORM      {self.target}{self.region} <- {what}  {steps_text(self.steps)}"


@dataclass(eq=False)
class Map:
    """``target[region] = steps(source[region])``.

    Attributes:
        source: What is read.
        target: What is written.
        region: What is written of the target.
        steps: Applied to every element.
        frame: Around the source's image, so that pixel (p, q) is one of the framed image.
    """

    source: Tile
    target: Tile
    region: Region
    steps: tuple[EpilogueStep, ...]
    frame: Frame | None = None

    def __str__(self) -> str:
        what = f"{self.source} in {self.frame}" if self.frame else str(self.source)
        return f"MAP       {self.target}{self.region} <- {what}  {steps_text(self.steps)}"


@dataclass(eq=False)
class Reduce:
    """``target[region] = steps(max, mean or l2 norm of each window of source)``, every channel by itself.

    Attributes:
        source: What is read.
        target: What is written.
        reduction: ``max``, ``mean`` or ``l2``.
        window: Of the pooling.
        region: What is written of the target.
        steps: Applied to every result.
        pixels: Columns of a row that a CPU has in registers together.
        count: What a mean divides sums by; 0 for the pixels of each window that are in the image.
    """

    source: Tile
    target: Tile
    reduction: str
    window: Window
    region: Region
    steps: tuple[EpilogueStep, ...]
    pixels: int = 1
    count: int = 0

    def __str__(self) -> str:
        what = f"{self.reduction} {self.window}{f' of {self.count}' if self.count else ''}"
        return f"REDUCE    {self.target}{self.region} <- {what} of {self.source}  {steps_text(self.steps)}"


@dataclass(eq=False)
class ReduceAcross:
    """``target[region] = steps(sum of all copies of source)``."""

    source: Tile
    target: Tile
    region: Region
    steps: tuple[EpilogueStep, ...]

    def __str__(self) -> str:
        return (
            f"REDUCE_ACROSS {self.target}{self.region} <- all {self.source.copies} {self.source}  "
            f"{steps_text(self.steps)}"
        )


@dataclass(eq=False)
class Store:
    """``target[region] = steps(source[region])`` for the pixels inside the image."""

    source: Tile
    target: Tile
    region: Region
    steps: tuple[EpilogueStep, ...] = ()

    def __str__(self) -> str:
        return f"STORE     {self.target}{self.region} <- {self.source}  {steps_text(self.steps)}"


@dataclass(eq=False)
class Sync:
    """Wait until all threads of the CTA have come here."""

    def __str__(self) -> str:
        return "SYNC"


Instruction: TypeAlias = (
    Load | Zero | Gemm | Epilogue | Depthwise | Grouped | Normalize | Map | Reduce | ReduceAcross | Store | Sync
)


def reads(instruction: Instruction) -> tuple[Tile, ...]:
    """Tiles an instruction reads, those of its epilogue included."""
    steps: tuple[EpilogueStep, ...] = getattr(instruction, "steps", ())
    added = tuple(step.tile for step in steps if isinstance(step, Residual | MultiplyBy))
    source: Tile | None = getattr(instruction, "source", None)
    own = written(instruction) if any(isinstance(step, Accumulate) for step in steps) else ()
    return (*((source,) if source else ()), *added, *own)


def written(instruction: Instruction) -> tuple[Tile, ...]:
    """Tiles an instruction writes."""
    target: Tile | Accumulators | None = getattr(instruction, "target", None)
    return (target,) if isinstance(target, Tile) else ()
