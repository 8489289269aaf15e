"""The shape of CPU kernels: what loops there are, what is not in them, where tiles live, and what is refused."""

from dataclasses import replace

import pytest
from tvm import tirx

from blockfuse.errors import InternalError
from blockfuse.machine import Epilogue, Loop, LoopKind, Mask, Pixels, Region, Sync, walk
from blockfuse.machine.affine import Range, span, var
from blockfuse.plan.cpu import CpuPlan, UnitTiling
from blockfuse.plan.fold import fold
from blockfuse.program.cpu import program_cpu
from blockfuse.schedules.cpu import lower
from blockfuse.schedules.cpu.activations import ACTIVATIONS as VECTOR_FORMS
from blockfuse.stages import ACTIVATIONS, ImageShape, Window
from tests import cpu_programs


def statements(function, kind):
    """All statements of a kind, outermost first, in order."""
    return [node for node in _nested(function.body) if isinstance(node, kind)]


def _nested(statement):
    yield statement
    match statement:
        case tirx.SeqStmt():
            inner = statement.seq
        case tirx.For():
            inner = [statement.body]
        case tirx.IfThenElse():
            inner = [each for each in (statement.then_case, statement.else_case) if each is not None]
        case _:
            inner = []
    for each in inner:
        yield from _nested(each)


def conv(width=56, batch=1, rows=8, tasks=1, window=cpu_programs.PAD1, pixels=14):
    block = cpu_programs.conv_block(ImageShape(8, width, 16), 64, window, batch)
    return program_cpu(fold(block), CpuPlan("rows", tasks, rows, (UnitTiling(pixels, 2),)), "conv")


def pixels_of(program):
    return next(node for node in walk(program.body) if isinstance(node, Pixels))


def test_every_activation_has_a_vector_form():
    assert VECTOR_FORMS.keys() == ACTIVATIONS.keys()


def test_no_conditions_anywhere():
    function = lower(conv())
    assert not statements(function, tirx.IfThenElse)
    assert "Select" not in str(function)


def test_equal_column_tiles_share_one_loop():
    """Left edge, middle, right edge; four middle tiles or two, the code is the same size."""
    names = [loop.loop_var.name for loop in statements(lower(conv(width=84)), tirx.For)]
    assert names.count("tile") == 1
    assert names.count("k") == 2 + 1 + 2  # at an edge one filter column is for fewer pixels, the others go together
    assert len(names) == len(statements(lower(conv(width=56)), tirx.For))


def test_parallel_loops_become_one():
    loops = statements(lower(conv(batch=3, tasks=4, rows=2)), tirx.For)
    parallel = [loop for loop in loops if loop.kind == tirx.ForKind.PARALLEL]
    assert [int(loop.extent) for loop in parallel] == [12]
    assert loops[0].same_as(parallel[0])


def test_one_task_is_no_loop():
    assert not [loop for loop in statements(lower(conv()), tirx.For) if loop.kind == tirx.ForKind.PARALLEL]


def test_phases_run_one_after_the_other_with_the_tile_between_them_outside():
    _, program = cpu_programs.two_phases()
    function = lower(program)
    loops = statements(function, tirx.For)
    assert loops[0].kind == tirx.ForKind.SERIAL
    assert len([loop for loop in loops if loop.kind == tirx.ForKind.PARALLEL]) == 2
    outside = [str(node.buffer.name) for node in loops[0].body.seq if isinstance(node, tirx.AllocBuffer)]
    assert outside == ["middle"]


def test_each_sum_is_one_vector():
    """Arrays of several vectors stay in memory as soon as LLVM cannot tell their accesses apart."""
    buffers = [node.buffer for node in statements(lower(conv()), tirx.AllocBuffer)]
    assert [int(buffer.shape[0]) for buffer in buffers] == [16] * 28


def test_prefetch_is_for_panels_that_few_pieces_use():
    block = cpu_programs.conv_block(ImageShape(7, 7, 16), 64, cpu_programs.PAD1)
    for rows_of_pixels, expected in ((7, True), (1, False)):
        plan = CpuPlan("rows", 1, 7, (UnitTiling(rows_of_pixels, 2, prefetch=True),))
        assert ("prefetch" in str(lower(program_cpu(fold(block), plan, "k")))) == expected


def refuse(program, match):
    with pytest.raises(InternalError, match=match):
        lower(program)


def test_refuses_other_targets_and_types():
    refuse(replace(conv(), target="cuda"), "is for cuda")
    refuse(replace(conv(), dtype="float16"), "float16")


def test_refuses_words_of_other_targets():
    program = conv()
    program.body.append(Sync())
    refuse(program, "SYNC is not for CPUs")
    program = conv()
    end = pixels_of(program).body[-1]
    assert isinstance(end, Epilogue)
    end.steps = (Mask(),)
    refuse(program, "mask is not for CPUs")
    program = conv()
    program.inputs[0].apart_w = 2
    refuse(program, "is not for CPUs")


def test_refuses_columns_that_are_not_known():
    program = conv()
    pixels = pixels_of(program)
    pixels.region = Region(pixels.region.rows, span(var("tile") * 7, 7), pixels.region.channels)
    program.body = [Loop("tile", 8, LoopKind.CHUNK, program.body)]
    refuse(program, "not known when code is made")


def test_refuses_a_changing_number_of_channels():
    program = conv()
    pixels = pixels_of(program)
    pixels.region = Region(pixels.region.rows, pixels.region.cols, Range(var("c"), var("c") * 2))
    program.body = [Loop("c", 8, LoopKind.CHUNK, program.body)]
    refuse(program, "is not constant")


def test_refuses_to_slide_over_a_planar_image():
    block = cpu_programs.channel_chunks()[0]
    stages = (replace(block.stages[2], inputs=(0,)),)
    single = replace(block, inputs=(block.shapes[1],), stages=stages, parameters={})
    program = program_cpu(fold(single), CpuPlan("rows", 1, 6, (UnitTiling(6, 1),)), "dw")
    program.inputs[0].planar = True
    refuse(program, "planar")


def test_refuses_weights_for_other_channels():
    program = conv(window=Window())
    pixels = pixels_of(program)
    pixels.region = Region(pixels.region.rows, pixels.region.cols, span(0, 32))
    refuse(program, "makes channels other than")


def test_sums_over_copies_and_over_windows_read_differently():
    _, program = cpu_programs.input_slices()
    assert "REDUCE_ACROSS y[" in str(program)
