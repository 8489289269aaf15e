"""Contractions of a CUDA program: sums over channels and taps, item by item of the weight stream.

::

    ZERO acc
    for chunk of the operand, unless it is whole:      made first, or part of the item
      for taps, input channels:
        step weights:  GEMM acc += operand * weights
    EPILOGUE tile <- acc

A sum that one item completes goes piece by piece instead (``pixels``: ZERO, GEMM, EPILOGUE). Two pointwise convolutions
with an operand that stays in registers between them share their items::

    LOAD held <- tile                                  where registers allow
    ZERO acc
    for chunk of hidden channels:
      step both weights:
        pixels:  ZERO sums;  GEMM sums += held;  EPILOGUE hidden <- sums;  GEMM acc += hidden
    EPILOGUE tile <- acc
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from blockfuse.errors import InternalError
from blockfuse.machine import (
    Accumulators,
    Epilogue,
    EpilogueStep,
    Gemm,
    Item,
    Level,
    Load,
    Loop,
    LoopKind,
    Node,
    Pixels,
    Region,
    Step,
    Tile,
    WeightSlice,
    Zero,
    every,
)
from blockfuse.machine.affine import Affine, quotient, span, var
from blockfuse.machine.layout import Layout
from blockfuse.plan.cuda import Slices
from blockfuse.plan.cuda_groups import wide_block
from blockfuse.plan.layouts import Walk, laid_out
from blockfuse.plan.units import Term, Unit
from blockfuse.program.cuda_builder import Builder
from blockfuse.program.cuda_tiles import first_summed
from blockfuse.stages import Window


def contract(
    builder: Builder, unit: Unit, value: int, c: Affine, region: Region, steps: tuple[EpilogueStep, ...]
) -> list[Node]:
    """Nodes that sum chunk ``c`` of a value and finish it with ``steps``."""
    plan = builder.plan.units[builder.index(value)]
    if plan.tiling is None or len(plan.slices) != len(unit.terms):
        raise InternalError(f"unit {unit.name} has no tiling")
    acc = Accumulators(f"acc_{builder.names[value]}", region, plan.tiling)
    begin, end = Zero(acc), Epilogue(acc, builder.local[value], steps)
    sums = [_term(builder, term, s, acc, c, value) for term, s in zip(unit.terms, plan.slices, strict=True)]
    alone = sums[0][0]
    is_one = len(sums) == 1 and len(sums[0]) == 1 and isinstance(alone, Step)
    if isinstance(alone, Step) and is_one and not alone.item.pixels and not isinstance(alone.body[0], Pixels):
        alone.body = [Pixels(region, plan.tiling.mb, 0, [begin, *alone.body, end])]
        return [alone]
    return [begin, *(node for nodes in sums for node in nodes), end]


def _term(builder: Builder, term: Term, slices: Slices, acc: Accumulators, c: Affine, value: int) -> list[Node]:
    """``acc`` += all of one term."""
    home, channels, low = builder.plan.homes[term.source], builder.stored[term.source], Affine()
    unit = builder.folded.units[builder.index(value)]
    block = wide_block(builder.folded, unit)
    if block is not None:
        channels, low = block.inputs, first_summed(builder.folded, builder.plan, unit, value, c)
    if home.registers:
        return _chained(builder, term, acc, c, value)
    held = channels if home.whole else home.chunk
    per_tap, per_chunk = held // slices.ks, term.window.taps // slices.taps
    if per_tap * slices.ks != held or per_chunk * slices.taps != term.window.taps:
        raise InternalError(f"{term.window} filter of {held} channels does not split into {slices}")
    is_streamed = builder.is_input(term.source) and not home.whole
    if is_streamed and per_tap * per_chunk > (term.window.taps if home.by_taps else 1):
        raise InternalError(f"{builder.local[term.source]} arrives with one item, not with {per_tap * per_chunk}")
    count = channels // held * per_tap * per_chunk * (builder.stored[value] // builder.plan.homes[value].chunk)
    size = slices.taps * slices.ks * acc.region.channels.size.const
    operand = _operand(builder, term, acc, value)
    base = builder.reserve(size, count, operand.tile.size if is_streamed else 0)

    def sums(chunk: Affine) -> list[Node]:
        index = (c * (channels // held) + chunk) * (per_tap * per_chunk)
        counts, where = (per_chunk, per_tap), (base, index, size)
        return _slices(builder, term, slices, acc, operand, low + chunk * held, counts, where, unit.groups)

    if home.whole:
        return sums(Affine())
    if is_streamed:
        return builder.chunks(term.source, sums, channels // held)
    return builder.chunks(term.source, lambda chunk: [*builder.produce(term.source, chunk), *sums(chunk)])


@dataclass(frozen=True)
class _Operand:
    """What a term multiplies: a tile, how its windows lie in that, and how it comes with the weights, if it does."""

    tile: Tile
    window: Window
    pixels: Load | None = None


def _operand(builder: Builder, term: Term, acc: Accumulators, value: int) -> _Operand:
    """The source's tile; one of a term's own for an input that comes with the weights of several terms."""
    tile = builder.local[term.source]
    if not tile.streamed:
        return _Operand(tile, term.window)
    source, unit = builder.inputs[term.source], builder.folded.units[builder.index(value)]
    if builder.plan.homes[term.source].by_taps:
        return _under_a_tap(builder, term, acc)
    if len(unit.terms) == 1:
        return _Operand(tile, term.window, Load(source, tile, builder.held(term.source)))
    view = every(source, term.window.stride_h, term.window.stride_w)
    rows, cols = acc.region.rows, acc.region.cols
    name = f"{tile.name}_{builder.stage_names[term.stage]}"
    own = replace(tile, name=name, image=view.image, rows=rows.size.const, cols=cols.size.const, stack=view.stack)
    own.top, own.left, own.padded = rows.low, cols.low, False
    own.apart_h, own.apart_w, own.gap, own.padding = 1, 1, 0, 0
    builder.extra.append(own)
    channels = span(tile.first_channel, tile.channels)
    return _Operand(own, Window(), Load(view, own, Region(rows, cols, channels)))


def _under_a_tap(builder: Builder, term: Term, acc: Accumulators) -> _Operand:
    """A tile of the pixels from the first to the last that one tap reads, which moves over the image with the taps."""
    tile, window, region = builder.local[term.source], term.window, acc.region
    name = builder.stage_names[term.stage]
    tap = var(f"{name}_tap") if window.taps > 1 else Affine()
    row = quotient(tap, window.s)
    rows = (region.rows.size.const - 1) * window.stride_h + 1
    cols = (region.cols.size.const - 1) * window.stride_w + 1
    walk = Walk(region.rows.size.const, region.cols.size.const, window.stride_h, window.stride_w)
    layout = laid_out(Layout(rows, cols, tile.pitch, window.stride_h, window.stride_w), (walk,))
    own = replace(tile, name=f"{tile.name}_{name}", rows=rows, cols=cols, gap=layout.gap, padding=layout.padding)
    own.apart_h, own.apart_w = layout.apart_h, layout.apart_w
    own.top = region.rows.low * window.stride_h - window.pad_top + row * window.dilation_h
    own.left = region.cols.low * window.stride_w - window.pad_left + (tap - row * window.s) * window.dilation_w
    builder.extra.append(own)
    channels = span(tile.first_channel, tile.channels)
    pixels = Region(span(own.top, rows), span(own.left, cols), channels)
    return _Operand(own, window, Load(builder.inputs[term.source], own, pixels))


def _slices(
    builder: Builder,
    term: Term,
    slices: Slices,
    acc: Accumulators,
    operand: _Operand,
    low: Affine,
    counts: tuple[int, int],
    where: tuple[int, Affine, int],
    filter_groups: int,
) -> list[Node]:
    """A step per group of taps and of input channels: ``where`` is the first one's base, index and size."""
    (tap_groups, groups), (base, index, size) = counts, where
    name = builder.stage_names[term.stage]
    tap = var(f"{name}_tap") if tap_groups > 1 else Affine()
    group = var(f"{name}_k") if groups > 1 else Affine()
    inputs = span(low + group * slices.ks, slices.ks)
    taps = span(tap * slices.taps, slices.taps)
    weights = WeightSlice((term.stage, "weight"), taps, inputs, acc.region.channels, name, filter_groups)
    item = Item(name, (weights,), base, index + tap * groups + group, size, operand.pixels)
    nodes: list[Node] = [Step(item, [Gemm(acc, operand.tile, weights, operand.window)])]
    if groups > 1:
        nodes = [Loop(f"{name}_k", groups, LoopKind.SLICE, nodes)]
    return [Loop(f"{name}_tap", tap_groups, LoopKind.SLICE, nodes)] if tap_groups > 1 else nodes


