"""Kernels of residual blocks, emulated: right within rounding, and nothing to report."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from blockfuse.block import Block
from blockfuse.machine import Engine
from blockfuse.plan.cuda_rules import Limits, apply_rules
from blockfuse.plan.fold import fold
from blockfuse.stages import Activation, Conv, Depthwise, Grouped, ImageShape, Norm, Stage, Window
from tests.cuda_kernels import Built, build, built_as, grid, inputs_of, kernel_arguments, rounded_weights, run
from tests.emulated.emulator import emulate
from tests.random_blocks import FUNCTIONS
from tests.residual_blocks import (
    SILU,
    anti_aliased,
    basic,
    bottleneck,
    convfirst,
    convnext,
    finished,
    fused_mbconv,
    gated_project,
    global_pool,
    max_pool,
    mbconv,
    resnext,
    response,
    same,
    single,
    squeeze_excite,
)
from tests.slots import out_of_slot

# A vector access whose alignment TVM cannot prove becomes one load per element, silently.
GATHER = re.compile(r"make_(?:half|uint|float|bfloat16)\w*\(\w+\[|make_uint\d\(\(\(uint")

ASYMMETRIC = Window(3, 3, 2, 2, pad_bottom=1, pad_right=1)
DILATED = Window(3, 3, 1, 1, 2, 2, 2, 2, 2, 2)


def assert_right(built: Built, *, reverse: bool = False) -> None:
    assert not GATHER.search(built.source)
    result = run(built, thread_order="reverse" if reverse else "forward")
    assert not result.findings
    assert result.error <= 1


@pytest.mark.parametrize(
    ("block", "tile", "warps"),
    [(basic(28, 28, 128), (7, 14), 8), (mbconv(28, 28, 32, 192), (7, 14), 4)],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_real_sizes(block, tile, warps):
    assert_right(build(block, tile, warps))


SMALL: list[tuple[Block, tuple[int, int]]] = [
    (basic(11, 9, 24, batch=2), (4, 6)),
    (basic(13, 11, 16, 32, stride=2), (4, 4)),
    (bottleneck(9, 10, 64, 32), (4, 6)),
    (bottleneck(11, 13, 32, 32, 64, stride=2, batch=2), (4, 4)),
    (bottleneck(1, 1, 64, 32, batch=3), (2, 2)),
    (mbconv(17, 13, 24, 96, 40, stride=2), (4, 5)),
    (mbconv(15, 15, 40, 120, 48, r=5, stride=2), (4, 4)),
    (mbconv(7, 7, 20, 144, r=5, batch=2), (7, 7)),
    (single(9, 11, 40, Conv("pointwise", (0,), 48, Window())), (4, 6)),
    (single(9, 11, 3, Conv("stem", (0,), 24, same(3, 2)), batch=2), (3, 4)),
    (single(9, 12, 20, Conv("asymmetric", (0,), 20, ASYMMETRIC)), (4, 6)),
    (single(12, 9, 16, Conv("dilated", (0,), 16, DILATED)), (5, 5)),
    (single(9, 11, 24, Depthwise("depthwise", (0,), same(5)), batch=2), (4, 6)),
    (max_pool(13, 11, 20), (4, 3)),
    (global_pool(7, 7, 40), (1, 1)),
]


@pytest.mark.parametrize(("block", "tile"), SMALL, ids=[f"{b.name}_{b.inputs[0]}" for b, _ in SMALL])
def test_small_and_ragged(block, tile):
    assert_right(build(block, tile))


@pytest.mark.parametrize("index", [0, 3, 5, 9, 12, 13])
def test_bfloat16(index):
    block, tile = SMALL[index]
    built = build(replace(block, dtype="bfloat16"), tile)
    assert "half" not in built.source[built.source.rindex("__global__") :].replace("halves", "")
    assert_right(built)


FLOAT32 = [
    *(SMALL[index] for index in (0, 3, 6, 9, 12, 13)),
    (convnext(7, 6, 24), (4, 6)),
    (convfirst(7, 6, 24, expansion=2), (4, 6)),
    (resnext(7, 9, 40, 24, 12), (4, 6)),
    (gated_project(7, 6, 20, 16), (4, 6)),
    (response(5, 6, 12, 20), (5, 6)),
    (anti_aliased(10, 7, 12, "reflect"), (3, 4)),
]


@pytest.mark.parametrize(("block", "tile"), FLOAT32, ids=[f"{b.name}_{b.inputs[0]}" for b, _ in FLOAT32])
def test_float32(block, tile):
    built = build(replace(block, dtype="float32"), tile)
    assert "mma" not in built.source
    assert_right(built)


FAMILIES: list[tuple[Block, tuple[int, int]]] = [
    (convnext(9, 10, 24, batch=2), (4, 6)),
    (convfirst(9, 19, 32), (4, 16)),
    (convfirst(9, 7, 48, 24), (4, 6)),
    (resnext(9, 11, 40, 24, 12), (4, 6)),
    (gated_project(9, 11, 40, 24, batch=2), (4, 6)),
    (squeeze_excite(7, 7, 40, 8, batch=2), (7, 7)),
    (response(7, 5, 20, 44, batch=2), (7, 5)),
    (anti_aliased(11, 9, 12, "reflect", batch=2), (4, 3)),
    (anti_aliased(9, 12, 20, "edge"), (5, 6)),
]


@pytest.mark.parametrize(("block", "tile"), FAMILIES, ids=[f"{b.name}_{b.inputs[0]}" for b, _ in FAMILIES])
def test_families(block, tile):
    assert_right(build(block, tile, 4))


WIDTHS = [(24, 48, 3), (16, 8, 2), (16, 32, 16), (48, 24, 3), (3, 3, 3), (4, 20, 2), (20, 30, 5)]


@pytest.mark.parametrize(("channels", "outputs", "groups"), WIDTHS)
def test_groups_of_any_width(channels, outputs, groups):
    stage = Grouped("grouped", (0,), outputs, groups, same(3))
    assert_right(build(single(6, 7, channels, stage), (4, 4), 4))


@pytest.mark.parametrize("norm", [False, True])
def test_rows_that_are_written_16_bytes_at_a_time_are_aligned(norm):
    """Fewest bank conflicts alone would put the pixels of these inputs 212 elements apart."""
    stages = [*([Norm("norm", (0,), 1e-6)] if norm else []), Depthwise("depthwise", (int(norm),), same(3, 2))]
    stages.append(Conv("project", (len(stages),), 208, Window()))
    assert_right(build(finished("aligned", ImageShape(3, 1, 200), stages, 1), (2, 1), 4))


def test_groups_of_different_widths_in_one_kernel():
    """Fragments of weights have registers for one, then for three n8 tiles."""
    stages = [Grouped("narrow", (0,), 48, 6, same(3)), Grouped("wide", (1,), 48, 2, same(3))]
    assert_right(build(finished("widths", ImageShape(6, 7, 48), stages, 1), (4, 4), 4))


STREAMED: list[tuple[Block, tuple[int, int]]] = [
    (bottleneck(10, 9, 64, 32), (4, 6)),
    (basic(9, 7, 64), (4, 4)),
    (single(9, 12, 64, Conv("conv3x3", (0,), 48, same(3, 2))), (4, 6)),
    (fused_mbconv(9, 11, 32, 48), (4, 6)),
]


@pytest.mark.parametrize(("block", "tile"), STREAMED, ids=[f"{b.name}_{b.inputs[0]}" for b, _ in STREAMED])
def test_inputs_that_arrive_with_the_weights(block, tile):
    """The last one makes its hidden channels a chunk at a time, and reads the input again for each."""
    block = rounded_weights(block)
    built = built_as(block, apply_rules(fold(block), *tile, 4, Limits(2, 20480, 32, 0)))
    assert built.program.tiles[0].streamed
    assert_right(built)


SHARED: list[tuple[Block, tuple[int, int], int]] = [
    (single(5, 4, 40, Conv("pointwise", (0,), 100, Window()), batch=2), (5, 4), 4),
    (single(5, 4, 40, Conv("conv3x3", (0,), 200, same(3)), batch=2), (3, 4), 3),
    (mbconv(7, 6, 16, 128, 72), (4, 6), 2),
    (convnext(7, 6, 32), (4, 6), 2),
    (bottleneck(9, 8, 32, 32, 128, stride=2), (4, 4), 2),
]


@pytest.mark.parametrize("engine", Engine)
@pytest.mark.parametrize(("stride", "split", "images"), [(1, 1, 1), (2, 1, 1), (2, 2, 1), (2, 2, 2)])
def test_an_input_that_arrives_for_the_shortcut_again(stride, split, images, engine):
    """The second time only the pixels that the shortcut reads, every other one with stride 2."""
    block = rounded_weights(bottleneck(9, 10, 64, 32, 128, stride=stride, batch=3))
    tile = (10, 5) if images > 1 else (3, 4)
    plan = apply_rules(fold(block), *tile, 4, Limits(2, 20480, 32, 0, engine), split=split, images=images)
    built = built_as(block, plan)
    assert [tile.name for tile in built.program.tiles if tile.streamed] == ["x", "x_shortcut"]
    assert_right(built)


def expand(stage: Stage, channels: int) -> Block:
    """A pointwise convolution and a stage that works channel by channel, or group by group."""
    stages = [Conv("expand", (0,), channels, Window()), Activation("silu", (1,), SILU), replace(stage, inputs=(2,))]
    return finished("expand", ImageShape(9, 8, 24), stages, 2)


SHARED += [
    (expand(Depthwise("depthwise", (0,), same(5, 2)), 96), (3, 4), 3),
    (expand(Depthwise("depthwise", (0,), same(3)), 100), (3, 4), 1),
    (expand(Grouped("grouped", (0,), 96, 12, same(3, 2)), 96), (3, 4), 2),
]


@pytest.mark.parametrize("engine", Engine)
@pytest.mark.parametrize(("block", "tile", "split"), SHARED, ids=[f"{b.name}_{s}" for b, _, s in SHARED])
def test_channels_shared_by_ctas(block, tile, split, engine):
    built = build(block, tile, 4, engine=engine, split=split)
    shares = [loop.count for loop in built.program.walk() if getattr(loop, "kind", "") == "channel_split"]
    assert shares == ([split] if split > 1 else [])
    assert_right(built)


STACKED: list[tuple[Block, int, int]] = [
    (single(1, 1, 40, Conv("pointwise", (0,), 100, Window()), batch=5), 4, 1),
    (single(5, 4, 40, Conv("pointwise", (0,), 112, Window()), batch=3), 2, 7),
    (single(5, 4, 20, Conv("conv3x3", (0,), 40, same(3)), batch=3), 2, 1),
    (mbconv(5, 6, 16, 128, 72, batch=5), 2, 1),
    (mbconv(8, 6, 16, 128, 72, r=5, stride=2, batch=4), 3, 1),
    (convnext(7, 6, 32, batch=3), 2, 2),
    (bottleneck(9, 8, 32, 32, 128, stride=2, batch=4), 2, 2),
    (convfirst(4, 5, 32, batch=4), 3, 1),
]


@pytest.mark.parametrize("engine", Engine)
@pytest.mark.parametrize(("block", "images", "split"), STACKED, ids=[f"{b.name}_{i}_{s}" for b, i, s in STACKED])
def test_several_images_in_a_cta(block, images, split, engine):
    """The last stack is not full, and rows between images are the padding of both."""
    built = build(block, None, 4, engine=engine, split=split, images=images)
    assert built.program.together == images
    assert_right(built)


NAN_FUNCTIONS = [one for one in FUNCTIONS if one.kind in {"relu", "clip", "leaky_relu", "hard_swish", "gelu", "mish"}]


@pytest.mark.parametrize("function", NAN_FUNCTIONS, ids=str)
def test_what_is_not_a_number_stays_so(function):
    """CUDA's max and min would make a number of it."""
    stages = [Conv("conv", (0,), 12, Window(1, 1)), Activation("act", (1,), function)]
    built = build(finished("nan", ImageShape(5, 7, 16), stages, 2), (4, 4))
    (image,) = inputs_of(built.block)
    image[1, 3, 2, 5] = np.nan
    arguments = kernel_arguments(built.program, [image], built.block.parameters)
    shared = 2 * built.program.arena
    emulate(built.source, arguments, outputs={"result"}, grid=grid(built.program), shared_bytes=shared)
    missing = np.isnan(out_of_slot(built.program.output, arguments["result"]))
    assert missing[1, 3, 2].all()
    assert missing.sum() == 12


