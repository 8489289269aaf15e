"""What one CTA of a CUDA kernel does: operations, and bytes that shared memory and L2 move."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from math import ceil

from blockfuse.block import PARTIAL_BYTES
from blockfuse.dtypes import item_size
from blockfuse.errors import InternalError
from blockfuse.integers import round_up
from blockfuse.machine import WARPGROUP, Engine
from blockfuse.machine.groups import block_steps
from blockfuse.plan.banks import matrix_pitch
from blockfuse.plan.cuda import CudaPlan, UnitPlan
from blockfuse.plan.cuda_chunks import chunked_with_last
from blockfuse.plan.cuda_groups import is_sum, narrow_block, summed_channels, wide_block
from blockfuse.plan.fold import Folded, Term, Unit
from blockfuse.plan.footprint import Extent, Footprint
from blockfuse.plan.layouts import gathered, matrix_layout
from blockfuse.stages import Window

_FLOAT = 4  # bytes
_CORE = 16  # channels of an mma tile
_ITEM = 64  # elements that an item of the stream is a multiple of
TAP_OPERATIONS = 3  # assumed: conversions and addresses per multiply-add of DEPTHWISE


@dataclass
class Work:
    """What one CTA does.

    Attributes:
        tensor: Operations of sums, of whole m16n8k16 tiles.
        vector: Operations of the ordinary arithmetic units.
        local: Bytes of shared memory read and written.
        cache: Bytes from and to L2.
        useful: Operations of the model, halo included.
        steps: Of the weight stream.
    """

    tensor: float = 0.0
    vector: float = 0.0
    local: float = 0.0
    cache: float = 0.0
    useful: float = 0.0
    steps: int = 0


def work_of(folded: Folded, plan: CudaPlan, prints: list[Footprint]) -> Work:
    """What one CTA in the middle of an image does."""
    work, size = Work(), item_size(folded.block.dtype)
    for value in range(folded.input_count):
        if value in folded.block.partial:
            work.cache += folded.shapes[value].pixels * _channels_read(folded, plan, value) * PARTIAL_BYTES
            continue
        bytes_in = _pixels_read(folded, plan, prints, value) * _channels_read(folded, plan, value) * size
        work.cache += bytes_in
        work.local += 0 if folded.stays_in_memory(value) else bytes_in
    for index, unit in enumerate(folded.units):
        _add_unit(work, folded, plan, prints, index, unit)
    last = len(folded.shapes) - 1
    work.cache += _inside(folded, plan, prints, last) * _made(folded, plan, last) * size
    if folded.block.pooled:
        _add_parts(work, folded, plan, prints)
    return work


def _add_parts(work: Work, folded: Folded, plan: CudaPlan, prints: list[Footprint]) -> None:
    """The tile is read once more on the chip, and what it is reduced to goes to memory."""
    last = len(folded.shapes) - 1
    elements = prints[last].pixels * _made(folded, plan, last)
    work.vector += 2 * TAP_OPERATIONS * elements
    work.local += elements * item_size(folded.block.dtype)
    work.cache += plan.images * _made(folded, plan, last) * PARTIAL_BYTES


def _inside(folded: Folded, plan: CudaPlan, prints: list[Footprint], value: int) -> float:
    """Pixels of a value under a tile, on average over all tiles: what lies outside the image is not moved."""
    shape, out, stack = folded.shapes[value], folded.shapes[-1], folded.stack(value)
    rows = _mean_inside(prints[value].rows, plan.tile_p, out.height, shape.height)
    cols = _mean_inside(prints[value].cols, plan.tile_q, out.width, shape.width)
    return rows * cols * (stack.images * stack.height / shape.height if stack else 1)


def _under_taps(folded: Folded, plan: CudaPlan, made: Footprint, term: Term) -> float:
    """Pixels that lie under the taps of a window one by one, on average over all tiles."""
    window, shape, out = term.window, folded.shapes[term.source], folded.shapes[-1]
    rows = cols = 0.0
    for r in range(window.r):
        under = made.rows.through(window.stride_h, window.pad_top - r * window.dilation_h, 1)
        rows += _mean_inside(under, plan.tile_p, out.height, shape.height)
    for s in range(window.s):
        under = made.cols.through(window.stride_w, window.pad_left - s * window.dilation_w, 1)
        cols += _mean_inside(under, plan.tile_q, out.width, shape.width)
    return rows * cols


@functools.lru_cache(maxsize=1 << 16)
def _mean_inside(extent: Extent, tile: int, out: int, size: int) -> float:
    """Positions of an image of ``size`` under the tiles of an axis, on average."""
    firsts = range(-extent.before, -(-out // tile) * tile * extent.step - extent.before, max(1, tile * extent.step))
    if not extent.step:
        firsts = range(-extent.before, 1 - extent.before)
    return sum(max(0, min(first + extent.size, size) - max(first, 0)) for first in firsts) / len(firsts)


def _made(folded: Folded, plan: CudaPlan, value: int) -> float:
    """Channels of a value that one CTA makes: its share of the result's, and of what is chunked with the result."""
    path = chunked_with_last(folded) if plan.split > 1 else []
    shared = value in path and (value == len(folded.shapes) - 1 or not plan.homes[value].whole)
    return folded.shapes[value].channels / (plan.split if shared else 1)


