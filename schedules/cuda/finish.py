"""What follows a sum: bias, activation, scale, product, residual, mask, in the order the program gives.

Every instruction with steps works on several neighbouring channels of a pixel at a time::

    constants = load_constants(...)        per channel: biases, scales, the gate's only pixel
    for pixels:
      values = load_values(...)            per pixel: residuals and factors from other tiles
      for lane in channels:  finish(steps, value, Element(lane, constants, values, inside))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from tvm import tirx

from blockfuse.errors import InternalError
from blockfuse.machine import Apply, Bias, EpilogueStep, Mask, MultiplyBy, Region, Residual, ScaleBy, SlopeBy, Tile
from blockfuse.machine.affine import Affine
from blockfuse.schedules.cuda.activations import activation
from blockfuse.schedules.cuda.emitter import fp32
from blockfuse.schedules.cuda.kernel import Kernel
from blockfuse.schedules.cuda.packing import constant_keys
from blockfuse.schedules.emit import Expr, Index, constant, load, smaller

_VECTOR = 4  # float32 elements of 16 bytes

Constants: TypeAlias = Mapping[EpilogueStep, Sequence[Sequence[Expr]]]
"""Of every step with constants: one or two of them, each for all lanes."""

Values: TypeAlias = Mapping[Tile, Sequence[Expr]]
"""Of every tile that is read pixel by pixel: its value in all lanes, in float32."""


@dataclass(frozen=True)
class Element:
    """What the steps need to know of the element they work on.

    Attributes:
        lane: Which of the neighbouring channels it is.
        constants: Of its channel.
        values: Of its pixel.
        inside: Whether its pixel is in the image.
    """

    lane: int
    constants: Constants = field(default_factory=dict)
    values: Values = field(default_factory=dict)
    inside: Expr = True


def finish(steps: Sequence[EpilogueStep], value: Expr, element: Element) -> Expr:
    """The steps applied to a float32 value."""
    lane = element.lane
    for step in steps:
        match step:
            case Bias():
                value = value + element.constants[step][0][lane]
            case Apply():
                value = activation(step.function, value)
            case ScaleBy():
                scale, shift = element.constants[step]
                value = value * scale[lane] + shift[lane]
            case SlopeBy():
                slope, zero = element.constants[step][0], constant(0.0)
                value = tirx.max(value, zero) + tirx.min(value, zero) * slope[lane]
            case MultiplyBy():
                factor = element.constants[step][0] if step.is_gate else element.values[step.tile]
                value = value * factor[lane]
            case Residual():
                value = value + element.values[step.tile][lane]
            case Mask():
                value = value if element.inside is True else tirx.Select(element.inside, value, constant(0.0))
            case _:
                raise InternalError(f"epilogue step {step} has no CUDA lowering")
    return value


def has_mask(steps: Sequence[EpilogueStep]) -> bool:
    """Whether pixels outside the image must become zero."""
    return any(isinstance(step, Mask) for step in steps)


def pixel_tiles(steps: Sequence[EpilogueStep]) -> list[Tile]:
    """The tiles that are read pixel by pixel."""
    return [
        step.tile for step in steps if isinstance(step, Residual) or (isinstance(step, MultiplyBy) and not step.is_gate)
    ]


def load_constants(
    kernel: Kernel, steps: Sequence[EpilogueStep], channels: Affine, channel: Index, lanes: int
) -> Constants:
    """Fetch the constants of ``lanes`` channels from ``channel`` of a region that begins with ``channels`` on."""
    found: dict[EpilogueStep, list[list[Expr]]] = {}
    for number, step in enumerate(steps):
        vectors = []
        for part, keys in enumerate(constant_keys(step)):
            offset, _ = kernel.vector_layout[keys]
            held = kernel.registers(f"constant_{number}_{part}_{lanes}", lanes)
            for low in range(0, lanes, _VECTOR):
                count = min(lanes, _VECTOR)
                place = kernel.at(channels) + channel + (offset + low)
                kernel.emit.store(held, low, load(kernel.vectors, place, count), count)
            vectors.append([load(held, lane) for lane in range(lanes)])
        if isinstance(step, MultiplyBy) and step.is_gate:
            vectors.append(_load_gate(kernel, step.tile, channels, channel, lanes))
        if vectors:
            found[step] = vectors
    return found


def _load_gate(kernel: Kernel, tile: Tile, channels: Affine, channel: Index, lanes: int) -> list[Expr]:
    """The only pixel of a gate; the last channel stands in for those it does not have."""
    held = kernel.elements(f"gate_{tile.name}_{lanes}", lanes)
    for lane in range(lanes):
        if tile.is_global:
            where = smaller(kernel.at(channels) + channel + lane, tile.image.channels - 1)
            value = tirx.BufferLoad(kernel.memory[tile], kernel.element(tile, 0, 0, where))
        else:
            where = smaller(kernel.channel(tile, channels) + channel + lane, tile.channels - 1)
            value = load(kernel.shared, tile.offset + where)
        kernel.emit.store(held, lane, value)
    return [fp32(load(held, lane)) for lane in range(lanes)]


def load_values(
    kernel: Kernel,
    steps: Sequence[EpilogueStep],
    pixel: Callable[[Tile], Index],
    region: Region,
    channel: Index,
    lanes: int,
) -> Values:
    """Fetch ``lanes`` neighbouring channels of a pixel, from ``channel`` of the region on, of every tile read.

    Channels that a tile does not hold are never stored by anyone; the last ones it holds stand in for them.
    """
    found = {}
    for tile in pixel_tiles(steps):
        values = kernel.elements(f"value_{tile.name}", lanes)
        base = tile.offset + pixel(tile)
        where = kernel.channel(tile, region.channels.low) + channel
        if kernel.bounds(region.channels.high - tile.first_channel)[1] <= tile.channels:
            kernel.emit.store(values, 0, load(kernel.shared, base + where, lanes), lanes)
        else:
            for lane in range(lanes):
                kernel.emit.store(values, lane, load(kernel.shared, base + smaller(where + lane, tile.channels - 1)))
        found[tile] = [fp32(load(values, lane)) for lane in range(lanes)]
    return found
