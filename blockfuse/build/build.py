"""Networks to libraries: one Relax function that calls the kernels, and one build for everything.

Kernels arrive as finished TensorIR and go through TVM's ``tirx`` passes; code for single ops is generated and lowered
by TVM. On a GPU every kernel is a module of its own, compiled by nvcc while the library is packed. Weights are
parameters of the function, laid out in execution order so that a kernel may prefetch what the next one needs.
"""

from __future__ import annotations

import inspect
import math
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import relax
from tvm.support.cc import get_cc

from blockfuse.build import pipeline, schedule_ops
from blockfuse.build.cubin import compile_kernels, find_compiler
from blockfuse.build.entry import Entry
from blockfuse.build.fallback import complaint, survey
from blockfuse.build.importer import Importer
from blockfuse.build.imports import packer
from blockfuse.build.kernel_cache import default_cache, key_of
from blockfuse.build.layout import Layouts, assign
from blockfuse.build.network import OPEN_BATCH, Call, Network
from blockfuse.build.pipeline import relax_pipeline, tir_pipeline
from blockfuse.errors import BlockfuseError, TargetError, UnsupportedModelError
from blockfuse.runtime.library import ALIGNMENT, Batch, Constant, Layout, Library, Port, aligned_empty
from blockfuse.target import Target

__all__ = ["Call", "Network", "build"]

_MOST_ELEMENTS = 2**31 - 2**16  # the last CTA of a grid may count past the end
_KEEP_SOURCES = "TVM_COMPILE_FORCE_FALLBACK"


def build(
    network: Network,
    functions: Mapping[str, Any],
    target: Target,
    importer: Importer | None = None,
    *,
    cuda_graph: bool = False,
) -> Library:
    """Compile a network.

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
    network.check()
    singles = survey(network, importer)
    if singles.unsupported:
        raise UnsupportedModelError(complaint(network, singles.unsupported))
    layouts = assign(network, singles.imported)
    own_module = (lambda name: _tvm_target(target, name)) if target.kind == "cuda" else None
    entry = Entry(network, functions, layouts, importer, own_module)
    code = _compile(entry.module(), target, cuda_graph=cuda_graph)
    constants, weights = pack(entry.constants)
    return Library(
        name=network.name,
        target=target,
        inputs=tuple(_planned(network, port) for port in entry.input_ports()),
        outputs=tuple(_output_port(network, layouts, port) for port in network.outputs),
        constants=constants,
        layout_changes=len(layouts.changes),
        code=code,
        weights=weights,
        batch=None if network.batch is None else Batch(network.batch, most_images(network)),
    )


def most_images(network: Network) -> int:
    """The largest batch with which kernels can number the elements of every value, which they do with 32 bits."""
    shapes = [tensor.shape for tensor in network.tensors.values() if not tensor.is_constant]
    for step in network.steps:
        if isinstance(step, Call):
            place = network.placement.places.get(step.output)
            shapes.append((*step.output_shape[:-1], place.slot.width) if place else step.output_shape)
    return _MOST_ELEMENTS // max(math.prod(shape) // OPEN_BATCH for shape in shapes)


def pack(arrays: Sequence[np.ndarray[Any, Any]]) -> tuple[tuple[Constant, ...], np.ndarray[Any, np.dtype[np.uint8]]]:
    """Lay constants out one after the other, each aligned; the gaps are zero."""
    constants = []
    end = 0
    for array in arrays:
        offset = -(-end // ALIGNMENT) * ALIGNMENT
        constants.append(Constant(offset, array.shape, array.dtype.name))
        end = offset + array.nbytes
    weights = aligned_empty(end)
    weights[:] = 0
    for constant, array in zip(constants, arrays, strict=True):
        flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        weights[constant.offset : constant.offset + constant.nbytes] = flat
    return tuple(constants), weights


def _output_port(network: Network, layouts: Layouts, port: Port) -> Port:
    layout = layouts.values[port.name] if network.is_image(port.name) else Layout.PLAIN
    return _planned(network, replace(port, layout=layout))


def _planned(network: Network, port: Port) -> Port:
    return port if network.batch is None else port.at(network.batch)


# ---- compiling -------------------------------------------------------------------------------------------------------
def _compile(module: Any, target: Target, *, cuda_graph: bool) -> bytes:
    """The shared library of a Relax module: the one made of the same module before, if it is still there."""
    if get_cc() is None:
        raise TargetError("linking needs a C++ compiler: put g++ or clang++ on the path")
    machine = _tvm_target(target)
    cache = default_cache()
    if cache.folder is None:
        return _compiled(module, target, machine, cuda_graph=cuda_graph)
    passes = "".join(inspect.getsource(each) for each in (pipeline, schedule_ops))
    kernels = (*target.archs, find_compiler().version, str(cuda_graph)) if target.kind == "cuda" else ()
    parts = (tvm.ir.save_json(module), str(machine), str(target.threads), tvm.__version__, passes, *kernels)
    key = key_of(parts)
    code = cache.get(key)
    if code is None:
        code = _compiled(module, target, machine, cuda_graph=cuda_graph)
        cache.put(key, code)
    return code


def _compiled(module: Any, target: Target, machine: Any, *, cuda_graph: bool) -> bytes:
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
