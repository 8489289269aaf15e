"""The canonical form as conditions on single ops."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from blockfuse.dtypes import COMPUTED, HALF, WHOLE
from blockfuse.errors import InternalError, UnsupportedModelError
from blockfuse.graph import Graph, Op

_WINDOW = {"kernel_shape", "strides", "pads", "dilations"}


def check_canonical(graph: Graph) -> None:
    """Raise :class:`InternalError` unless a graph is in canonical form."""
    graph.check()
    for op, complaint in _complaints(graph):
        raise InternalError(f"graph {graph.name!r} is not canonical: {op} {complaint}")


def refuse_uncanonical(graph: Graph) -> None:
    """Raise :class:`UnsupportedModelError` for an op that no rewrite could bring to canonical form."""
    for op, complaint in _complaints(graph):
        raise UnsupportedModelError(f"graph {graph.name!r}: {op} {complaint}, which is not supported")
    _refuse_types(graph)
    for name in graph.outputs:
        if graph.tensor(name).is_constant:
            raise UnsupportedModelError(
                f"graph {graph.name!r}: the output {name!r} is a constant; leave it out of the model's outputs"
            )


def _refuse_types(graph: Graph) -> None:
    """Floats are float32 but for inputs and outputs of half precision, which have Casts next to them."""
    ports = (*graph.inputs, *graph.outputs)
    made = [(name, f"{op} makes {name!r}") for op in graph.ops() for name in op.outputs if name]
    for op in graph.ops():
        for name in filter(None, op.inputs):
            dtype = graph.tensor(name).dtype
            if graph.tensor(name).is_constant and dtype not in {COMPUTED, "float64", *WHOLE, *HALF}:
                raise UnsupportedModelError(f"graph {graph.name!r}: {op} reads {name!r} of type {dtype}")
    for name, what in (*((name, f"input {name!r} is") for name in graph.inputs), *made):
        dtype = graph.tensor(name).dtype
        if dtype not in {COMPUTED, *WHOLE} and not (dtype in HALF and name in ports):
            raise UnsupportedModelError(
                f"graph {graph.name!r}: {what} of type {dtype}; export the model in float32 or in half precision"
            )


def _complaints(graph: Graph) -> Iterator[tuple[Op, str]]:
    for op in graph.ops():
        check = _CHECKS.get(op.kind)
        complaint = check(graph, op) if check is not None else ""
        if complaint:
            yield op, complaint


def _check_conv(graph: Graph, op: Op) -> str:
    if set(op.attrs) != {*_WINDOW, "group"}:
        return f"has the attributes {sorted(op.attrs)}"
    if len(op.inputs) != 3:
        return "has no bias"
    weight, bias = (graph.tensor(name) for name in op.inputs[1:])
    if bias.shape != weight.shape[:1] or op.attrs["kernel_shape"] != weight.shape[2:]:
        return "has a filter, a bias and a kernel_shape that differ"
    return ""


def _check_pool(_: Graph, op: Op) -> str:
    if len(op.outputs) != 1:
        return "returns indices"
    expected = {*_WINDOW, "ceil_mode"} | ({"count_include_pad"} if op.kind == "AveragePool" else set())
    return "" if set(op.attrs) == expected else f"has the attributes {sorted(op.attrs)}"


def _check_gemm(graph: Graph, op: Op) -> str:
    if dict(op.attrs) != {"transB": 1}:
        return f"has the attributes {dict(op.attrs)}"
    if len(op.inputs) != 3 or not all(graph.tensor(name).is_constant for name in op.inputs[1:]):
        return "computes its weight or bias at run time"
    weight, bias = (graph.tensor(name).shape for name in op.inputs[1:])
    return "" if bias == weight[:1] else "has a bias that is no vector"


def _check_clip(_: Graph, op: Op) -> str:
    if len(op.inputs) > 1:
        return "has its bounds twice" if op.attrs else ""
    return "" if set(op.attrs) == {"min", "max"} else f"has the attributes {sorted(op.attrs)}"


def _check_binary(_: Graph, op: Op) -> str:
    return "" if len(op.inputs) == 2 else f"has {len(op.inputs)} inputs"


def _check_flatten(graph: Graph, op: Op) -> str:
    before, after = graph.tensor(op.inputs[0]).shape, graph.tensor(op.output).shape
    return "" if len(before) > 2 and after[:1] == before[:1] and len(after) == 2 else "does not keep the batch axis"


def _check_global_pool(graph: Graph, op: Op) -> str:
    return "" if all(dim == 1 for dim in graph.tensor(op.output).shape[2:]) else "does not give 1x1 images"


def _check_norm(graph: Graph, op: Op) -> str:
    if "axes" not in op.attrs:
        return ""  # ONNX's own, over any axes
    if set(op.attrs) != {"axes", "epsilon"} or op.attrs["axes"] != (1,):
        return f"has the attributes {dict(op.attrs)}"
    channels = graph.tensor(op.inputs[0]).shape[1:2]
    if len(op.inputs) != 3 or any(graph.tensor(name).value is None for name in op.inputs[1:]):
        return "computes its scale or shift at run time"
    return "" if all(graph.tensor(name).shape == channels for name in op.inputs[1:]) else "has a scale of another size"


def _check_attributes(*names: str) -> Callable[[Graph, Op], str]:
    return lambda _, op: "" if set(op.attrs) == set(names) else f"has the attributes {sorted(op.attrs)}"


def _check_gone(_: Graph, op: Op) -> str:
    return f"is a {op.kind} that cannot be rewritten"


_CHECKS: dict[str, Callable[[Graph, Op], str]] = {
    "Add": _check_binary,
    "AveragePool": _check_pool,
    "BatchNormalization": _check_attributes("epsilon"),
    "Clip": _check_clip,
    "Conv": _check_conv,
    "Dropout": _check_gone,
    "Flatten": _check_flatten,
    "Gelu": _check_attributes("approximate"),
    "Gemm": _check_gemm,
    "GlobalAveragePool": _check_global_pool,
    "HardSigmoid": _check_attributes("alpha", "beta"),
    "HardSwish": _check_attributes(),
    "LayerNormalization": _check_norm,
    "MaxPool": _check_pool,
    "Mul": _check_binary,
    "Relu": _check_attributes(),
    "Squeeze": _check_gone,
    "Sum": _check_gone,
    "Swish": _check_attributes(),
    "Unsqueeze": _check_gone,
}
