"""CUDA C text of lowered kernels; needs no GPU and no CUDA toolkit."""

from __future__ import annotations

from typing import Any

import tvm


def cuda_source(function: Any, arch: str = "sm_80") -> str:
    """The CUDA C that TVM prints for a kernel.

    Args:
        function: What :func:`blockfuse.schedules.cuda.lower` returned.
        arch: The architecture TVM is told of; the text uses what sm_80 has, or sm_90a with wgmma.
    """
    target = tvm.target.Target({"kind": "cuda", "arch": arch}, host="llvm")
    name = str(function.attrs["global_symbol"])
    with target:
        built = tvm.compile(tvm.IRModule({name: function}), target=target, tir_pipeline="tirx")
    return str(built.mod.imports[0].inspect_source())
