"""Put kernels, weights and single operators together: the network to build, and the report on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, TypeAlias

from blockfuse.block import Block, ParameterKey
from blockfuse.build.network import OPEN_BATCH, Call, Network, Step
from blockfuse.graph import Graph, Op
from blockfuse.machine import Loop, Program
from blockfuse.plan.cuda import CudaPlan
from blockfuse.plan.decide import Decision, FuseMode, Kernel
from blockfuse.plan.fold import fold
from blockfuse.plan.place import Placement
from blockfuse.report import KernelRecord, Report, StepRecord
from blockfuse.runtime.library import Library, Port, signature
from blockfuse.stages import Array
from blockfuse.steps import Programs, planar_inputs

if TYPE_CHECKING:
    from blockfuse.frontend.partition import Partition

_IN_PLACE = "side by side in memory: nothing is copied"

Pack: TypeAlias = Callable[[Program, Mapping[ParameterKey, Array]], tuple[Array, ...]]


def assemble(parts: Partition, programs: Programs, *, taps: bool = False) -> Network:
    """The network of a partition; its kernels have no weights yet.

    Args:
        parts: Gives inputs, outputs and constants of operators.
        programs: Gives the kernels.
        taps: Also return the result of every block of several stages.
    """
    batch = parts.graph.batch
    graph = parts.graph if batch is None else parts.graph.with_batch(OPEN_BATCH)
    names = iter(programs.names)
    steps: list[Step] = []
    for step in programs.planned.steps:
        if isinstance(step, Op):
            steps.append(step)
        else:
            steps += [_call(kernel, next(names), programs) for kernel in step.kernels]
    read = {name for step in steps if isinstance(step, Op) for name in step.inputs}
    outputs = list(graph.outputs)
    if taps:
        outputs += [block.tensors[-1] for block in parts.blocks if block.pattern and block.tensors[-1] not in outputs]
    return Network(
        name=graph.name,
        inputs=tuple(_port(graph, name) for name in graph.inputs),
        outputs=tuple(_port(graph, name) for name in outputs),
        steps=tuple(steps),
        tensors={one.name: one for one in graph.tensors if not one.is_constant or one.name in read},
        placement=programs.planned.placement,
        batch=batch,
        squares=programs.planned.squares,
    )


def with_weights(network: Network, programs: Programs, pack: Pack) -> Network:
    """A network, and perhaps what was put around it, with the weights of its kernels.

    Args:
        network: What :func:`assemble` made; calls of kernels that no program is for may have been added.
        programs: As for :func:`assemble`.
        pack: Lays out a kernel's weights.
    """
    kernels = iter(programs.planned.kernels)
    steps: list[Step] = []
    for step in network.steps:
        if isinstance(step, Call) and step.kernel in programs.by_name:
            weights = pack(programs.by_name[step.kernel], next(kernels).block.parameters)
            steps.append(replace(step, constants=weights))
        else:
            steps.append(step)
    return replace(network, steps=tuple(steps))


def _call(kernel: Kernel, name: str, programs: Programs) -> Call:
    block, program = kernel.block, programs.by_name[name]
    flags = planar_inputs(block, programs.planned.planar)
    batch = OPEN_BATCH if block.any_batch else block.batch
    shapes = [(batch, tile.height, tile.image.width, tile.image.channels) for tile in program.outputs]
    return Call(
        kernel=name,
        inputs=block.tensors[:-1],
        constants=(),
        output=block.tensors[-1],
        output_shape=shapes[0],
        nchw_inputs=tuple(i for i, planar in enumerate(flags) if planar),
        in_place=frozenset(programs.planned.placement.places.keys() & set(block.tensors)),
        parts=(block.parts_name, shapes[1]) if program.parts else None,
    )


def _port(graph: Graph, name: str) -> Port:
    tensor = graph.tensor(name)
    return Port(name, tensor.shape, tensor.dtype, any_batch=graph.batch is not None)


def describe(
    parts: Partition, programs: Programs, library: Library, fuse: FuseMode, seconds: Mapping[str, float]
) -> Report:
    """The report on a compiled network."""
    names = iter(programs.names)
    steps = tuple(
        _op_record(step, parts, programs.planned.placement)
        if isinstance(step, Op)
        else _block_record(step, [next(names) for _ in step.kernels], programs, parts)
        for step in programs.planned.steps
    )
    apart = sum(1 if isinstance(step, Op) else _units(step.block) for step in programs.planned.steps)
    return Report(
        network=library.name,
        target=library.target.name,
        threads=library.target.threads,
        fuse=fuse,
        steps=steps,
        unfused_kernels=apart,
        layout_changes=library.layout_changes,
        seconds=dict(seconds),
        signature=signature(library),
        planned_batch=parts.graph.batch,
        dtype=programs.planned.dtype,
        device=programs.planned.device.name if programs.planned.device.kind == "cuda" else "",
    )


def _units(block: Block) -> int:
    """How many kernels a block is where nothing is fused."""
    return sum(not unit.is_join for unit in fold(block).units)


def _op_record(op: Op, parts: Partition, placement: Placement) -> StepRecord:
    why = (parts.reasons.get(op.name, ""), parts.nearest_to(op))
    note = _IN_PLACE if op.name in placement.free else "; ".join(filter(None, why))
    return StepRecord(op.name, op.kind, op.output, note=note)


def _block_record(decision: Decision, names: list[str], programs: Programs, parts: Partition) -> StepRecord:
    block = decision.block
    named = zip(decision.kernels, names, strict=True)
    kernels = tuple(_kernel_record(kernel, name, programs.by_name[name]) for kernel, name in named)
    squares = [f"reads {each}" for each in programs.planned.squares if each.result in block.tensors]
    return StepRecord(
        name=block.name,
        kind=block.pattern or "single",
        output=block.tensors[-1],
        stages=tuple(stage.describe() for stage in block.stages),
        kernels=kernels,
        saved_bytes=decision.saved_bytes,
        note="; ".join(filter(None, (decision.why, parts.nearest_to(block), *squares))),
    )


def _kernel_record(kernel: Kernel, name: str, program: Program) -> KernelRecord:
    cost = kernel.cost
    launch = _launch(kernel.plan, program, cost.cache_bytes) if isinstance(kernel.plan, CudaPlan) else {}
    return KernelRecord(
        name=name,
        plan=str(kernel.plan),
        operations=cost.operations,
        recompute=cost.recompute,
        global_bytes=cost.global_bytes,
        local_bytes=cost.local_bytes,
        predicted_us=cost.seconds * 1e6,
        bound=cost.bound,
        stages=kernel.block.described,
        **launch,
    )


def _launch(plan: CudaPlan, program: Program, moved: int) -> dict[str, int]:
    """How a CUDA kernel is launched, and what it moves."""
    trips = [node.count for node in program.walk() if isinstance(node, Loop) and node.kind.is_parallel]
    width = 4 if program.dtype == "float32" else 2
    launch = {"grid": prod(trips), "threads": 32 * plan.warps, "shared_bytes": width * program.arena}
    return {**launch, "moved_bytes": moved}


def alone(network: Network, op: Op) -> Graph:
    """A graph of one op, whose inputs are the op's computed inputs."""
    names = [name for name in dict.fromkeys((*op.inputs, *op.outputs)) if name]
    inputs = [name for name in dict.fromkeys(op.inputs) if name and not network.is_constant(name)]
    outputs = [name for name in op.outputs if name]
    batch = None if network.batch is None else OPEN_BATCH
    return Graph(op.name, inputs, outputs, [network.tensors[name] for name in names], [op], batch)
