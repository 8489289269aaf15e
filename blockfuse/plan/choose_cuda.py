"""Chooses a plan for a block on a GPU: what a CTA makes by a simple cost, everything else by rule.

Candidates are the ways to divide the output among CTAs, cheapest prediction first. Each gets plans of more and more
modest needs, of which those count that fit into shared memory and registers; the cheapest plan of the first few
candidates that have one is taken. Where none fits, a single layer goes from memory to memory with nothing on the chip,
and of other blocks the smallest need is reported.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from heapq import heapify, heappop, heappush

from blockfuse.machine import Engine
from blockfuse.machine.occupancy import REGISTERS
from blockfuse.plan.cuda import CudaPlan
from blockfuse.plan.cuda_bound import Bound
from blockfuse.plan.cuda_cost import predict
from blockfuse.plan.cuda_direct import can_be_direct, direct
from blockfuse.plan.cuda_grids import MAX_TILE, USUAL_TILE, Grid, grids
from blockfuse.plan.cuda_rules import Limits
from blockfuse.plan.device import Device
from blockfuse.plan.fold import Folded
from blockfuse.plan.infeasible import Infeasible
from blockfuse.program.cuda_needs import OTHER_REGISTERS, least_elements, most_resident, needs, resident

_HALF = 2  # bytes
_REMEDY = "cut the block"
_SHARED_MEMORY = "shared memory"
_MAX_FITTING = 6  # candidates that fit, of which the cheapest is taken
_MAX_INPUTS = 10  # kernel parameters are ordered by name

_RESIDENT = 0.4  # share of shared memory up to which an input is kept whole

# Depth of the weight stream, bytes of an item, channels of a chunk, the part of the usual share that an input may have,
# and channels of an input that arrive together. The first are the usual limits, by which candidates are compared; the
# next two save steps, later ones save memory.
_LIMITS = (
    (3, 20480, 64, 1.0, 0),
    (3, 40960, 128, 1.0, 0),
    (2, 65536, 192, 1.0, 0),
    (2, 20480, 64, 1.0, 0),
    (2, 40960, 128, 0.6, 32),
    (3, 10240, 32, 0.6, 0),
    (2, 10240, 32, 0.6, 0),
    (2, 5120, 16, 0.3, 0),
)
_NEARLY = 1.125  # of the shared memory: what needs no more may fit without the room that keeps banks apart
_SPREAD = 1.2  # how much less other limits than the usual ones may take, for a candidate to be tried
_WORTH = 0.97  # how much less a plan with other limits must take than one that fits, to be preferred


def _limits(device: Device, engine: Engine, size: int) -> list[Limits]:
    """How generous plans for a device may be, most generous first; an element has ``size`` times the usual bytes."""
    resident = _RESIDENT * device.local_bytes // size
    return [
        Limits(depth, item // size, chunk, round(part * resident), engine, arriving)
        for depth, item, chunk, part, arriving in _LIMITS
    ]


def plan_cuda(
    folded: Folded,
    device: Device,
    *,
    tile: tuple[int, int] | None = None,
    warps: int | None = None,
    engine: Engine | None = None,
    split: int | None = None,
    images: int | None = None,
) -> CudaPlan | Infeasible:
    """The plan that is predicted to be fastest.

    Args:
        folded: The block.
        device: What to plan for.
        tile: Output rows and columns of a CTA; chosen by cost if not given.
        warps: Warps of a CTA; chosen by cost if not given.
        engine: What makes sums, whether or not the device is known to have it; chosen by cost if not given.
        split: CTAs that share the channels of the result; chosen by cost if neither it nor a tile is given.
        images: Images of a CTA; chosen by cost if neither it nor a tile is given.

    Returns:
        A plan whose program fits, or what stands in the way.
    """
    if folded.input_count > _MAX_INPUTS:
        return Infeasible("inputs of one kernel", folded.input_count, _MAX_INPUTS, "tensors", "cut the block")
    wish = Grid(tile, warps, engine, split, images)
    found = _best(folded, device, wish, USUAL_TILE)
    if isinstance(found, Infeasible) and found.limit == _SHARED_MEMORY and found.need <= _NEARLY * found.available:
        found = _best(folded, device, replace(wish, dense=True), USUAL_TILE)
    if isinstance(found, CudaPlan) or len(folded.units) > 1:
        return found
    found = _best(folded, device, wish, 1)  # a single unit cannot be cut
    return direct(folded) if isinstance(found, Infeasible) and wish == Grid() and can_be_direct(folded) else found


def _best(folded: Folded, device: Device, wish: Grid, least: int) -> CudaPlan | Infeasible:
    """The plan with tiles of at least so many rows and columns that is predicted to be fastest."""
    candidates = list(grids(folded, device, wish, least))
    if not candidates:
        out, (rows, _) = folded.shapes[-1], wish.tile or (0, 0)
        if folded.block.pooled and rows and (wish.images or 1) > 1:
            need = (wish.images or 1) * out.height
            return Infeasible("tile of several images whose result is pooled", need, rows, "rows")
        return Infeasible("tile of an output whose paths differ in stride", out.pixels, MAX_TILE**2, "pixels")
    return _cheapest(folded, candidates, device)


def _cheapest(folded: Folded, candidates: list[Grid], device: Device) -> CudaPlan | Infeasible:
    """The cheapest of the plans that fit, of the first few candidates that have one."""
    obstacles, plans = _Obstacles(folded, device), _Plans(folded, device)
    best: tuple[float, CudaPlan] | None = None
    fitting, bound = 0, Bound(folded, device)
    for hope, grid in _by_hope(candidates, bound, plans):
        if best and (hope >= _SPREAD * best[0] or fitting == _MAX_FITTING or best[0] <= bound.least):
            break
        if best and bound.seconds(grid) >= best[0]:
            continue
        found = _fitted(grid, best[0] if best else float("inf"), obstacles, plans)
        best = min([*([best] if best else []), *found], key=lambda pair: pair[0], default=None)
        fitting += bool(found)
    return best[1] if best else obstacles.smallest()


def _by_hope(candidates: list[Grid], bound: Bound, plans: _Plans) -> Iterator[tuple[float, Grid]]:
    """The candidates with their hopes, least first; those that are not asked for are never planned.

    A heap holds every candidate with its bound or, once that was the least of all, with its hope in its place.
    """
    heap = [(bound.seconds(grid), index, False) for index, grid in enumerate(candidates)]
    heapify(heap)
    while heap:
        value, index, is_hope = heappop(heap)
        if is_hope:
            yield value, candidates[index]
        else:
            heappush(heap, (plans.hope(candidates[index]), index, True))


def _fitted(grid: Grid, known: float, obstacles: _Obstacles, plans: _Plans) -> list[tuple[float, CudaPlan]]:
    """A candidate's plans, with their predicted seconds, that fit and take less time than a known one."""
    found: list[tuple[float, CudaPlan]] = []
    has_last = False  # whether the last plan that was tried fits
    for hope, plan in plans.of(grid):
        worth = known * (_WORTH if has_last else 1)
        if hope >= worth:
            continue
        has_last = obstacles.has_none(plan)
        if not has_last:
            continue
        sharing = replace(plan, resident=obstacles.resident(plan))
        seconds = plans.seconds(sharing)
        if seconds < worth:
            found.append((seconds, sharing))
            known = seconds
    return found


