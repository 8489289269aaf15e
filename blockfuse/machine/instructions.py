"""What a program does to tiles: one dataclass per instruction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from blockfuse.block import ParameterKey
from blockfuse.machine.tiles import Accumulators, Region, Tile, WeightSlice
from blockfuse.stages import Function, Window

# ---- epilogue steps --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bias:
    """Add the sum of these per-channel constants."""

    keys: tuple[ParameterKey, ...]

    def __str__(self) -> str:
        return "bias"


@dataclass(frozen=True)
class Apply:
    """Apply an activation function."""

    function: Function

    def __str__(self) -> str:
        return str(self.function)


@dataclass(frozen=True)
class Residual:
    """Add the pixel of another tile that holds the same image coordinates."""

    tile: Tile

    def __str__(self) -> str:
        return f"add {self.tile}"


@dataclass(frozen=True)
class Accumulate:
    """Add what the target already holds."""

    def __str__(self) -> str:
        return "accumulate"


@dataclass(frozen=True)
class Mask:
    """Set pixels outside the image to zero, because the next stage pads its input with zeros."""

    def __str__(self) -> str:
        return "mask"


EpilogueStep: TypeAlias = Bias | Apply | Residual | Accumulate | Mask


# ---- instructions ----------------------------------------------------------------------------------------------------


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

    With several taps and a stride it is a dense convolution.
    """

    acc: Accumulators
    source: Tile
    weights: WeightSlice
    window: Window
    prefetch: bool = False

    def __str__(self) -> str:
        hint = "  prefetch" if self.prefetch else ""
        return f"GEMM      {self.acc} += {self.source} * {self.weights}{hint}"


@dataclass(eq=False)
class Epilogue:
    """``target[region of acc] = steps(acc)``."""

    acc: Accumulators
    target: Tile
    steps: tuple[EpilogueStep, ...]

    def __str__(self) -> str:
        return f"EPILOGUE  {self.target} <- {self.acc}  {_steps_text(self.steps)}"


@dataclass(eq=False)
class Depthwise:
    """``target[region] = steps(sum over taps of source * weights)``, every channel by itself."""

    source: Tile
    target: Tile
    weights: WeightSlice
    window: Window
    region: Region
    steps: tuple[EpilogueStep, ...]
    pixels: int = 1

    def __str__(self) -> str:
        return f"DEPTHWISE {self.target}{self.region} <- {self.source} * {self.weights}  {_steps_text(self.steps)}"


@dataclass(eq=False)
class Reduce:
    """``target[region] = steps(max or mean of each window of source)``, every channel by itself."""

    source: Tile
    target: Tile
    reduction: str
    window: Window
    region: Region
    steps: tuple[EpilogueStep, ...]
    pixels: int = 1

    def __str__(self) -> str:
        what = f"{self.reduction} {self.window}"
        return f"REDUCE    {self.target}{self.region} <- {what} of {self.source}  {_steps_text(self.steps)}"


@dataclass(eq=False)
class ReduceAcross:
    """``target[region] = steps(sum of all copies of source)``."""

    source: Tile
    target: Tile
    region: Region
    steps: tuple[EpilogueStep, ...]

    def __str__(self) -> str:
        return (
            f"REDUCE    {self.target}{self.region} <- all {self.source.copies} {self.source}  {_steps_text(self.steps)}"
        )


@dataclass(eq=False)
class Store:
    """``target[region] = steps(source[region])`` for the pixels inside the image."""

    source: Tile
    target: Tile
    region: Region
    steps: tuple[EpilogueStep, ...] = ()

    def __str__(self) -> str:
        return f"STORE     {self.target}{self.region} <- {self.source}  {_steps_text(self.steps)}"


@dataclass(eq=False)
class Sync:
    """Wait until all threads of the CTA have come here."""

    def __str__(self) -> str:
        return "SYNC"


Instruction: TypeAlias = Load | Zero | Gemm | Epilogue | Depthwise | Reduce | ReduceAcross | Store | Sync


def reads(instruction: Instruction) -> tuple[Tile, ...]:
    """Tiles an instruction reads, those of its epilogue included."""
    steps: tuple[EpilogueStep, ...] = getattr(instruction, "steps", ())
    added = tuple(step.tile for step in steps if isinstance(step, Residual))
    source: Tile | None = getattr(instruction, "source", None)
    own = written(instruction) if any(isinstance(step, Accumulate) for step in steps) else ()
    return (*((source,) if source else ()), *added, *own)


def written(instruction: Instruction) -> tuple[Tile, ...]:
    """Tiles an instruction writes."""
    target: Tile | Accumulators | None = getattr(instruction, "target", None)
    return (target,) if isinstance(target, Tile) else ()


def _steps_text(steps: tuple[EpilogueStep, ...]) -> str:
    return ", ".join(map(str, steps))
