"""Writes kernels, inputs and expected results into a folder, for a machine with a GPU and without the compiler.

    python -m tests.gpu.export_cases OUT [--archs sm_90] [--only WORD] [--limit N]

``OUT/cases.json`` lists the cases; each has a fat binary, its CUDA C, and ``NAME.npz`` with an array for every
parameter of the kernel and the float64 ``expected``. ``tests/gpu/run_cases.py OUT`` launches and checks them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu_kernels import launch_of
from blockfuse.block import accumulation_depth, reference
from blockfuse.build.cubin import compile_kernels
from blockfuse.verification.compare import tolerance
from tests.cuda_kernels import Built, inputs_of, kernel_arguments
from tests.gpu.cases import collected

Case = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Export kernels to check on a GPU.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--archs", nargs="+", default=["sm_90"])
    parser.add_argument("--only", default="", help="a word in the names of tests, as for pytest -k")
    parser.add_argument("--limit", type=int, help="how many cases at most")
    options = parser.parse_args(arguments)
    built = list(collected(options.only, options.limit).items())
    cases = export(built, options.folder, options.archs)
    sys.stdout.write(f"{len(cases)} cases in {options.folder}\n")


def export(built: Sequence[tuple[str, Built]], folder: Path, archs: Sequence[str]) -> list[Case]:
    """Write cases; what ``cases.json`` says of them."""
    folder.mkdir(parents=True, exist_ok=True)
    binaries = compile_kernels([one.source for _, one in built], archs)
    cases = [_write(name, one, binary, folder) for (name, one), binary in zip(built, binaries, strict=True)]
    (folder / "cases.json").write_text(json.dumps(cases, indent=1) + "\n", encoding="utf-8")
    return cases


def _write(name: str, built: Built, binary: bytes, folder: Path) -> Case:
    block, launch = built.block, launch_of(built.program, built.source)
    inputs = inputs_of(block)
    arrays = kernel_arguments(built.program, inputs, block.parameters)
    values = reference(block, inputs)
    scale = max(float(np.abs(value).max()) for value in values[len(block.inputs) :])
    kept = {key: _storable(arrays[key]) for key in launch["parameters"]}
    (folder / f"{name}.fatbin").write_bytes(binary)
    (folder / f"{name}.cu").write_text(built.source, encoding="utf-8")
    np.savez_compressed(folder / f"{name}.npz", expected=values[-1], **kept)
    allowed = tolerance(max(1, accumulation_depth(block)), block.dtype, len(block.stages)) * max(scale, 1e-3)
    return {"name": name, "block": str(block), "plan": str(built.plan), "allowed": allowed, **launch}


def _storable(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """bfloat16 as its bits, which every numpy can read."""
    return array.view(np.uint16) if array.dtype.name == "bfloat16" else array


if __name__ == "__main__":
    main()
