"""Networks to libraries: one Relax function that calls the kernels, and one build for everything.

Kernels arrive as finished TensorIR and go through TVM's ``tirx`` passes; code for single ops is generated and lowered
by TVM. Weights are parameters of the function, laid out in execution order so that a kernel may prefetch what the next
one needs.
"""

from __future__ import annotations

import functools
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import relax, tirx
from tvm.relax.backend.cpu_generic import pipeline as cpu_passes
from tvm.s_tir.pipeline import default_s_tir_pipeline
from tvm.tirx.compilation_pipeline import tirx_pipeline

from blockfuse.errors import InternalError, TargetError, UnsupportedModelError
from blockfuse.fallback import Importer, complaint, emit_op, survey
from blockfuse.layout import FROM_NHWC, TO_NHWC, Layouts, assign, changes_order, wanted
from blockfuse.library import ALIGNMENT, Constant, Layout, Library, Port, aligned_empty
from blockfuse.network import Call, Network, Step
from blockfuse.target import Target

__all__ = ["Call", "Network", "build"]

_MARKER = "blockfuse.kernel"
_PIPELINE = "blockfuse"
_OPAQUE = 8
_KERNEL_ATTRS = {_MARKER: 1, "tirx.is_scheduled": True, "op_pattern": _OPAQUE, "tirx.noalias": True}


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
    main = _Main(network, functions, layouts, importer)
    module = main.module()
    code = _compile(module, target)
    constants, weights = pack(main.constants)
    return Library(
        name=network.name,
        target=target,
        inputs=main.input_ports(),
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


class _Main:
    """The Relax function ``main`` of a network while it is written."""

    def __init__(
        self, network: Network, functions: Mapping[str, Any], layouts: Layouts, importer: Importer | None
    ) -> None:
        self.network = network
        self.functions = functions
        self.layouts = layouts
        self.importer = importer
        self.imported: list[str] = []
        self.builder = relax.BlockBuilder()
        self.constants: list[np.ndarray[Any, Any]] = []
        self.parameters: list[Any] = []
        self.kernels: dict[str, Any] = {}
        self.values: dict[tuple[str, Layout], Any] = {}
        self.alignments: dict[str, int] = {}

    def module(self) -> Any:
        """The whole network as a Relax module."""
        inputs = [relax.Var(f"x{i}", _type(port.shape, port.dtype)) for i, port in enumerate(self.network.inputs)]
        for port, variable in zip(self.network.inputs, inputs, strict=True):
            self.values[port.name, Layout.PLAIN] = variable
        with self.builder.function("main", attrs={"num_input": len(inputs)}):
            with self.builder.dataflow():
                for step, layout in zip(self.network.steps, self.layouts.steps, strict=True):
                    self._emit(step, layout)
                outputs = [self.builder.emit_output(self._output(port)) for port in self.network.outputs]
            self.builder.emit_func_output(relax.Tuple(outputs), params=[*inputs, *self.parameters])
        return self.builder.get()

    def input_ports(self) -> tuple[Port, ...]:
        """The inputs with the alignment their readers ask for."""
        return tuple(
            Port(port.name, port.shape, port.dtype, Layout.PLAIN, self.alignments.get(port.name, 1))
            for port in self.network.inputs
        )

    def constant(self, array: np.ndarray[Any, Any]) -> Any:
        """A parameter of the function that holds a constant."""
        variable = relax.Var(f"w{len(self.parameters)}", _type(array.shape, array.dtype.name))
        self.constants.append(array)
        self.parameters.append(variable)
        return variable

    def _emit(self, step: Step, layout: Layout) -> None:
        if isinstance(step, Call):
            self._emit_call(step)
            return
        values = []
        for name in step.inputs:
            value = self._read(name, layout)
            if value is not None and not self.network.is_image(name):
                value = self._shaped(value, self.network.tensors[name].shape, f"input {name!r} of {step}")
            self._align(name, ALIGNMENT)
            values.append(value)
        results = emit_op(step, values, layout, self)
        for name, result in zip(step.outputs, results, strict=True):
            self.values[name, layout if self.network.is_image(name) else Layout.PLAIN] = result

    def _read(self, name: str, layout: Layout) -> Any:
        """A computed value in a layout, converted if it is not there yet; None for constants and omitted inputs."""
        if not name or self.network.is_constant(name):
            return None
        if not self.network.is_image(name):
            layout = Layout.PLAIN
        if (name, layout) not in self.values:
            self.values[name, layout] = self.builder.emit(self._converted(name, layout))
        return self.values[name, layout]

    def _converted(self, name: str, layout: Layout) -> Any:
        """An image in the other layout than it was made in."""
        self._align(name, ALIGNMENT)
        image = self.values[name, Layout.NHWC if layout is Layout.PLAIN else Layout.PLAIN]
        axes = TO_NHWC if layout is Layout.NHWC else FROM_NHWC
        if not changes_order(self.network.tensors[name].shape):
            shape = _shape(image.ty)
            return relax.op.reshape(image, tuple(shape[axis] for axis in axes))
        return relax.op.permute_dims(image, axes)

    def _align(self, name: str, alignment: int) -> None:
        self.alignments[name] = max(alignment, self.alignments.get(name, 1))

    def _emit_call(self, call: Call) -> None:
        function = self.functions[call.kernel]
        if len(function.params) != len(call.inputs) + len(call.constants) + 1:
            raise InternalError(
                f"kernel {call.kernel!r} has {len(function.params)} parameters, its call gives {len(call.inputs)} "
                f"inputs, {len(call.constants)} constants and an output"
            )
        arguments = []
        for position, (name, parameter) in enumerate(zip(call.inputs, function.params, strict=False)):
            value = self._read(name, wanted(call, Layout.NHWC, position))
            self._align(name, int(parameter.data_alignment))
            arguments.append(self._shaped(value, _shape(parameter), f"input {name!r} of kernel {call.kernel!r}"))
        for array, parameter in zip(call.constants, function.params[len(call.inputs) :], strict=False):
            arguments.append(self.constant(_matching(array, parameter, call.kernel)))
        self._check_output(call)
        result = _type(call.output_shape, str(function.params[-1].dtype))
        value = self.builder.emit(relax.call_tir(self._kernel(call.kernel), arguments, result))
        self.values[call.output, Layout.NHWC if self.network.is_image(call.output) else Layout.PLAIN] = value

    def _check_output(self, call: Call) -> None:
        """Refuse a call whose result is not the graph tensor it stands for."""
        tensor = self.network.tensors.get(call.output)
        if tensor is None:
            return
        image = self.network.is_image(call.output)
        expected = tuple(tensor.shape[axis] for axis in TO_NHWC) if image else tensor.shape
        same = call.output_shape == expected if image else math.prod(call.output_shape) == math.prod(expected)
        if not same:
            raise InternalError(
                f"kernel {call.kernel!r} writes {list(call.output_shape)} for {call.output!r}, not {list(expected)}"
            )

    def _shaped(self, value: Any, want: tuple[int, ...], what: str) -> Any:
        """A value in the shape that its reader declares: N, C and N, 1, 1, C hold the same bytes."""
        have = _shape(value.ty)
        if have == want:
            return value
        if math.prod(have) != math.prod(want) or (len(have) == 4 and len(want) == 4):
            raise InternalError(f"{what} has shape {list(have)}, not {list(want)}")
        return self.builder.emit(relax.op.reshape(value, want))

    def _kernel(self, name: str) -> Any:
        if name not in self.kernels:
            function = self.functions[name].with_attrs(_KERNEL_ATTRS)
            if "global_symbol" in function.attrs:
                function = function.without_attr("global_symbol")
            self.kernels[name] = self.builder.add_func(function, name)
        return self.kernels[name]

    def _output(self, port: Port) -> Any:
        layout = self.layouts.values.get(port.name, Layout.PLAIN)
        return self.values[port.name, layout]


def _output_port(network: Network, layouts: Layouts, port: Port) -> Port:
    layout = layouts.values[port.name] if network.is_image(port.name) else Layout.PLAIN
    return Port(port.name, port.shape, port.dtype, layout)


def _type(shape: Sequence[int], dtype: str) -> Any:
    return relax.TensorType(tuple(shape), dtype)


def _shape(typed: Any) -> tuple[int, ...]:
    return tuple(int(size) for size in typed.shape)


def _matching(array: np.ndarray[Any, Any], parameter: Any, kernel: str) -> np.ndarray[Any, Any]:
    shape, dtype = _shape(parameter), str(parameter.dtype)
    if array.size != math.prod(shape) or array.dtype.name != dtype:
        raise InternalError(
            f"kernel {kernel!r} takes constant {parameter.name} as {dtype}{list(shape)}, its call gives "
            f"{array.dtype}{list(array.shape)}"
        )
    return array.reshape(shape)


# ---- compiling -------------------------------------------------------------------------------------------------------
def _compile(module: Any, target: Target) -> bytes:
    """The shared library of a Relax module."""
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
            raise TargetError(f"linking needs a C++ compiler such as g++ on the path: {reason}") from None
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


def _tir_pipeline() -> tuple[Any, Any, Any]:
    """Lower our kernels by the passes for finished TensorIR and all other functions by those for scheduled blocks."""
    finished, finalize_host, finalize_device = tirx_pipeline()
    scheduled, _, _ = default_s_tir_pipeline()

    @tvm.transform.module_pass(opt_level=0, name="blockfuse.lower")
    def lower(module: Any, _context: Any) -> Any:
        ours = {name: f for name, f in module.functions.items() if _MARKER in (f.attrs or {})}
        others = {name: f for name, f in module.functions.items() if name not in ours}
        result = tvm.IRModule({}, attrs=module.attrs)
        for functions, passes in ((ours, finished), (others, scheduled)):
            if functions:
                result.update(passes(tvm.IRModule(functions, attrs=module.attrs)))
        return result

    return lower, finalize_host, finalize_device
