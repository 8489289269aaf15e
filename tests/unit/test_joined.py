"""Blocks inside which channels lie side by side: found whole, and in how much memory of their own."""

from __future__ import annotations

import numpy as np
import pytest

from blockfuse.block import Block
from blockfuse.frontend import canonicalize, patterns, to_onnx
from blockfuse.frontend.partition import partition
from blockfuse.machine import Map
from blockfuse.plan.choose import choose
from blockfuse.plan.cpu import CpuPlan
from blockfuse.plan.cpu_tiling import unit_tiling
from blockfuse.plan.device import cpu_device, device_of
from blockfuse.plan.fold import fold
from blockfuse.plan.homes import Home, homes
from blockfuse.plan.infeasible import Infeasible
from blockfuse.plan.phases import by_rows, phases
from blockfuse.program.cpu import program_cpu
from blockfuse.stages import Add, Concat, Conv, Depthwise, ImageShape, Slice, Window
from blockfuse.steps import join_objection
from blockfuse.target import parse_target
from tests.joined_blocks import CASES, fire, ghost, mixer, mlp, shares
from tests.small_graphs import Net, random_inputs, run_partition, run_with_onnxruntime

CPU = cpu_device(parse_target("cpu:avx512", 2))
PAD1 = Window(3, 3, pad_top=1, pad_left=1, pad_bottom=1, pad_right=1)


def check_numbers(graph, result):
    inputs = random_inputs(graph)
    expected = run_with_onnxruntime(to_onnx(graph), inputs)
    actual, tolerance = run_partition(result, inputs)
    for name, array in expected.items():
        np.testing.assert_allclose(actual[name], array, rtol=0, atol=tolerance)


@pytest.mark.parametrize("case", CASES)
def test_found_whole(case):
    pattern, make = CASES[case]
    graph = make()
    result = partition(canonicalize(graph), patterns.all())
    assert [found.pattern for found in result.found] == [pattern]
    assert len(result.steps) == 1
    check_numbers(graph, result)


def test_the_difference_from_means_is_one_block():
    graph = mixer()
    result = partition(canonicalize(graph), patterns.all())
    assert "pool_mixer" in [found.pattern for found in result.found]
    check_numbers(graph, result)


@pytest.mark.parametrize("normalized", [False, True])
def test_layers_behind_a_normalization_of_the_image_are_one_block(normalized):
    graph = mlp(normalized=normalized)
    result = partition(canonicalize(graph), patterns.all())
    (found,) = result.found
    assert (found.pattern, len(found.ops)) == ("mlp_block", 4 + normalized)
    check_numbers(graph, result)


def test_attention_of_ghost_modules_comes_from_outside():
    net = Net((2, 10, 9, 7))
    other = net.unary("Sigmoid", net.conv("x", 26))
    y = net.relu(net.conv("x", 13, 1))
    y = net.mul(net.op("Concat", (y, net.relu(net.depthwise(y))), (2, 26, 9, 7), axis=1), other)
    y = net.conv(y, 5, 1)
    y = net.op("Concat", (y, net.depthwise(y)), (2, 10, 9, 7), axis=1)
    result = partition(canonicalize(net.graph(net.add(y, "x"))), patterns.all())
    (found,) = (found for found in result.found if found.pattern == "ghost_bottleneck")
    assert len(found.block.inputs) == 2


# ---- what becomes of them --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("fuse", ["auto", "always", "never"])
def test_no_gpu_kernel_holds_them(fuse):
    graph = canonicalize(ghost())
    device = device_of(parse_target("sm_90a"))
    objection = join_objection(graph, device, fuse)
    result = partition(graph, patterns.all(), objection=objection)
    assert not any(block.has_joins for block in result.blocks)
    reasons = [result.reasons[op.name] for op in graph.ops() if op.kind == "Concat"]
    why = (
        "fuse=never" if fuse == "never" else "one kernel is impossible (concatenations and slices inside a CUDA kernel"
    )
    assert all(reason.startswith(f"ghost_bottleneck matches here, but {why}") for reason in reasons)


