"""How a grouped convolution becomes small dense ones whose sizes a matrix instruction has.

Neighbouring groups are taken together into *blocks* of 8 channels, or of a multiple of 16; filters of other groups of
the block are zeros. Each instruction sums 16 products: two taps of 8 channels, or 16 channels of one tap.
"""

from __future__ import annotations

from math import lcm

NARROW = 8  # channels of the narrowest block
DEPTH = 16  # products of one instruction


def block_width(width: int, channels: int) -> int:
    """Channels of a block of whole groups, or of all groups where no smaller multiple fits.

    Args:
        width: Channels of a group.
        channels: Channels of the image.
    """
    if NARROW % width == 0:
        return NARROW
    return min(lcm(width, DEPTH), -(-channels // DEPTH) * DEPTH)


def tap_pairs(r: int, s: int) -> list[tuple[int, int | None]]:
    """The taps of an r x s filter (row * s + column) two by two; the last one may be alone.

    Taps of two rows come first, so that the second one is a row of pixels below the first in almost all pairs.
    """
    pairs: list[tuple[int, int | None]] = [
        (row * s + col, (row + 1) * s + col) for row in range(0, r - 1, 2) for col in range(s)
    ]
    if r % 2:
        last = range((r - 1) * s, r * s)
        pairs += [(tap, tap + 1 if tap + 1 in last else None) for tap in last[::2]]
    return pairs


def block_steps(block: int, r: int, s: int) -> int:
    """Matrix instructions per 8 output channels of a block."""
    return len(tap_pairs(r, s)) if block == NARROW else r * s * block // DEPTH
