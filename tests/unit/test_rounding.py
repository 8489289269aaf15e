"""Pools whose size is rounded up, against ONNX Runtime: windows that begin behind the image do not count."""

from __future__ import annotations

import numpy as np
import pytest

from blockfuse.frontend import canonicalize, to_onnx
from blockfuse.frontend.reading import read
from tests.onnx_models import floats, model, node, run

WINDOWS = [
    ({"kernel_shape": [2, 2], "strides": [3, 1]}, (6, 3)),
    ({"kernel_shape": [2, 2], "strides": [3, 2]}, (6, 5)),  # rounded up along the other axis
    ({"kernel_shape": [2, 2], "strides": [2, 2], "pads": [1, 1, 1, 1]}, (3, 5)),
    ({"kernel_shape": [1, 1], "strides": [2, 3]}, (4, 5)),
    ({"kernel_shape": [3, 3], "strides": [2, 2]}, (6, 7)),  # none is lost
]


@pytest.mark.parametrize(("attrs", "size"), WINDOWS)
@pytest.mark.parametrize("kind", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("opset", [10, 17, 22])
def test_the_size_is_that_of_other_runtimes(opset, kind, attrs, size):
    nodes = [node(kind, "x", "p", ceil_mode=1, **attrs), node("Flatten", "p", "y")]
    proto = model(nodes, (2, 3, *size), opset=opset)
    graph = canonicalize(read(proto))
    x = floats(2, 3, *size)
    expected = run(proto, {"x": x})["y"]
    assert graph.tensor(graph.outputs[0]).shape == expected.shape
    np.testing.assert_allclose(run(to_onnx(graph), {"x": x})["y"], expected, rtol=0, atol=1e-6)


def test_shapes_behind_a_pool_fit():
    """A target shape that an exporter wrote would contradict one window more."""
    nodes = [node("MaxPool", "x", "p", ceil_mode=1, kernel_shape=[2, 2], strides=[3, 1]), node("Reshape", "p s", "y")]
    graph = canonicalize(read(model(nodes, (1, 8, 6, 3), {"s": np.array([1, 32])})))
    assert graph.tensor("y").shape == (1, 32)
