"""SYNC: a barrier of the CTA, after which copies that LOADs started have arrived for all threads.

::

    wait for copies of LOADs, if any are under way;  barrier
"""

from __future__ import annotations

from blockfuse.machine import Sync
from blockfuse.schedules.cuda.kernel import Kernel
from blockfuse.schedules.cuda.stream import wait_for_copies


def lower(kernel: Kernel, _: Sync) -> None:
    """Emit the wait and the barrier."""
    wait_for_copies(kernel)
    kernel.emit.barrier()
