"""Builds CUDA kernels of blocks and runs them in the emulator against the float64 reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import ml_dtypes
import numpy as np

from blockfuse.block import Block, ParameterKey, accumulation_depth, reference
from blockfuse.machine import Engine, Loop, LoopKind, Program, Tile
from blockfuse.plan.choose_cuda import plan_cuda
from blockfuse.plan.cuda import CudaPlan
from blockfuse.plan.device import GPUS, Device
from blockfuse.plan.fold import fold
from blockfuse.program.check import stream_length
from blockfuse.program.cuda import program_cuda
from blockfuse.schedules.cuda import cuda_source, lower, pack
from blockfuse.schedules.cuda.packing import vector_layout
from blockfuse.stages import Array, Pool, Window
from blockfuse.verification.compare import tolerance
from tests.emulated.emulator import Counters, Finding, emulate
from tests.slots import in_slot, into_slots, out_of_slot


@dataclass(frozen=True)
class Built:
    """A block on its way to a kernel."""

    block: Block
    plan: CudaPlan
    program: Program
    source: str


@dataclass(frozen=True)
class Run:
    """What an emulated launch found.

    ``error`` is the largest difference from the reference over what rounding explains: at most 1 where the kernel is
    right, NaN where an element was not written.
    """

    error: float
    findings: tuple[Finding, ...]
    counters: Counters
    by_cta: Mapping[int, Counters] = field(default_factory=dict)

    @property
    def is_clean(self) -> bool:
        """Whether the result is right and nothing was reported."""
        return self.error <= 1 and not self.findings


DTYPES = {
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float32": np.dtype(np.float32),
}


RESULTS = ("result", "result_parts")
"""Names of a kernel's results, of which most kernels have one."""

INSTEAD: list[Callable[[Built, str | None], Run]] = []
"""What is done with kernels in place of emulating them: the last one, if there is any."""


def rounded_weights(block: Block) -> Block:
    """The block with filters that its type holds exactly, as kernels read them."""
    narrow = DTYPES[block.dtype]
    data = {
        key: array.astype(narrow).astype(np.float32) if key[1] == "weight" else array
        for key, array in block.parameters.items()
    }
    return replace(block, parameters=data)


def build(
    block: Block,
    tile: tuple[int, int] | None = None,
    warps: int | None = None,
    device: Device = GPUS["sm_90"],
    engine: Engine | None = None,
    split: int | None = None,
    images: int | None = None,
) -> Built:
    """Plan, program and CUDA C of a block; whatever of the plan is given stays."""
    block = rounded_weights(block)
    chosen = plan_cuda(fold(block), device, tile=tile, warps=warps, engine=engine, split=split, images=images)
    assert isinstance(chosen, CudaPlan), str(chosen)
    return built_as(block, chosen)


def built_as(block: Block, plan: CudaPlan) -> Built:
    """Program and CUDA C of a plan."""
    program = program_cuda(fold(block), plan, block.name)
    return Built(block, plan, program, cuda_source(lower(program)))


def built_in_slots(built: Built, rng: np.random.Generator, step: int) -> Built:
    """The same kernel, reading from and writing to channels of wider images; see :func:`tests.slots.into_slots`."""
    program = into_slots(program_cuda(fold(built.block), built.plan, built.block.name), rng, step)
    return replace(built, program=program, source=cuda_source(lower(program)))


def inputs_of(block: Block, seed: int = 0) -> list[Array]:
    """Normal values of the block's type for every input; of float32 for partial results."""
    rng = np.random.default_rng(seed)
    shapes = [(block.batch, s.height, s.width, s.channels) for s in block.inputs]
    images = [rng.standard_normal(shape).astype(DTYPES[block.dtype]) for shape in shapes]
    for value in block.partial:
        pool = next(stage for stage in block.stages if isinstance(stage, Pool) and value in stage.inputs)
        each = max(1, pool.count) / block.inputs[value].pixels  # pixels of a part
        images[value] = each * rng.standard_normal(shapes[value], np.float32)
    return images


def run(
    built: Built,
    source: str | None = None,
    *,
    thread_order: Literal["forward", "reverse"] = "forward",
    count: bool = False,
    ctas: Sequence[int] = (),
) -> Run:
    """Emulate a kernel, or another source in its place; only some of its CTAs if ``ctas`` names any.

    Of a part of the grid, the error is that of the elements that are written, NaN where none is. Where
    :data:`INSTEAD` says so, something else is done.
    """
    if INSTEAD:
        return INSTEAD[-1](built, source)
    block, program = built.block, built.program
    inputs = inputs_of(block)
    source = source or built.source
    arguments = kernel_arguments(program, inputs, block.parameters)
    kept = {name: array for name, array in arguments.items() if f"{name}_ptr" in source}  # unused ones vanish
    if program.any_batch:
        kept["batch"] = np.array([program.batch], np.int32)
    emulated = emulate(
        source,
        kept,
        outputs={"result", "result_parts"} & set(kept),
        grid=grid(program),
        shared_bytes=DTYPES[program.dtype].itemsize * program.arena,
        thread_order=thread_order,
        count=count,
        ctas=ctas,
    )
    results = [out_of_slot(tile, arguments[name]) for tile, name in zip(program.outputs, RESULTS, strict=False)]
    found = error(block, inputs, results[0], partly=bool(ctas))
    if program.parts is not None:
        found = max(found, parts_error(built, inputs, results[1], partly=bool(ctas)), key=_nan_first)
    return Run(found, emulated.findings, emulated.counters, emulated.by_cta)


