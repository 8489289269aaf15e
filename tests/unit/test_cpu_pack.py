"""The packed weights of CPU kernels: order, alignment, what is shared, and what is refused."""

import numpy as np
import pytest

from blockfuse.errors import InternalError
from blockfuse.machine import Bias, Gemm, Loop, LoopKind, Program, walk
from blockfuse.machine.affine import Range, clip, span, var
from blockfuse.plan.cpu import CpuPlan, UnitTiling
from blockfuse.plan.fold import fold
from blockfuse.program.cpu import program_cpu
from blockfuse.schedules.cpu.pack import LINE, layout, pack
from tests import cpu_programs


def gemms(program: Program) -> list[Gemm]:
    return [node for node in walk(program.body) if isinstance(node, Gemm)]


def test_panels_are_tap_by_tap_and_channel_by_channel():
    block, program = cpu_programs.planar_source()
    packed = pack(program, block.parameters)
    weight = block.parameters[0, "weight"]
    start = layout(program).parts[gemms(program)[0]].at({})
    panels = packed[start:][: weight.size].reshape(-1)
    first = panels[: 16 * 9 * 20].reshape(9, 20, 16)  # two vectors of 8
    last = panels[16 * 9 * 20 :].reshape(9, 20, 8)
    expected = weight.reshape(24, 20, 9).transpose(2, 1, 0)
    np.testing.assert_array_equal(np.concatenate([first, last], -1), expected)


@pytest.mark.parametrize("make", cpu_programs.PROGRAMS)
def test_everything_starts_at_a_line_and_nothing_overlaps(make):
    block, program = make()
    plan = layout(program)
    spans = [(start, program.parameters[keys[0]][0]) for keys, start in plan.constants.items()]
    for part in dict.fromkeys(plan.parts.values()):
        trips = np.ndindex(*(count for _, count in part.box.trips))
        names = [name for name, _ in part.box.trips]
        spans += [(part.at(dict(zip(names, trip, strict=True))), part.box.size) for trip in trips]
    assert all(start % LINE == 0 for start, _ in spans)
    ends = [start + size for start, size in sorted(spans)]
    assert all(end <= start for end, (start, _) in zip(ends, sorted(spans)[1:], strict=False))
    assert ends[-1] <= plan.size == pack(program, block.parameters).size


def test_filter_row_slices_of_a_panel_lie_together():
    """What follows a slice is the next one read: the next filter row of the same panel."""
    block = cpu_programs.conv_block(cpu_programs.ImageShape(7, 7, 16), 64, cpu_programs.PAD1)
    tiling = UnitTiling(7, 2, filter_rows=True)
    program = program_cpu(fold(block), CpuPlan("rows", 1, 7, (tiling,)), "slices")
    parts = [layout(program).parts[gemm] for gemm in gemms(program)]
    reads = [part.at({"panel": panel}) for panel in range(2) for part in parts]
    size = 3 * 16 * 32
    assert reads == [reads[0] + i * size for i in range(6)]


def test_biases_are_summed():
    block, program = cpu_programs.input_slices()
    keys = ((0, "bias"), (0, "bias"))
    end = program.instructions()[-1]
    end.steps = (Bias(keys), *end.steps[1:])
    start = layout(program).constants[keys]
    packed = pack(program, block.parameters)
    np.testing.assert_allclose(packed[start : start + 40], 2 * block.parameters[0, "bias"], rtol=1e-6)


def test_equal_slices_are_packed_once():
    _, program = cpu_programs.planar_source()
    once = layout(program).size
    program.body = [Loop("again", 2, LoopKind.ROWS, program.body), *program.body]
    assert layout(program).size == once


def test_slices_must_have_a_constant_size():
    block, program = cpu_programs.input_slices()
    gemm = gemms(program)[0]
    odd = Range(var("slice") * 8, clip(var("slice") * 9, 0, 24))
    gemm.weights = cpu_programs.weights(block, inputs=odd)
    with pytest.raises(InternalError, match="no constant size"):
        layout(program)


def test_slices_must_lie_inside_the_filter():
    block, program = cpu_programs.input_slices()
    gemms(program)[0].weights = cpu_programs.weights(block, inputs=span(var("slice") * 9, 8))
    with pytest.raises(InternalError, match="reaches outside"):
        pack(program, block.parameters)


def test_a_kernel_without_constants_gets_one_line():
    _, program = cpu_programs.two_phases()
    program.body = []
    assert pack(program, {}).tolist() == [0.0] * LINE
