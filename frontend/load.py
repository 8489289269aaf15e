"""A model file, or a model in memory, to a ``ModelProto`` whose graph is self-contained."""

from __future__ import annotations

import os
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # its stubs are another package
from onnx.external_data_helper import uses_external_data

from blockfuse.errors import ModelError, UnsupportedModelError, first_line

MAX_FILE_BYTES = 2**31
"""Protobuf's own limit; bigger models keep their weights in external files."""

MAX_NODES = 100_000
"""Nodes after function inlining; the largest published convnets have a few thousand."""

MAX_FUNCTIONS = 1000
"""Functions a model may define; the inliner's depth of recursion is that of the calls."""

OPSETS = range(7, 26)
"""Versions of the standard operator set that are read."""

STANDARD_DOMAINS = ("", "ai.onnx")


def load(source: str | os.PathLike[str] | onnx.ModelProto) -> onnx.ModelProto:
    """Load a model and inline its functions.

    Args:
        source: A path, or a model, which is left as it is.

    Returns:
        A model with standard operators only, weights included.

    Raises:
        ModelError: The file cannot be read or is not an ONNX model.
        UnsupportedModelError: The model needs an operator set or a domain that is not read.
    """
    model = source if isinstance(source, onnx.ModelProto) else _load_file(Path(source))
    if not model.HasField("graph") or not (model.graph.node or model.graph.output):
        raise ModelError("there is no graph in it, so this is not an ONNX model")
    if not all(isinstance(text, str) for text in _texts(model)):
        raise ModelError("a name in it is not text, so the file is damaged")
    _check_data_is_loaded(model)
    opset(model)
    _check_expanded_size(model)
    if model.functions:
        model = _inline(model)
    _check_domains(model)
    return model


def opset(model: onnx.ModelProto) -> int:
    """The model's version of the standard operator set.

    Raises:
        ModelError: The model does not say.
        UnsupportedModelError: The version is outside :data:`OPSETS`.
    """
    versions = [int(entry.version) for entry in model.opset_import if entry.domain in STANDARD_DOMAINS]
    if not versions:
        raise ModelError("the model names no version of the standard operator set (opset_import is missing)")
    if versions[0] not in OPSETS:
        raise UnsupportedModelError(
            f"the model uses opset {versions[0]}, and opsets {OPSETS[0]} to {OPSETS[-1]} are read; "
            "export it again with another opset_version"
        )
    return versions[0]


def node_label(node: onnx.NodeProto) -> str:
    """How messages call a node: its operator and its name, or its first output where it has none."""
    name = node.name or next((output for output in node.output if output), "")
    return f"{node.op_type} {name!r}"


def data_files(path: str | os.PathLike[str]) -> list[Path]:
    """The files in which a model keeps external data; none if it is no model."""
    path = Path(path)
    if not path.is_file() or path.stat().st_size > MAX_FILE_BYTES:
        return []
    try:
        model = onnx.load(path, format="protobuf", load_external_data=False)
    except (DecodeError, OSError):
        return []
    entries = [entry for tensor in _tensors(model) if uses_external_data(tensor) for entry in tensor.external_data]
    return [path.resolve().parent / name for name in {entry.value for entry in entries if entry.key == "location"}]


def check_file(path: Path) -> None:
    """Refuse what is no file with something in it before it is opened, because a pipe might never give anything.

    Raises:
        ModelError: It is none.
        UnsupportedModelError: It is too large.
    """
    try:
        size = path.stat().st_size
    except (OSError, ValueError) as error:
        raise ModelError(
            f"the file cannot be opened ({getattr(error, 'strerror', None) or first_line(error)})"
        ) from None
    if not path.is_file():
        raise ModelError("this is not a file; give the path of an .onnx file")
    if size == 0:
        raise ModelError("the file is empty")
    if size > MAX_FILE_BYTES:
        raise UnsupportedModelError(
            f"the file has {size} bytes, and at most {MAX_FILE_BYTES} are read; save the weights as external data"
        )


