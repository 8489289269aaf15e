"""Kernels at the border of a network: another type, N, H, W, C for N, C, H, W, squares of pixels as channels."""

import re

import numpy as np
import pytest

from blockfuse.schedules.cuda import cuda_source, lower_cast, lower_squares
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


SQUARES = [
    ((2, 3, 9, 31), 2, 0, 0, (5, 16)),  # size, rows and columns of zeros in front, squares
    ((1, 3, 8, 300), 4, 0, 0, (2, 75)),  # several tiles of a row, the last smaller
    ((3, 1, 7, 5), 3, 2, 1, (4, 1)),  # zeros at all sides, columns that are not read
    ((1, 5, 11, 40), 2, 1, 1, (6, 22)),  # zeros beyond the last pixel
    ((1, 600, 4, 4), 1, 0, 0, (4, 4)),
    ((1, 2, 64, 70), 64, 0, 0, (1, 2)),  # the most channels there may be
]


def squares_of(x, size, top, left, rows, columns):
    """The squares of an image as the definition has them."""
    n, c, height, width = x.shape
    result = np.zeros((n, rows, columns, size, size, c), x.dtype)
    for y, x_, i, j in np.ndindex(rows, columns, size, size):
        row, column = y * size + i - top, x_ * size + j - left
        if 0 <= row < height and 0 <= column < width:
            result[:, y, x_, i, j] = x[:, :, row, column]
    return result.reshape(n, rows, columns, -1)


@pytest.mark.parametrize("source", ["float32", "float16"])
@pytest.mark.parametrize(("shape", "size", "top", "left", "squares"), SQUARES)
def test_squares_of_pixels_become_channels(shape, size, top, left, squares, source):
    result = np.full((shape[0], *squares, shape[1] * size**2), np.nan, np.float16)
    front = {"size": size, "top": top, "left": left}
    function = lower_squares("cast", shape, source, "float16", shape=result.shape, **front)
    x = np.random.default_rng(0).standard_normal(shape).astype(source)
    counters = emulated(function, blocks_of(function), x, result)
    np.testing.assert_array_equal(result, squares_of(x.astype(np.float16), size, top, left, *squares))
    if shape[3] >= 300:  # neighbouring threads share sectors
        sectors = counters.global_load_sectors + counters.global_store_sectors
        assert sectors < 1.5 * (x.nbytes + result.nbytes) / 32
