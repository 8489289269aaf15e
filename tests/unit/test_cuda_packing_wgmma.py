"""Swizzled weights, found again the way the hardware's descriptors say, written down here once more."""

from __future__ import annotations

import numpy as np
import pytest

from blockfuse.schedules.cuda.packing_wgmma import descriptor_bits, offset_of, slab_width, swizzled


def decoded(memory: np.ndarray, descriptor: int, channels: int) -> np.ndarray:
    """The [16, N] matrix that a K-major descriptor without transposition names in 16-bit elements of shared memory.

    PTX ISA, "Asynchronous warpgroup level matrix shared memory layout": start address and stride count 16 bytes; modes
    1, 2 and 3 swizzle 128, 64 and 32 bytes, which exchanges address bits 4 to 6, 5 or 4 with as many from bit 7 on.
    """
    start, stride, mode = (descriptor & 0x3FFF) * 16, (descriptor >> 32 & 0x3FFF) * 16, descriptor >> 62
    row_bytes, mask = {1: (128, 0b111), 2: (64, 0b11), 3: (32, 0b1)}[mode]
    out = np.zeros((16, channels), memory.dtype)
    for k in range(16):
        for n in range(channels):
            linear = start + n // 8 * stride + n % 8 * row_bytes + k * 2
            byte = linear ^ ((linear >> 7) & mask) << 4
            out[k, n] = memory[byte // 2]
    return out


@pytest.mark.parametrize("outputs", [16, 48, 128])
@pytest.mark.parametrize("depth", [16, 32, 48, 64, 96, 144, 192])
@pytest.mark.parametrize("start", [0, 3072])
def test_every_step_finds_its_weights(depth: int, outputs: int, start: int):
    weights = np.arange(1, depth * outputs + 1, dtype=np.uint16).reshape(depth, outputs)
    packed = swizzled(weights)
    width = slab_width(depth)
    assert packed.shape == (depth // width, outputs, width)
    memory = np.concatenate([np.zeros(start // 2, np.uint16), packed.ravel()])
    for k in range(0, depth, 16):
        at = start // 16 + offset_of(k, width, outputs)
        np.testing.assert_array_equal(decoded(memory, descriptor_bits(width) + at, outputs), weights[k : k + 16])


@pytest.mark.parametrize("width", [16, 32, 64])
def test_the_chunks_of_eight_rows_lie_in_different_banks(width: int):
    """What one k8 step reads at a time: 16 bytes of each of 8 rows, the 32 banks once."""
    weights = np.arange(width * 8, dtype=np.uint16).reshape(width, 8)
    packed = swizzled(weights).ravel()
    for k in range(0, width, 16):
        pair = [np.flatnonzero(np.isin(packed, weights[k + half : k + half + 8, :])) for half in (0, 8)]
        groups = [place // 8 % 8 for place in np.concatenate(pair)]
        assert np.bincount(groups, minlength=8).tolist() == [16] * 8


def test_slabs_are_as_wide_as_the_depth_allows():
    assert [slab_width(depth) for depth in (16, 32, 48, 64, 80, 96, 128)] == [16, 32, 16, 64, 16, 32, 64]
