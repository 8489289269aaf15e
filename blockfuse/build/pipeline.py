"""TVM's passes for a network: finished kernels go one way, everything else the way TVM goes by default.

``relax.build`` knows pipelines of TensorIR by name; each target has one that is made of both ways.
"""

from __future__ import annotations

import functools
from typing import Any

import tvm
from tvm import tirx
from tvm.relax.backend.cpu_generic import pipeline as cpu_passes
from tvm.relax.backend.cuda import pipeline as cuda_passes
from tvm.s_tir import dlight
from tvm.s_tir.pipeline import default_s_tir_pipeline
from tvm.tirx.compilation_pipeline import tirx_pipeline

from blockfuse.build.entry import KERNEL_MARKER
from blockfuse.build.schedule_gpu_ops import as_vectors
from blockfuse.build.schedule_gpu_rows import RowRule, ShortSumRule
from blockfuse.build.schedule_ops import OperatorRule

_UNWANTED = "RewriteDataflowReshape"  # rejects finished kernels with a single tensor input


def relax_pipeline(kind: str, target: Any, threads: int = 1) -> Any:
    """TVM's passes over Relax for ``cpu`` or ``cuda``, but for one; on CPUs, loops of operators are scheduled."""
    source = cuda_passes if kind == "cuda" else cpu_passes
    passes = [
        *source.library_dispatch_passes(target),
        *_legalized(source.legalize_passes(target), kind),
        *([dlight.ApplyDefaultSchedule(OperatorRule(threads))] if kind == "cpu" else []),
        *source.dataflow_lower_passes(target),
        *source.finalize_passes(target),
    ]
    return tvm.transform.Sequential([item for item in passes if item.info.name != _UNWANTED])


def _legalized(passes: list[Any], kind: str) -> list[Any]:
    """Passes to loops of operators; on GPUs, TVM's default schedules come last, and vectors before them."""
    if kind != "cuda":
        return passes
    return [*passes[:-1], as_vectors, dlight.ApplyDefaultSchedule(RowRule(), ShortSumRule()), passes[-1]]


@functools.cache
def tir_pipeline(kind: str) -> str:
    """The name of the pipeline of TensorIR for ``cpu`` or ``cuda``."""
    name = f"blockfuse_{kind}"
    tirx.register_tir_pipeline(name, lambda: _dispatching(_cpu_kernels() if kind == "cpu" else tirx_pipeline()[0]))
    return name


def _cpu_kernels() -> Any:
    """What CPU kernels need of TVM's ``tirx`` pipeline.

    The rest of it (tile primitives, another simplification, common subexpressions, small floats) made ResNet-18 take
    4.2 s instead of 2.6 s of one core to compile and its code 40 % larger, but no faster.
    """
    passes = tirx.transform
    return tvm.transform.Sequential(
        [
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
    )


def _dispatching(finished: Any) -> tuple[Any, Any, Any]:
    """Lower our kernels by the passes for finished TensorIR and all other functions by those for scheduled blocks."""
    _, finalize_host, finalize_device = tirx_pipeline()
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
