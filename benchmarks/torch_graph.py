"""A canonical graph as a PyTorch module, with the same folded weights: the baseline of GPU benchmarks.

The graph travels as JSON (:func:`describe`) and its weights as numpy arrays by name, so building the module needs
neither ONNX nor the compiler, only PyTorch and numpy. PyTorch is imported when a module is built, never before.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from blockfuse.graph import Graph, Op

Array: TypeAlias = np.ndarray[Any, Any]
Json: TypeAlias = dict[str, Any]


# ---- where the compiler is -------------------------------------------------------------------------------------------
def describe(graph: Graph) -> Json:
    """The structure of a graph as JSON holds it, without its constants' data."""
    return _description(graph, graph.ops(), graph.inputs, graph.outputs)


def describe_part(graph: Graph, ops: Iterable[str], inputs: Iterable[str], output: str) -> Json:
    """Some operators of a graph as a graph of their own.

    Args:
        graph: The whole graph.
        ops: Names of the operators.
        inputs: Tensors they read from outside.
        output: The tensor that is asked for.
    """
    wanted = set(ops)
    return _description(graph, [op for op in graph.ops() if op.name in wanted], inputs, (output,))


def constants_of(graph: Graph) -> dict[str, Array]:
    """The constants of a graph by name."""
    return {tensor.name: tensor.value for tensor in graph.tensors if tensor.value is not None}


def _description(graph: Graph, ops: Sequence[Op], inputs: Iterable[str], outputs: Iterable[str]) -> Json:
    return {
        "name": graph.name,
        "inputs": [{"name": name, "shape": list(graph.tensor(name).shape)} for name in inputs],
        "outputs": list(outputs),
        "ops": [
            {
                "kind": op.kind,
                "inputs": list(op.inputs),
                "outputs": list(op.outputs),
                "attrs": {key: list(value) if isinstance(value, tuple) else value for key, value in op.attrs.items()},
            }
            for op in ops
        ],
    }


# ---- where PyTorch is ------------------------------------------------------------------------------------------------
def build(description: Json, constants: Mapping[str, Array], dtype: str = "float32", device: str = "cpu") -> Any:
    """The graph as a ``torch.fx.GraphModule`` for images with channels last, without gradients.

    Args:
        description: What :func:`describe` gave.
        constants: Arrays of at least the constants that its operators read.
        dtype: Type of the weights, and of the inputs it will be given.
        device: Where the weights are.

    Raises:
        NotImplementedError: An operator has no counterpart here; the message names its kind.
    """
    import torch  # noqa: PLC0415 - not a dependency of the project

    writer = _Writer(torch, constants, dtype, device)
    for port in description["inputs"]:
        writer.values[port["name"]] = writer.graph.placeholder(f"x{len(writer.values)}")
    for op in description["ops"]:
        emit = _EMITTERS.get(op["kind"])
        if emit is None:
            raise NotImplementedError(f"{op['kind']} has no counterpart in benchmarks/torch_graph.py")
        writer.values[op["outputs"][0]] = emit(writer, op)
    results = tuple(writer.values[name] for name in description["outputs"])
    writer.graph.output(results if len(results) > 1 else results[0])
    return torch.fx.GraphModule(writer.root, writer.graph).eval()