def _add_unit(work: Work, folded: Folded, plan: CudaPlan, prints: list[Footprint], index: int, unit: Unit) -> None:
    value = folded.value(index)
    pixels, channels, size = prints[value].pixels, _stored(folded, plan, value), item_size(folded.block.dtype)
    made = _made(folded, plan, value) / unit.shape.channels
    work.local += 0 if plan.homes[value].registers else 2 * pixels * channels * size
    work.useful += folded.operations(index) * pixels / unit.shape.pixels * made
    work.cache += channels * _FLOAT if unit.kind != "pool" else 0  # biases
    if is_sum(folded, unit):
        _add_contraction(work, folded, plan, prints, value, unit)
        return
    if unit.kind == "grouped":
        _add_grouped(work, folded, plan, prints, value, unit)
        return
    window = Window() if unit.kind == "border" else unit.terms[0].window  # a framed pixel is one pixel
    work.vector += 2 * TAP_OPERATIONS * pixels * channels * window.taps
    segment = plan.units[index].segment
    rows = (segment - 1) * window.stride_h + window.extent_h if unit.kind == "depthwise" else window.r
    is_on_chip = unit.terms[0].source not in folded.block.partial
    work.local += pixels * channels * size * window.s * rows / segment if is_on_chip else 0
    if unit.kind == "depthwise":
        chunk = plan.homes[value].chunk
        work.cache += channels // chunk * round_up(window.taps * chunk, _ITEM) * size
    source = unit.terms[0].source
    if unit.kind == "depthwise" or (source < folded.input_count and not plan.homes[source].whole):
        work.steps += channels // plan.homes[value].chunk


