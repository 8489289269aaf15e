"""ONNX's own node tests for the operators of convnets, many of them compiled into one library."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from blockfuse import frontend
from blockfuse.build.assemble import alone, assemble, with_weights
from blockfuse.build.backend import backend_of
from blockfuse.build.build import build
from blockfuse.build.fallback import complaint, survey
from blockfuse.build.network import Network
from blockfuse.errors import BlockfuseError, UnsupportedModelError
from blockfuse.frontend.load import OPSETS
from blockfuse.frontend.partition import partition
from blockfuse.frontend.patterns import all as built_in
from blockfuse.frontend.reading import read
from blockfuse.graph import Graph, Op
from blockfuse.plan.device import device_of
from blockfuse.runtime.session import Session
from blockfuse.steps import Programs, plan_steps, write_programs
from blockfuse.target import parse_target

Array = np.ndarray

LEDGER = Path(__file__).parent / "data" / "backend_nodes.txt"
"""The tests that are refused, each with the reason in a few words; ``python -m tests.backend_nodes`` writes it."""

GROUP = 150
"""Tests in one library."""

_KINDS = """
    Abs Add And ArgMax ArgMin AveragePool BatchNormalization Cast CastLike Ceil Celu Clip Concat Constant
    ConstantOfShape Conv ConvTranspose DepthToSpace DequantizeLinear Div Dropout Elu Equal Erf Exp Expand
    Flatten Floor Gather Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual
    GroupNormalization HardSigmoid HardSwish Identity InstanceNormalization LRN LayerNormalization LeakyRelu
    Less LessOrEqual Log LogSoftmax LpNormalization LpPool MatMul Max MaxPool Mean MeanVarianceNormalization Min
    Mish Mul Neg Not Or PRelu Pad Pow QuantizeLinear RMSNormalization Reciprocal ReduceL1 ReduceL2 ReduceLogSum
    ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize
    Round Selu Shape Sigmoid Sign Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum
    Swish Tanh ThresholdedRelu Tile Transpose Unsqueeze Upsample Where Xor
"""

KINDS = frozenset(_KINDS.split())
"""Operators whose tests are run."""

_PARAMETERS = """
    BatchNormalization CastLike Clip Conv ConvTranspose DequantizeLinear Dropout Expand Gather Gemm
    GroupNormalization InstanceNormalization LayerNormalization PRelu Pad QuantizeLinear RMSNormalization
    ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
    ReduceSumSquare Reshape Resize Slice Split Squeeze Tile Unsqueeze Upsample
"""

_WITH_PARAMETERS = frozenset(_PARAMETERS.split())
"""Operators whose inputs after the first are constants in real models, and here."""


@dataclass(frozen=True)
class Node:
    """One test: a model of one node, with its parameters as constants.

    Attributes:
        name: As ONNX calls it, without ``test_``.
        kind: The operator.
        model: The model.
        inputs: By name.
        expected: In the order of the model's outputs.
        relative: Allowed error.
        absolute: Allowed error.
    """

    name: str
    kind: str
    model: onnx.ModelProto
    inputs: dict[str, Array]
    expected: tuple[Array, ...]
    relative: float
    absolute: float


def nodes() -> Iterator[Node]:
    """The tests of :data:`KINDS` that come with onnx."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ONNX's own arithmetic on infinities
        from onnx.backend.test.case.node import collect_testcases  # noqa: PLC0415 - takes seconds

        cases = collect_testcases(None)
    for case in cases:
        operators = list(case.model.graph.node)
        is_known = len(operators) == 1 and operators[0].op_type in KINDS and not operators[0].domain
        if not is_known or case.name.endswith("_expanded"):  # those are functions, written out
            continue
        given, expected = ([_array(value) for value in part] for part in case.data_sets[0])
        names = [value.name for value in case.model.graph.input]
        kind = operators[0].op_type
        model, inputs = _with_constants(case.model, kind, dict(zip(names, given, strict=True)))
        for entry in model.opset_import:
            entry.version = min(max(entry.version, OPSETS[0]), OPSETS[-1])
        yield Node(case.name.removeprefix("test_"), kind, model, inputs, tuple(expected), case.rtol, case.atol)


def _array(value: Any) -> Any:
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def _with_constants(
    model: onnx.ModelProto, kind: str, inputs: dict[str, Array]
) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """The model with its parameters as initializers, and its other inputs."""
    is_plain = all(isinstance(value, np.ndarray | np.generic) and value.dtype != object for value in inputs.values())
    if kind not in _WITH_PARAMETERS or not is_plain:
        return model, inputs
    result = onnx.ModelProto()
    result.CopyFrom(model)
    image = model.graph.node[0].input[0]
    for name, value in inputs.items():
        if name != image:
            result.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    kept = [value for value in result.graph.input if value.name == image]
    del result.graph.input[:]
    result.graph.input.extend(kept)
    return result, {image: inputs[image]} if image in inputs else {}


