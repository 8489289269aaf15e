"""CUDA C text of lowered kernels; needs no GPU and no CUDA toolkit."""

from __future__ import annotations

import re
from typing import Any

import tvm

from blockfuse.schedules.cuda.emitter import NOTE

_NOTE = re.compile(rf"(?m)^(\s*{NOTE}.*)\(\);$")


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
    return without_calls(str(built.mod.imports[0].inspect_source()))


def without_calls(source: str) -> str:
    """CUDA C whose comments no longer end like the calls they are to TVM."""
    return _NOTE.sub(r"\1", source)
