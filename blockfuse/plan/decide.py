"""Decide, block by block, what becomes one kernel: the whole block, or parts of it.

``auto`` takes what is predicted to be fastest, or what moves fewer bytes and is about as fast. ``always`` fuses
every block that can be one kernel; ``never`` gives every convolution, pool or fully connected layer its own kernel.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from blockfuse.block import Block
from blockfuse.errors import InternalError, UnsupportedModelError
from blockfuse.plan.book import planned
from blockfuse.plan.cost import Cost, interior_bytes
from blockfuse.plan.cpu import CpuPlan
from blockfuse.plan.cuda import CudaPlan
from blockfuse.plan.cut import into_units, is_closed, part
from blockfuse.plan.device import Device
from blockfuse.plan.fold import Folded, fold
from blockfuse.plan.infeasible import Infeasible
from blockfuse.plan.means_first import means_first
from blockfuse.plan.partial import parts_of
from blockfuse.plan.phases import pools_everything
from blockfuse.plan.split_pool import completing, split_pool, whole_pool

FuseMode: TypeAlias = Literal["auto", "always", "never"]
FUSE_MODES: tuple[FuseMode, ...] = ("auto", "always", "never")

_TIE = {"cpu": 0.05, "cuda": 0.25}
"""How much slower a choice of fewer bytes may be predicted to be. Predictions for CPUs follow measurements; those for
GPUs do not, and leave out what the end of a kernel and the start of the next one cost beside the launch."""


@dataclass(frozen=True)
class Kernel:
    """A block that becomes one kernel, how, and at what predicted cost."""

    block: Block
    plan: CpuPlan | CudaPlan
    cost: Cost


@dataclass(frozen=True)
class Decision:
    """What becomes of a block.

    Attributes:
        block: The block.
        kernels: In execution order; one if it is fused.
        why: One sentence with the numbers that decided.
        saved_bytes: Bytes of intermediate values that no longer pass through memory.
    """

    block: Block
    kernels: tuple[Kernel, ...]
    why: str
    saved_bytes: int

    @property
    def is_fused(self) -> bool:
        """Whether the whole block is one kernel."""
        return len(self.kernels) == 1

    @property
    def seconds(self) -> float:
        """Predicted time."""
        return sum(kernel.cost.seconds for kernel in self.kernels)


def decide(block: Block, device: Device, fuse: FuseMode = "auto", planar: frozenset[str] = frozenset()) -> Decision:
    """Choose kernels for a block.

    Args:
        block: Any block.
        device: Where it runs.
        fuse: The policy.
        planar: Names of tensors that memory holds as N, C, H, W.

    Raises:
        UnsupportedModelError: A stage needs more of the device than there is, even by itself.
    """
    folded = fold(block)
    count = len(folded.units)
    if fuse == "never" or count == 1:
        kernels = tuple(kernel for unit in into_units(folded) for kernel in _must(unit, device, planar))
        return Decision(block, kernels, "a single stage" if count == 1 else "fuse=never", 0)
    ways = _ways(folded, device, planar)
    chosen = ways[min(ways)] if fuse == "always" else _fastest(ways, device)
    return Decision(block, chosen, _why(block, ways, chosen, device, planar), _saved(folded, chosen))


Ways: TypeAlias = dict[int, tuple[Kernel, ...]]
"""For numbers of kernels, the fastest way to run a block with that many."""


def _ways(folded: Folded, device: Device, planar: frozenset[str]) -> Ways:
    """The fastest ways; a cut in front of a pool of all before it is one of :func:`_pooled_apart` if that can be.

    On a GPU gates may also be made before what they scale.
    """
    ways = _table(folded, _pools(folded, device), device, planar) or _table(folded, (), device, planar)
    other = means_first(folded.block) if device.kind == "cuda" else None
    if other is not None:
        reordered = fold(other)
        for count, way in _table(reordered, _pools(reordered, device), device, planar).items():
            ways[count] = min([way, *([ways[count]] if count in ways else [])], key=_seconds)
    if not ways:
        for unit in into_units(folded):
            _must(unit, device, planar)
        raise InternalError(f"block {folded.block.name}: its units do not make it up")
    return ways


def _table(folded: Folded, pools: Sequence[int], device: Device, planar: frozenset[str]) -> Ways:
    """Dynamic programming over contiguous groups of units.

    ::

    ways[end][k] = min over start of ways[start][k - 1] + (units start .. end as one kernel)
                                     ways[start][k - 2] + (the same as two, the second of which begins with a pool)
    """
    count = len(folded.units)
    table: list[Ways] = [{} for _ in range(count + 1)]
    table[0][0] = ()
    for start, end in itertools.combinations(range(count + 1), 2):
        if not table[start] or end in pools:
            continue
        found = [_pooled_apart(folded, (start, middle, end), device, planar) for middle in pools]
        if is_closed(folded, range(start, end)):
            found.append(_kernels(part(folded, range(start, end)), device, planar))
        for before, kernels in itertools.product(table[start].values(), filter(None, found)):
            way = (*before, *kernels)
            known = table[end].get(len(way))
            if known is None or _seconds(way) < _seconds(known):
                table[end][len(way)] = way
    return table[count]


def _pools(folded: Folded, device: Device) -> tuple[int, ...]:
    """Units that pool all of what the unit before makes, where another kernel can do a part of that: on a GPU."""
    if device.kind != "cuda":
        return ()
    return tuple(
        index
        for index, unit in enumerate(folded.units)
        if index and unit.terms[0].source == folded.value(index - 1) and pools_everything(folded, unit)
    )


def _fastest(ways: Ways, device: Device) -> tuple[Kernel, ...]:
    """The fastest way; of those that are about as fast, the one of fewest kernels that moves fewer bytes."""
    fastest = min(ways.values(), key=_seconds)
    limit = _seconds(fastest) * (1 + _TIE[device.kind])
    close = [way for way in ways.values() if _seconds(way) <= limit and _moves_less(way, fastest, device)]
    return min([fastest, *close], key=lambda way: (len(way), _seconds(way)))


def _moves_less(way: tuple[Kernel, ...], than: tuple[Kernel, ...], device: Device) -> bool:
    """Whether fewer bytes pass through memory, and on a CPU more than the cores' own caches hold."""
    saved = sum(k.cost.global_bytes for k in than) - sum(k.cost.global_bytes for k in way)
    room = device.local_bytes * device.cores if device.kind == "cpu" else 0
    return saved > 2 * room and all(kernel.cost.local_bytes <= device.local_bytes for kernel in way)


