"""The way from an ONNX model to an executable, step by step."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, overload

from blockfuse.build.assemble import alone, assemble, describe, with_weights
from blockfuse.build.backend import backend_of
from blockfuse.build.code import kept_code, key_of_code, library_of
from blockfuse.build.cubin import find_compiler
from blockfuse.dtypes import COMPUTED, HALF
from blockfuse.errors import UsageError
from blockfuse.gpu import this_gpu
from blockfuse.graph import Graph
from blockfuse.kernel_cache import default_cache
from blockfuse.plan.book import open_book
from blockfuse.plan.decide import FUSE_MODES, FuseMode
from blockfuse.plan.device import device_of
from blockfuse.runtime.executable import Executable
from blockfuse.runtime.library import Library
from blockfuse.runtime.variants import Variant
from blockfuse.steps import Programs, join_objection, outline, plan_steps, segment_cost, write_programs
from blockfuse.target import Target, parse_target
from blockfuse.usage import whole_number
from blockfuse.watch import STAGES, Progress, Stage, StoppedAfter, Watch

if TYPE_CHECKING:
    from blockfuse.frontend.partition import Partition
    from blockfuse.frontend.reading import Model
    from blockfuse.pattern import Pattern


@overload
def compile(  # noqa: A001 - read as blockfuse.compile()
    model: Model,
    target: str = ...,
    dtype: str | None = ...,
    shape: Mapping[str, Sequence[int]] | None = ...,
    patterns: Sequence[Pattern] | None = ...,
    fuse: FuseMode = ...,
    threads: int | None = ...,
    dump: str | os.PathLike[str] | None = ...,
    progress: Progress | None = ...,
    *,
    batch: int | None = ...,
    taps: bool = ...,
    cuda_graph: bool = ...,
    keep_sources: bool = ...,
    stop_after: None = ...,
) -> Executable: ...
@overload
def compile(  # noqa: A001
    model: Model,
    target: str = ...,
    dtype: str | None = ...,
    shape: Mapping[str, Sequence[int]] | None = ...,
    patterns: Sequence[Pattern] | None = ...,
    fuse: FuseMode = ...,
    threads: int | None = ...,
    dump: str | os.PathLike[str] | None = ...,
    progress: Progress | None = ...,
    *,
    batch: int | None = ...,
    taps: bool = ...,
    cuda_graph: bool = ...,
    keep_sources: bool = ...,
    stop_after: Stage,
) -> Any: ...
def compile(  # noqa: A001
    model: Model,
    target: str = "cpu",
    dtype: str | None = None,
    shape: Mapping[str, Sequence[int]] | None = None,
    patterns: Sequence[Pattern] | None = None,
    fuse: FuseMode = "auto",
    threads: int | None = None,
    dump: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    *,
    batch: int | None = None,
    taps: bool = False,
    cuda_graph: bool = False,
    keep_sources: bool = False,
    stop_after: Stage | None = None,
) -> Any:
    """Compile an ONNX model into one executable.

    For several GPU architectures, each gets its own plans and code, and the executable has a variant for each.

    Args:
        model: Path of an ONNX file, or a model in memory.
        target: ``cpu`` (the best class of instructions this machine has), ``cpu:avx512``, ``cpu:avx2``,
            ``cpu:generic``; ``cuda`` (this machine's GPU), or GPU architectures such as ``sm_90a`` or ``sm_80,sm_90a``.
        dtype: Type to compute in, ``float32``, ``float16`` or ``bfloat16``; by default the model's own, on a CPU
            always ``float32``. Inputs and outputs stay as the model has them.
        shape: Shapes of inputs, by name, for models that leave dimensions open. Where only the first one of every
            input is open, none need be given: the executable takes any batch.
        patterns: Block patterns, in order of preference; by default all built-in ones.
        fuse: ``auto`` fuses where it is predicted to pay, ``always`` wherever it is possible, ``never`` nowhere.
        threads: Threads that work is divided among; by default one per core.
        dump: A folder that receives the result of every step as text.
        progress: Called with what is done next, how many steps are done, and how many there are.
        batch: Images to plan for where the executable takes any batch; 1 by default.
        taps: Also return the result of every block, as further outputs under their names in the model.
        cuda_graph: On a GPU, record the launches of the first run, and repeat them as one in later runs.
        keep_sources: Keep the tile programs and the generated code of all kernels as texts, also in saved files.
        stop_after: Return the result of this step instead of an executable; of a step that comes once for each of
            several architectures, a dictionary of the results.

    Raises:
        ModelError: The model cannot be read or compiled; the message names the node or tensor.
        PatternError: One of the patterns is no pattern, or does not describe a block.
        UsageError: An argument is wrong.
        TargetError: Code for the target cannot be made or run here.
    """
    machine = _checked(target, threads, fuse, stop_after)
    if cuda_graph and machine.kind != "cuda":
        raise UsageError(f"cuda_graph is for GPUs, and the target is {target}")
    batch = None if batch is None else whole_number("batch", batch)
    watch = Watch(dump, progress, stop_after, len(machine.variants))
    try:
        options = {"taps": taps, "cuda_graph": cuda_graph, "keep_sources": keep_sources}
        return _run(watch, model, machine, dtype, shape, patterns, fuse, batch=batch, **options)
    except StoppedAfter as stop:
        return stop.result


def _run(
    watch: Watch,
    model: Model,
    target: Target,
    dtype: str | None,
    shape: Mapping[str, Sequence[int]] | None,
    patterns: Sequence[Pattern] | None,
    fuse: FuseMode,
    *,
    batch: int | None,
    taps: bool,
    cuda_graph: bool,
    keep_sources: bool,
) -> Executable:
    from blockfuse import frontend  # noqa: PLC0415 - loads onnx

    with watch("read") as done:
        graph = done(frontend.read(model, _shapes(shape)))
    dtype = _computed_type(target, dtype, frontend.own_dtype(graph))
    with watch("canonicalize") as done:
        graph = done(_planned_for(frontend.canonicalize(graph), batch, cuda_graph=cuda_graph))
    kernels = _Kernels(patterns, fuse, dtype, taps=taps, cuda_graph=cuda_graph, keep_sources=keep_sources)
    variants = watch.each({one.name: one for one in target.variants}, lambda one: _variant(watch, graph, one, kernels))
    return Executable(variants, target.threads)


@dataclass(frozen=True)
class _Kernels:
    """What kernels of a graph are to be, whatever they are for: the arguments of :func:`compile` of these names."""

    patterns: Sequence[Pattern] | None
    fuse: FuseMode
    dtype: str
    taps: bool
    cuda_graph: bool
    keep_sources: bool


def _variant(watch: Watch, graph: Graph, target: Target, kernels: _Kernels) -> Variant:
    """The network for one target, which has one device."""
    from blockfuse.frontend.partition import partition  # noqa: PLC0415 - loads onnx
    from blockfuse.frontend.patterns import all as built_in  # noqa: PLC0415
    from blockfuse.frontend.squares import squared_inputs  # noqa: PLC0415

    fuse, dtype, device = kernels.fuse, kernels.dtype, device_of(target)
    if device.kind == "cuda":
        graph = squared_inputs(graph, dtype)
    with open_book(default_cache(), device, outline(graph)):
        with watch("partition") as done:
            cost = None if fuse == "never" else segment_cost(graph, device, dtype)
            patterns = built_in() if kernels.patterns is None else kernels.patterns
            objection = join_objection(graph, device, fuse, dtype)
            parts = done(partition(graph, patterns, cost=cost, objection=objection))
        with watch("plan") as done:
            steps = done(plan_steps(parts, device, fuse, dtype))
    with watch("program") as done:
        programs = done(write_programs(steps))
    library = _library(watch, parts, programs, replace(target, shared_bytes=programs.shared_bytes), kernels)
    return Variant(library, describe(parts, programs, library, fuse, watch.seconds))


def _library(watch: Watch, parts: Partition, programs: Programs, target: Target, kernels: _Kernels) -> Library:
    """The library of tile programs: with code that was made before, if the cache has it."""
    backend, cache = backend_of(target, kernels.dtype), default_cache()
    network, casts = backend.border(assemble(parts, programs, taps=kernels.taps))
    key = key_of_code(network, programs.by_name, casts, target, cuda_graph=kernels.cuda_graph)
    code = kept_code(cache, key)
    with watch("lower") as done:
        is_needed = code is None or kernels.keep_sources or watch.wants("lower")
        functions = done({name: backend.lower(one) for name, one in programs.by_name.items()} if is_needed else {})
    with watch("build"):
        network = with_weights(network, programs, backend.pack)
        if code is None:
            from blockfuse import frontend  # noqa: PLC0415 - loads onnx
            from blockfuse.build.build import compiled  # noqa: PLC0415 - loads tvm

            added = backend.lower_casts(casts, any_batch=network.batch is not None)
            importer = lambda op: frontend.to_onnx(alone(network, op))  # noqa: E731
            code = compiled(network, functions | added, target, importer, cuda_graph=kernels.cuda_graph)
            cache.put(key, code.to_bytes())
        library = library_of(network, target, code)
    if not kernels.keep_sources:
        return library
    from blockfuse.build.sources import texts_of  # noqa: PLC0415 - loads tvm

    return replace(library, sources=texts_of(programs.by_name, functions, cuda=target.kind == "cuda"))


def _shapes(shape: Mapping[str, Sequence[int]] | None) -> dict[str, tuple[int, ...]]:
    if shape is None:
        return {}
    if not isinstance(shape, Mapping) or not all(isinstance(dims, Sequence) for dims in shape.values()):
        raise UsageError(f"shape must be a dictionary like {{'input': (1, 3, 224, 224)}}, not {shape!r}")
    return {name: tuple(whole_number(f"shape of {name!r}", dim) for dim in dims) for name, dims in shape.items()}


def _planned_for(graph: Graph, batch: int | None, *, cuda_graph: bool) -> Graph:
    """A canonical graph with the batch to plan for, where it takes any."""
    from blockfuse.frontend import for_batch  # noqa: PLC0415 - loads onnx

    if graph.batch is None:
        if batch is not None:
            raise UsageError("batch is for models whose batch is open, and all shapes of this one are fixed")
        return graph
    if cuda_graph:
        raise UsageError(
            "cuda_graph needs a fixed batch, because recorded launches have one: give the shapes of the inputs"
        )
    return for_batch(graph, batch or 1)


def _checked(target: str, threads: int | None, fuse: str, stop_after: str | None) -> Target:
    if fuse not in FUSE_MODES:
        raise UsageError(f"fuse must be one of {', '.join(FUSE_MODES)}, not {fuse!r}")
    if stop_after is not None and stop_after not in STAGES:
        raise UsageError(f"stop_after must be one of {', '.join(STAGES)}, not {stop_after!r}")
    machine = parse_target(target, threads)
    if machine.kind == "cuda":
        machine = machine if machine.archs else parse_target(this_gpu().target, threads)
        for variant in machine.variants:
            device_of(variant)
        find_compiler()
    return machine


def _computed_type(target: Target, dtype: str | None, own: str) -> str:
    """The type to compute in; nothing is narrowed unless the caller asks for it."""
    available = (COMPUTED, *HALF) if target.kind == "cuda" else (COMPUTED,)
    if dtype is not None and dtype not in available:
        raise UsageError(f"dtype {dtype!r} is not available; target {target} computes in {' or '.join(available)}")
    return dtype or (own if own in available else available[0])
