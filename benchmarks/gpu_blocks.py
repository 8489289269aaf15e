"""The distinct blocks of a network as kernels of their own, fused and apart, with their graphs for PyTorch."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import blockfuse as bf
from benchmarks.gpu_kernels import constant_names, export_kernels
from benchmarks.gpu_weights import Constants, PackedWeights, trace
from benchmarks.torch_graph import describe_part
from blockfuse.block import Block, accumulation_depth
from blockfuse.graph import Graph
from blockfuse.plan.decide import Decision
from blockfuse.plan.device import device_of
from blockfuse.plan.fold import fold, unfoldable
from blockfuse.schedules.cuda import pack
from blockfuse.steps import Programs, plan_steps, write_programs
from blockfuse.target import parse_target
from blockfuse.verification.compare import tolerance

Json: TypeAlias = dict[str, Any]

WAYS = {"fused": "always", "unfused": "never"}
"""How the kernels of a block are chosen."""


def export_blocks(model: Any, constants: Constants, folder: Path, target: str, dtype: str) -> None:
    """Write the distinct blocks of several stages that can be one kernel.

    Args:
        model: The network.
        constants: Its weights, by name.
        folder: Where to.
        target: GPU architectures.
        dtype: Type to compute in.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = bf.compile(model, target=target, dtype=dtype, fuse="always", stop_after="partition")
    device, archs = device_of(parse_target(target)), parse_target(target).archs
    several = [block for block in parts.blocks if _is_measured(block, parts.graph)]
    calls = Counter(several)
    chosen = replace(parts, steps=tuple(calls))
    weights = PackedWeights(constants)
    blocks = [_block(block, calls[block], parts.graph, dtype) for block in calls]
    for way, policy in WAYS.items():
        planned = plan_steps(chosen, device, policy, dtype)  # type: ignore[arg-type]
        planned = replace(planned, steps=tuple(_renamed(step, way) for step in planned.steps))
        programs = write_programs(planned)
        launches = export_kernels(programs.by_name, folder, archs)
        for block, kernels in zip(blocks, _kernels(programs, launches, weights), strict=True):
            block["ways"][way] = kernels
    fused = [block for block in blocks if len(block["ways"]["fused"]) == 1]
    (folder / "blocks.json").write_text(json.dumps(fused) + "\n", encoding="utf-8")
    weights.save(folder / "weights.npz")


def _is_measured(block: Block, graph: Graph) -> bool:
    """Whether a block is several stages that read images."""
    if unfoldable(block) or len(fold(block).units) < 2:
        return False
    return all(len(graph.tensor(name).shape) == 4 for name in block.tensors[:-1])


def _block(block: Block, calls: int, graph: Graph, dtype: str) -> Json:
    return {
        "name": block.name,
        "pattern": block.pattern,
        "calls": calls,
        "stages": [stage.describe() for stage in block.stages],
        "operations": block.operations,
        "allowed": tolerance(max(1, accumulation_depth(block)), dtype, len(block.stages)),
        "graph": describe_part(graph, block.ops, block.tensors[:-1], block.tensors[-1]),
        "ways": {},
    }


def _renamed(step: Any, way: str) -> Any:
    """Kernels of the two ways have names of their own."""
    if not isinstance(step, Decision):
        return step
    named = (replace(one, block=replace(one.block, name=f"{one.block.name}.{way}")) for one in step.kernels)
    return replace(step, kernels=tuple(named))


def _kernels(programs: Programs, launches: dict[str, Json], weights: PackedWeights) -> Iterator[list[Json]]:
    """For every block its kernels in order."""
    names = iter(programs.names)
    traced: dict[str, list[Any]] = {}
    for step in programs.planned.steps:
        if not isinstance(step, Decision):
            continue
        kernels = []
        for kernel in step.kernels:
            name = next(names)
            program, parameters = programs.by_name[name], kernel.block.parameters
            if name not in traced:
                traced[name] = trace(lambda arrays, program=program: pack(program, arrays), parameters)
            packed = zip(constant_names(program), pack(program, parameters), traced[name], strict=True)
            kernels.append(
                {
                    **launches[name],
                    "plan": str(kernel.plan),
                    "operations": kernel.cost.operations,
                    "global_bytes": kernel.cost.global_bytes,
                    "inputs": list(kernel.block.tensors[:-1]),
                    "output": kernel.block.tensors[-1],
                    "parts_output": kernel.block.parts_name,
                    "constants": {
                        key: weights.add(array, positions, list(parameters.values()))
                        for key, array, positions in packed
                    },
                }
            )
        yield kernels
