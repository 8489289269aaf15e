"""Canonical graphs of small ONNX models, checked."""

from __future__ import annotations

import numpy as np
import onnx

from blockfuse.frontend import canonicalize, check_canonical, read, to_onnx
from blockfuse.graph import Graph, Op
from tests.onnx_models import feeds_of, run

DEPTH = 64
"""Longest chain of float32 roundings in small models; their sums have at most 4 x 3 x 3 terms."""


def canonical(proto: onnx.ModelProto, *kinds: str, depth: int = DEPTH) -> Graph:
    """The canonical graph of a model, after checking its kinds and that it computes what the model does."""
    graph = read(proto)
    before = str(graph)
    result = canonicalize(graph)
    check_canonical(result)
    assert str(graph) == before
    assert [op.kind for op in result.ops()] == list(kinds)
    assert (result.inputs, result.outputs) == (graph.inputs, graph.outputs)
    assert canonicalize(result) is result
    feeds = feeds_of(graph)
    expected, actual = run(proto, feeds), run(to_onnx(result), feeds)
    for name, value in expected.items():
        assert value.shape == actual[name].shape
        eps = np.finfo(value.dtype).eps
        np.testing.assert_allclose(actual[name], value, rtol=0, atol=depth * eps * abs(value).max())
    return result


def only(graph: Graph) -> Op:
    """The one operator of a graph."""
    (op,) = graph.ops()
    return op
