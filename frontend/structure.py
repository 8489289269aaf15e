"""Checks on the nodes of a model that need no shapes: names, order, operators, attributes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from graphlib import CycleError, TopologicalSorter

import onnx
from onnx.defs import SchemaError, get_schema

from blockfuse.errors import ModelError, UnsupportedModelError
from blockfuse.frontend.load import node_label

_ATTR_TYPES = {
    number: getattr(onnx.defs.OpSchema.AttrType, name)
    for name, number in onnx.AttributeProto.AttributeType.items()
    if name != "UNDEFINED"
}
"""Attribute types of nodes as schemas spell them."""


_READ_ALTHOUGH_DEPRECATED = {"GroupNormalization"}
"""That of opset 18, whose scale is per group."""


def check_names(names: Iterable[str], what: str) -> None:
    """Refuse a list of names in which one is missing or comes twice."""
    seen: set[str] = set()
    for name in names:
        if not name:
            raise ModelError(f"{what} has no name")
        if name in seen:
            raise ModelError(f"two of the model's {what}s are called {name!r}")
        seen.add(name)


def sort_nodes(graph: onnx.GraphProto, sources: Iterable[str]) -> list[onnx.NodeProto]:
    """The nodes with producers before consumers; in the order of the file if it is one.

    Args:
        graph: A graph in which every name is unique.
        sources: Names of the graph's inputs and initializers.

    Raises:
        ModelError: A tensor has two producers or none, or the nodes form a cycle.
    """
    known = set(sources)
    _check_producers(graph, known)
    nodes = list(graph.node)
    if _is_sorted(nodes, known):
        return nodes
    producers = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    needs = {index: {producers[name] for name in node.input if name in producers} for index, node in enumerate(nodes)}
    try:
        return [nodes[index] for index in TopologicalSorter(needs).static_order()]
    except CycleError as error:
        cycle = error.args[1]
        raise ModelError(f"{node_label(nodes[cycle[0]])} is part of a cycle of {len(cycle) - 1} nodes") from None


def _is_sorted(nodes: Sequence[onnx.NodeProto], sources: set[str]) -> bool:
    known = set(sources)
    for node in nodes:
        if not all(not name or name in known for name in node.input):
            return False
        known.update(node.output)
    return True


def check_operators(nodes: Sequence[onnx.NodeProto], opset: int) -> None:
    """Refuse operators that the operator set lacks, and attributes that an operator lacks.

    Raises:
        ModelError: An attribute is unknown, comes twice or is of a wrong type, or a required one is missing.
        UnsupportedModelError: ONNX has no such operator, or it holds a graph.
    """
    for node in nodes:
        try:
            schema = get_schema(node.op_type, opset, "")
        except SchemaError:
            raise UnsupportedModelError(
                f"{node_label(node)}: ONNX opset {opset} has no operator {node.op_type}; export the model again"
            ) from None
        if schema.deprecated and node.op_type not in _READ_ALTHOUGH_DEPRECATED:
            raise UnsupportedModelError(f"{node_label(node)}: the operator is deprecated; export the model again")
        _check_attributes(node, schema)
        _check_inputs(node, schema)
        counts = [attribute.i for attribute in node.attribute if attribute.name == "num_outputs"]
        if counts and counts != [len(node.output)]:  # shape inference would make as many
            raise ModelError(f"{node_label(node)} has {len(node.output)} outputs, and num_outputs says {counts[0]}")


def _check_inputs(node: onnx.NodeProto, schema: onnx.defs.OpSchema) -> None:
    """Refuse a node that leaves out what it needs; only an input the schema calls optional may be omitted."""
    options = onnx.defs.OpSchema.FormalParameterOption
    for index, formal in enumerate(schema.inputs):
        given = node.input[index:] if formal.option == options.Variadic else node.input[index : index + 1]
        if formal.option != options.Optional and not all(given or [""]):
            raise ModelError(f"{node_label(node)} lacks the input {formal.name!r}")


def _check_producers(graph: onnx.GraphProto, sources: set[str]) -> None:
    producers: dict[str, onnx.NodeProto] = {}
    for node in graph.node:
        for name in filter(None, node.output):
            if name in sources:
                raise ModelError(f"{node_label(node)} computes {name!r}, which is also an input or an initializer")
            if name in producers:
                raise ModelError(f"{name!r} is computed twice, by {node_label(producers[name])} and {node_label(node)}")
            producers[name] = node
    for node in graph.node:
        for name in filter(None, node.input):
            if name not in producers and name not in sources:
                raise ModelError(
                    f"{node_label(node)} reads {name!r}, which is no input, initializer or result; "
                    "the model was cut or saved without its weights"
                )
    for output in graph.output:
        if output.name not in producers and output.name not in sources:
            raise ModelError(f"the graph output {output.name!r} is computed by no node")


def _check_attributes(node: onnx.NodeProto, schema: onnx.defs.OpSchema) -> None:
    seen: set[str] = set()
    for attribute in node.attribute:
        if attribute.name in seen:
            raise ModelError(f"{node_label(node)} has attribute {attribute.name!r} twice")
        seen.add(attribute.name)
        if attribute.type in {onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS}:
            raise UnsupportedModelError(
                f"{node_label(node)} holds a graph, and control flow is not supported; export the model without it"
            )
        if attribute.type == onnx.AttributeProto.SPARSE_TENSOR:
            raise UnsupportedModelError(f"{node_label(node)} holds a sparse tensor; save it as a dense one")
        known = schema.attributes.get(attribute.name)
        if known is None:
            raise ModelError(f"{node_label(node)} has attribute {attribute.name!r}, which {node.op_type} does not have")
        if attribute.ref_attr_name or _ATTR_TYPES.get(attribute.type) != known.type:
            raise ModelError(f"{node_label(node)} has attribute {attribute.name!r} of a wrong type")
    missing = [name for name, known in schema.attributes.items() if known.required and name not in seen]
    if missing:
        raise ModelError(f"{node_label(node)} lacks the attribute {missing[0]!r}")
