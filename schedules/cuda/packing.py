"""Weights as the kernel reads them: one stream in execution order, and one fp32 vector of biases and scales.

An item of the stream holds the slices of its step one after the other: for GEMM per tap the mma fragments
[C/16][K/16][lane][8] or the swizzled slabs of wgmma, for GROUPED those of blocks of groups, for DEPTHWISE
[tap][channel].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import ml_dtypes
import numpy as np

from blockfuse.block import ParameterKey
from blockfuse.integers import round_up
from blockfuse.machine import (
    Bias,
    Depthwise,
    Engine,
    Epilogue,
    EpilogueStep,
    Gemm,
    Grouped,
    Program,
    Region,
    ScaleBy,
    SlopeBy,
    Step,
    WeightSlice,
    walk,
)
from blockfuse.machine.affine import span
from blockfuse.machine.groups import NARROW, group_block, tap_pairs
from blockfuse.program.check import executions, is_direct, memory_outputs, stream_length
from blockfuse.program.filters import filter_slice
from blockfuse.schedules.cuda.mma import K, fragments, narrow_fragments
from blockfuse.schedules.cuda.packing_wgmma import swizzled
from blockfuse.stages import Array

_VECTOR = 4  # float32 elements of a 16-byte load
_TYPES = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16), "float32": np.dtype(np.float32)}


def pack(program: Program, parameters: Mapping[ParameterKey, Array]) -> tuple[Array, ...]:
    """The constants of a kernel, in the order of its parameters; what a kernel does not read is left out.

    Args:
        program: The kernel's program.
        parameters: The block's constants.

    Returns:
        ``vectors`` [elements] float32, if there are biases or scales; ``weights`` [elements] in the program's type, if
        there is a stream.
    """
    packed = []
    layout = vector_layout(program)
    if layout:
        packed.append(_vectors(layout, parameters))
    if stream_length(program):
        packed.append(_stream(program, parameters))
    return tuple(packed)


def constant_keys(step: EpilogueStep) -> list[tuple[ParameterKey, ...]]:
    """The per-channel constants of a step; each is the sum over its keys."""
    match step:
        case Bias():
            return [step.keys]
        case ScaleBy():
            return [(key,) for key in step.keys]
        case SlopeBy():
            return [(step.key,)]
    return []


def vector_layout(program: Program) -> dict[tuple[ParameterKey, ...], tuple[int, int]]:
    """First element and length of every constant: the sum over its keys, for all channels that are computed."""
    channels: dict[tuple[ParameterKey, ...], int] = {}
    for node, env in executions(program):
        steps: tuple[EpilogueStep, ...] = getattr(node, "steps", ())
        for keys in (keys for step in steps for keys in constant_keys(step)):
            region: Region = node.acc.region if isinstance(node, Epilogue) else getattr(node, "region")  # noqa: B009
            channels[keys] = max(channels.get(keys, 0), region.channels.high.at(env))
    layout = {}
    end = 0
    for keys, length in channels.items():
        layout[keys] = (end, length)
        end += round_up(length, _VECTOR)
    return layout


def vector_length(program: Program) -> int:
    """Elements of the packed constants."""
    return max(
        (-(-(offset + length) // _VECTOR) * _VECTOR for offset, length in vector_layout(program).values()), default=0
    )


def slice_size(weights: WeightSlice) -> int:
    """Elements of one slice of an item."""
    return weights.taps.size.const * weights.inputs.size.const * weights.outputs.size.const


def slice_offset(step: Step, weights: WeightSlice) -> int:
    """First element of a slice within its item."""
    before = step.item.slices[: step.item.slices.index(weights)]
    return sum(map(slice_size, before))


def _vectors(
    layout: Mapping[tuple[ParameterKey, ...], tuple[int, int]], parameters: Mapping[ParameterKey, Array]
) -> Array:
    end = max(offset + round_up(length, _VECTOR) for offset, length in layout.values())
    out = np.zeros(end, np.float32)
    for keys, (offset, _) in layout.items():
        for key in keys:
            data = np.asarray(parameters[key], np.float32)
            out[offset : offset + len(data)] += data
    return out


def _stream(program: Program, parameters: Mapping[ParameterKey, Array]) -> Array:
    out = np.zeros(stream_length(program), _TYPES[program.dtype])
    for node in program.walk():
        if is_direct(node) and isinstance(node, Depthwise | Grouped):
            everything = replace(node.weights, outputs=span(0, memory_outputs(node)))
            out[:] = filter_slice(everything, parameters[node.weights.key], {}).ravel()
    done: set[int] = set()
    for step, env in executions(program):
        if not isinstance(step, Step) or not step.item.size:
            continue
        base = step.item.base + step.item.index.at(env) * step.item.size
        if base in done:  # several shares of the result's channels need it
            continue
        done.add(base)
        for node in walk(step.body):
            if isinstance(node, Gemm | Depthwise | Grouped):
                data = _packed(node, parameters[node.weights.key], env, program.dtype)
                start = base + slice_offset(step, node.weights)
                out[start : start + data.size] = data.ravel()
    return out


def _packed(node: Gemm | Depthwise | Grouped, data: Array, env: Mapping[str, int], dtype: str) -> Array:
    """The filter of an instruction in the order it is read: [tap][input][output] in float32, else fragments."""
    box = filter_slice(node.weights, data, env)
    if dtype == "float32":
        return box
    match node:
        case Depthwise():
            return box[:, 0]
        case Grouped():
            return _blocks(node, box)
    tiling = node.acc.tiling
    arranged = swizzled if tiling is not None and tiling.engine is Engine.WGMMA else fragments
    return np.stack([arranged(tap) for tap in box])


def _blocks(node: Grouped, box: Array) -> Array:
    """[taps, group width, outputs] -> the fragments [block, step, n8, lane, 4] of dense filters with zeros."""
    width, block = node.width, group_block(node.groups, node.source.image.channels, node.target.image.channels)
    taps, _, outputs = box.shape
    dense = np.zeros((outputs // block.outputs, taps, block.inputs, block.outputs), np.float32)
    for k in range(outputs):
        low = min(k % block.outputs // node.outputs * width, block.inputs)
        count = min(width, block.inputs - low)
        dense[k // block.outputs, :, low : low + count, k % block.outputs] = box[:, :count, k]
    if block.inputs == NARROW:
        none = np.zeros((NARROW, block.outputs), np.float32)
        pairs = tap_pairs(node.window.r, node.window.s)
        parts = [[np.concatenate([b[i], none if j is None else b[j]]) for i, j in pairs] for b in dense]
    else:
        parts = [[b[tap, k : k + K] for tap in range(taps) for k in range(0, block.inputs, K)] for b in dense]
    return np.stack([np.stack([narrow_fragments(part) for part in steps]) for steps in parts])