class _Writer:
    """A module while it is written.

    Args:
        torch: PyTorch.
        constants: Arrays by name.
        dtype: Type of the weights.
        device: Where they are.
    """

    def __init__(self, torch: Any, constants: Mapping[str, Array], dtype: str, device: str) -> None:
        self.functional = torch.nn.functional
        self.torch, self.constants = torch, constants
        self.place = {"dtype": getattr(torch, dtype), "device": device}
        self.root, self.graph = torch.nn.Module(), torch.fx.Graph()
        self.values: dict[str, Any] = {}

    def call(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """The result of a function."""
        return self.graph.call_function(function, arguments, options)

    def value(self, name: str) -> Any:
        """A computed value, or a constant as a parameter of the module; None for an omitted input."""
        if not name:
            return None
        if name not in self.values:
            tensor = self.torch.from_numpy(np.array(self.constants[name])).to(**self.place)
            if tensor.dim() == 4:
                tensor = tensor.contiguous(memory_format=self.torch.channels_last)
            parameter = f"w{sum(1 for _ in self.root.parameters())}"
            self.root.register_parameter(parameter, self.torch.nn.Parameter(tensor, requires_grad=False))
            self.values[name] = self.graph.get_attr(parameter)
        return self.values[name]

    def inputs(self, op: Json) -> list[Any]:
        """What an operator reads."""
        return [self.value(name) for name in op["inputs"]]

    def padded(self, op: Json, fill: float) -> tuple[Any, tuple[int, int]]:
        """The first input, padded where PyTorch's own symmetric padding does not do, and that padding."""
        top, left, bottom, right = op["attrs"].get("pads", (0, 0, 0, 0))
        image = self.value(op["inputs"][0])
        if (top, left) == (bottom, right):
            return image, (top, left)
        return self.call(self.functional.pad, image, (left, right, top, bottom), value=fill), (0, 0)


Emitter: TypeAlias = Callable[[_Writer, Json], Any]


def _conv(writer: _Writer, op: Json) -> Any:
    attrs = op["attrs"]
    image, padding = writer.padded(op, 0.0)
    weight, bias = [*writer.inputs(op)[1:], None][:2]
    geometry = {key: tuple(attrs.get(f"{key}s", (1, 1))) for key in ("stride", "dilation")}
    return writer.call(
        writer.functional.conv2d, image, weight, bias, padding=padding, groups=attrs.get("group", 1), **geometry
    )


def _max_pool(writer: _Writer, op: Json) -> Any:
    attrs = op["attrs"]
    image, padding = writer.padded(op, -np.inf)
    options = {key: tuple(attrs.get(f"{key}s", (1, 1))) for key in ("stride", "dilation")}
    options |= {"padding": padding, "ceil_mode": bool(attrs.get("ceil_mode", 0))}
    return writer.call(writer.functional.max_pool2d, image, tuple(attrs["kernel_shape"]), **options)


def _average_pool(writer: _Writer, op: Json) -> Any:
    attrs = op["attrs"]
    top, left, bottom, right = attrs.get("pads", (0, 0, 0, 0))
    if (top, left) != (bottom, right):
        raise NotImplementedError("AveragePool with asymmetric padding has no counterpart in benchmarks/torch_graph.py")
    return writer.call(
        writer.functional.avg_pool2d,
        writer.value(op["inputs"][0]),
        tuple(attrs["kernel_shape"]),
        stride=tuple(attrs.get("strides", (1, 1))),
        padding=(top, left),
        ceil_mode=bool(attrs.get("ceil_mode", 0)),
        count_include_pad=bool(attrs.get("count_include_pad", 0)),
    )


def _global_average_pool(writer: _Writer, op: Json) -> Any:
    return writer.call(writer.functional.adaptive_avg_pool2d, *writer.inputs(op), 1)


def _flatten(writer: _Writer, op: Json) -> Any:
    if op["attrs"].get("axis", 1) != 1:
        raise NotImplementedError("Flatten at another axis than 1 has no counterpart in benchmarks/torch_graph.py")
    return writer.call(writer.torch.flatten, *writer.inputs(op), 1)


def _gemm(writer: _Writer, op: Json) -> Any:
    if not op["attrs"].get("transB") or op["attrs"].get("transA"):
        raise NotImplementedError("Gemm other than x * W^T + b has no counterpart in benchmarks/torch_graph.py")
    return writer.call(writer.functional.linear, *writer.inputs(op))


def _layer_norm(writer: _Writer, op: Json) -> Any:
    if list(op["attrs"]["axes"]) != [1]:
        raise NotImplementedError("LayerNormalization over other axes has no counterpart in benchmarks/torch_graph.py")
    image, scale, shift = [*writer.inputs(op), None][:3]
    channels = (len(writer.constants[op["inputs"][1]]),)
    last = writer.call(writer.torch.permute, image, (0, 2, 3, 1))
    normal = writer.call(writer.functional.layer_norm, last, channels, scale, shift, op["attrs"]["epsilon"])
    return writer.call(writer.torch.permute, normal, (0, 3, 1, 2))


def _clip(writer: _Writer, op: Json) -> Any:
    low, high = (op["attrs"].get(key) for key in ("min", "max"))
    return writer.call(writer.torch.clamp, writer.value(op["inputs"][0]), min=low, max=high)


def _transpose(writer: _Writer, op: Json) -> Any:
    return writer.call(writer.torch.permute, *writer.inputs(op), tuple(op["attrs"]["perm"]))


def _gelu(writer: _Writer, op: Json) -> Any:
    return writer.call(writer.functional.gelu, *writer.inputs(op), approximate=op["attrs"].get("approximate", "none"))


def _leaky_relu(writer: _Writer, op: Json) -> Any:
    return writer.call(writer.functional.leaky_relu, *writer.inputs(op), op["attrs"].get("alpha", 0.01))


def _functional(name: str) -> Emitter:
    """An operator that ``torch.nn.functional`` has with the same arguments."""
    return lambda writer, op: writer.call(getattr(writer.functional, name), *writer.inputs(op))


def _binary(function: Callable[..., Any]) -> Emitter:
    return lambda writer, op: writer.call(function, *writer.inputs(op))


_EMITTERS: dict[str, Emitter] = {
    "Add": _binary(operator.add),
    "AveragePool": _average_pool,
    "Clip": _clip,
    "Conv": _conv,
    "Flatten": _flatten,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_average_pool,
    "HardSwish": _functional("hardswish"),
    "LayerNormalization": _layer_norm,
    "LeakyRelu": _leaky_relu,
    "MaxPool": _max_pool,
    "Mul": _binary(operator.mul),
    "Relu": _functional("relu"),
    "Sigmoid": _functional("sigmoid"),
    "Swish": _functional("silu"),
    "Transpose": _transpose,
}
