"""The first convolution over squares of pixels: the same numbers, fewer steps, and only where it applies."""

import numpy as np
import pytest

from blockfuse.frontend import canonicalize, read, to_onnx
from blockfuse.frontend.squares import squared_inputs
from blockfuse.plan.squares import squares_of
from tests.half_models import in_half
from tests.onnx_models import floats, model, node, run

CASES = 40


def drawn(seed):
    """The shape of an image, the filters, and the attributes of a convolution of it."""
    rng = np.random.default_rng(seed)
    stride = int(rng.choice([2, 3, 4]))
    taps = rng.integers(1, 9, 2)
    pads = [int(rng.integers(0, size)) for size in (*taps, *taps)]
    image = (int(rng.integers(1, 4)), int(rng.integers(1, 6)), *(int(size) for size in taps + rng.integers(0, 16, 2)))
    filters = floats(5, image[1], *map(int, taps), seed=seed)
    return image, filters, {"strides": [stride, stride], "pads": pads}


def graph_of(image, filters, attrs):
    proto = model([node("Conv", "x w", "y", "conv", **attrs)], image, {"w": filters})
    return proto, canonicalize(read(proto))


def products(graph):
    """Steps of 16 channels that tensor cores take for a pixel of the only convolution."""
    (op,) = (op for op in graph.ops() if op.kind == "Conv")
    _, channels, *taps = graph.tensor(op.inputs[1]).shape
    return -(-channels // 16) * np.prod(taps)


@pytest.mark.parametrize("seed", range(CASES))
def test_a_convolution_over_squares_is_the_same(seed):
    image, filters, attrs = drawn(seed)
    proto, graph = graph_of(image, filters, attrs)
    rewritten = squared_inputs(graph, "float16")
    if rewritten is graph:
        return
    assert products(rewritten) < products(graph)
    x = {"x": floats(*image, seed=seed)}
    expected, actual = (run(each, x)["y"] for each in (proto, to_onnx(rewritten)))
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)
    (squares,) = squares_of(rewritten)
    (conv,) = (op for op in rewritten.ops() if op.kind == "Conv")
    assert (squares.source, squares.result) == ("x", conv.inputs[0])
    assert set(squares.ops) == {op.name for op in rewritten.ops()} - {conv.name}
    assert (conv.name, conv.output, conv.origin) == ("conv", "y", ("conv",))


def test_most_drawn_convolutions_take_fewer_steps():
    graphs = [graph_of(*drawn(seed))[1] for seed in range(CASES)]
    assert sum(squared_inputs(graph, "float16") is not graph for graph in graphs) > CASES // 2
