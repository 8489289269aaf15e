"""What kernels are made from, as texts for people to read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from blockfuse.machine import Program

PROGRAM, TENSOR_IR, CUDA_C = ".program", ".tir", ".cu"
"""What follows a kernel's name in the name of a text."""


def texts_of(programs: Mapping[str, Program], functions: Mapping[str, Any], *, cuda: bool) -> dict[str, str]:
    """The texts of all kernels, by name and kind.

    Args:
        programs: Tile programs by the names of kernels.
        functions: TensorIR by the same names.
        cuda: Whether they are CUDA kernels, of which CUDA C says more than TensorIR does.
    """
    texts = {f"{name}{PROGRAM}": f"{program}\n" for name, program in programs.items()}
    for name, function in functions.items():
        if name not in programs:
            continue
        if cuda:
            texts[f"{name}{CUDA_C}"] = _cuda_c(function, programs[name])
        else:
            texts[f"{name}{TENSOR_IR}"] = f"{function.script()}\n"
    return texts


def _cuda_c(function: Any, program: Program) -> str:
    """CUDA C under the program it carries out, whose stages it is written in the order of."""
    from blockfuse.schedules.cuda.source import cuda_source  # noqa: PLC0415 - loads tvm

    comment = "".join(f"// {line}".rstrip() + "\n" for line in str(program).splitlines())
    return f"{comment}{cuda_source(function)}\n"
