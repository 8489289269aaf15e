"""Weights as wgmma reads them from shared memory: K-major slabs, swizzled here and not in the kernel.

A [K, N] matrix is cut along K into slabs of ``W`` input channels: 64 where that divides K, else 32 or 16. A slab holds,
for each output channel n, its W inputs side by side: a row of 128, 64 or 32 bytes. Eight rows are the atom that the
hardware's addresses go by; within it, 16-byte chunk ``c`` of row ``n`` lies where ``c xor x(n)`` would::

    slab [N][W]        W = 64:  x(n) = n % 8              W = 32:  x(n) = n % 8 / 2     W = 16:  x(n) = n % 8 / 4

      row 0 (n = 0)    | 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 |  | 0 | 1 | 2 | 3 |            | 0 | 1 |
      row 1            | 1 | 0 | 3 | 2 | 5 | 4 | 7 | 6 |  | 0 | 1 | 2 | 3 |            | 0 | 1 |
      row 2            | 2 | 3 | 0 | 1 | 6 | 7 | 4 | 5 |  | 1 | 0 | 3 | 2 |            | 0 | 1 |
      ...                                                  ...                           row 4: | 1 | 0 |
      row 7            | 7 | 6 | 5 | 4 | 3 | 2 | 1 | 0 |  | 3 | 2 | 1 | 0 |            | 1 | 0 |

    item: for tap: for slab: [N][W]                        each slab begins at a multiple of 8 rows

The swizzle is one of addresses (bits 4-6 are exchanged with those from 7 on), so an item must begin at a multiple of
the atom: 1024, 512 or 256 bytes. The 16 bytes x 8 rows that one k8 of a product reads fall into different banks.
"""

from __future__ import annotations

import numpy as np

from blockfuse.stages import Array

CHUNK = 8  # elements of 16 bytes
ROWS = 8  # output channels of an atom
_WIDTHS = (64, 32, 16)  # input channels of a row; the most that divide K
_MODES = {64: 1, 32: 2, 16: 3}  # of a descriptor: 128-, 64- and 32-byte swizzle
_UNIT = 16  # bytes that a descriptor counts in


def slab_width(depth: int) -> int:
    """Input channels of a slab.

    Args:
        depth: Input channels of an item; a multiple of 16.
    """
    return next(width for width in _WIDTHS if depth % width == 0)


def swizzled(weights: Array) -> Array:
    """Reorder a [K, N] matrix into [K/W, N, W], the chunks of every row exchanged.

    Args:
        weights: K a multiple of 16, N of 8.
    """
    depth, outputs = weights.shape
    width = slab_width(depth)
    chunks = width // CHUNK
    rows = weights.reshape(depth // width, chunks, CHUNK, outputs).transpose(0, 3, 1, 2)
    row = np.arange(outputs) % ROWS
    exchange = row * chunks // CHUNK
    order = np.arange(chunks) ^ exchange[:, None]
    return np.asarray(rows[:, np.arange(outputs)[:, None], order]).reshape(depth // width, outputs, width)


def descriptor_bits(width: int) -> int:
    """A matrix descriptor without its start address.

    Bits 16-29 are the distance of slabs, which nobody reads where rows are swizzled; 32-45 that of atoms; 62-63 the
    swizzle. Distances and the address in bits 0-13 count 16 bytes.

    Args:
        width: Input channels of a slab.
    """
    atom = ROWS * width * 2
    return _MODES[width] << 62 | atom // _UNIT << 32 | 1 << 16


def offset_of(k: int, width: int, outputs: int) -> int:
    """Where the products of input channels from ``k`` on begin, from the start of a tap's weights, in 16 bytes.

    Args:
        k: First of 16 input channels.
        width: Input channels of a slab.
        outputs: Output channels of a slab.
    """
    return (k // width * outputs * width + k % width) * 2 // _UNIT