class _Plans:
    """Plans for the ways to divide a block's output, with hopes of their seconds; equal plans are predicted once.

    A hope is that as many CTAs share an SM as could if they needed no more than filters and what they multiply.
    """

    def __init__(self, folded: Folded, device: Device) -> None:
        self._folded, self._device = folded, device
        self._hopes: dict[CudaPlan, float] = {}
        self._first: dict[Grid, tuple[float, CudaPlan]] = {}

    def hope(self, grid: Grid) -> float:
        """Seconds that are hoped for of a candidate with the usual limits, whether or not they fit."""
        if grid not in self._first:
            self._first[grid] = self._with(grid, self._limits(grid)[0])
        return self._first[grid][0]

    def seconds(self, plan: CudaPlan) -> float:
        """Predicted seconds of a plan."""
        return predict(self._folded, plan, self._device).seconds

    def of(self, grid: Grid) -> Iterator[tuple[float, CudaPlan]]:
        """All plans of a candidate, the one with the usual limits first."""
        self.hope(grid)
        yield self._first[grid]
        for limits in self._limits(grid)[1:]:
            yield self._with(grid, limits)

    def _limits(self, grid: Grid) -> list[Limits]:
        return _limits(self._device, grid.engine or Engine.MMA, _size(self._folded))

    def _with(self, grid: Grid, limits: Limits) -> tuple[float, CudaPlan]:
        plan = grid.plan(self._folded, limits)
        hope = self._hopes.get(plan)
        if hope is None:
            most = most_resident(self._folded, plan, self._device)
            hope = self._hopes[plan] = self.seconds(replace(plan, resident=most))
        return hope, plan


class _Obstacles:
    """What plans for a block need more of than there is; equal plans are looked at once."""

    def __init__(self, folded: Folded, device: Device) -> None:
        self._folded, self._device = folded, device
        self._known: dict[CudaPlan, bool] = {}
        self._needs: dict[CudaPlan, tuple[int, int]] = {}
        self._smallest: dict[str, Infeasible] = {}
        self._too_large: tuple[int, CudaPlan] | None = None  # by its bound, the plan that needs least of those

    def has_none(self, plan: CudaPlan) -> bool:
        """Whether a plan fits."""
        if plan not in self._known:
            self._known[plan] = self._fits(plan)
        return self._known[plan]

    def resident(self, plan: CudaPlan) -> int:
        """CTAs of a plan that fits, that an SM holds at once."""
        return resident(self._folded, plan, self._device, *self._needs[plan])

    def smallest(self) -> Infeasible:
        """Of the plans that did not fit, what the one that needs least needs; some are compared by their bounds."""
        if self._too_large is not None:
            self._has_room(*needs(self._folded, self._too_large[1]), self._too_large[1].warps)
        return self._smallest[min(self._smallest)]

    def _fits(self, plan: CudaPlan) -> bool:
        least = least_elements(self._folded, plan)
        if least * _HALF * _size(self._folded) <= self._device.local_bytes:
            self._needs[plan] = needs(self._folded, plan)
            return self._has_room(*self._needs[plan], plan.warps)
        if self._too_large is None or least < self._too_large[0]:
            self._too_large = least, plan
        return False

    def _has_room(self, elements: int, live: int, warps: int) -> bool:
        device, width = self._device, _HALF * _size(self._folded)
        if width * elements > device.local_bytes:
            return self._note(Infeasible(_SHARED_MEMORY, width * elements, device.local_bytes, "bytes", _REMEDY))
        registers = min(device.registers, REGISTERS // (32 * warps)) - OTHER_REGISTERS
        if live > registers:
            return self._note(Infeasible("sums and fragments", live, registers, "registers per thread", _REMEDY))
        return True

    def _note(self, obstacle: Infeasible) -> bool:
        known = self._smallest.get(obstacle.limit)
        if known is None or obstacle.need < known.need:
            self._smallest[obstacle.limit] = obstacle
        return False


def _size(folded: Folded) -> int:
    """Elements of half precision in the place of one of the block's."""
    return 2 if folded.block.dtype == "float32" else 1
