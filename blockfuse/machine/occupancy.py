"""How many CTAs of a kernel a streaming multiprocessor holds at once."""

from __future__ import annotations

REGISTERS = 1 << 16  # of an SM, 32 bits each
CTA_SHARED = 1024  # bytes of shared memory that the system takes of every CTA
_WARP_GRAIN = 256  # registers are given out to warps in multiples of this
_MOST_CTAS = 32


def ctas_per_sm(threads: int, registers: int, shared_bytes: int, *, sm_threads: int, sm_shared: int) -> int:
    """CTAs that fit on an SM at once; 0 if not even one does.

    Args:
        threads: Of a CTA.
        registers: Of a thread.
        shared_bytes: That a CTA asks for.
        sm_threads: That an SM can hold.
        sm_shared: Bytes of shared memory that an SM has.
    """
    warps = -(-threads // 32)
    per_warp = max(1, -(-32 * registers // _WARP_GRAIN)) * _WARP_GRAIN
    by_threads, by_registers = sm_threads // (32 * warps), REGISTERS // (warps * per_warp)
    return min(_MOST_CTAS, by_threads, by_registers, sm_shared // (shared_bytes + CTA_SHARED))
