"""Which values of a block are made chunk by chunk together with its result."""

from __future__ import annotations

from blockfuse.plan.cuda_groups import is_sum, narrow_block
from blockfuse.plan.units import Folded, Unit


def chunked_with_last(folded: Folded) -> list[int]:
    """The result, and the values before it of which each of its chunks needs the same channels alone.

    They go back to a sum over channels, or to an input, which arrives in chunks then; where they do neither, the result
    is the only value.
    """
    if "chunked_with_last" not in folded.facts:
        folded.facts["chunked_with_last"] = _chunked_with_last(folded)
    found: list[int] = folded.facts["chunked_with_last"]
    return found


def _chunked_with_last(folded: Folded) -> list[int]:
    last = len(folded.shapes) - 1
    path, pools = [last], False
    while path[-1] >= folded.input_count:
        unit = folded.units[path[-1] - folded.input_count]
        if is_sum(folded, unit):
            return [last] if pools else path
        if not _keeps_channels(folded, unit):
            return [last]
        pools = pools or unit.kind == "pool"
        source = unit.terms[0].source
        readers = [other for other in folded.units if source in other.reads]
        is_stored = source < folded.input_count and path == [last] and folded.adds_while_storing(unit)
        if len(readers) > 1 or (source in unit.added and not is_stored):
            return [last]
        path.append(source)
    return path


def _keeps_channels(folded: Folded, unit: Unit) -> bool:
    """Whether every chunk of a unit's result is made of the same channels of its operand."""
    if unit.kind == "grouped":
        block = narrow_block(folded, unit)
        return block.inputs == block.outputs and not is_sum(folded, unit)
    return unit.kind in {"depthwise", "pool", "map"}
