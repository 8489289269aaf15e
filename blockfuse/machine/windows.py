"""How the threads of a CTA share the windows of REDUCE."""

from __future__ import annotations

WARP = 32  # threads


def lanes_of_window(windows: int, taps: int, threads: int) -> int:
    """Threads of a warp that share a window: as many as leave none without work, as long as there are taps for all.

    Args:
        windows: Vectors of the result.
        taps: Of a window.
        threads: Of the CTA.
    """
    lanes = 1
    while lanes < WARP and 2 * lanes <= taps and windows * lanes < threads:
        lanes *= 2
    return lanes
