"""What follows a sum: bias, activation, residual, mask, in the order the program gives; shared by four instructions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tvm import tirx

from blockfuse.errors import InternalError
from blockfuse.machine import Apply, Bias, EpilogueStep, Mask, Region, Residual, Tile
from blockfuse.machine.affine import Affine
from blockfuse.schedules.cuda.activations import activation
from blockfuse.schedules.cuda.emitter import fp32
from blockfuse.schedules.cuda.kernel import Kernel
from blockfuse.schedules.emit import Buffer, Expr, Index, constant, load, smaller


@dataclass(frozen=True)
class Element:
    """What the steps need to know of the element they work on.

    Attributes:
        bias: The sum of its channel's biases.
        residuals: Its value in other tiles, in float32.
        inside: Whether its pixel is in the image.
    """

    bias: Expr = None
    residuals: Mapping[Tile, Expr] = field(default_factory=dict)
    inside: Expr = True


def finish(steps: Sequence[EpilogueStep], value: Expr, element: Element) -> Expr:
    """The steps applied to a float32 value."""
    for step in steps:
        match step:
            case Bias():
                value = value + element.bias
            case Apply():
                value = activation(step.function, value)
            case Residual():
                value = value + element.residuals[step.tile]
            case Mask():
                value = value if element.inside is True else tirx.Select(element.inside, value, constant(0.0))
            case _:
                raise InternalError(f"epilogue step {step} has no CUDA lowering")
    return value


def has_mask(steps: Sequence[EpilogueStep]) -> bool:
    """Whether pixels outside the image must become zero."""
    return any(isinstance(step, Mask) for step in steps)


def residual_tiles(steps: Sequence[EpilogueStep]) -> list[Tile]:
    """The tiles that are added."""
    return [step.tile for step in steps if isinstance(step, Residual)]


def load_bias(kernel: Kernel, steps: Sequence[EpilogueStep], channel: Index, into: Buffer, lanes: int) -> None:
    """Fetch the biases of ``lanes`` channels from ``channel`` on; nothing where there is no bias step."""
    for step in steps:
        if isinstance(step, Bias):
            offset, _ = kernel.vector_layout[step.keys]
            kernel.emit.store(into, 0, load(kernel.vectors, channel + offset, lanes), lanes)


def load_residual(kernel: Kernel, tile: Tile, pixel: Index, region: Region, channel: Index, lanes: int) -> list[Expr]:
    """``lanes`` neighbouring channels of a pixel of a tile, from ``channel`` of the region on, in float32.

    Channels that the tile does not hold are never stored by anyone; the last ones it holds stand in for them.
    """
    values = kernel.elements(f"residual_{tile.name}", lanes)
    base = tile.offset + pixel * tile.pitch
    where = kernel.channel(tile, region.channels.low) + channel
    if _holds(kernel, tile, region.channels.high):
        kernel.emit.store(values, 0, load(kernel.shared, base + where, lanes), lanes)
    else:
        for lane in range(lanes):
            kernel.emit.store(values, lane, load(kernel.shared, base + smaller(where + lane, tile.channels - 1)))
    return [fp32(load(values, lane)) for lane in range(lanes)]


def _holds(kernel: Kernel, tile: Tile, high: Affine) -> bool:
    return kernel.bounds(high - tile.first_channel)[1] <= tile.channels
