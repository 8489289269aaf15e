"""Shared memory's 32 banks of 4 bytes: how many passes one access of a warp takes."""

from __future__ import annotations

from collections.abc import Sequence

BANKS = 32
BANK_BYTES = 4
_LANES_PER_PASS = {2: 32, 4: 32, 8: 16, 16: 8}


def wavefronts(addresses: Sequence[int | None], width: int) -> int:
    """Passes through the banks of one access of a warp.

    Args:
        addresses: Byte address of each of the 32 lanes; None for lanes that do not take part.
        width: Bytes per lane: 2, 4, 8 or 16. Wide accesses go in groups of lanes.

    Returns:
        The sum over the groups of the largest number of different words in one bank.
    """
    group = _LANES_PER_PASS[width]
    return sum(_passes(addresses[low : low + group], width) for low in range(0, len(addresses), group))


def _passes(addresses: Sequence[int | None], width: int) -> int:
    span = range(max(1, width // BANK_BYTES))
    words = {address // BANK_BYTES + word for address in addresses if address is not None for word in span}
    counts = [0] * BANKS
    for word in words:
        counts[word % BANKS] += 1
    return max(counts)