class Library:
    """Canonical graphs next to each other in one library; each is looked at alone before it comes in."""

    def __init__(self) -> None:
        self.target = parse_target("cpu", threads=1)
        self.backend = backend_of(self.target, "float32")
        self.graphs: dict[str, Graph] = {}

    def add(self, node: Node) -> str:
        """Take a node in; returns why it is refused, or nothing."""
        try:
            graph = frontend.canonicalize(read(node.model))
            network, _ = self._network(graph)
            unsupported = survey(network, _importer(network)).unsupported
            if unsupported:
                raise UnsupportedModelError(complaint(network, unsupported))
        except BlockfuseError as error:
            return str(error)
        self.graphs[node.name] = graph
        return ""

    def run(self, inputs: dict[str, dict[str, Array]]) -> dict[str, list[Array]]:
        """Outputs of every graph for its inputs, by the node's name."""
        network, programs = self._network(_side_by_side(self.graphs))
        functions = {name: self.backend.lower(program) for name, program in programs.by_name.items()}
        session = Session(build(network, functions, self.target, _importer(network)))
        feeds = {f"{name}/{key}": value for name in self.graphs for key, value in inputs[name].items()}
        results = session.run(feeds)
        return {name: [results[f"{name}/{key}"] for key in graph.outputs] for name, graph in self.graphs.items()}

    def _network(self, graph: Graph) -> tuple[Network, Programs]:
        parts = partition(graph, built_in(), cost=None)
        programs = write_programs(plan_steps(parts, device_of(self.target), "never"))
        return with_weights(assemble(parts, programs), programs, self.backend.pack), programs


def _importer(network: Network):
    return lambda op: frontend.to_onnx(alone(network, op))


def _side_by_side(graphs: dict[str, Graph]) -> Graph:
    """One graph of all, every name with the test's before it."""
    tensors, ops, inputs, outputs = [], [], [], []
    for name, graph in graphs.items():
        inputs += [f"{name}/{key}" for key in graph.inputs]
        outputs += [f"{name}/{key}" for key in graph.outputs]
        tensors += [replace(tensor, name=f"{name}/{tensor.name}") for tensor in graph.tensors]
        ops += [_renamed(op, f"{name}/") for op in graph.ops()]
    return Graph("nodes", inputs, outputs, tensors, ops)


def _renamed(op: Op, prefix: str) -> Op:
    inputs, outputs = (tuple(part and prefix + part for part in names) for names in (op.inputs, op.outputs))
    return Op(op.kind, prefix + op.name, inputs, outputs, op.attrs, op.origin)


def difference(actual: Sequence[Array], node: Node) -> str:
    """What is wrong with the outputs of a node; empty if nothing is."""
    for mine, wanted in zip(actual, node.expected, strict=True):
        if mine.shape != wanted.shape or mine.dtype != wanted.dtype:
            return f"{mine.dtype}{list(mine.shape)} instead of {wanted.dtype}{list(wanted.shape)}"
        both = [part.astype(np.float64) for part in (mine, wanted)]
        if not np.allclose(*both, rtol=node.relative, atol=node.absolute, equal_nan=True):
            return f"differs by {np.nanmax(np.abs(both[0] - both[1])):g}"
    return ""


_REASONS = {
    r"dimension below 1|empty shape": "an empty tensor",
    r"is a constant; leave it out|no inputs": "nothing is computed from an input",
    r"depends on the data": "a shape that depends on data",
    r"of type (\w+); export": "type {}",
    r"not a tensor of numbers": "text, a sequence or an optional",
    r"Dropout .* cannot be rewritten": "training, or the mask is read",
    r"training_mode": "training",
    r"returns indices": "positions of the maxima",
    r"attribute 'block_size'|attribute 'output_dtype'|attribute 'precision'": "a scale per block of elements",
    r"opset (\d+), and opsets": "opset {}",
    r"has attribute '(\w+)', which (\w+) does not": "attribute {} of an operator set after 25",
}


def reason(message: str) -> str:
    """A refusal in a few words."""
    for pattern, words in _REASONS.items():
        found = re.search(pattern, message)
        if found:
            return words.format(*found.groups())
    return message.rpartition(": ")[2]


def read_ledger() -> dict[str, str]:
    """Reasons by name."""
    lines = LEDGER.read_text(encoding="utf-8").splitlines()
    return dict(line.split(": ", 1) for line in lines if line and not line.startswith("#"))


def write_ledger() -> None:
    """Write the tests that are refused now, and say how many pass."""
    library = Library()
    found = {node.name: library.add(node) for node in nodes()}
    refused = {name: reason(message) for name, message in found.items() if message}
    lines = ["# ONNX's node tests that are refused; written by python -m tests.backend_nodes", ""]
    lines += [f"{name}: {words}" for name, words in sorted(refused.items())]
    LEDGER.write_text("\n".join(lines) + "\n", encoding="utf-8")
    sys.stdout.write(f"{len(found)} tests, {len(refused)} refused\n")


if __name__ == "__main__":
    write_ledger()
