"""Memory that TVM keeps for the next run, where runs differ in their batch.

TVM's allocator keeps the memory of every size it was ever asked for. A network that takes any batch has sizes of its
own for each, so the memory of all batches there ever were would add up.
"""

from __future__ import annotations

import threading

import tvm_ffi

_MOST = 3  # times the memory that the largest batch needs


class KeptMemory:
    """Gives memory back when the batches that it is kept for grow too many."""

    def __init__(self) -> None:
        self._batches: frozenset[int] = frozenset()
        self._turn = threading.Lock()

    def prepare(self, batch: int) -> None:
        """Make room for a run with a batch; costs nothing where the batch was there before."""
        if batch in self._batches:
            return
        with self._turn:
            batches = self._batches | {batch}
            if sum(batches) > _MOST * max(batches):
                tvm_ffi.get_global_func("vm.builtin.memory_manager.clear")()
                batches = frozenset({batch})
            self._batches = batches