def test_the_order_of_threads_does_not_matter():
    assert_right(build(mbconv(9, 10, 16, 64), (4, 6), 4), reverse=True)


def test_text_of_a_kernel():
    """What people look for in generated code: names of stages, one kernel, parameters in the documented order."""
    source = build(mbconv(9, 10, 16, 512), (4, 6), 4).source
    assert all(name in source for name in ("acc_expand", "filter_depthwise", "acc_project", "depthwise_c"))
    signature = re.search(r"__global__ void __launch_bounds__\(128, 1\) (\w+)\(([^)]*)\)", source)
    assert signature is not None
    assert signature[1] == "mbconv_kernel"
    assert re.findall(r"(\w+)_ptr", signature[2]) == ["input_0", "packed_vectors", "packed_weights", "result"]


def test_a_plan_may_bound_the_registers():
    built = build(mbconv(7, 6, 16, 64), (4, 6), 4)
    bounded = built_as(built.block, replace(built.plan, resident=4))
    assert "__launch_bounds__(128, 4)" in bounded.source
    assert run(bounded).is_clean


def test_stages_may_have_the_same_name():
    block = mbconv(9, 10, 16, 128)
    stages = tuple(replace(stage, name="stage/1") for stage in block.stages)
    assert_right(build(replace(block, stages=stages), (4, 6), 4))
