"""The weights of one kernel as one flat array, in the order the kernel reads them.

    | per-channel constants | panel 0: [r][s][c][lanes] | panel 1 | ... | next instruction's panels | ...

Instructions inside a loop that moves through their filters (chunks of the channels, panels of a filter row) have one
box of panels per trip, and the boxes of one trip lie together. What lies behind a panel is thus what will be read next.
Every box starts at a multiple of 64 bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, product
from math import prod
from typing import Any, TypeAlias

import numpy as np

from blockfuse.block import ParameterKey
from blockfuse.errors import InternalError
from blockfuse.integers import round_up
from blockfuse.machine import (
    Bias,
    Depthwise,
    EpilogueStep,
    Gemm,
    Grouped,
    Loop,
    Node,
    Pixels,
    Program,
    ScaleBy,
    SlopeBy,
    WeightSlice,
)
from blockfuse.machine.affine import Affine, Clip, First, Quotient
from blockfuse.schedules.cpu.vectors import panels
from blockfuse.stages import Array

LINE = 16
"""float32 values in 64 bytes."""

Reader: TypeAlias = Gemm | Depthwise | Grouped


@dataclass(frozen=True)
class Box:
    """What one instruction reads of a filter on one trip of the loops around it.

    Attributes:
        weights: In terms of loop variables.
        vectors: Vectors per panel.
        trips: Loops that move the box, outer ones first: name of the variable and number of trips.
        shape: Taps, input channels and output channels.
    """

    weights: WeightSlice
    vectors: int
    trips: tuple[tuple[str, int], ...]
    shape: tuple[int, int, int]

    @property
    def size(self) -> int:
        """Elements, rounded up to whole lines."""
        return _lines(prod(self.shape))


@dataclass(frozen=True)
class Part:
    """Where the boxes of one instruction lie: at ``offset`` plus the sum of ``strides[v] * v``."""

    box: Box
    offset: int
    strides: tuple[tuple[str, int], ...]

    def at(self, env: Mapping[str, Any]) -> Any:
        """First element of the box for these loop variables."""
        position: Any = self.offset
        for name, stride in self.strides:
            position = position + env[name] * stride
        return position


@dataclass
class Layout:
    """The packed array.

    Attributes:
        parts: Where the weights of each GEMM, DEPTHWISE and GROUPED lie. Those that read the same boxes share a part.
        constants: First element of each sum of per-channel constants, indexed by image channel from there.
        size: Elements in all.
    """

    parts: dict[Reader, Part] = field(default_factory=dict)
    constants: dict[tuple[ParameterKey, ...], int] = field(default_factory=dict)
    size: int = 0


def layout(program: Program) -> Layout:
    """Where everything a program reads lies.

    Raises:
        InternalError: The size of a weight slice depends on a loop variable.
    """
    out = Layout()
    for instruction in program.instructions():
        for keys in _constants(getattr(instruction, "steps", ())):
            if keys not in out.constants:
                out.constants[keys] = out.size
                out.size += _lines(program.parameters[keys[0]][0])
    boxes = dict(_boxes(program.body, 1, {}))
    places, size = _arrange(list(dict.fromkeys(boxes.values())), 0)
    out.parts = {
        instruction: Part(box, out.size + places[box][0], places[box][1]) for instruction, box in boxes.items()
    }
    out.size = max(out.size + size, LINE)
    return out


def _constants(steps: Sequence[EpilogueStep]) -> Iterator[tuple[ParameterKey, ...]]:
    """Which constants are added up and then applied channel by channel."""
    for step in steps:
        if isinstance(step, Bias):
            yield step.keys
        if isinstance(step, ScaleBy):
            yield from ((key,) for key in step.keys)
        if isinstance(step, SlopeBy):
            yield (step.key,)


def pack(program: Program, parameters: Mapping[ParameterKey, Array]) -> Array:
    """The float32 array that the program's kernel takes as its weights.

    Args:
        program: The kernel's program.
        parameters: Every constant, shaped as ``program.parameters`` says.
    """
    plan = layout(program)
    out = np.zeros(plan.size, np.float32)
    for part in dict.fromkeys(plan.parts.values()):
        names = [name for name, _ in part.box.trips]
        for trip in product(*(range(count) for _, count in part.box.trips)):
            env = dict(zip(names, trip, strict=True))
            data = _panels(part.box, parameters[part.box.weights.key], env, program.lanes)
            start = part.at(env)
            out[start : start + data.size] = data
    for keys, start in plan.constants.items():
        total = np.sum([parameters[key].astype(np.float64) for key in keys], axis=0)
        out[start : start + total.size] = total
    return out


def _boxes(nodes: list[Node], vectors: int, loops: dict[str, int]) -> Iterator[tuple[Reader, Box]]:
    """Every instruction that reads weights, with its box, in order."""
    for node in nodes:
        match node:
            case Loop():
                yield from _boxes(node.body, vectors, {**loops, node.var: node.count})
            case Pixels():
                yield from _boxes(node.body, node.vectors, loops)
            case Gemm() | Depthwise() | Grouped():
                yield node, _box(node.weights, vectors, loops)


def _box(weights: WeightSlice, vectors: int, loops: dict[str, int]) -> Box:
    ranges = (weights.taps, weights.inputs, weights.outputs)
    if not all(each.size.is_constant for each in ranges):
        raise InternalError(f"weight slice {weights} has no constant size")
    moving = set().union(*(_variables(each.low) for each in ranges))
    trips = tuple((name, count) for name, count in loops.items() if name in moving)
    taps, inputs, outputs = (each.size.const for each in ranges)
    return Box(weights, vectors, trips, (taps, inputs, outputs))


Place: TypeAlias = tuple[int, tuple[tuple[str, int], ...]]


def _arrange(boxes: list[Box], depth: int) -> tuple[dict[Box, Place], int]:
    """Offset and strides of boxes that share their first ``depth`` loops, and the elements of all together."""
    places: dict[Box, Place] = {}
    size = 0
    for trip, group in groupby(boxes, lambda box: box.trips[depth] if len(box.trips) > depth else None):
        if trip is None:
            for box in group:
                places[box] = (size, ())
                size += box.size
            continue
        name, count = trip
        inner, stride = _arrange(list(group), depth + 1)
        places |= {box: (size + offset, ((name, stride), *rest)) for box, (offset, rest) in inner.items()}
        size += stride * count
    return places, size


def _variables(value: Affine) -> set[str]:
    """Names of the loop variables in an expression."""
    names: set[str] = set()
    for atom, _ in value.terms:
        match atom:
            case Clip():
                names |= _variables(atom.value) | _variables(atom.low) | _variables(atom.high)
            case First():
                names |= {atom.var} | _variables(atom.first) | _variables(atom.later)
            case Quotient():
                names |= _variables(atom.value)
            case _:
                names.add(atom)
    return names


def _panels(box: Box, data: Array, env: Mapping[str, int], lanes: int) -> Array:
    """A box's values as [panel][tap][input][lane], flat."""
    taps, inputs, outputs = (each.at(env) for each in (box.weights.taps, box.weights.inputs, box.weights.outputs))
    flat = data.reshape(data.shape[0], data.shape[1], -1)
    values = flat[outputs.start : outputs.stop, inputs.start : inputs.stop, taps.start : taps.stop]
    if values.shape != box.shape[::-1]:
        raise InternalError(f"weight slice {box.weights} at {dict(env)} reaches outside {data.shape}")
    ordered = values.transpose(2, 1, 0)
    groups = panels(box.shape[2], lanes, box.vectors)
    return np.concatenate([ordered[:, :, p.first : p.first + p.size].reshape(-1) for p in groups])


def _lines(elements: int) -> int:
    return round_up(elements, LINE)
