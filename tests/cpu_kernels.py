"""Compile CPU programs and call their kernels on arrays that make mistakes visible."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tvm
import tvm_ffi

from blockfuse.block import Block, ParameterKey, accumulation_depth, reference
from blockfuse.machine import Program
from blockfuse.schedules.cpu import lower, pack
from blockfuse.stages import Array, Norm
from blockfuse.target import best_cpu
from tests.slots import in_slot, out_of_slot

GUARD = 64  # elements before and behind every array, to see stores outside it
SENTINEL = np.float32(12345.0)


def compile_programs(programs: Sequence[Program], *, poison: bool = False) -> dict[str, Any]:
    """Kernels by program name, compiled together for this machine."""
    module = tvm.IRModule({program.name: lower(program, poison=poison) for program in programs})
    compiled = tvm.compile(module, target={"kind": "llvm", "mcpu": best_cpu().mcpu}, tir_pipeline="tirx")
    return {program.name: compiled[program.name] for program in programs}


def call(
    kernel: Any, program: Program, inputs: Sequence[Array], parameters: Mapping[ParameterKey, Array], shift: int = 1
) -> Array:
    """The kernel's output, from an array full of NaN.

    Args:
        kernel: The compiled program.
        program: The program.
        inputs: N, H, W, C arrays.
        parameters: The block's constants.
        shift: Elements that all addresses are away from a multiple of 64 bytes.
    """
    arrays = [
        np.ascontiguousarray(x.transpose(0, 3, 1, 2)) if tile.planar else in_slot(tile, x)
        for x, tile in zip(inputs, program.inputs, strict=True)
    ]
    image = program.output.image
    empty = np.full((program.batch, image.height, image.width, image.channels), np.nan, np.float32)
    empty = in_slot(program.output, empty)
    guarded = [_Guarded(array, shift) for array in (*arrays, pack(program, parameters), empty)]
    kernel(*(tvm_ffi.from_dlpack(each.array, require_alignment=4) for each in guarded))
    assert all(each.is_intact() for each in guarded), f"{program.name} wrote outside its arrays"
    return out_of_slot(program.output, guarded[-1].array)


class _Guarded:
    """A copy of an array between two guards, ``shift`` elements from a multiple of 64 bytes."""

    def __init__(self, array: Array, shift: int) -> None:
        self._memory = np.full(array.size + 2 * GUARD + 16 + shift, SENTINEL)
        self._start = GUARD + (-(self._memory.ctypes.data // 4) % 16) + shift
        self.array = self._memory[self._start : self._start + array.size].reshape(array.shape)
        self.array[...] = array

    def is_intact(self) -> bool:
        """Whether nothing but the array was written."""
        before, behind = self._memory[: self._start], self._memory[self._start + self.array.size :]
        return bool((before == SENTINEL).all() and (behind == SENTINEL).all())


def random_inputs(block: Block, seed: int) -> list[Array]:
    """Normal float32 values for every input."""
    rng = np.random.default_rng(seed)
    shapes = [(block.batch, s.height, s.width, s.channels) for s in block.inputs]
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def error(block: Block, inputs: Sequence[Array], actual: Array) -> float:
    """Largest difference from the float64 reference, as a multiple of what float32 sums of this depth may have.

    Rounding errors of a sum of n terms grow like sqrt(n); those of inner values reach the result, so the largest value
    anywhere in the block is what they are relative to. A normalization of few channels that are nearly equal divides by
    next to nothing: where there is one, the result may move as far as when what is normalized is off by as much.
    """
    values = reference(block, inputs)
    rounding = 4 * np.finfo(np.float32).eps * max(accumulation_depth(block), 1) ** 0.5
    allowed = rounding * max(float(np.abs(value).max()) for value in values)
    worst = float(np.abs(actual - values[-1]).max())
    if worst > allowed and any(isinstance(stage, Norm) for stage in block.stages):
        allowed = max(allowed, float(np.abs(_moved(block, inputs, rounding) - values[-1]).max()))
    return worst / allowed if allowed else worst


def _moved(block: Block, inputs: Sequence[Array], rounding: float) -> Array:
    """The float64 result with what is normalized off by up to ``rounding`` of its largest value."""
    rng = np.random.default_rng(0)
    values = [np.asarray(x, np.float64) for x in inputs]
    for number, stage in enumerate(block.stages):
        operands = [values[i] for i in stage.inputs]
        if isinstance(stage, Norm):
            operands = [x + rounding * np.abs(x).max() * rng.uniform(-1, 1, x.shape) for x in operands]
        parameters = {key: data for (owner, key), data in block.parameters.items() if owner == number}
        values.append(stage.reference(operands, parameters))
    return values[-1]
