"""The entry function of a network in Relax: kernel calls and single ops in order, weights as parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from tvm import relax

from blockfuse.build.code import Weights
from blockfuse.build.fallback import emit_op
from blockfuse.build.importer import Importer
from blockfuse.build.layout import FROM_NHWC, TO_NHWC, Layouts, changes_order, wanted
from blockfuse.build.network import Call, Network, Step
from blockfuse.build.open_batch import OpenBatch, check_open, parameter_shape
from blockfuse.errors import InternalError
from blockfuse.runtime.library import ALIGNMENT, Layout, Port

KERNEL_MARKER = "blockfuse.kernel"
"""Attribute of functions that are finished TensorIR."""

_OPAQUE = 8
KERNEL_ATTRS = {KERNEL_MARKER: 1, "tirx.is_scheduled": True, "op_pattern": _OPAQUE, "tirx.noalias": True}


class Entry:
    """The Relax function ``main`` of a network while it is written.

    Args:
        network: What to write.
        functions: TensorIR of every kernel by name.
        layouts: Of every image.
        importer: For ops that only TVM's own importer knows.
        kernel_target: A kernel's own target by the kernel's name, where kernels have one.
    """

    def __init__(
        self,
        network: Network,
        functions: Mapping[str, Any],
        layouts: Layouts,
        importer: Importer | None,
        kernel_target: Callable[[str], Any] | None = None,
    ) -> None:
        self.network = network
        self.kernel_target = kernel_target
        self.functions = functions
        self.layouts = layouts
        self.importer = importer
        self.imported: list[str] = []
        self.builder = relax.BlockBuilder()
        self.batch = OpenBatch()
        self.constants: list[Weights | np.ndarray[Any, Any]] = []
        self.calls = 0
        self.parameters: list[Any] = []
        self.kernels: dict[str, Any] = {}
        self.values: dict[tuple[str, Layout], Any] = {}
        self.alignments: dict[str, int] = {}

    def module(self) -> Any:
        """The whole network as a Relax module."""
        inputs = [relax.Var(f"x{i}", self.batch.type(p.shape, p.dtype)) for i, p in enumerate(self.network.inputs)]
        for port, variable in zip(self.network.inputs, inputs, strict=True):
            self.values[port.name, Layout.PLAIN] = variable
        with self.builder.function("main", attrs={"num_input": len(inputs)}):
            with self.builder.dataflow():
                for step, layout in zip(self.network.steps, self.layouts.steps, strict=True):
                    self._emit(step, layout)
                outputs = [self.builder.emit_output(self._output(port)) for port in self.network.outputs]
            self.builder.emit_func_output(relax.Tuple(outputs), params=[*inputs, *self.parameters])
        module = self.builder.get()
        check_open(module)
        return module

    def input_alignments(self) -> tuple[int, ...]:
        """For every input the alignment its readers ask for."""
        return tuple(self.alignments.get(port.name, 1) for port in self.network.inputs)

    def dims(self, shape: Sequence[int]) -> tuple[Any, ...]:
        """A shape as Relax takes it."""
        return self.batch.dims(shape)

    def constant(self, array: np.ndarray[Any, Any]) -> Any:
        """A parameter of the function that holds a constant."""
        return self._parameter(array, array.shape, array.dtype.name)

    def _parameter(self, constant: Weights | np.ndarray[Any, Any], shape: tuple[int, ...], dtype: str) -> Any:
        variable = relax.Var(f"w{len(self.parameters)}", relax.TensorType(shape, dtype))
        self.constants.append(constant)
        self.parameters.append(variable)
        return variable

    def _emit(self, step: Step, layout: Layout) -> None:
        if isinstance(step, Call):
            self._emit_call(step)
            return
        if step.name in self.network.placement.free:
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
        if (name, Layout.NHWC) not in self.values and name in self.network.placement.places:
            self.values[name, Layout.NHWC] = self.builder.emit(self._taken_out(name))
        if (name, layout) not in self.values:
            self.values[name, layout] = self.builder.emit(self._converted(name, layout))
        return self.values[name, layout]

    def _taken_out(self, name: str) -> Any:
        """A copy of an image that lies among the channels of another, for readers that are no kernels."""
        place = self.network.placement.places[name]
        first, channels = place.slot.first, self.network.tensors[name].shape[1]
        return relax.op.strided_slice(self.values[place.buffer, Layout.NHWC], [3], [first], [first + channels])

    def _converted(self, name: str, layout: Layout) -> Any:
        """An image in the other layout than it was made in."""
        self._align(name, ALIGNMENT)
        image = self.values[name, Layout.NHWC if layout is Layout.PLAIN else Layout.PLAIN]
        axes = TO_NHWC if layout is Layout.NHWC else FROM_NHWC
        if not changes_order(self.network.tensors[name].shape):
            return relax.op.reshape(image, tuple(image.ty.shape[axis] for axis in axes))
        return relax.op.permute_dims(image, axes)

    def _align(self, name: str, alignment: int) -> None:
        self.alignments[name] = max(alignment, self.alignments.get(name, 1))

    def _emit_call(self, call: Call) -> None:
        function = self.functions[call.kernel]
        results = function.params[len(call.inputs) + len(call.constants) :]
        if len(results) != len(call.outputs):
            raise InternalError(
                f"kernel {call.kernel!r} has {len(function.params)} parameters, its call gives {len(call.inputs)} "
                f"inputs, {len(call.constants)} constants and outputs {', '.join(call.outputs)}"
            )
        arguments = []
        for position, (name, parameter) in enumerate(zip(call.inputs, function.params, strict=False)):
            if name in call.in_place:
                value = self.values[self.network.placement.places[name].buffer, Layout.NHWC]
            else:
                value = self._read(name, wanted(call, Layout.NHWC, position))
            shape = parameter_shape(parameter)
            is_read_as_it_is = self.batch.shape(value) == shape
            self._align(name, int(parameter.data_alignment) if is_read_as_it_is else ALIGNMENT)
            arguments.append(self._shaped(value, shape, f"input {name!r} of kernel {call.kernel!r}"))
        for position, parameter in enumerate(function.params[len(call.inputs) : -len(results)]):
            shape = _checked_shape(call.constants[position], parameter, call.kernel)
            weights = Weights(self.calls, position, shape)
            arguments.append(self._parameter(weights, shape, str(parameter.dtype)))
        self.calls += 1
        self._check_output(call)
        place = self.network.placement.places[call.output] if call.output in call.in_place else None
        target = place.buffer if place else call.output
        key = target, Layout.NHWC if self.network.is_image(target) else Layout.PLAIN
        shape = (*call.output_shape[:-1], place.slot.width) if place else call.output_shape
        types = [self.batch.type(shape, str(results[0].dtype))]
        types += [self.batch.type(call.parts[1], str(results[1].dtype))] if call.parts else []
        self.values[key], *parts = self._called(self._kernel(call.kernel), arguments, self.values.get(key), types)
        for name, part in zip(call.outputs[1:], parts, strict=True):
            self.values[name, Layout.PLAIN] = part

    def _called(self, kernel: Any, arguments: list[Any], written: Any, types: list[Any]) -> list[Any]:
        """The results of a kernel; the first one in a value that others have written theirs into, if there is one."""
        if written is not None:
            places = [len(arguments), *[-1] * (len(types) - 1)]
            value = self.builder.emit(relax.call_tir_inplace(kernel, [*arguments, written], places, types))
        else:
            value = self.builder.emit(relax.call_tir(kernel, arguments, types))
        if len(types) == 1:
            return [value]
        return [self.builder.emit(relax.TupleGetItem(value, i)) for i in range(len(types))]

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
        have = self.batch.shape(value)
        if have == want:
            return value
        if math.prod(have) != math.prod(want) or (len(have) == 4 and len(want) == 4):
            raise InternalError(f"{what} has shape {list(have)}, not {list(want)}")
        return self.builder.emit(relax.op.reshape(value, self.dims(want)))

    def _kernel(self, name: str) -> Any:
        if name not in self.kernels:
            function = self.functions[name].with_attrs(KERNEL_ATTRS)
            if "global_symbol" in function.attrs:
                function = function.without_attr("global_symbol")
            if self.kernel_target is not None:
                function = function.with_attr("target", self.kernel_target(name))
            self.kernels[name] = self.builder.add_func(function, name)
        return self.kernels[name]

    def _output(self, port: Port) -> Any:
        layout = self.layouts.values.get(port.name, Layout.PLAIN)
        return self._read(port.name, layout)


def _checked_shape(array: np.ndarray[Any, Any], parameter: Any, kernel: str) -> tuple[int, ...]:
    """The shape in which a kernel takes a constant that is its own."""
    shape, dtype = parameter_shape(parameter), str(parameter.dtype)
    if array.size != math.prod(shape) or array.dtype.name != dtype:
        raise InternalError(
            f"kernel {kernel!r} takes constant {parameter.name} as {dtype}{list(shape)}, its call gives "
            f"{array.dtype}{list(array.shape)}"
        )
    return shape
