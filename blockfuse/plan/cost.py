"""Operations, bytes and predicted time of kernels; the waterline of a sequence of them.

Definitions follow Lavin, "On the Efficiency of Convolutional Neural Networks" (arXiv 2404.03617); the formulas of the
waterline are written out in :class:`Waterline`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from blockfuse.dtypes import item_size
from blockfuse.plan.fold import Folded


@dataclass(frozen=True)
class Cost:
    """What one kernel is predicted to take. All figures are for the whole batch.

    Attributes:
        operations: Of the model: halo recompute and padding are not counted.
        recompute: Operations done over operations of the model, at least 1.
        global_bytes: Read from and written to memory: every tensor once.
        local_bytes: Bytes of intermediate values held on the chip by one core.
        seconds: Predicted time.
        bound: What takes that time: ``arithmetic``, ``shared memory``, ``cache`` or ``memory``.
        cache_bytes: On a GPU what the cores read from and write to the last-level cache or memory: halos and weights
            count as often as they are read.
    """

    operations: int
    recompute: float
    global_bytes: int
    local_bytes: int
    seconds: float
    bound: str
    cache_bytes: int = 0


def interior_bytes(folded: Folded) -> int:
    """Bytes of the values between a block's units, each written once and read once where it is not fused."""
    block = folded.block
    elements = sum(unit.shape.elements for unit in folded.units[:-1] if not unit.is_join)
    return 2 * block.batch * elements * item_size(block.dtype)


@dataclass(frozen=True)
class Waterline:
    """Efficiency limits of a sequence of kernels on a device of peak P op/s and bandwidth B byte/s.

    Attributes:
        level: I* = P / B, operations per byte.
        ideal_seconds: sum n_i / P.
        attainable_seconds: T = sum max(n_i / P, b_i / B).
        efficiency: e_wl = sum n_i / (P T).
        aggregate_efficiency: min(1, (sum n / sum b) / I*), the roofline on totals; never below ``efficiency``.
        lost_seconds: Per kernel, max(0, b_i I* - n_i) / P: time under water.
    """

    level: float
    ideal_seconds: float
    attainable_seconds: float
    efficiency: float
    aggregate_efficiency: float
    lost_seconds: tuple[float, ...]


def waterline(kernels: Sequence[tuple[float, float]], peak: float, bandwidth: float) -> Waterline:
    """The waterline of kernels given as (operations n_i, bytes b_i).

    Args:
        kernels: At least one, in execution order.
        peak: P, operations per second.
        bandwidth: B, bytes per second.
    """
    level = peak / bandwidth
    n, b = sum(n for n, _ in kernels), sum(b for _, b in kernels)
    attainable = sum(max(n_i / peak, b_i / bandwidth) for n_i, b_i in kernels)
    return Waterline(
        level=level,
        ideal_seconds=n / peak,
        attainable_seconds=attainable,
        efficiency=n / (peak * attainable) if attainable else 1.0,
        aggregate_efficiency=min(1.0, n / b / level) if b else 1.0,
        lost_seconds=tuple(max(0.0, b_i * level - n_i) / peak for n_i, b_i in kernels),
    )