def _load_file(path: Path) -> onnx.ModelProto:
    check_file(path)
    try:
        model = onnx.load(path, format="protobuf", load_external_data=False)
    except DecodeError:
        raise ModelError(_complaint(path)) from None
    except OSError as error:
        raise ModelError(f"the file cannot be read ({error.strerror})") from None
    _load_external_data(model, path)
    return model


def _complaint(path: Path) -> str:
    """What is wrong with a file that is no model."""
    with path.open("rb") as file:
        start = file.read(4)
    if start == b"PK\3\4":
        return "this is a zip archive, as PyTorch and Keras save networks; export the network to ONNX"
    return "this is not an ONNX model, or the file is truncated"


def _load_external_data(model: onnx.ModelProto, path: Path) -> None:
    """Load external weights with the one loader that checks where they lie."""
    try:
        onnx.load_external_data_for_model(model, str(path.resolve().parent))
    except (OSError, ValueError, RuntimeError, onnx.checker.ValidationError) as error:
        raise ModelError(f"the external data cannot be loaded: {first_line(error)}") from None


def _texts(model: onnx.ModelProto) -> Iterator[object]:
    """Every name in a model; protobuf hands those that are not UTF-8 over as bytes."""
    graph = model.graph
    yield graph.name
    for value in (*graph.input, *graph.output):
        yield value.name
        yield from (dim.dim_param for dim in value.type.tensor_type.shape.dim)
    yield from (tensor.name for tensor in graph.initializer)
    yield from (entry.domain for entry in model.opset_import)
    for function in model.functions:
        yield from (function.name, function.domain)
    for node in (*graph.node, *(node for function in model.functions for node in function.node)):
        yield from (node.op_type, node.domain, node.name, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every constant in a model: initializers, and attributes of nodes."""
    yield from model.graph.initializer
    for node in (*model.graph.node, *(node for function in model.functions for node in function.node)):
        for attribute in node.attribute:
            yield from ((attribute.t,) if attribute.type == onnx.AttributeProto.TENSOR else attribute.tensors)


def _check_data_is_loaded(model: onnx.ModelProto) -> None:
    for tensor in _tensors(model):
        if uses_external_data(tensor):
            raise ModelError(
                f"the data of {tensor.name!r} lies in another file and is not loaded; give the model's path instead"
            )


def _check_expanded_size(model: onnx.ModelProto) -> None:
    """Bound the work of inlining, which a few nested functions could blow up, and refuse recursion."""
    functions = {(function.domain, function.name): function for function in model.functions}
    calls = {key: [(node.domain, node.op_type) for node in function.node] for key, function in functions.items()}
    sizes: dict[tuple[str, str], int] = {}
    try:
        for key in TopologicalSorter(calls).static_order():
            sizes[key] = sum(sizes[call] for call in calls[key]) if key in functions else 1
    except CycleError as error:
        raise ModelError(f"function {error.args[1][0][1]!r} calls itself") from None
    total = sum(sizes.get((node.domain, node.op_type), 1) for node in model.graph.node)
    if total > MAX_NODES or len(functions) > MAX_FUNCTIONS:
        raise UnsupportedModelError(
            f"the model has {total} nodes and {len(functions)} functions; "
            f"at most {MAX_NODES} and {MAX_FUNCTIONS} are read"
        )


def _inline(model: onnx.ModelProto) -> onnx.ModelProto:
    # Imported here because few models have functions and the module takes time to load.
    from onnx.inliner import inline_local_functions  # noqa: PLC0415

    try:
        return inline_local_functions(model, convert_version=True)
    except (RuntimeError, ValueError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = first_line(error).rpartition(" failed: ")[2]  # without the place in onnx's source
        raise ModelError(f"the model's functions cannot be inlined: {reason}") from None


def _check_domains(model: onnx.ModelProto) -> None:
    strangers = [node for node in model.graph.node if node.domain not in STANDARD_DOMAINS]
    if strangers:
        raise UnsupportedModelError(
            f"{len(strangers)} nodes are not standard ONNX operators, first {node_label(strangers[0])} of domain "
            f"{strangers[0].domain!r}; export the model with standard operators"
        )
