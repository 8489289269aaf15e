"""Reductions on GPUs that have no kernel of ours, and that TVM's rules give to one thread each, or less than a warp."""

from __future__ import annotations

from math import prod
from typing import Any

from tvm import tirx
from tvm.s_tir import SBlockRealize, Schedule, ScheduleError, dlight

from blockfuse.build.schedule_gpu_ops import kept_blocks
from blockfuse.schedules.cuda.expressions import uses

_ROW = 128  # threads that share a row
_WARP = 32  # threads
_THREADS = 256  # of columns
_COLUMNS = 32  # at most, side by side


class RowRule(dlight.ScheduleRule):  # type: ignore[misc]
    """Schedules a reduction that TVM's rules give to one thread per result, such as an extreme, or a short sum.

    ::

        one result per block, if neighbours are reduced:   threads reduce neighbours, then with each other
        else up to 32 results per block, one per column:   rows of threads reduce parts, then with each other
    """

    def apply(self, func: Any, _target: Any, _tunable: bool) -> Any:
        """The scheduled function, or None."""
        if not isinstance(func, tirx.PrimFunc) or not isinstance(func.body, SBlockRealize):
            return None
        schedule = Schedule(func)
        try:
            kept = kept_blocks(schedule)
            if len(kept) != 1 or not _is_ours(schedule, kept[0]):
                return None
            _reduce_together(schedule, kept[0])
        except ScheduleError:
            return None
        return schedule


class ShortSumRule(dlight.ScheduleRule):  # type: ignore[misc]
    """Schedules sums of less than a warp's neighbours, and what follows them, by TVM's rule that takes whole warps.

    The one that comes first otherwise gives as many threads to a block as there are neighbours; they exchange sums with
    threads that do not exist.
    """

    def apply(self, func: Any, target: Any, tunable: bool) -> Any:
        """The scheduled function, or None."""
        if not isinstance(func, tirx.PrimFunc) or not isinstance(func.body, SBlockRealize):
            return None
        schedule = Schedule(func)
        blocks = schedule.get_child_blocks(schedule.get_sblock("root"))
        if not any(0 < _neighbours(schedule, block) < _WARP for block in blocks):
            return None
        return dlight.gpu.GeneralReduction().apply(func, target, tunable)


def _neighbours(schedule: Any, block: Any) -> int:
    """How many neighbours a block reduces to one; 0 if that is not known, or if they are no neighbours."""
    node = schedule.get(block)
    reduced = _reduced(node)
    if not reduced or not _are_rows(node):
        return 0
    extents = [schedule.get(loop).extent for loop in schedule.get_loops(block)[-reduced:]]
    return prod(int(extent) if isinstance(extent, tirx.IntImm) else 0 for extent in extents)


def _are_rows(node: Any) -> bool:
    """Whether a block reduces neighbours."""
    return any(uses(read.region[-1].min, node.iter_vars[-1].var) for read in node.reads)


def _is_ours(schedule: Any, block: Any) -> bool:
    """Whether a block reduces its last axes to one value each, and does not sum many; TVM has a rule for such sums."""
    node = schedule.get(block)
    kinds = [axis.iter_type for axis in node.iter_vars]
    reduced = _reduced(node)
    if not 0 < reduced < len(kinds) or set(kinds[: len(kinds) - reduced]) != {tirx.IterVar.DataPar}:
        return False
    if not isinstance(node.body, tirx.BufferStore):
        return False
    return not isinstance(node.body.value, tirx.Add) or 0 < _neighbours(schedule, block) < _WARP


def _reduce_together(schedule: Any, block: Any) -> None:
    """Bind the loops of a reduction."""
    node, reduced = schedule.get(block), _reduced(schedule.get(block))
    rows = _are_rows(node)
    loops = schedule.get_loops(block)
    columns = 1 if rows else _columns(schedule.get(loops[-reduced - 1]).extent)
    grid = schedule.fuse(*loops[:-reduced])
    if not rows:
        grid, column = schedule.split(grid, [None, columns])
        schedule.bind(column, "threadIdx.x")
    schedule.bind(grid, "blockIdx.x")
    wide = _WARP if 0 < _neighbours(schedule, block) < _WARP else _ROW
    threads, name = (wide, "threadIdx.x") if rows else (_THREADS // columns, "threadIdx.y")
    many, part = schedule.split(schedule.fuse(*loops[-reduced:]), [None, threads])
    schedule.reorder(part, many)
    schedule.bind(part, name)


def _columns(extent: Any) -> int:
    """Threads side by side: no more than there are neighbours, so that those of a warp read without gaps."""
    size = int(extent) if isinstance(extent, tirx.IntImm) else _COLUMNS
    return min(_COLUMNS, 1 << size.bit_length() - 1)


def _reduced(node: Any) -> int:
    """Number of axes that a block reduces."""
    return sum(axis.iter_type == tirx.IterVar.CommReduce for axis in node.iter_vars)
