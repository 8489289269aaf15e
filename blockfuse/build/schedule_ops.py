"""Loops of operators that have no kernel of ours, on CPUs: shared by threads, and reductions side by side in vectors.

TVM leaves such loops as they are written: one thread, sums element by element. Here, of every block::

    parallel first spatial loops:
      clear the sums
      for other spatial loops, for reduction loops, for the last spatial loop
"""

from __future__ import annotations

import math
from typing import Any

from tvm import tirx
from tvm.s_tir import Schedule, ScheduleError, dlight

_SHARES = 32  # trips of the parallel loop that are enough
_WORTH = 1 << 16  # trips of all loops from which on sharing pays
_WIDE = 8  # trips of a last spatial loop that fill vectors


class OperatorRule(dlight.ScheduleRule):  # type: ignore[misc]
    """Schedules a function of any operator; what it does not understand stays as it is.

    Args:
        threads: That work is shared among; with one nothing is.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def apply(self, func: Any, _target: Any, _tunable: bool) -> Any:
        """The scheduled function, or None."""
        if not isinstance(func, tirx.PrimFunc):
            return None
        schedule = Schedule(func)
        try:
            for block in schedule.get_child_blocks(schedule.get_sblock("root")):
                self._block(schedule, block)
        except ScheduleError:  # loops written by hand, such as those of a running sum
            return None
        return schedule

    def _block(self, schedule: Any, block: Any) -> None:
        """Share the loops of one block; sum side by side where the result's last axis is not summed over."""
        loops, axes = schedule.get_loops(block), schedule.get(block).iter_vars
        extents = [schedule.get(loop).extent for loop in loops]
        sizes = [int(extent) if isinstance(extent, tirx.IntImm) else 0 for extent in extents]
        kinds = [axis.iter_type for axis in axes]
        if len(loops) != len(kinds) or set(kinds) - {tirx.IterVar.DataPar, tirx.IterVar.CommReduce}:
            return
        spatial = [number for number, kind in enumerate(kinds) if kind == tirx.IterVar.DataPar]
        reduced = [number for number, kind in enumerate(kinds) if kind == tirx.IterVar.CommReduce]
        shared, trips = 0, 1
        while shared < len(spatial) - 1 and trips < _SHARES and spatial[shared] == shared:
            trips *= sizes[shared] or _SHARES
            shared += 1
        last = spatial[-1] if spatial else -1
        side_by_side = bool(reduced) and last >= shared and (not sizes[last] or sizes[last] >= _WIDE)
        if side_by_side:
            schedule.reorder(*(loops[number] for number in (*spatial[shared:-1], *reduced, last)))
        if self.threads > 1 and shared and (not all(sizes) or math.prod(sizes) >= _WORTH):
            schedule.parallel(schedule.fuse(*loops[:shared]))
        if side_by_side:
            schedule.decompose_reduction(block, loops[reduced[0]])
