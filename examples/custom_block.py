"""Teach blockfuse a block that no built-in pattern covers, and see why it does not match elsewhere.

The block: a 3x3 convolution, a 1x1 one and a depthwise 5x5 one, with activations between them and a shortcut around
all three. A pattern is a function in the words of ONNX; no kernel is written for it.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import blockfuse as bf


@bf.pattern
def mixer(op, x, w1, b1, w2, b2, w3, b3):  # noqa: ANN001, ANN201 - a pattern reads better without types
    """Conv 3x3, 1x1 and depthwise 5x5 around a shortcut."""
    y = op.Relu(op.Conv(x, w1, b1, kernel_shape=(3, 3), group=1, name="spread"))
    y = op.Relu(op.Conv(y, w2, b2, kernel_shape=(1, 1), name="mix"))
    y = op.Conv(y, w3, b3, kernel_shape=(5, 5), depthwise=True, name="filter")
    return op.Add(y, x)


def network(window: int = 5, channels: int = 32, size: int = 28) -> onnx.ModelProto:
    """Two such blocks one after the other, the last convolution of each with a square window of that size."""
    rng = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def conv(x: str, kernel: int, name: str, group: int = 1) -> str:
        shape = (channels, channels // group, kernel, kernel)
        weight = rng.standard_normal(shape, np.float32) * np.float32((1 / np.prod(shape[1:])) ** 0.5)
        weights.append(numpy_helper.from_array(weight, f"{name}.w"))
        weights.append(numpy_helper.from_array(np.zeros(channels, np.float32), f"{name}.b"))
        sizes = {"kernel_shape": [kernel, kernel], "pads": [kernel // 2] * 4, "group": group}
        nodes.append(helper.make_node("Conv", [x, f"{name}.w", f"{name}.b"], [name], name, **sizes))
        return name

    def relu(x: str) -> str:
        nodes.append(helper.make_node("Relu", [x], [f"{x}.relu"], f"{x}.relu"))
        return f"{x}.relu"

    x = "x"
    for block in ("first", "second"):
        y = relu(conv(relu(conv(x, 3, f"{block}.spread")), 1, f"{block}.mix"))
        y = conv(y, window, f"{block}.filter", channels)
        nodes.append(helper.make_node("Add", [y, x], [f"{block}.add"], f"{block}.add"))
        x = f"{block}.add"
    shape = (1, channels, size, size)
    ports = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)] for name in ("x", x)]
    graph = helper.make_graph(nodes, "mixers", *ports, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def main() -> None:
    """Match, compile, verify, explain."""
    patterns = [mixer, *bf.patterns.all()]

    executable = bf.compile(network(), patterns=patterns, fuse="always")
    for block in executable.report().blocks:
        print(f"{block.name}: {len(block.kernels)} kernel for {' | '.join(block.stages)}")

    print(bf.verify(network(), patterns=patterns, fuse="always", per_block=True))

    # The same network with windows of 3x3 is something else, and blockfuse says what it tripped over.
    print(bf.explain(network(window=3), mixer))


if __name__ == "__main__":
    main()
