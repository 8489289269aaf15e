"""Networks to libraries: one Relax function that calls the kernels, and one build for everything.

Kernels arrive as finished TensorIR and go through TVM's ``tirx`` passes; code for single ops is generated and lowered
by TVM. Weights are parameters of the function, laid out in execution order so that a kernel may prefetch what the next
one needs.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import relax, tirx
from tvm.relax.backend.cpu_generic import pipeline as cpu_passes
from tvm.s_tir.pipeline import default_s_tir_pipeline
from tvm.support.cc import get_cc
from tvm.tirx.compilation_pipeline import tirx_pipeline

from blockfuse.build.entry import KERNEL_MARKER, Entry
from blockfuse.errors import TargetError, UnsupportedModelError
from blockfuse.build.fallback import complaint, survey
from blockfuse.build.importer import Importer
from blockfuse.build.layout import Layouts, assign
from blockfuse.runtime.library import ALIGNMENT, Constant, Layout, Library, Port, aligned_empty
from blockfuse.build.network import Call, Network
from blockfuse.target import Target

__all__ = ["Call", "Network", "build"]

_PIPELINE = "blockfuse"


def build(network: Network, functions: Mapping[str, Any], target: Target, importer: Importer | None = None) -> Library:
    """Compile a network.

    Args:
        network: What to run.
        functions: TensorIR of every kernel by name, with parameters inputs, constants, output.
        target: What to compile for; kernels were lowered for the same.
        importer: Rebuilds an op as an ONNX model, for ops that only TVM's own importer knows.

    Raises:
        TargetError: The target cannot be built for here.
        InternalError: The network or a kernel call is inconsistent.
        UnsupportedModelError: Single ops cannot be compiled; all are named.
    """
    if target.kind != "cpu":
        raise TargetError(f"target {target} is not available yet; only CPU targets are built")
    network.check()
    singles = survey(network, importer)
    if singles.unsupported:
        raise UnsupportedModelError(complaint(network, singles.unsupported))
    layouts = assign(network, singles.imported)
    entry = Entry(network, functions, layouts, importer)
    code = _compile(entry.module(), target)
    constants, weights = pack(entry.constants)
    return Library(
        name=network.name,
        target=target,
        inputs=entry.input_ports(),
        outputs=tuple(_output_port(network, layouts, port) for port in network.outputs),
        constants=constants,
        layout_changes=len(layouts.changes),
        code=code,
        weights=weights,
    )


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
    return Port(port.name, port.shape, port.dtype, layout)


# ---- compiling -------------------------------------------------------------------------------------------------------
def _compile(module: Any, target: Target) -> bytes:
    """The shared library of a Relax module."""
    if get_cc() is None:
        raise TargetError("linking needs a C++ compiler: put g++ or clang++ on the path")
    _register_pipeline()
    llvm = tvm.target.Target({"kind": "llvm", "mcpu": target.mcpu})
    with llvm:
        executable = relax.build(module, llvm, relax_pipeline=_relax_pipeline(llvm), tir_pipeline=_PIPELINE)
    with tempfile.TemporaryDirectory(prefix="blockfuse-") as folder:
        path = Path(folder) / "library.so"
        try:
            executable.mod.export_library(str(path))
        except (OSError, RuntimeError, ValueError) as error:
            reason = str(error).strip().splitlines()[-1]
            raise TargetError(f"the C++ compiler cannot link the library: {reason}") from None
        return path.read_bytes()


def _relax_pipeline(target: Any) -> Any:
    """TVM's passes for CPUs, but for one that rejects finished kernels with a single tensor input."""
    passes = [
        *cpu_passes.library_dispatch_passes(target),
        *cpu_passes.legalize_passes(target),
        *cpu_passes.dataflow_lower_passes(target),
        *cpu_passes.finalize_passes(target),
    ]
    return tvm.transform.Sequential([item for item in passes if item.info.name != "RewriteDataflowReshape"])


@functools.cache
def _register_pipeline() -> None:
    tirx.register_tir_pipeline(_PIPELINE, _tir_pipeline)


def _kernel_passes() -> list[Any]:
    """What kernels need of TVM's ``tirx`` pipeline.

    The rest of it (tile primitives, another simplification, common subexpressions, small floats) made ResNet-18 take
    4.2 s instead of 2.6 s of one core to compile and its code 40 % larger, but no faster.
    """
    passes = tirx.transform
    return [
        passes.LowerTIRxOpaque(),
        passes.FlattenBuffer(),
        passes.NarrowDataType(32),
        passes.VectorizeLoop(),
        passes.UnrollLoop(),
        passes.StmtSimplify(),
        passes.VerifyMemory(),
        passes.AnnotateEntryFunc(),
        passes.SplitHostDevice(),
        passes.MakePackedAPI(),
    ]


def _tir_pipeline() -> tuple[Any, Any, Any]:
    """Lower our kernels by the passes for finished TensorIR and all other functions by those for scheduled blocks."""
    _, finalize_host, finalize_device = tirx_pipeline()
    finished = tvm.transform.Sequential(_kernel_passes())
    scheduled, _, _ = default_s_tir_pipeline()

    @tvm.transform.module_pass(opt_level=0, name="blockfuse.lower")  # type: ignore[untyped-decorator]
    def lower(module: Any, _context: Any) -> Any:
        ours = {name: f for name, f in module.functions.items() if KERNEL_MARKER in (f.attrs or {})}
        others = {name: f for name, f in module.functions.items() if name not in ours}
        result = tvm.IRModule({}, attrs=module.attrs)
        for functions, passes in ((ours, finished), (others, scheduled)):
            if functions:
                result.update(passes(tvm.IRModule(functions, attrs=module.attrs)))
        return result

    return lower, finalize_host, finalize_device
