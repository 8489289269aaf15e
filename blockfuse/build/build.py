"""Networks to libraries: one Relax function that calls the kernels, and one build for everything.

Kernels arrive as finished TensorIR and go through TVM's ``tirx`` passes; code for single ops is generated and lowered
by TVM. On a GPU every kernel is a module of its own, compiled by nvcc while the library is packed. Weights are
parameters of the function, laid out in execution order so that a kernel may prefetch what the next one needs.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tvm
from tvm import relax
from tvm.support.cc import get_cc

from blockfuse.build.code import Code, library_of
from blockfuse.build.cubin import compile_kernels
from blockfuse.build.entry import Entry
from blockfuse.build.fallback import complaint, survey
from blockfuse.build.importer import Importer
from blockfuse.build.imports import packer
from blockfuse.build.layout import assign
from blockfuse.build.network import Call, Network
from blockfuse.build.pipeline import relax_pipeline, tir_pipeline
from blockfuse.errors import BlockfuseError, TargetError, UnsupportedModelError
from blockfuse.runtime.library import Library
from blockfuse.target import Target

__all__ = ["Call", "Network", "build"]

_KEEP_SOURCES = "TVM_COMPILE_FORCE_FALLBACK"


def build(
    network: Network,
    functions: Mapping[str, Any],
    target: Target,
    importer: Importer | None = None,
    *,
    cuda_graph: bool = False,
) -> Library:
    """Compile a network, weights and all.

    Args:
        network: What to run.
        functions: TensorIR of every kernel by name, with parameters inputs, constants, output.
        target: What to compile for; kernels were lowered for the same.
        importer: Rebuilds an op as an ONNX model, for ops that only TVM's own importer knows.
        cuda_graph: Whether a GPU records the launches of the first run, and repeats them as one in later runs.

    Raises:
        TargetError: The target cannot be built for here.
        InternalError: The network or a kernel call is inconsistent.
        UnsupportedModelError: Single ops cannot be compiled; all are named.
    """
    return library_of(network, target, compiled(network, functions, target, importer, cuda_graph=cuda_graph))


def compiled(
    network: Network,
    functions: Mapping[str, Any],
    target: Target,
    importer: Importer | None = None,
    *,
    cuda_graph: bool = False,
) -> Code:
    """Compile a network; arguments and errors are those of :func:`build`."""
    network.check()
    singles = survey(network, importer)
    if singles.unsupported:
        raise UnsupportedModelError(complaint(network, singles.unsupported))
    layouts = assign(network, singles.imported)
    own_module = (lambda name: _tvm_target(target, name)) if target.kind == "cuda" else None
    entry = Entry(network, functions, layouts, importer, own_module)
    return Code(
        library=_compiled(entry.module(), target, _tvm_target(target), cuda_graph=cuda_graph),
        constants=tuple(entry.constants),
        alignments=entry.input_alignments(),
        layouts=tuple(layouts.of_output(network, port.name) for port in network.outputs),
        layout_changes=len(layouts.changes),
    )


# ---- compiling -------------------------------------------------------------------------------------------------------
def _compiled(module: Any, target: Target, machine: Any, *, cuda_graph: bool) -> bytes:
    """The shared library of a Relax module."""
    if get_cc() is None:
        raise TargetError("linking needs a C++ compiler: put g++ or clang++ on the path")
    with _source_modules(), tvm.transform.PassContext(config={"relax.backend.use_cuda_graph": cuda_graph}), machine:
        executable = relax.build(
            module,
            machine,
            relax_pipeline=relax_pipeline(target.kind, machine, target.threads),
            tir_pipeline=tir_pipeline(target.kind),
        )
    packing = {}
    if target.kind == "cuda":
        packing["fpack_imports"] = packer(lambda sources: compile_kernels(sources, target.archs))
    with tempfile.TemporaryDirectory(prefix="blockfuse-") as folder:
        path = Path(folder) / "library.so"
        try:
            executable.mod.export_library(str(path), **packing)
        except (OSError, RuntimeError, ValueError) as error:
            if isinstance(error, BlockfuseError):
                raise
            reason = str(error).strip().splitlines()[-1]
            raise TargetError(f"the C++ compiler cannot link the library: {reason}") from None
        return path.read_bytes()


def _tvm_target(target: Target, key: str = "") -> Any:
    """A target as TVM describes it; functions of targets with different keys become modules of their own."""
    host = {"kind": "llvm", "mcpu": target.mcpu}
    if target.kind == "cpu":
        return tvm.target.Target(host)
    keys = ["cuda", "gpu", *([key] if key else [])]
    oldest = min(target.archs, key=lambda arch: int(re.sub(r"\D", "", arch)))
    return tvm.target.Target({"kind": "cuda", "arch": oldest, "keys": keys}, host=host)


@contextmanager
def _source_modules() -> Iterator[None]:
    """Have TVM leave CUDA C as it is, on machines with a GPU too: it is compiled while the library is packed."""
    before = os.environ.get(_KEEP_SOURCES)
    os.environ[_KEEP_SOURCES] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_KEEP_SOURCES]
        else:
            os.environ[_KEEP_SOURCES] = before