def _chained(builder: Builder, term: Term, acc: Accumulators, c: Affine, value: int) -> list[Node]:
    """``acc`` += a term whose operand goes from sums to sums in registers, chunk by chunk."""
    hidden = term.source
    maker, plan = builder.folded.units[builder.index(hidden)], builder.plan.units[builder.index(hidden)]
    (first,), tiling, tile = maker.terms, plan.tiling, builder.local[hidden]
    if tiling is None:
        raise InternalError(f"unit {maker.name} has no tiling")
    chunk, depth, width = builder.plan.homes[hidden].chunk, builder.stored[first.source], acc.region.channels.size.const
    chunks = builder.stored[hidden] // chunk
    size = depth * chunk + chunk * width
    base = builder.reserve(size, chunks * (builder.stored[value] // builder.plan.homes[value].chunk))
    before: list[Node] = []
    source = builder.local[first.source]
    if plan.hold:
        source = _held_tile(builder, first.source, acc.region, depth)
        everything = Region(acc.region.rows, acc.region.cols, span(0, depth))
        before = [Load(builder.local[first.source], source, everything)]

    def body(chunk_number: Affine) -> list[Node]:
        region = builder.region(hidden, chunk_number * chunk, chunk)
        sums = Accumulators(f"acc_{builder.names[hidden]}", region, tiling)
        names = [builder.stage_names[t.stage] for t in (first, term)]
        inner = WeightSlice((first.stage, "weight"), span(0, 1), span(0, depth), region.channels, names[0])
        outer = WeightSlice((term.stage, "weight"), span(0, 1), region.channels, acc.region.channels, names[1])
        item = Item("_".join(names), (inner, outer), base, c * chunks + chunk_number, size)
        early, _ = builder.steps(maker, hidden)
        nodes: list[Node] = [
            Zero(sums),
            Gemm(sums, source, inner, first.window),
            Epilogue(sums, tile, early),
            Gemm(acc, tile, outer, term.window),
        ]
        return [Step(item, [Pixels(region, tiling.mb, 0, nodes)])]

    return [*before, *builder.chunks(hidden, body)]


def _held_tile(builder: Builder, value: int, region: Region, channels: int) -> Tile:
    """A tile in registers for the pixels of a region, in all channels of a value."""
    tile = Tile(
        f"held_{builder.names[value]}",
        Level.REGISTER,
        builder.shapes[value],
        region.rows.size.const,
        region.cols.size.const,
        channels,
        channels,
        top=region.rows.low,
        left=region.cols.low,
    )
    builder.extra.append(tile)
    return tile
