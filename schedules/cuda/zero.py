"""ZERO: sums in registers, or a region of a tile in shared memory.

::

    for i in sums of this thread:  acc[i] = 0
"""

from __future__ import annotations

from blockfuse.errors import InternalError
from blockfuse.machine import Accumulators, Zero
from blockfuse.schedules.cuda.kernel import Kernel
from blockfuse.schedules.emit import constant


def lower(kernel: Kernel, node: Zero) -> None:
    """Emit the stores."""
    acc = node.target
    if not isinstance(acc, Accumulators):
        raise InternalError(f"{node}: tiles are not zeroed on this target")
    sums = kernel.sums(acc)
    with kernel.emit.loop(acc.registers, "i", "unrolled") as i:
        kernel.emit.store(sums, i, constant(0.0))
