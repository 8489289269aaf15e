"""How a block's output may be divided among the CTAs of a GPU: all ways that plans are made and compared for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

from blockfuse.machine import WARPGROUP, Engine
from blockfuse.plan.cuda import CudaPlan
from blockfuse.plan.cuda_chunks import chunked_with_last
from blockfuse.plan.cuda_groups import is_sum
from blockfuse.plan.cuda_limits import CORE, Limits, multiples
from blockfuse.plan.cuda_rules import apply_rules
from blockfuse.plan.device import Device
from blockfuse.plan.footprint import footprints
from blockfuse.plan.infeasible import Impossible
from blockfuse.plan.partial import has_parts
from blockfuse.plan.stack import stacked
from blockfuse.plan.units import Folded

MAX_TILE = 32  # pixels along an axis
USUAL_TILE = 4  # pixels along an axis, at least
_MAX_STACK = 256  # pixels of the result in a stack of images


@dataclass(frozen=True)
class Grid:
    """What one CTA makes, and with what; None in a wish leaves the choice open.

    Attributes:
        tile: Output rows and columns.
        warps: Its warps.
        engine: What makes its sums.
        split: CTAs that share the result's channels.
        images: Images in the tile, one below the other.
        dense: Whether there is no room between rows to keep banks apart.
    """

    tile: tuple[int, int] | None = None
    warps: int | None = None
    engine: Engine | None = None
    split: int | None = None
    images: int | None = None
    dense: bool = False

    def plan(self, folded: Folded, limits: Limits) -> CudaPlan:
        """The plan that the rules give; everything must be chosen."""
        tile_p, tile_q = self.tile or (0, 0)
        shares = {"split": self.split or 1, "images": self.images or 1}
        found = apply_rules(folded, tile_p, tile_q, self.warps or 1, limits, **shares)
        return replace(found, dense=True) if self.dense else found


def grids(folded: Folded, device: Device, wish: Grid, least: int = USUAL_TILE) -> Iterator[Grid]:
    """All ways that agree with a wish. With a tile, a CTA makes one image and all channels unless the wish differs.

    Args:
        folded: The block.
        device: What to plan for.
        wish: What is given.
        least: Rows and columns that a tile has at least, unless the output has fewer.
    """
    one = 1 if wish.tile else None
    images, split = wish.images or one, wish.split or one
    engines = [wish.engine] if wish.engine else _engines(folded, device)
    for together in (images,) if images else _stacks(folded):
        stack = stacked(folded, together)
        if isinstance(stack, Impossible):
            continue
        for tile in _tiles(stack, wish.tile, least):
            for warps, engine in product((wish.warps,) if wish.warps else (4, 8), engines):
                if engine is not Engine.WGMMA or warps % WARPGROUP == 0:
                    shares = (split,) if split else _splits(stack, device, *tile)
                    yield from (Grid(tile, warps, engine, share, together, wish.dense) for share in shares)


def _engines(folded: Folded, device: Device) -> list[Engine]:
    """What may make the sums of a block."""
    has_wgmma = device.wgmma and folded.block.dtype in ("float16", "bfloat16")
    return [Engine.MMA, Engine.WGMMA] if has_wgmma else [Engine.MMA]


def _stacks(folded: Folded) -> list[int]:
    """Numbers of images that one CTA may make: none is behind the batch's last, and tiles do not get large."""
    pixels, batch = folded.shapes[-1].pixels, folded.block.batch
    return [count for count in range(1, min(batch, max(1, _MAX_STACK // pixels)) + 1) if batch % count == 0]


def _tiles(folded: Folded, tile: tuple[int, int] | None, least: int) -> Iterator[tuple[int, int]]:
    """Output tiles: the one given, for a stack of images all of it, else even shares of both axes."""
    out = folded.shapes[-1]
    shapes = [tile] if tile else [(p, q) for p in _shares(out.height, least) for q in _shares(out.width, least)]
    if folded.stacks and not tile:
        shapes = [(out.height, out.width)]
    for height, width in shapes:
        p, q = min(height, out.height), min(width, out.width)
        if has_parts(folded, p, q) and not isinstance(footprints(folded, p, q), Impossible):
            yield p, q


def _splits(folded: Folded, device: Device, tile_p: int, tile_q: int) -> Iterator[int]:
    """Numbers of CTAs that may share the result's channels: equal shares, as long as fewer leave an SM without work."""
    out = folded.shapes[-1]
    ctas = folded.block.batch * -(-out.height // tile_p) * -(-out.width // tile_q)
    path = chunked_with_last(folded)
    can_share = is_sum(folded, folded.units[-1]) or (len(path) > 1 and out.channels % CORE == 0)
    shares = -(-out.channels // CORE) if can_share else 1
    for split in multiples(shares, 1):
        yield split
        if ctas * split >= 2 * device.cores:
            return


def _shares(size: int, least: int) -> list[int]:
    """Tile sizes that divide an axis evenly, up to the last tile."""
    sizes = {-(-size // count) for count in range(1, size + 1)}
    return sorted(s for s in sizes if s <= MAX_TILE and (s >= min(least, size)))