def _add_contraction(
    work: Work, folded: Folded, plan: CudaPlan, prints: list[Footprint], value: int, unit: Unit
) -> None:
    """Fragments of pixels are read by every warp along the channels, those of weights by every one along the pixels."""
    chosen: UnitPlan = plan.units[value - folded.input_count]
    tiling = chosen.tiling
    if tiling is None:
        raise InternalError(f"unit {unit.name} has no tiling")
    m16_tiles = -(-prints[value].pixels // 16)
    tiles = round_up(m16_tiles, tiling.wm)
    channels, size = _stored(folded, plan, value), item_size(folded.block.dtype)
    block = wide_block(folded, unit)
    for term, slices in zip(unit.terms, chosen.slices, strict=True):
        inputs = block.inputs if block else _stored(folded, plan, term.source)
        depth = inputs * term.window.taps
        work.tensor += 2 * tiles * 16 * depth * channels
        loads = tiles * 16 * tiling.wn * channels / plan.homes[value].chunk
        if plan.homes[term.source].registers:
            loads = 0
        elif chosen.hold:
            loads = tiles * 16
        readers = tiling.wm if tiling.engine is Engine.MMA else tiles // WARPGROUP  # wgmma keeps no weights
        work.local += (
            depth * size * (loads * _conflicts(folded, prints, term, value, dense=plan.dense) + channels * readers)
        )
        work.cache += depth * channels * size
        if not plan.homes[value].registers:  # else the next unit's steps are this one's too
            chunks = channels // plan.homes[value].chunk
            work.steps += max(1, depth // (slices.ks * slices.taps)) * chunks


def _stored(folded: Folded, plan: CudaPlan, value: int) -> int:
    """Channels of a value that a CTA computes: whole mma tiles, and whole chunks."""
    chunk, tiles = plan.homes[value].chunk, ceil(_made(folded, plan, value) / _CORE)
    return round_up(tiles * _CORE, chunk)


def _add_grouped(work: Work, folded: Folded, plan: CudaPlan, prints: list[Footprint], value: int, unit: Unit) -> None:
    """Blocks of groups are dense; every one loads its pixels for every step of two taps or 16 channels.

    A share of the result counts the time of all channels, as long as nothing was measured; of bytes it counts its own.
    """
    term, channels, size = unit.terms[0], folded.shapes[value].channels, item_size(folded.block.dtype)
    window, block = term.window, narrow_block(folded, unit)
    steps, tiles = block_steps(block.inputs, window.r, window.s), -(-prints[value].pixels // 16)
    blocks, made = ceil(channels / block.outputs), ceil(_made(folded, plan, value) / block.outputs)
    work.tensor += 2 * tiles * 16 * blocks * block.outputs * steps * 16
    together = plan.units[value - folded.input_count].segment
    passes = _conflicts(folded, prints, term, value, dense=plan.dense)
    loads = tiles * 512 * passes + -(-tiles // together) * 32 * block.outputs
    work.local += blocks * steps * loads
    work.cache += made * block.outputs * steps * 16 * size
    work.steps += ceil(channels / plan.homes[value].chunk)


def _pixels_read(folded: Folded, plan: CudaPlan, prints: list[Footprint], value: int) -> float:
    """Pixels of an input that a CTA reads: where it arrives with weights, for every chunk of what is made of it."""
    if plan.homes[value].whole:
        return _inside(folded, plan, prints, value)
    read = 0.0
    for index, unit in enumerate(folded.units):
        made = folded.value(index)
        chunks = -(-round(_made(folded, plan, made)) // plan.homes[made].chunk)
        for term in unit.terms:
            if term.source == value:
                once = _inside(folded, plan, prints, value if len(unit.terms) == 1 else made)
                if plan.homes[value].by_taps:
                    once = _under_taps(folded, plan, prints[made], term)
                share = summed_channels(folded, unit, value) / folded.shapes[value].channels
                alike = _made(folded, plan, made) / unit.shape.channels
                read += once * (chunks * share if is_sum(folded, unit) else alike)
        read += (
            unit.added.count(value)
            * _inside(folded, plan, prints, made)
            * _made(folded, plan, made)
            / unit.shape.channels
        )
    return read


def _channels_read(folded: Folded, plan: CudaPlan, value: int) -> float:
    """Channels of an input that a CTA reads: of one that stays in memory, those of what it makes with them."""
    if not folded.stays_in_memory(value):
        return folded.shapes[value].channels
    return max(_made(folded, plan, folded.value(i)) for i, unit in enumerate(folded.units) if value in unit.reads)


def _conflicts(folded: Folded, prints: list[Footprint], term: Term, value: int, *, dense: bool) -> float:
    """How much longer fragment loads of a term take because its pixels fall into the same banks."""
    layout = matrix_layout(folded, prints, term.source, matrix_pitch(64), dense=dense)
    return gathered(prints, value, term).passes(layout)
