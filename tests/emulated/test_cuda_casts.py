"""Kernels at the border of a network: another type, and images from N, C, H, W to N, H, W, C."""

import re

import numpy as np
import pytest

from blockfuse.schedules.cuda import cuda_source, lower_cast
from tests.emulated.emulator import emulate

SHAPES = [(1, 3, 9, 31), (2, 40, 5, 7), (3, 65, 1, 2), (1, 1, 300, 1), (2, 2, 40, 33)]


def emulated(function, blocks, x, result):
    """Run a conversion; its counters."""
    run = emulate(
        cuda_source(function),
        {"input_0": x, "result": result},
        outputs={"result"},
        grid=blocks,
        shared_bytes=48 * 1024,
        count=True,
    )
    assert not run.findings
    return run.counters


def blocks_of(function):
    """Blocks of a launch, from the kernel's text."""
    return int(re.search(r"T\.cta_id\(\[(\d+)\]", str(function))[1])


@pytest.mark.parametrize("shape", SHAPES)
def test_images_change_type_and_order(shape):
    function = lower_cast("cast", shape, "float32", "float16", transposed=True)
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    n, c, h, w = shape
    result = np.full((n, h, w, c), np.nan, np.float16)
    counters = emulated(function, blocks_of(function), x, result)
    np.testing.assert_array_equal(result, x.transpose(0, 2, 3, 1).astype(np.float16))
    if x.size > 1000:  # neighbouring threads share sectors
        sectors = counters.global_load_sectors + counters.global_store_sectors
        assert sectors < 1.5 * (x.nbytes + result.nbytes) / 32


@pytest.mark.parametrize("shape", [(1, 10), (3, 257), (2, 4, 5, 6)])
def test_other_values_change_type_alone(shape):
    function = lower_cast("cast", shape, "float16", "float32", transposed=False)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float16)
    result = np.full(shape, np.nan, np.float32)
    emulated(function, blocks_of(function), x, result)
    np.testing.assert_array_equal(result, x.astype(np.float32))
