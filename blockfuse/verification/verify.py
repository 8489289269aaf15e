"""Compare a compiled network with ONNX Runtime: its outputs, and with ``per_block`` the result of every block.

The reference runs without graph optimisations: it computes the nodes as the model states them, one by one, so every
intermediate tensor exists, and a mistake in a fusion of ONNX Runtime's own cannot look like one of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from blockfuse.compiler import compile as compile_model
from blockfuse.errors import BlockfuseError, InternalError, ModelError, UsageError, VerificationError, first_line
from blockfuse.graph import Graph
from blockfuse.plan.decide import FuseMode
from blockfuse.runtime.executable import Executable
from blockfuse.runtime.library import Port
from blockfuse.usage import whole_number
from blockfuse.verification.compare import Array, Comparison, compare, tolerance
from blockfuse.verification.depth import path_depths
from blockfuse.verification.result import Check, Verification

if TYPE_CHECKING:
    from blockfuse.frontend.reading import Model
    from blockfuse.pattern import Pattern

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}

__all__ = ["Check", "Comparison", "Verification", "compare", "seeded_inputs", "tolerance", "verify"]

_MORE_IMAGES = 2  # than planned for, where any batch can be run


def verify(
    model: Model,
    target: str = "cpu",
    *,
    executable: Executable | None = None,
    dtype: str | None = None,
    shape: Mapping[str, Sequence[int]] | None = None,
    fuse: FuseMode = "auto",
    threads: int | None = None,
    patterns: Sequence[Pattern] | None = None,
    per_block: bool = False,
    batch: int | None = None,
    seed: int = 0,
) -> Verification:
    """Compare a compiled network with ONNX Runtime on seeded inputs.

    Args:
        model: Path of an ONNX file, or a model in memory.
        target: As for :func:`blockfuse.compile`, like ``shape``, ``fuse``, ``threads`` and ``patterns``.
        executable: What to compare; by default the model is compiled.
        dtype: As for :func:`blockfuse.compile`. The tolerance is that of the type which was computed in, or of the
            model's own, in which the reference computes, if that is coarser.
        shape: Shapes of inputs that the model leaves open.
        fuse: When to fuse blocks.
        threads: Threads that work is divided among.
        patterns: Block patterns.
        per_block: Compare the result of every block too. A given executable must have been compiled with ``taps``.
        batch: Images at a time where the network takes any batch; by default the number it was planned for, and then
            another.
        seed: Of the inputs.

    Returns:
        What was found, all of it within the tolerance.

    Raises:
        VerificationError: A result is outside its tolerance; the error has the verification as an attribute.
        UsageError: An argument is wrong, or the executable is not one of the model.
        BlockfuseError: ONNX Runtime is not installed.
        ModelError: The model cannot be compiled, or ONNX Runtime cannot run it.
        PatternError: One of the patterns is no pattern, or does not describe a block.
        TargetError: Code for the target cannot be made or run here.
    """
    _onnxruntime()
    whole_number("seed", seed, least=0)
    if executable is not None and not hasattr(executable, "inputs_for"):
        raise UsageError(f"executable must be what compile or load returns, not {type(executable).__name__}")
    if executable is None:
        executable = compile_model(model, target, dtype, shape, patterns, fuse, threads, batch=batch, taps=per_block)
    ports = executable.inputs_for(batch)
    graph = canonical_graph(model, shape or {port.name: port.shape for port in ports})
    _check_inputs(executable, graph)
    _check_outputs(executable, graph, per_block=per_block)
    compiled = _Compiled(model, graph, executable)
    checks = compiled.checks(ports, seed)
    if batch is None and any(port.any_batch for port in ports):
        checks += compiled.checks(executable.inputs_for(ports[0].shape[0] + _MORE_IMAGES), seed)
    return _passed(compiled.found(checks, seed), lambda: _moved(model, graph, seeded_inputs(ports, seed)))


@dataclass(frozen=True)
class _Compiled:
    """A model, its canonical form, and what it was compiled to."""

    model: Model
    graph: Graph
    executable: Executable

    @property
    def blocks(self) -> dict[str, str]:
        """The names of blocks, by those of their results."""
        return {step.output: step.name for step in self.executable.report().blocks}

    @property
    def tensors(self) -> list[str]:
        """What is returned besides the outputs of the model."""
        return [port.name for port in self.executable.outputs if port.name not in self.graph.outputs]

    def checks(self, ports: Sequence[Port], seed: int) -> list[Check]:
        """Comparisons of all that is returned, for seeded inputs of these shapes."""
        inputs, outputs, blocks = seeded_inputs(ports, seed), self.graph.outputs, self.blocks
        expected = _reference(self.model, self.graph, inputs, self.tensors)
        actual = self.executable.run(inputs)
        types = (self.executable.report().dtype, _own_dtype(self.model, self.executable))
        depths = path_depths(self.graph)
        batch = ports[0].shape[0] if ports[0].any_batch else 0
        return [
            Check(
                name,
                blocks.get(name, ""),
                name in outputs,
                compare(actual[name], expected[name], _allowed(depths[name], types)),
                batch,
            )
            for name in (*self.tensors, *outputs)
            if name in expected
        ]

    def found(self, checks: Sequence[Check], seed: int) -> Verification:
        """What all comparisons found."""
        report, blocks, compared = self.executable.report(), self.blocks, {check.tensor for check in checks}
        return Verification(
            network=self.graph.name,
            target=report.target,
            fuse=report.fuse,
            threads=self.executable.start().threads,
            seed=seed,
            reference=f"ONNX Runtime {_onnxruntime().__version__}, unoptimised",
            checks=tuple(checks),
            unchecked=tuple(blocks.get(name, name) for name in self.tensors if name not in compared),
        )


def _passed(result: Verification, moved: Callable[[], float]) -> Verification:
    """The verification, if everything is within its tolerance."""
    first, worst = result.first_wrong, result.worst
    if first is None:
        return result
    start = "" if first is worst else f"; it starts at {f'block {first.block}' if first.block else first.tensor}"
    result = replace(result, moved=moved())
    if result.is_undecided:
        start += (
            f". The model is ill-conditioned: inputs that differ by one rounding move the reference itself by "
            f"{result.moved:.1e} of max|reference|"
        )
    raise VerificationError(f"{result.network}: {worst}{start}", result)


def _moved(model: Model, graph: Graph, inputs: Mapping[str, Array]) -> float:
    """How far outputs of the reference move, over the largest magnitude of each, if inputs move by one rounding."""
    rng = np.random.default_rng(0)
    nudged = {name: _nudged(array, rng) for name, array in inputs.items()}
    once, again = (_reference(model, graph, given, ()) for given in (inputs, nudged))
    moves = [np.abs(again[name] - value).max() / max(np.abs(value).max(), 1e-30) for name, value in once.items()]
    return float(max(moves))


def _nudged(array: Array, rng: np.random.Generator) -> Array:
    """Every element replaced by a neighbour of its type, up or down at random; integers as they are."""
    if not np.issubdtype(array.dtype, np.floating):
        return array
    return np.asarray(np.nextafter(array, np.where(rng.random(array.shape) < 0.5, np.inf, -np.inf).astype(array.dtype)))


def _check_inputs(executable: Executable, graph: Graph) -> None:
    """Raise :class:`UsageError` unless the executable takes what the model takes."""
    taken = {port.name: port.dtype for port in executable.inputs}
    given = {name: graph.tensor(name).dtype for name in graph.inputs}
    if taken != given:
        ours, models = (", ".join(f"{name} {dtype}" for name, dtype in one.items()) for one in (taken, given))
        raise UsageError(f"the executable takes {ours} and the model {models}: it is one of another model")


def _check_outputs(executable: Executable, graph: Graph, *, per_block: bool) -> None:
    """Raise :class:`UsageError` unless the executable returns what is to be compared."""
    returned = {port.name: port for port in executable.outputs}
    for name in graph.outputs:
        if name not in returned or not returned[name].takes(graph.tensor(name).shape):
            shape = list(graph.tensor(name).shape)
            raise UsageError(f"the executable has no output {name!r} of shape {shape}: it is one of another model")
    if per_block and any(block.output not in returned for block in executable.report().blocks):
        raise UsageError("the executable does not return the results of its blocks; compile it with taps=True")


def canonical_graph(model: Model, shape: Mapping[str, Sequence[int]] | None = None) -> Graph:
    """The model as the compiler sees it.

    Raises:
        ModelError: The model cannot be read.
        InternalError: The compiler's steps changed under us.
    """
    graph = compile_model(model, shape=shape, stop_after="canonicalize")
    if not isinstance(graph, Graph):
        raise InternalError("the canonical form of a model is not a graph")
    return graph


# ---- inputs and tolerances -------------------------------------------------------------------------------------------
def seeded_inputs(ports: Sequence[Port], seed: int = 0) -> dict[str, Array]:
    """Standard normal inputs, which is how images come after the usual normalisation."""
    rng = np.random.default_rng(seed)
    return {port.name: rng.standard_normal(port.shape, np.float32).astype(port.dtype) for port in ports}


def _allowed(depth: tuple[int, int], dtypes: Sequence[str]) -> float:
    terms, ops = depth
    return max(tolerance(max(1, terms), dtype, max(1, ops)) for dtype in dtypes)


def _own_dtype(model: Model, executable: Executable) -> str:
    """The type that the model says to compute in."""
    from blockfuse.frontend import own_dtype  # noqa: PLC0415 - loads onnx

    shape = {port.name: port.shape for port in executable.inputs}
    return own_dtype(compile_model(model, shape=shape, stop_after="read"))


# ---- ONNX Runtime ----------------------------------------------------------------------------------------------------
def _onnxruntime() -> Any:
    try:
        import onnxruntime  # noqa: PLC0415 - an extra
    except ImportError:
        raise BlockfuseError("ONNX Runtime is not installed: pip install 'blockfuse[verify]'") from None
    return onnxruntime


def has_gpu_reference() -> bool:
    """Whether ONNX Runtime is installed and can use NVIDIA's GPUs."""
    try:
        return _PROVIDERS["cuda"] in _onnxruntime().get_available_providers()
    except BlockfuseError:
        return False


