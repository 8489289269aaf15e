"""Bytes that CUDA kernels move between the cores and the last-level cache or memory: predicted, and counted.

    python -m benchmarks.cuda_bytes                 a table of every case
    python -m benchmarks.cuda_bytes basic           cases whose name contains a word

``predicted`` is what plans are compared by (``Cost.cache_bytes``), ``counted`` what the emulator sees the kernel read
and write, where each CTA touches a 32-byte sector. ``once`` is every tensor once, which no kernel for the block can go
below. Nothing here is a measurement.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from benchmarks.cuda_kernels_static import CASES, Case
from blockfuse.plan.cuda_cost import predict
from blockfuse.plan.device import GPUS
from blockfuse.plan.fold import fold
from blockfuse.report import table
from tests.cuda_kernels import build, run

_SECTOR = 32  # bytes
_DEVICE = GPUS["sm_90"]


@dataclass(frozen=True)
class Moved:
    """Bytes of one kernel: ``predicted``, ``counted``, and every tensor ``once``."""

    predicted: int
    counted: int
    once: int


def moved(case: Case) -> Moved:
    """Plan a case, emulate it, and count."""
    built = build(case.block, case.tile, case.warps, _DEVICE)
    cost = predict(fold(built.block), built.plan, _DEVICE)
    return Moved(cost.cache_bytes, _SECTOR * run(built, count=True).counters.block_sectors, cost.global_bytes)


def main() -> None:
    """Print the bytes of the chosen cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="cases whose name contains one of these; all by default")
    words = parser.parse_args().words
    rows = [("kernel", "once", "predicted", "counted", "counted/predicted")]
    for case in (case for case in CASES if not words or any(word in case.name for word in words)):
        found = moved(case)
        ratio = f"{found.counted / found.predicted:.2f}"
        rows.append((case.name, f"{found.once:,}", f"{found.predicted:,}", f"{found.counted:,}", ratio))
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
