"""The tensor-core instruction and its fragments.

``mma.m16n8k16`` multiplies 16 pixels x 16 channels by 16 channels x 8 output channels. Of its result, lane ``l`` holds
rows ``l / 4`` and ``l / 4 + 8``, columns ``l % 4 * 2`` and the next, as c0 c1 (first row) and c2 c3 (second row).
Weights are packed so that the 16 bytes of a lane feed two neighbouring n8 tiles.
"""

from __future__ import annotations

import numpy as np

from blockfuse.stages import Array

MMA = {
    "float16": "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32",
    "bfloat16": "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32",
}
LOAD_MATRICES = "ldmatrix.sync.aligned.m8n8.x4.shared.b16"

M, N, K = 16, 16, 16  # pixels, output channels (two n8 tiles), input channels of one fragment pair
SUMS = 8  # float32 sums per thread of one M x N tile
A_WORDS = 4  # 32-bit registers of an A fragment
B_WORDS = 4  # 32-bit registers of the B fragments of both n8 tiles
FRAGMENT = 256  # elements of one packed K x N block: 32 lanes x 8


def narrow_fragments(weights: Array) -> Array:
    """Reorder a [16, N] matrix into [N/8, lane, 4]: what each lane needs for one mma, contiguous."""
    lane = np.arange(32)
    row, column = lane // 4, lane % 4 * 2
    k = np.stack([column, column + 1, column + 8, column + 9], axis=1)
    blocks = weights.reshape(K, -1, 8).transpose(1, 0, 2)
    return np.asarray(blocks[:, k, row[:, None]])


def fragments(weights: Array) -> Array:
    """Reorder a [K, N] matrix into [K/16, N/16, lane, 8]: what each lane needs for two mma, contiguous.

    Args:
        weights: Multiples of 16 along both axes.
    """
    depth, width = weights.shape
    lane = np.arange(32)
    row, column = lane // 4, lane % 4 * 2
    blocks = weights.reshape(depth // K, K, width // N, N).transpose(0, 2, 1, 3)
    k = np.stack([column, column + 1, column + 8, column + 9], axis=1)
    return np.concatenate([blocks[:, :, k, row[:, None]], blocks[:, :, k, row[:, None] + 8]], axis=-1)
