"""Writes kernels, inputs and expected results into a folder, for a machine with a GPU and without the compiler.

    python -m tests.gpu.export_cases OUT [--archs sm_90a] [--only WORD] [--cases NAME ...] [--limit N]

``OUT/cases.json`` lists the cases; each has a fat binary, its CUDA C, and ``NAME.npz`` with an array for every
parameter of the kernel and the float64 ``expected``. ``tests/gpu/run_cases.py OUT`` launches and checks them. Kernels
with wgmma are compiled for sm_90a alone, and left out where that is not among the architectures. A kernel that the
compiler rejects is a wrong case.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu_kernels import launch_of
from blockfuse.block import accumulation_depth, reference
from blockfuse.build.cubin import compile_kernels
from blockfuse.errors import InternalError
from blockfuse.machine import Engine
from blockfuse.target import available_cores
from blockfuse.verification.compare import tolerance
from tests.cuda_kernels import Built, inputs_of, kernel_arguments, parts_wanted
from tests.gpu.cases import collected

Case = dict[str, Any]

_WGMMA = "sm_90a"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Export kernels to check on a GPU.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--archs", nargs="+", default=[_WGMMA])
    parser.add_argument("--only", default="", help="a word in the names of tests, as for pytest -k")
    parser.add_argument("--cases", nargs="+", metavar="NAME", help="exactly these cases")
    parser.add_argument("--limit", type=int, help="how many cases at most")
    options = parser.parse_args(arguments)
    cases = export(list(chosen(options).items()), options.folder, options.archs)
    rejected = sum("rejected" in case for case in cases)
    sys.stdout.write(f"{len(cases)} cases in {options.folder}{f', {rejected} rejected' if rejected else ''}\n")


def chosen(options: argparse.Namespace) -> dict[str, Built]:
    """The kernels that the command line names."""
    if options.cases is None:
        return collected(options.only, options.limit)
    found = collected(names=options.cases)
    unknown = [name for name in options.cases if name not in found]
    if unknown:
        raise SystemExit(f"there are no cases {', '.join(unknown)}")
    return {name: found[name] for name in options.cases}


def export(built: Sequence[tuple[str, Built]], folder: Path, archs: Sequence[str]) -> list[Case]:
    """Write cases; what ``cases.json`` says of them."""
    folder.mkdir(parents=True, exist_ok=True)
    usable = [(name, one, archs_of(one, archs)) for name, one in built]
    for name, _, fitting in usable:
        if not fitting:
            sys.stdout.write(f"{name}: left out, as it has wgmma, and there is no {_WGMMA} in {', '.join(archs)}\n")
    usable = [one for one in usable if one[2]]
    with ThreadPoolExecutor(available_cores()) as pool:
        binaries = list(pool.map(lambda one: _compiled(one[1].source, one[2]), usable))
    cases = [_write(name, one, binary, folder) for (name, one, _), binary in zip(usable, binaries, strict=True)]
    (folder / "cases.json").write_text(json.dumps(cases, indent=1) + "\n", encoding="utf-8")
    return cases


def archs_of(built: Built, archs: Sequence[str]) -> list[str]:
    """The architectures whose instructions a kernel uses."""
    return [arch for arch in archs if arch == _WGMMA or not built.program.uses(Engine.WGMMA)]


def _compiled(source: str, archs: Sequence[str]) -> bytes | str:
    """The fat binary, or why there is none."""
    try:
        return compile_kernels([source], archs)[0]
    except InternalError as error:
        return str(error)


def _write(name: str, built: Built, binary: bytes | str, folder: Path) -> Case:
    (folder / f"{name}.cu").write_text(built.source, encoding="utf-8")
    if isinstance(binary, str):
        sys.stdout.write(f"{name}: {binary}\n")
        return {"name": name, "rejected": binary}
    block, launch = built.block, launch_of(built.program, built.source)
    inputs = inputs_of(block)
    arrays = kernel_arguments(built.program, inputs, block.parameters)
    values = reference(block, inputs)
    scale = max(float(np.abs(value).max()) for value in values[len(block.inputs) :])
    kept = {key: _storable(arrays[key]) for key in launch["parameters"] if key in arrays}
    channels = [-built.program.output.first_channel.const, values[-1].shape[-1]]
    (folder / f"{name}.fatbin").write_bytes(binary)
    if block.pooled:
        kept["expected_parts"], kept["allowed_parts"] = parts_wanted(built, inputs)
    np.savez_compressed(folder / f"{name}.npz", expected=values[-1], **kept)
    allowed = tolerance(max(1, accumulation_depth(block)), block.dtype, len(block.stages)) * max(scale, 1e-3)
    head = {"name": name, "block": str(block), "plan": str(built.plan), "allowed": allowed, "channels": channels}
    return {**head, **launch}


def _storable(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """bfloat16 as its bits, which every numpy can read."""
    return array.view(np.uint16) if array.dtype.name == "bfloat16" else array


if __name__ == "__main__":
    main()
