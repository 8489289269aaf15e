"""Which grouped convolutions a CUDA kernel makes as dense ones of a share of the groups each."""

from __future__ import annotations

from math import lcm

from blockfuse.machine.groups import GroupBlock, block_steps, dense_block, group_block
from blockfuse.plan.cuda_limits import CORE
from blockfuse.plan.units import Folded, Unit

_MOST = 32 * 1024  # bytes of half precision: the most that GROUPED may need of a filter at once


def narrow_block(folded: Folded, unit: Unit) -> GroupBlock:
    """Channels that GROUPED works on together."""
    return group_block(unit.groups, folded.shapes[unit.terms[0].source].channels, unit.shape.channels)


def wide_block(folded: Folded, unit: Unit) -> GroupBlock | None:
    """Channels of a dense sum of a grouped unit; None for other units, and where GROUPED is for it.

    GROUPED needs all taps of its blocks at once, and where a block has other numbers of inputs and outputs, all blocks.
    """
    if unit.kind != "grouped":
        return None
    window, block = unit.terms[0].window, narrow_block(folded, unit)
    outputs = lcm(CORE, block.outputs) if block.inputs == block.outputs else unit.shape.channels
    if block_steps(block.inputs, window.r, window.s) * 2 * CORE * outputs <= _MOST:
        return None
    return dense_block(unit.groups, folded.shapes[unit.terms[0].source].channels, unit.shape.channels)


def is_sum(folded: Folded, unit: Unit) -> bool:
    """Whether a unit is made by GEMM."""
    return unit.kind == "contract" or wide_block(folded, unit) is not None


def summed_channels(folded: Folded, unit: Unit, source: int) -> int:
    """Channels of an operand that one chunk of such a unit's result is made of."""
    block = wide_block(folded, unit)
    return block.inputs if block else folded.shapes[source].channels