def _seconds(kernels: tuple[Kernel, ...]) -> float:
    return sum(kernel.cost.seconds for kernel in kernels)


def _saved(folded: Folded, kernels: tuple[Kernel, ...]) -> int:
    """Bytes of the values between units, written and read, that no longer pass through memory."""
    return sum(interior_bytes(fold(kernel.block)) for kernel in kernels) if len(kernels) < len(folded.units) else 0


def _why(block: Block, ways: Ways, chosen: tuple[Kernel, ...], device: Device, planar: frozenset[str]) -> str:
    """The predicted times between which the choice was made."""
    times = ", ".join(f"{count} kernels {_seconds(way) * 1e6:.0f} us" for count, way in sorted(ways.items()))
    text = times.replace("1 kernels", "one kernel", 1) if 1 in ways else times
    if len(chosen) == 1:
        return f"fused; predicted: {text}"
    fewest = min(ways)
    gain = f"{_seconds(ways[fewest]) / _seconds(chosen):.2f} times as fast as {'one' if fewest == 1 else fewest}"
    cut = f"cut in {len(chosen)}" + (f", {gain}" if len(chosen) > fewest else "")
    if 1 not in ways:
        cut += f"; one kernel is impossible ({best(block, device, planar)})"
    return f"{cut}; predicted: {text}"


def best(block: Block, device: Device, planar: frozenset[str] = frozenset()) -> Kernel | Infeasible:
    """The plan predicted to be fastest for the block as one kernel."""
    names = block.tensors[: len(block.inputs)]
    flags = tuple(name in planar for name in names) if names else (False,) * len(block.inputs)
    found = planned(replace(block, parameters={}, tensors=()), device, flags)
    return found if isinstance(found, Infeasible) else Kernel(block, found.plan, found.cost)


def fewest(block: Block, device: Device, planar: frozenset[str] = frozenset()) -> tuple[Kernel, ...]:
    """A block as one kernel, or as two of which the first pools its result for the second; none if neither can be."""
    whole, folded = best(block, device, planar), fold(block)
    ways = [(whole,)] if isinstance(whole, Kernel) else []
    cuts = [(0, middle, len(folded.units)) for middle in _pools(folded, device)]
    pairs = (_pooled_apart(folded, cut, device, planar) for cut in cuts)
    return min([*ways, *filter(None, pairs)], key=_seconds, default=())


def _kernels(block: Block, device: Device, planar: frozenset[str]) -> tuple[Kernel, ...]:
    """One kernel for a group of units, two for a pool of more than a core can hold; none if that is impossible."""
    kernel = best(block, device, planar)
    if isinstance(kernel, Kernel) and not _is_direct(kernel):
        return (kernel,)
    ways = [(kernel,)] if isinstance(kernel, Kernel) else []
    for first, second in split_pool(block):
        halves = (best(first, device, planar), best(second, device, planar))
        found = tuple(half for half in halves if isinstance(half, Kernel) and not _is_direct(half))
        if len(found) == len(halves):
            return min([*ways, found], key=_seconds)
    return ways[0] if ways else ()


def _pooled_apart(
    folded: Folded, cuts: tuple[int, int, int], device: Device, planar: frozenset[str]
) -> tuple[Kernel, ...]:
    """Two kernels for two groups of units, of which the first also pools the tiles of its result for the second.

    The second one begins with a pool of all of that; there are none where it does not, or either is impossible.
    """
    start, middle, end = cuts
    groups = (range(start, middle), range(middle, end))
    if not start < middle < end or not all(is_closed(folded, group) for group in groups):
        return ()
    rest = part(folded, groups[1])
    pool = whole_pool(rest)
    if pool is None:
        return ()
    first = best(replace(part(folded, groups[0]), pooled=pool.reduction), device, planar)
    if isinstance(first, Infeasible) or not isinstance(first.plan, CudaPlan):
        return ()
    parts = parts_of(fold(first.block), first.plan)
    second = best(completing(rest, pool, parts.in_memory, first.block.parts_name, partial=True), device, planar)
    return (first, second) if isinstance(second, Kernel) else ()


def _is_direct(kernel: Kernel) -> bool:
    """Whether it is a layer that the chip cannot hold, and so goes from memory to memory."""
    return isinstance(kernel.plan, CudaPlan) and kernel.plan.direct


def _must(unit: Block, device: Device, planar: frozenset[str]) -> tuple[Kernel, ...]:
    kernels = _kernels(unit, device, planar)
    if kernels:
        return kernels
    raise UnsupportedModelError(f"{unit.name} has no kernel on {device.name}: {best(unit, device, planar)}")
