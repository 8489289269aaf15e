"""What a warp reads or writes together is in different banks of shared memory, wherever a layout can see to it."""

from dataclasses import replace

import pytest

from blockfuse.block import Block
from blockfuse.machine import Engine
from blockfuse.stages import Activation, Conv, Depthwise, Grouped, ImageShape, Norm, Pool, Window
from tests.cuda_kernels import build, run
from tests.residual_blocks import RELU, basic, finished, gated_project, mbconv, same, single


def two_windows(height: int, width: int) -> Block:
    """A 3x3 convolution with stride 2 over the sums of another one."""
    stages = [
        Conv("conv1", (0,), 48, same(3)),
        Activation("relu", (1,), RELU),
        Conv("conv2", (2,), 32, Window(3, 3, 2, 2, pad_top=1, pad_left=1, pad_bottom=0, pad_right=0)),
    ]
    return finished("two_windows", ImageShape(height, width, 24), stages, 2)


GATHERS = {
    "3x3 at 7x7": (single(7, 7, 64, Conv("conv", (0,), 64, same(3)), 2), (7, 7), Engine.MMA),
    "3x3, wgmma": (single(13, 14, 64, Conv("conv", (0,), 64, same(3)), 1), (7, 7), Engine.WGMMA),
    "4x4/4": (single(29, 27, 16, Conv("conv", (0,), 96, Window(4, 4, 4, 4, pad_right=1)), 2), (4, 7), Engine.MMA),
    "2x2/2": (single(14, 14, 32, Conv("conv", (0,), 48, Window(2, 2, 2, 2)), 1), (7, 7), Engine.MMA),
    "2x2/2 of two images": (single(14, 14, 32, Conv("conv", (0,), 48, Window(2, 2, 2, 2)), 2), None, Engine.MMA),
    "3x3 behind 3x3/2": (basic(15, 13, 32, 48, stride=2), (4, 7), Engine.MMA),
    "3x3/2 behind 3x3": (two_windows(15, 11), (5, 3), Engine.MMA),
    "groups": (single(14, 11, 64, Grouped("grouped", (0,), 64, 4, same(3)), 2), (7, 11), Engine.MMA),
}


@pytest.mark.parametrize("name", GATHERS)
def test_pixels_under_a_tap_are_read_without_conflicts(name):
    block, tile, engine = GATHERS[name]
    found = run(build(block, tile, engine=engine), count=True)
    assert found.is_clean
    assert found.counters.ldmatrix_wavefronts == found.counters.ldmatrix_ideal > 0


def test_sums_are_stored_where_a_depthwise_window_moves_by_two_pixels():
    found = run(build(mbconv(14, 14, 32, 96, 64, stride=2), (7, 7), 8), count=True)
    assert found.is_clean
    assert found.counters.shared_store_wavefronts < 1.2 * found.counters.shared_store_ideal


SWEEPS = {
    "store 32 channels": (single(13, 17, 64, Conv("conv", (0,), 32, Window()), 2), (7, 9)),
    "store 80 channels": (single(13, 17, 64, Conv("conv", (0,), 80, Window()), 1), (7, 9)),
    "depthwise, store": (single(13, 16, 32, Depthwise("depthwise", (0,), same(3)), 1), (7, 8)),
    "map": (gated_project(13, 14, 96, 24), (7, 14)),
    "pool of parts": (single(32, 24, 48, Pool("pool", (0,), "mean", Window(8, 8, 8, 8)), 2), (2, 3)),
    "pool that overlaps": (single(15, 17, 48, Pool("pool", (0,), "max", Window(3, 3, 2, 2)), 1), (7, 4)),
    "norm": (finished("norm", ImageShape(13, 14, 96), [Norm("norm", (0,), 1e-6)], 1), (7, 7)),
    "norm of 32": (finished("norm", ImageShape(9, 11, 32), [Norm("norm", (0,), 1e-6)], 1), (5, 11)),
}


@pytest.mark.parametrize("name", SWEEPS)
def test_vectors_of_pixels_are_read_and_written_without_conflicts(name):
    block, tile = SWEEPS[name]
    found = run(build(block, tile, 4), count=True)
    assert found.is_clean
    counted = found.counters
    assert counted.shared_load_wavefronts < 1.1 * counted.shared_load_ideal
    assert counted.shared_store_wavefronts < 1.1 * counted.shared_store_ideal


POOLS = {
    "chunks of 128, two taps at a time": ((7, 7, 512), "mean", 1),
    "chunks of 64, four taps at a time": ((8, 8, 256), "mean", 4),
    "chunks of 96, lanes behind the last": ((7, 7, 384), "mean", 4),
    "whole, odd, ragged": ((5, 9, 112), "max", 1),
    "few channels": ((7, 7, 40), "mean", 1),
}


@pytest.mark.parametrize("name", POOLS)
def test_lanes_that_share_a_window_read_without_conflicts(name):
    (height, width, channels), reduction, split = POOLS[name]
    pool = Pool("pool", (0,), reduction, Window(height, width))
    found = run(build(single(height, width, channels, pool, 2), (1, 1), 4, split=split), count=True)
    assert found.is_clean
    assert found.counters.shared_load_wavefronts < 1.1 * found.counters.shared_load_ideal


def test_vectors_of_an_image_that_arrives_with_the_weights_are_loaded_as_such():
    built = build(single(7, 7, 384, Depthwise("depthwise", (0,), same(7)), 1), (7, 7), 4)
    assert built.program.ring
    assert any(tile.streamed for tile in built.program.tiles)
    found = run(built, count=True)
    assert found.is_clean
    assert found.counters.shared_load_wavefronts == found.counters.shared_load_ideal
    assert "make_half4(shared" not in built.source


def test_tiles_that_are_pooled_are_read_without_conflicts():
    block = single(28, 28, 32, Depthwise("depthwise", (0,), same(3)), 1)
    counted = [run(build(replace(block, pooled=pooled), (28, 28), 4), count=True).counters for pooled in ("", "mean")]
    loads = [one.shared_load_wavefronts / one.shared_load_ideal for one in counted]
    assert max(loads) < 1.1