def kernel_arguments(
    program: Program, inputs: Sequence[Array], parameters: Mapping[ParameterKey, Array]
) -> dict[str, Array]:
    """Arrays by the names of the kernel's parameters; the result is NaN all over."""
    names = (["packed_vectors"] if vector_layout(program) else []) + (
        ["packed_weights"] if stream_length(program) else []
    )
    packed = dict(zip(names, pack(program, parameters), strict=True))
    pairs = enumerate(zip(program.inputs, inputs, strict=True))
    images = {f"input_{i}": in_slot(tile, array) for i, (tile, array) in pairs}
    results = {name: _empty(program, tile) for name, tile in zip(RESULTS, program.outputs, strict=False)}
    return images | packed | results


def _empty(program: Program, tile: Tile) -> Array:
    shape = (program.batch, tile.height, tile.image.width, tile.image.channels)
    return in_slot(tile, np.full(shape, np.nan, DTYPES[tile.dtype or program.dtype]))


def at_batch(built: Built, batch: int) -> Built:
    """A kernel that takes any batch, with inputs of that many images."""
    return replace(built, block=replace(built.block, batch=batch), program=replace(built.program, batch=batch))


def grid(program: Program) -> int:
    """Number of CTAs."""
    loops = [node for node in program.walk() if isinstance(node, Loop) and node.kind.is_parallel]
    open_loops = [loop for loop in loops if program.any_batch and loop.kind is LoopKind.IMAGE]
    counts = [program.batch if loop in open_loops else loop.count for loop in loops]
    return int(np.prod(counts))


def error(block: Block, inputs: Sequence[Array], actual: Array, *, partly: bool = False) -> float:
    """Largest difference from the reference over what is allowed, relative to the largest value in the block.

    NaN where an element is, or, if only a part was written, where all are.
    """
    values = reference(block, inputs)
    return _largest(np.abs(actual.astype(np.float64) - values[-1]) / _allowed(block, values), partly=partly)


def parts_error(built: Built, inputs: Sequence[Array], actual: Array, *, partly: bool = False) -> float:
    """The same of the parts that tiles are reduced to."""
    wanted, allowed = parts_wanted(built, inputs)
    return _largest(np.abs(actual.astype(np.float64) - wanted) / allowed, partly=partly)


def parts_wanted(built: Built, inputs: Sequence[Array]) -> tuple[Array, Array]:
    """The parts that tiles are reduced to, and how much each may err: a sum by as much as all its pixels together."""
    values = reference(built.block, inputs)
    pool = partial_pool(built)
    wanted = pool.reference([values[-1]], {})
    pixels = replace(pool, reduction="mean", count=1).reference([np.ones_like(values[-1])], {})
    shares = {"mean": pixels, "l2": np.sqrt(pixels), "max": np.ones_like(pixels)}
    return wanted, shares[pool.reduction] * _allowed(built.block, values)


def partial_pool(built: Built) -> Pool:
    """What a kernel whose result is pooled makes of each of its tiles."""
    plan, (height, width) = built.plan, (built.block.output.height, built.block.output.width)
    tile_p, tile_q = (height, width) if plan.images > 1 else (plan.tile_p, plan.tile_q)
    over = (-height % tile_p, -width % tile_q)
    window = Window(tile_p, tile_q, tile_p, tile_q, pad_bottom=over[0], pad_right=over[1])
    assert built.block.pooled
    return Pool("parts", (0,), built.block.pooled, window, count=int(built.block.pooled == "mean"))


def _allowed(block: Block, values: Sequence[Array]) -> float:
    scale = max(float(np.abs(value).max()) for value in values[len(block.inputs) :])
    return tolerance(max(1, accumulation_depth(block)), block.dtype, len(block.stages)) * max(scale, 1e-3)


def _largest(errors: Array, *, partly: bool) -> float:
    if partly and not np.isnan(errors).all():
        errors = errors[~np.isnan(errors)]
    return float(errors.max())


def _nan_first(value: float) -> float:
    return np.inf if np.isnan(value) else value
