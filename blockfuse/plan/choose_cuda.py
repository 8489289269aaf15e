"""Chooses a plan for a block on a GPU: tiles by a simple cost, everything else by rule.

Candidates are output tiles and numbers of warps, cheapest prediction first; each is made to fit into shared memory and
registers, and the cheapest of the first few that do is taken. Where none fits, the smallest need is reported.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from blockfuse.machine import WARPGROUP, Engine
from blockfuse.plan.cuda import CudaPlan
from blockfuse.plan.cuda_cost import predict
from blockfuse.plan.cuda_limits import CORE, multiples
from blockfuse.plan.cuda_rules import Limits, apply_rules
from blockfuse.plan.device import Device
from blockfuse.plan.fold import Folded
from blockfuse.plan.footprint import footprints
from blockfuse.plan.infeasible import Infeasible
from blockfuse.plan.stack import stacked
from blockfuse.program.cuda import program_cuda
from blockfuse.program.registers import live_registers

_HALF = 2  # bytes
_REGISTER_FILE = 65536  # per SM
_OTHER_REGISTERS = 56  # addresses, loop variables, what the compiler keeps
_REMEDY = "cut the block"
_MAX_TILE = 32  # pixels along an axis
_MAX_STACK = 256  # pixels of the result in a stack of images
_MAX_FITTING = 6  # plans that fit, of which the cheapest is taken
_MAX_INPUTS = 10  # kernel parameters are ordered by name

_RESIDENT = 0.4  # share of shared memory up to which an input is kept whole

# Fallbacks, least harmful first: depth of the weight stream, bytes of an item, channels of a chunk, and the part of the
# usual share that an input may have.
_FALLBACKS = (
    (3, 20480, 64, 1.0),
    (2, 20480, 64, 1.0),
    (3, 10240, 32, 0.6),
    (2, 10240, 32, 0.6),
    (2, 5120, 16, 0.3),
)


def _limits(device: Device, engine: Engine, size: int) -> list[Limits]:
    """How generous plans for a device may be, most generous first; an element has ``size`` times the usual bytes."""
    resident = _RESIDENT * device.local_bytes // size
    return [
        Limits(depth, item // size, chunk, round(part * resident), engine) for depth, item, chunk, part in _FALLBACKS
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
    if tile:
        split, images = split or 1, images or 1
    candidates = list(_candidates(folded, device, tile, warps, engine, split, images))
    if not candidates:
        out = folded.shapes[-1]
        return Infeasible("tile of an output whose paths differ in stride", out.pixels, _MAX_TILE**2, "pixels")
    return _cheapest(folded, candidates, device)


def _cheapest(folded: Folded, candidates: list[CudaPlan], device: Device) -> CudaPlan | Infeasible:
    """The cheapest of the candidates' plans that fit.

    A plan that had to be made to fit costs more than its candidate, so those that cost as much as it does cannot win.
    """
    failures: list[Infeasible] = []
    fitting: list[tuple[float, CudaPlan]] = []
    hopes = [(predict(folded, plan, device).seconds, plan) for plan in candidates]
    for hope, candidate in sorted(hopes, key=lambda pair: pair[0]):
        if fitting and (hope >= min(seconds for seconds, _ in fitting) or len(fitting) == _MAX_FITTING):
            break
        result = _fitted(folded, candidate, device)
        if isinstance(result, CudaPlan):
            fitting.append((predict(folded, result, device).seconds, result))
        else:
            failures.append(result)
    if fitting:
        return min(fitting, key=lambda pair: pair[0])[1]
    return min(failures, key=lambda failure: (failure.limit, failure.need))


def _candidates(
    folded: Folded,
    device: Device,
    tile: tuple[int, int] | None = None,
    warps: int | None = None,
    engine: Engine | None = None,
    split: int | None = None,
    images: int | None = None,
) -> Iterator[CudaPlan]:
    """Plans by rule for every tile, number of images in it, warps, engine, and number of CTAs for one tile."""
    engines = [engine] if engine else _engines(folded, device)
    for together in (images,) if images else _stacks(folded):
        stack = stacked(folded, together)
        if isinstance(stack, str):
            continue
        for tile_p, tile_q in _tiles(stack, tile):
            for count, chosen in product((warps,) if warps else (4, 8), engines):
                if chosen is not Engine.WGMMA or count % WARPGROUP == 0:
                    limits = _limits(device, chosen, _size(folded))[0]
                    for shares in (split,) if split else _splits(stack, device, tile_p, tile_q):
                        yield apply_rules(folded, tile_p, tile_q, count, limits, split=shares, images=together)


def _stacks(folded: Folded) -> list[int]:
    """Numbers of images that one CTA may make: none is behind the batch's last, and tiles do not get large."""
    pixels, batch = folded.shapes[-1].pixels, folded.block.batch
    return [count for count in range(1, min(batch, max(1, _MAX_STACK // pixels)) + 1) if batch % count == 0]


def _tiles(folded: Folded, tile: tuple[int, int] | None) -> Iterator[tuple[int, int]]:
    """Output tiles: the one given, for a stack of images all of it, else even shares of both axes."""
    out = folded.shapes[-1]
    shapes = [tile] if tile else [(p, q) for p in _shares(out.height) for q in _shares(out.width)]
    if folded.stacks and not tile:
        shapes = [(out.height, out.width)]
    for p, q in shapes:
        if not isinstance(footprints(folded, min(p, out.height), min(q, out.width)), str):
            yield min(p, out.height), min(q, out.width)


def _splits(folded: Folded, device: Device, tile_p: int, tile_q: int) -> Iterator[int]:
    """Numbers of CTAs that may share the result's channels: equal shares, as long as fewer leave an SM without work."""
    out = folded.shapes[-1]
    ctas = folded.block.batch * -(-out.height // tile_p) * -(-out.width // tile_q)
    shares = -(-out.channels // CORE) if folded.units[-1].kind == "contract" else 1
    for split in multiples(shares, 1):
        yield split
        if ctas * split >= 2 * device.cores:
            return


def _size(folded: Folded) -> int:
    """Elements of half precision in the place of one of the block's."""
    return 2 if folded.block.dtype == "float32" else 1


def _engines(folded: Folded, device: Device) -> list[Engine]:
    """What may make the sums of a block."""
    has_wgmma = device.wgmma and folded.block.dtype in ("float16", "bfloat16")
    return [Engine.MMA, Engine.WGMMA] if has_wgmma else [Engine.MMA]


def _shares(size: int) -> list[int]:
    """Tile sizes that divide an axis evenly, up to the last tile."""
    sizes = {-(-size // count) for count in range(1, size + 1)}
    return sorted(s for s in sizes if s <= _MAX_TILE and (s >= min(4, size)))


def _fitted(folded: Folded, plan: CudaPlan, device: Device) -> CudaPlan | Infeasible:
    """The plan, or the first of its fallbacks that fits; else the least need of shared memory."""
    registers = min(device.registers, _REGISTER_FILE // (32 * plan.warps)) - _OTHER_REGISTERS
    failures = []
    for limits in _limits(device, plan.engine, _size(folded)):
        shape = (plan.tile_p, plan.tile_q, plan.warps)
        smaller = apply_rules(folded, *shape, limits, split=plan.split, images=plan.images)
        program = program_cuda(folded, smaller, "candidate")
        need, live = program.arena * _HALF * _size(folded), live_registers(program)
        if need > device.local_bytes:
            failures.append(Infeasible("shared memory", need, device.local_bytes, "bytes", _REMEDY))
        elif live > registers:
            failures.append(Infeasible("sums and fragments", live, registers, "registers per thread", _REMEDY))
        else:
            return smaller
    return min(failures, key=lambda failure: failure.need)
