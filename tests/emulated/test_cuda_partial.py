"""Kernels whose result is pooled, emulated: what tiles are reduced to, and kernels that complete it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from blockfuse.block import Block
from blockfuse.machine import Engine
from blockfuse.program.interpret import interpret_all
from blockfuse.stages import Conv, Depthwise, Window
from tests.cuda_kernels import Built, at_batch, build, built_in_slots, error, inputs_of, parts_error, run
from tests.residual_blocks import gate_of, hidden_image, on_sums, pooled_sum, same, single, squeezed_project


def assert_right(built: Built) -> None:
    """The kernel and the interpreter, both results."""
    result = run(built)
    assert not result.findings
    assert result.error <= 1
    inputs = inputs_of(built.block)
    image, *parts = interpret_all(built.program, inputs, built.block.parameters)
    assert error(built.block, inputs, image) <= 1
    assert all(parts_error(built, inputs, each) <= 1e-6 for each in parts)


def pooled(block: Block, reduction: str = "mean", dtype: str = "float16") -> Block:
    return replace(block, pooled=reduction, dtype=dtype)


@pytest.mark.parametrize("reduction", ["mean", "max", "l2"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_every_reduction_of_every_type(reduction, dtype):
    assert_right(build(pooled(hidden_image(7, 9, 20, 56, 2), reduction, dtype), (4, 5), 4))
    assert_right(build(replace(pooled_sum(5, 7, 24, 2), pooled=reduction, dtype=dtype), (3, 4), 4))


UNEVEN = Window(3, 5, 2, 1, pad_top=0, pad_left=3, pad_bottom=2, pad_right=1)


@pytest.mark.parametrize(
    ("block", "tile", "split", "images", "engine"),
    [
        (hidden_image(9, 13, 24, 96, 2), (4, 5), 2, 1, Engine.MMA),
        (hidden_image(9, 13, 24, 96, 1), (9, 13), 3, 1, Engine.WGMMA),
        (hidden_image(5, 3, 24, 48, 4), None, 1, 2, Engine.MMA),
        (hidden_image(7, 7, 24, 96, 3), None, 2, 3, Engine.WGMMA),
        (single(11, 8, 40, Conv("conv", (0,), 72, same(3, 2)), 3), (3, 2), 1, 1, Engine.WGMMA),
        (single(11, 8, 40, Conv("conv", (0,), 64, UNEVEN), 2), (3, 7), 2, 1, Engine.MMA),
        (single(9, 7, 64, Depthwise("depthwise", (0,), UNEVEN), 2), (2, 3), 2, 1, Engine.MMA),
        (single(40, 33, 16, Depthwise("depthwise", (0,), same(3))), (32, 32), 1, 1, Engine.MMA),
    ],
)
def test_tiles_shares_and_stacks(block, tile, split, images, engine):
    assert_right(build(pooled(block), tile, 4, engine=engine, split=split, images=images))


@pytest.mark.parametrize("split", [1, 3])
@pytest.mark.parametrize("channels", [21, 48])
def test_a_pool_of_sums_alone_and_with_the_gate(channels, split):
    gate = on_sums(gate_of(10, 9, channels, 7, 2), (3, 4))
    assert_right(build(gate, split=1 if channels % 16 else split))
    assert_right(build(replace(gate, stages=gate.stages[:1], parameters={}), split=1 if channels % 16 else split))
    assert_right(build(on_sums(squeezed_project(10, 9, channels, 7, 20, 2), (3, 4)), (4, 4), 4))


def test_any_batch():
    built = build(replace(pooled(hidden_image(7, 5, 16, 48)), any_batch=True), (4, 3), 4)
    for batch in (1, 3):
        assert_right(at_batch(built, batch))


def test_among_the_channels_of_wider_images():
    built = build(pooled(hidden_image(7, 5, 16, 48, 2)), (4, 3), 4)
    assert_right(built_in_slots(built, np.random.default_rng(0), 8))


def test_the_order_of_threads_does_not_matter():
    built = build(pooled(hidden_image(7, 9, 20, 56)), (4, 5), 4)
    assert run(built, thread_order="reverse").is_clean
