"""Single kernels as files that a GPU's driver loads, with all that launching them takes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from blockfuse.build.cubin import compile_kernels
from blockfuse.machine import Loop, LoopKind, Program
from blockfuse.program.check import stream_length
from blockfuse.schedules.cuda import cuda_source, lower
from blockfuse.schedules.cuda.packing import vector_layout

Json: TypeAlias = dict[str, Any]

_SIGNATURE = re.compile(r"__global__ void __launch_bounds__\((\d+)[^)]*\)\s*(\w+)\(([^)]*)\)")
_WIDTHS = {"float16": 2, "bfloat16": 2, "float32": 4}


def launch_of(program: Program, source: str) -> Json:
    """How a kernel is launched: its name, parameters in order, CTAs, threads and bytes of shared memory.

    Of parameters that are no arrays, ``scalars`` has the values; ``parts`` is the shape of a second result, in float32.
    """
    found = _SIGNATURE.search(source)
    if found is None:
        raise ValueError(f"the source of {program.name} has no kernel")
    loops = [node for node in program.walk() if isinstance(node, Loop) and node.kind.is_parallel]
    is_open = [program.any_batch and loop.kind is LoopKind.IMAGE for loop in loops]
    trips = [program.batch if is_any else loop.count for loop, is_any in zip(loops, is_open, strict=True)]
    image, parts = program.output.image, program.parts
    return {
        "kernel": found[2],
        "parameters": [words.split()[-1].removesuffix("_ptr") for words in found[3].split(",")],
        "scalars": {"batch": program.batch} if program.any_batch else {},
        "grid": math.prod(trips),
        "threads": int(found[1]),
        "shared_bytes": _WIDTHS[program.dtype] * program.arena,
        "shape": [program.batch, image.height, image.width, image.channels],
        "dtype": program.dtype,
        "parts": [program.batch, parts.height, parts.image.width, parts.image.channels] if parts else None,
    }


def constant_names(program: Program) -> list[str]:
    """Names of the parameters that packed constants go to, in the order of packing."""
    lengths = {"packed_vectors": len(vector_layout(program)), "packed_weights": stream_length(program)}
    return [name for name, length in lengths.items() if length]


def export_kernels(programs: Mapping[str, Program], folder: Path, archs: Sequence[str]) -> dict[str, Json]:
    """Write a fat binary of every program into a folder; how each is launched, by its name."""
    sources = {name: cuda_source(lower(program)) for name, program in programs.items()}
    binaries = compile_kernels(list(sources.values()), archs)
    launches = {}
    for (name, source), binary in zip(sources.items(), binaries, strict=True):
        (folder / f"{name}.fatbin").write_bytes(binary)
        launches[name] = {"file": f"{name}.fatbin", **launch_of(programs[name], source)}
    return launches
