"""Kernels whose result is pooled tile by tile, and kernels that complete the pool: together they compute the block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from blockfuse.block import Block, reference
from blockfuse.errors import InternalError
from blockfuse.plan.choose_cuda import plan_cuda
from blockfuse.plan.cuda import CudaPlan
from blockfuse.plan.decide import Decision, Kernel, best, decide, fewest
from blockfuse.plan.device import GPUS, cpu_device
from blockfuse.plan.fold import fold
from blockfuse.plan.infeasible import Infeasible
from blockfuse.plan.means_first import means_first
from blockfuse.plan.partial import parts_of
from blockfuse.program.cuda import program_cuda
from blockfuse.program.cuda_direct import draft_direct
from blockfuse.program.interpret import interpret_all
from blockfuse.stages import Array, Depthwise, ImageShape, Multiply, Window
from blockfuse.target import parse_target
from tests.cuda_kernels import build, inputs_of, parts_error
from tests.gated_blocks import gated_bottleneck, squeeze_excite, strided_gate
from tests.residual_blocks import (
    finished,
    gate_of,
    hidden_image,
    on_sums,
    pooled_sum,
    response,
    same,
    squeezed_project,
)

GPU = GPUS["sm_90"]
SMALL = replace(GPU, local_bytes=20 * 1024)  # too little for a whole image
GATED = [
    squeeze_excite(19, 17, 12, 40, 2),
    squeeze_excite(35, 33, 12, 40),
    strided_gate(37, 22, 2),
    gated_bottleneck(31, 27, 2),
    response(21, 18, 16, 56, 3),
]


def computed(decision: Decision, inputs: list[Array]) -> Array:
    """What a decision's programs make of a block in float64, passing values by their names."""
    known: dict[str, Array] = dict(zip(decision.block.tensors[:-1], inputs, strict=True))
    for kernel in decision.kernels:
        known |= results(kernel, known)
    return known[decision.block.tensors[-1]]


def results(kernel: Kernel, known: Mapping[str, Array]) -> dict[str, Array]:
    block, plan = kernel.block, kernel.plan
    assert isinstance(plan, CudaPlan)
    program = program_cuda(fold(block), plan, "kernel")
    made = interpret_all(program, [known[name] for name in block.tensors[:-1]], block.parameters)
    return dict(zip((block.tensors[-1], block.parts_name), made, strict=False))


def named(block: Block) -> Block:
    return replace(block, dtype="float16", tensors=("x", "y"))


def pools_tiles(decision: Decision) -> list[bool]:
    return [bool(kernel.block.pooled) for kernel in decision.kernels]


@pytest.mark.parametrize("fuse", ["auto", "always"])
@pytest.mark.parametrize("block", GATED, ids=lambda block: f"{block.name} {block.inputs[0]}")
def test_pairs_of_kernels_compute_the_block(block, fuse):
    block = named(block)
    decision = decide(block, SMALL, fuse)
    assert pools_tiles(decision).count(True) == 1
    inputs = [array.astype(np.float64) for array in inputs_of(block)]
    wanted = reference(means_first(block) or block, inputs)[-1]  # whose weights are rounded as those of the kernels
    np.testing.assert_allclose(computed(decision, inputs), wanted, rtol=0, atol=1e-9 * np.abs(wanted).max())


