"""From a partition to planned steps, and from those to the tile programs of distinct kernels."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from blockfuse.block import Block
from blockfuse.fingerprint import text_of
from blockfuse.graph import Graph, Op
from blockfuse.machine import Program, Slot
from blockfuse.plan.cpu import CpuPlan
from blockfuse.plan.cuda import CudaPlan
from blockfuse.plan.cut import into_units
from blockfuse.plan.decide import Decision, FuseMode, Kernel, best, decide, fewest
from blockfuse.plan.device import Device
from blockfuse.plan.fold import fold, unfoldable
from blockfuse.plan.place import Placement, place
from blockfuse.plan.squares import Squares, squares_of
from blockfuse.program.cpu import program_cpu
from blockfuse.program.cuda import program_cuda

if TYPE_CHECKING:
    from blockfuse.frontend.partition import Partition

Planned: TypeAlias = Decision | Op

_VECTOR = 8  # elements that a GPU's kernels move at once
_WORTH = 0.95
"""Predicted share of the time of its parts that a block in which channels lie side by side must take no more than.

Fire modules, at 0.99, take 1.00 to 1.04 times the time of their parts; Ghost bottlenecks, at 0.75 to 0.93, take 0.68 to
0.98.
"""


@dataclass(frozen=True)
class PlannedSteps:
    """Every step of a network with the kernels it runs.

    Attributes:
        steps: In execution order.
        planar: Names of images that memory holds as N, C, H, W: the network's inputs.
        device: What was planned for.
        dtype: Type in which kernels hand over their results.
        parts: What was planned.
        placement: Images that lie among the channels of others.
        squares: Images that the kernels at the border make of inputs.
    """

    steps: tuple[Planned, ...]
    planar: frozenset[str]
    device: Device
    dtype: str
    parts: Partition
    placement: Placement
    squares: tuple[Squares, ...] = ()

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        """All kernel calls, in order."""
        return tuple(kernel for step in self.steps if isinstance(step, Decision) for kernel in step.kernels)

    def __str__(self) -> str:
        lines = [f"planned for {self.device.name}"]
        lines += [f"{squares}: written where the input is converted" for squares in self.squares]
        for step in self.steps:
            if isinstance(step, Op):
                lines.append(f"{step}: by itself")
                continue
            lines.append(f"{step.block.name}: {step.why}")
            for kernel in step.kernels:
                cost = kernel.cost
                lines.append(
                    f"  {kernel.block.name}: {kernel.plan}; {cost.seconds * 1e6:.1f} us by {cost.bound}, "
                    f"{cost.recompute:.2f}x operations, {cost.global_bytes:,} bytes of memory, "
                    f"{cost.local_bytes:,} on chip"
                )
        return "\n".join(lines)


@dataclass(frozen=True)
class Programs:
    """The distinct kernels of a network.

    Attributes:
        planned: The steps.
        by_name: Tile program of every kernel.
        names: For every kernel call, in order, the name of its kernel; equal blocks share one.
    """

    planned: PlannedSteps
    by_name: Mapping[str, Program]
    names: tuple[str, ...]

    @property
    def shared_bytes(self) -> int:
        """The most shared memory that a CTA of any kernel uses; 0 on a CPU."""
        programs = [program for program in self.by_name.values() if program.target == "cuda"]
        return max((program.arena * (4 if program.dtype == "float32" else 2) for program in programs), default=0)


def outline(graph: Graph) -> str:
    """A network's operators and the shapes of what they read and make, as text, whatever anything is called."""
    tensors = {tensor.name: (tensor.shape, tensor.dtype) for tensor in graph.tensors}
    ops = [(op.kind, op.attrs, [tensors.get(name) for name in (*op.inputs, *op.outputs)]) for op in graph.ops()]
    return text_of(ops)


def planar_values(graph: Graph, device: Device) -> frozenset[str]:
    """Names of images that kernels read as N, C, H, W: the network's inputs on a CPU; GPUs convert them beforehand."""
    if device.kind == "cuda":
        return frozenset()
    return frozenset(name for name in graph.inputs if len(graph.tensor(name).shape) == 4)


