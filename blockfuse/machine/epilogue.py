"""What is done to a result, element by element, before it is written: the steps of an epilogue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from blockfuse.block import ParameterKey
from blockfuse.machine.tiles import Tile
from blockfuse.stages import Function


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
class ScaleBy:
    """Multiply by one per-channel constant and add another.

    Attributes:
        keys: Of the factor and of what is added.
    """

    keys: tuple[ParameterKey, ParameterKey]

    def __str__(self) -> str:
        return "scale"


@dataclass(frozen=True)
class SlopeBy:
    """Multiply what is below zero by one constant per channel.

    Attributes:
        key: Of the factor.
    """

    key: ParameterKey

    def __str__(self) -> str:
        return "slope"


@dataclass(frozen=True)
class MultiplyBy:
    """Multiply by the pixel of another tile with the same image coordinates, or by the only pixel of its image."""

    tile: Tile

    @property
    def is_gate(self) -> bool:
        """Whether the one pixel of the tile's image is for every pixel."""
        return self.tile.image.pixels == 1

    def __str__(self) -> str:
        return f"multiply {self.tile}"


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


EpilogueStep: TypeAlias = Bias | Apply | Residual | ScaleBy | SlopeBy | MultiplyBy | Accumulate | Mask


def steps_text(steps: tuple[EpilogueStep, ...]) -> str:
    """The steps as programs print them."""
    return ", ".join(map(str, steps))
