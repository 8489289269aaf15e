"""How a grouped convolution becomes small dense ones whose sizes a matrix instruction has.

Neighbouring groups are taken together into *blocks* of 8 channels, or of a multiple of 16; filters of other groups of
the block are zeros. Each instruction sums 16 products: two taps of 8 channels, or 16 channels of one tap.
"""

from __future__ import annotations

from dataclasses import dataclass

from blockfuse.integers import round_up

NARROW = 8  # channels of the narrowest block
DEPTH = 16  # products of one instruction


@dataclass(frozen=True)
class GroupBlock:
    """Channels of a block of whole groups.

    Attributes:
        inputs: Of the source: 8, or a multiple of 16.
        outputs: Of the result: a multiple of 8.
    """

    inputs: int
    outputs: int


def group_block(groups: int, channels: int, outputs: int) -> GroupBlock:
    """The smallest block whose sizes an instruction has; all groups, rounded up, where none of them fits.

    Args:
        groups: Number of groups.
        channels: Channels of the source.
        outputs: Channels of the result.
    """
    into, out = channels // groups, outputs // groups
    for count in range(1, groups + 1):
        fits = count * into == NARROW or count * into % DEPTH == 0
        if fits and count * out % NARROW == 0:
            return GroupBlock(count * into, count * out)
    if channels < NARROW and groups * out <= NARROW:
        return GroupBlock(NARROW, NARROW)
    return GroupBlock(round_up(channels, DEPTH), round_up(outputs, DEPTH))


def dense_block(groups: int, channels: int, outputs: int) -> GroupBlock:
    """The smallest equal share of the groups whose sizes a dense sum has; all of them, rounded up, where none has."""
    into, out = channels // groups, outputs // groups
    for count in (count for count in range(1, groups + 1) if groups % count == 0):
        if count * into % DEPTH == 0 and count * out % DEPTH == 0:
            return GroupBlock(count * into, count * out)
    return GroupBlock(round_up(channels, DEPTH), round_up(outputs, DEPTH))


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


def block_steps(inputs: int, r: int, s: int) -> int:
    """Matrix instructions per 8 output channels of a block of so many input channels."""
    return len(tap_pairs(r, s)) if inputs == NARROW else r * s * inputs // DEPTH