def test_the_image_is_read_once_and_counted_once():
    block = named(squeeze_excite(35, 33, 12, 40))
    first, second = decide(block, GPU, "always").kernels
    image, plan = 35 * 33 * 40 * 2, first.plan
    assert first.block.pooled == "mean"
    assert second.block.partial == (0,)
    assert isinstance(plan, CudaPlan)
    parts = -(-35 // plan.tile_p) * -(-33 // plan.tile_q) * 40 * 4
    assert second.block.inputs[0].elements * 4 == parts
    weights = [sum(data.size for data in each.block.parameters.values()) * 2 for each in (first, second)]
    outside = 35 * 33 * 12 * 2
    assert first.cost.global_bytes == outside + weights[0] + image + parts
    assert second.cost.global_bytes == 2 * outside + weights[1] + image + parts
    whole = best(replace(first.block, pooled=""), GPU)
    assert isinstance(whole, Kernel)
    assert 0 < first.cost.cache_bytes - whole.cost.cache_bytes <= 2 * parts


def test_a_gate_of_large_layers_is_a_kernel_of_its_own():
    """Every tile would read its weights, if it were made where it is used."""
    behind = squeezed_project(28, 28, 512, 512, 64, 4)
    stages = [replace(stage, inputs=tuple(value + 1 for value in stage.inputs)) for stage in behind.stages]
    block = named(finished("wide", behind.inputs[0], [Depthwise("dw", (0,), same(3)), *stages], 4))
    first, gate, *_, last = decide(block, GPU, "auto").kernels
    assert (first.block.pooled, first.block.partial) == ("mean", ())
    assert (gate.block.partial, gate.block.inputs[1:], gate.block.output.pixels) == ((0,), (), 1)
    assert (last.block.partial, last.block.inputs) == ((), (first.block.output, ImageShape(1, 1, 512)))


def test_what_no_pattern_names_is_divided_by_the_same_costs():
    block = named(squeeze_excite(35, 33, 12, 40))
    assert isinstance(best(block, GPU), Infeasible)
    pair = fewest(block, GPU)
    assert [bool(kernel.block.pooled) for kernel in pair] == [True, False]
    assert sum(kernel.cost.seconds for kernel in pair) == decide(block, GPU, "always").seconds
    small = named(squeeze_excite(5, 4, 12, 40))
    assert len(fewest(small, GPU)) == 1
    assert fewest(small, replace(GPU, local_bytes=512)) == ()


def test_without_room_for_a_pair_the_pool_reads_the_image():
    """The input that is added would have to be on the chip as a whole; while storing it needs no room."""
    image = pooled_sum(5, 4, 512)
    behind = gate_of(5, 4, 512, 8)
    stages = [replace(stage, inputs=tuple(value + 3 for value in stage.inputs)) for stage in behind.stages]
    gated = [*image.stages, *stages, Multiply("gate", (3, 8))]
    block = named(finished("gated_sum", image.inputs[0], gated, 1))
    small = replace(GPU, local_bytes=10 * 1024)
    assert isinstance(best(image, small), Infeasible)
    decision = decide(block, small, "auto")
    assert len(decision.kernels) >= 3
    assert not any(pools_tiles(decision))


def test_a_cpu_pools_in_phases():
    device = cpu_device(parse_target("cpu:avx512", 2))
    for fuse in ("auto", "always", "never"):
        decision = decide(replace(named(GATED[0]), dtype="float32"), device, fuse)
        assert not any(pools_tiles(decision))


def test_a_layer_that_is_pooled_does_not_go_from_memory_to_memory():
    block = replace(hidden_image(9, 9, 8, 16), pooled="mean")
    plan = plan_cuda(fold(block), GPU)
    assert isinstance(plan, CudaPlan)
    assert not plan.direct
    with pytest.raises(InternalError, match="needs tiles on the chip"):
        draft_direct(fold(block), replace(plan, direct=True), "kernel")


def test_what_is_added_is_on_the_chip():
    """Else the sum would be complete only in memory."""
    built = build(pooled_sum(40, 40, 256), (4, 4), 4)
    inputs = inputs_of(built.block)
    _, parts = interpret_all(built.program, inputs, built.block.parameters)
    assert parts_error(built, inputs, parts) < 1e-6


@pytest.mark.parametrize(
    ("plan", "image", "window"),
    [
        ({"tile": (4, 5)}, ImageShape(3, 2, 48), Window(4, 5, 4, 5)),
        ({"tile": (11, 9)}, ImageShape(1, 1, 48), Window(11, 9, 11, 9)),
        ({"images": 2, "split": 1}, ImageShape(2, 1, 48), Window(11, 9, 13, 9)),
    ],
)
def test_parts_are_tiles_or_images(plan, image, window):
    folded = fold(replace(hidden_image(11, 9, 8, 48, 4), pooled="mean"))
    found = plan_cuda(folded, GPU, **plan)
    assert isinstance(found, CudaPlan)
    parts = parts_of(folded, found)
    assert (parts.image, parts.window) == (image, window)
    assert parts.in_memory == (ImageShape(1, 1, 48) if "images" in plan else image)


def test_a_tile_has_no_parts_of_several_images():
    folded = fold(replace(hidden_image(11, 9, 8, 48, 4), pooled="mean"))
    found = plan_cuda(folded, GPU, tile=(4, 9), images=2)
    assert str(found) == "tile of several images whose result is pooled: needs 22 rows, 4 available"
    plan = plan_cuda(fold(replace(folded.block, pooled="")), GPU, tile=(4, 9), images=2)
    assert isinstance(plan, CudaPlan)
    with pytest.raises(InternalError, match="a tile of 4 rows has parts of several images"):
        parts_of(folded, plan)


def test_a_pool_of_sums_divides_by_the_pixels_of_the_image():
    block = gate_of(7, 5, 6, 2)
    rest = on_sums(block, (4, 4))
    x = np.random.default_rng(0).standard_normal((1, 7, 5, 6))
    padded = np.zeros((1, 8, 8, 6))
    padded[:, :7, :5] = x
    sums = padded.reshape(1, 2, 4, 2, 4, 6).sum((2, 4))
    np.testing.assert_allclose(reference(rest, [sums])[-1], reference(block, [x])[-1], rtol=1e-12)
    assert str(rest.stages[0].describe()) == "mean pool 2x2 of 35"
