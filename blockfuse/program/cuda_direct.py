"""A single layer between images in memory, for windows and filters that shared memory cannot hold.

::

    parallel image, tile_h, tile_w, share of the channels:
      GROUPED | DEPTHWISE | REDUCE  result <- input

A dense convolution is a grouped one of one group. The weights lie in memory as [tap][input][output]; nothing is staged,
so that nothing limits sizes.
"""

from __future__ import annotations

from blockfuse.errors import InternalError
from blockfuse.machine import (
    Apply,
    Bias,
    Depthwise,
    EpilogueStep,
    Grouped,
    MultiplyBy,
    Node,
    Program,
    Reduce,
    Region,
    Residual,
    ScaleBy,
    SlopeBy,
    Tile,
    WeightSlice,
    global_tile,
)
from blockfuse.machine.affine import Affine, span, var
from blockfuse.plan.cuda import CudaPlan
from blockfuse.plan.cuda_direct import can_be_direct
from blockfuse.plan.units import (
    Activate,
    AddBias,
    AddValue,
    Folded,
    MultiplyValue,
    ScaleChannels,
    SlopeChannels,
    Unit,
    UnitStep,
)
from blockfuse.program.cuda_tiles import SHARE, in_grid


def draft_direct(folded: Folded, plan: CudaPlan, name: str) -> Program:
    """The program of a plan without tiles on the chip.

    Raises:
        InternalError: The block is not a single unit that such a program can be of.
    """
    if not can_be_direct(folded):
        raise InternalError(f"block {folded.block.name} needs tiles on the chip")
    inputs = tuple(global_tile(f"input_{i}", shape) for i, shape in enumerate(folded.block.inputs))
    output = global_tile("result", folded.shapes[-1])
    node = _node(folded, folded.units[0], inputs, output, _region(folded, plan))
    return Program(
        name,
        "cuda",
        folded.block.batch,
        inputs,
        output,
        (),
        folded.block.parameter_shapes(),
        in_grid(folded, plan, [node]),
        dtype=folded.block.dtype,
        lanes=1,
        threads=32 * plan.warps,
        any_batch=folded.block.any_batch,
    )


def _region(folded: Folded, plan: CudaPlan) -> Region:
    """What one CTA makes."""
    out = folded.shapes[-1]
    chunk = plan.homes[-1].chunk
    top = var("tile_h") * plan.tile_p if out.height > plan.tile_p else Affine()
    left = var("tile_w") * plan.tile_q if out.width > plan.tile_q else Affine()
    low = var(SHARE) * chunk if plan.split > 1 else Affine()
    return Region(span(top, plan.tile_p), span(left, plan.tile_q), span(low, chunk))


def _node(folded: Folded, unit: Unit, inputs: tuple[Tile, ...], output: Tile, region: Region) -> Node:
    (term,), steps = unit.terms, tuple(_step(step, inputs) for step in unit.epilogue)
    source, window = inputs[term.source], term.window
    if unit.kind == "pool":
        return Reduce(source, output, unit.reduction, window, region, steps, count=unit.count)
    width = 1 if unit.kind == "depthwise" else folded.shapes[term.source].channels // unit.groups
    key, name = (term.stage, "weight"), folded.block.stages[term.stage].name
    weights = WeightSlice(key, span(0, window.taps), span(0, width), region.channels, name)
    if unit.kind == "depthwise":
        return Depthwise(source, output, weights, window, region, steps)
    return Grouped(source, output, weights, window, width, region, steps)


def _step(step: UnitStep, inputs: tuple[Tile, ...]) -> EpilogueStep:
    match step:
        case AddBias():
            return Bias(tuple((stage, "bias") for stage in step.stages))
        case Activate():
            return Apply(step.function)
        case ScaleChannels():
            return ScaleBy(((step.stage, "scale"), (step.stage, "shift")))
        case SlopeChannels():
            return SlopeBy((step.stage, "slope"))
        case MultiplyValue():
            return MultiplyBy(inputs[step.value])
        case AddValue():
            return Residual(inputs[step.value])
