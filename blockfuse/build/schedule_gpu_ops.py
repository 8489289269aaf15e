"""Loops of operators that have no kernel of ours, on GPUs: those without sums as vectors.

TVM's own schedules give every thread one element. What cannot be vectors stays with them.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import tirx
from tvm.s_tir import SBlockRealize, Schedule, ScheduleError

from blockfuse.build.entry import KERNEL_ATTRS, KERNEL_MARKER
from blockfuse.schedules.cuda.elements import Elements, lower_elements
from blockfuse.schedules.cuda.expressions import computes_wide, equal, uses


@tvm.transform.module_pass(opt_level=0, name="blockfuse.vectors")  # type: ignore[untyped-decorator]
def as_vectors(module: Any, _context: Any) -> Any:
    """Put finished kernels in place of all functions whose results are vectors; the others count in 32 bits, too."""
    for name, function in module.functions.items():
        if not isinstance(function, tirx.PrimFunc) or KERNEL_MARKER in (function.attrs or {}):
            continue
        narrow = _narrow(function)
        results = elements_of(narrow)
        kernel = lower_elements(name.name_hint, narrow.params, results) if results else None
        module[name] = narrow if kernel is None else kernel.without_attr("global_symbol").with_attrs(KERNEL_ATTRS)
    return module


def _narrow(function: Any) -> Any:
    """A function that numbers elements in 32 bits: no tensor of a network has more, whatever its batch."""
    if computes_wide(function.body):
        return function
    try:
        return tirx.transform.ForceNarrowIndexToInt32()(tvm.IRModule({"main": function}))["main"]
    except (tvm.error.InternalError, ValueError):  # a tensor has numbers of 64 bits
        return function


def elements_of(function: Any) -> list[Elements]:
    """The results of a function element by element; none if it is not all loops without sums."""
    if not isinstance(function.body, SBlockRealize):
        return []
    schedule = Schedule(function)
    try:
        kept = kept_blocks(schedule)
    except ScheduleError:
        return []
    found = [_elements(schedule, block) for block in kept]
    results = [one for one in found if one]
    buffers = [one.result for one in results]
    apart = not any(uses(one.value, buffer) for one in results for buffer in buffers)
    ours = all(any(buffer.same_as(parameter) for parameter in function.params) for buffer in buffers)
    return results if len(results) == len(kept) and apart and ours else []


def kept_blocks(schedule: Any) -> list[Any]:
    """The blocks that are left when all that can be are computed where they are read: results, and sums."""
    return [block for block in schedule.get_child_blocks(schedule.get_sblock("root")) if not _inlined(schedule, block)]


def _inlined(schedule: Any, block: Any) -> bool:
    try:
        schedule.compute_inline(block)
    except ScheduleError:  # a result, or a sum
        return False
    return True


def _elements(schedule: Any, block: Any) -> Elements | None:
    """What a block makes, if it makes every element of a buffer on its own."""
    node = schedule.get(block)
    axes = [axis.var for axis in node.iter_vars]
    plain = all(axis.iter_type == tirx.IterVar.DataPar for axis in node.iter_vars)
    if not axes or not plain or node.init is not None or not isinstance(node.body, tirx.BufferStore):
        return None
    store = node.body
    extents = [schedule.get(loop).extent for loop in schedule.get_loops(block)]
    same = _same(store.indices, axes) and _same(extents, [axis.dom.extent for axis in node.iter_vars])
    if not same or not _same(extents, store.buffer.shape):
        return None
    return Elements(store.buffer, tuple(axes), store.value)


def _same(left: Any, right: Any) -> bool:
    return len(left) == len(right) and all(map(equal, left, right))