def segment_cost(graph: Graph, device: Device, dtype: str = "float32") -> Callable[[Block], float | None]:
    """The predicted time in seconds of a block in a type as :func:`fewest` kernels, None where it cannot be those."""
    planar = planar_values(graph, device)

    def cost(block: Block) -> float | None:
        if unfoldable(block):
            return None
        kernels = fewest(replace(block, dtype=dtype), device, planar)
        return sum(kernel.cost.seconds for kernel in kernels) if kernels else None

    return cost


def join_objection(graph: Graph, device: Device, fuse: FuseMode, dtype: str = "float32") -> Callable[[Block], str]:
    """Why a block in which channels lie side by side is to be divided; "" where one kernel is better than its parts.

    Between kernels it takes no time that channels lie side by side, if the graph says so. Blocks that are cut copy.
    """
    planar = planar_values(graph, device)

    def against(block: Block) -> str:
        if fuse == "never":
            return "fuse=never"
        block = replace(block, dtype=dtype)
        kernel = best(block, device, planar)
        if not isinstance(kernel, Kernel):
            return f"one kernel is impossible ({kernel})"
        apart = [best(unit, device, planar) for unit in into_units(fold(block)) if not fold(unit).units[0].is_join]
        seconds = sum(each.cost.seconds for each in apart if isinstance(each, Kernel))
        if fuse == "always" or kernel.cost.seconds <= _WORTH * seconds:
            return ""
        return f"one kernel is predicted to take {kernel.cost.seconds * 1e6:.0f} us, its parts {seconds * 1e6:.0f} us"

    return against


def plan_steps(parts: Partition, device: Device, fuse: FuseMode, dtype: str = "float32") -> PlannedSteps:
    """Decide for every block of a partition what becomes one kernel.

    Args:
        parts: The partition.
        device: Where the network runs.
        fuse: The policy.
        dtype: Type in which kernels hand over their results.
    """
    planar = planar_values(parts.graph, device)
    squares = squares_of(parts.graph) if device.kind == "cuda" else ()
    at_border = {name for each in squares for name in each.ops}
    steps = tuple(
        decide(replace(step, dtype=dtype), device, fuse, planar) if isinstance(step, Block) else step
        for step in parts.steps
        if isinstance(step, Block) or step.name not in at_border
    )
    made = {kernel.block.tensors[-1] for step in steps if isinstance(step, Decision) for kernel in step.kernels}
    alone = [step for step in steps if isinstance(step, Op)]
    placement = place(parts.graph, alone, made, multiple=_VECTOR if device.kind == "cuda" else 1)
    return PlannedSteps(steps, planar, device, dtype, parts, placement, squares)


def write_programs(planned: PlannedSteps) -> Programs:
    """Write the tile program of every distinct kernel."""
    names: list[str] = []
    known: dict[tuple[Block, CpuPlan | CudaPlan, tuple[bool, ...], tuple[Slot | None, ...]], str] = {}
    by_name: dict[str, Program] = {}
    for kernel in planned.kernels:
        flags = planar_inputs(kernel.block, planned.planar)
        slots = planned.placement.slots(kernel.block.tensors)
        key = (kernel.block, kernel.plan, flags, slots)
        if key not in known:
            known[key] = _unique(kernel.block.name, by_name)
            by_name[known[key]] = _program(kernel, known[key], flags, slots)
        names.append(known[key])
    return Programs(planned, by_name, tuple(names))


def _program(kernel: Kernel, name: str, planar: tuple[bool, ...], slots: tuple[Slot | None, ...]) -> Program:
    folded = fold(kernel.block)
    if isinstance(kernel.plan, CudaPlan):
        program = program_cuda(folded, kernel.plan, name)
    else:
        program = program_cpu(folded, kernel.plan, name, planar)
    for tile, slot in zip((*program.inputs, program.output), slots, strict=True):
        if slot is not None:
            slot.apply(tile)
    return program


def planar_inputs(block: Block, planar: frozenset[str]) -> tuple[bool, ...]:
    """For each input of a block, whether memory holds it as N, C, H, W and that differs from N, H, W, C."""
    return tuple(
        name in planar and shape.channels > 1 and shape.pixels > 1
        for name, shape in zip(block.tensors, block.inputs, strict=False)
    )


def _unique(name: str, taken: Mapping[str, object]) -> str:
    """A function name made of a block's name."""
    base = "bf_" + re.sub(r"\W+", "_", name).strip("_")
    name, number = base, 1
    while name in taken:
        number += 1
        name = f"{base}_{number}"
    return name