def placed(array: Array, device: str) -> Any:
    """An array as ONNX Runtime takes it, on ``cpu`` or ``cuda``."""
    return _onnxruntime().OrtValue.ortvalue_from_numpy(array, device, 0)


def reference_session(model: Any, threads: int, *, optimised: bool, device: str = "cpu") -> Any:
    """An ONNX Runtime session.

    Args:
        model: An ``onnx.ModelProto`` with its weights inside.
        threads: Threads inside operators. They stop spinning when a run ends, so that they leave their cores to others.
        optimised: Whether to apply all graph optimisations, or none.
        device: Where to run it, ``cpu`` or ``cuda``.

    Raises:
        BlockfuseError: ONNX Runtime is not installed, or cannot use the GPU.
        ModelError: It cannot run the model.
    """
    ort = _onnxruntime()
    if device == "cuda" and not has_gpu_reference():
        raise BlockfuseError("ONNX Runtime cannot use the GPU here: install onnxruntime-gpu in place of onnxruntime")
    options = ort.SessionOptions()
    options.log_severity_level = 4  # its complaints are raised, too
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.force_spinning_stop", "1")
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL
    try:
        return ort.InferenceSession(model.SerializeToString(), options, providers=[_PROVIDERS[device]])
    except Exception as error:  # noqa: BLE001 - what it raises has no common base
        raise ModelError(f"ONNX Runtime cannot run the model: {first_line(error)}") from None


def _reference(model: Model, graph: Graph, inputs: Mapping[str, Array], tensors: Sequence[str]) -> dict[str, Array]:
    """The model's outputs and those of some tensors that it names, by name."""
    from blockfuse.frontend import with_outputs  # noqa: PLC0415 - loads onnx
    from blockfuse.frontend.load import load  # noqa: PLC0415

    proto = load(model)
    named = {name for node in proto.graph.node for name in node.output}
    names = [*(name for name in tensors if name in named), *graph.outputs]
    session = reference_session(with_outputs(proto, names), 0, optimised=False)
    try:
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))
    except Exception as error:  # noqa: BLE001 - what it raises has no common base
        raise ModelError(f"ONNX Runtime cannot run the model: {first_line(error)}") from None