@pytest.mark.parametrize(("fuse", "kept"), [("always", (1, 1)), ("auto", (1, 0)), ("never", (0, 0))])
def test_a_cpu_kernel_holds_them_where_that_pays(fuse, kept):
    """A fire module is as fast in parts."""
    for make, count in zip((ghost, lambda: fire(shape=(1, 64, 27, 27), channels=(32, 128))), kept, strict=True):
        graph = canonicalize(make())
        result = partition(graph, patterns.all(), objection=join_objection(graph, CPU, fuse))
        assert sum(block.has_joins for block in result.blocks) == count
        why = "fuse=never" if fuse == "never" else "one kernel is predicted to take"
        divided = [reason for reason in result.reasons.values() if "matches here, but" in reason]
        assert all(why in reason for reason in divided)
        assert bool(divided) == (not count)


def test_without_a_pattern_no_block_holds_them():
    net = Net((1, 8, 6, 6))
    a, b = shares(net, net.conv("x", 9, 1), 4, 5)
    graph = canonicalize(net.graph(net.relu(a, "a"), net.relu(b, "b")))
    result = partition(graph, (), cost=lambda _: 1.0)
    assert not any(block.has_joins for block in result.blocks)
    slices = [op.name for op in graph.ops() if op.kind == "Slice"]
    assert all("only says where channels are" in result.reasons[name] for name in slices)


# ---- addresses -------------------------------------------------------------------------------------------------------
def two_halves(*, read_again: bool = False) -> Block:
    stages = [
        Conv("conv", (0,), 6, Window()),
        Depthwise("depthwise", (1,), PAD1),
        Concat("concat", (1, 2)),
        Conv("project", (3,), 5, Window()),
    ]
    if read_again:
        stages += [Concat("again", (2, 4))]
    return Block((ImageShape(9, 7, 4),), tuple(stages), name="halves").with_random_parameters(0)


def program_of(block: Block, tasks: int = 2):
    folded = by_rows(fold(block))
    tilings = tuple(unit_tiling(folded, index, CPU) for index in range(len(folded.units)))
    return program_cpu(fold(block), CpuPlan("rows", tasks, 2, tilings), "halves")


def test_halves_are_made_in_one_ring():
    program = program_of(two_halves())
    assert not any(isinstance(instruction, Map) for instruction in program.instructions())
    (ring,) = program.tiles
    assert (ring.pitch, ring.rows) == (12, 4)
    assert sorted((view.origin, view.image.channels) for view in ring.views) == [(0, 6), (6, 6)]


def test_what_is_concatenated_twice_is_copied_once():
    program = program_of(two_halves(read_again=True))
    maps = [instruction for instruction in program.instructions() if isinstance(instruction, Map)]
    assert len(maps) == 1


@pytest.mark.parametrize(("tasks", "copies"), [(1, 0), (2, 1)])
def test_what_bands_make_twice_is_copied_into_a_result(tasks, copies):
    """A band must not write rows of the result that are another one's."""
    stages = (Conv("conv", (0,), 6, Window()), Depthwise("depthwise", (1,), PAD1), Concat("concat", (1, 2)))
    block = Block((ImageShape(9, 7, 4),), stages, name="halves").with_random_parameters(0)
    program = program_of(block, tasks)
    assert sum(isinstance(instruction, Map) for instruction in program.instructions()) == copies


def test_homes_within_homes():
    stages = (
        Conv("a", (0,), 4, Window()),
        Conv("b", (0,), 3, Window()),
        Concat("inner", (1, 2)),
        Conv("c", (0,), 2, Window()),
        Concat("outer", (4, 3)),
        Slice("slice", (5,), 1, 6),
        Conv("last", (6,), 5, Window()),
        Slice("input", (0,), 2, 5),
        Add("add", (7, 8)),
    )
    folded = fold(Block((ImageShape(5, 5, 7),), stages))
    found = homes(folded, phases(folded), 2)
    outer = 5
    assert found == {
        1: Home(outer, 2),
        2: Home(outer, 6),
        3: Home(outer, 2),
        4: Home(outer, 0),
        6: Home(outer, 1),
        8: Home(0, 2),
    }


def test_no_cuda_plan():
    plan = choose(fold(two_halves()), device_of(parse_target("sm_80")))
    assert isinstance(plan, Infeasible)
    assert str(plan) == "concatenations and slices inside a CUDA kernel: needs 1 of them, 0 available"
