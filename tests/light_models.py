"""The nine networks that come with onnx, whose weights are left out, with weights drawn from a seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"

NAMES = tuple(sorted(path.stem.removeprefix("light_") for path in FOLDER.glob("light_*.onnx")))
"""AlexNet, DenseNet, two Inceptions, ResNet, ShuffleNet, SqueezeNet, VGG and ZFNet, of opset 9."""


def light_model(name: str) -> onnx.ModelProto:
    """A network with seeded weights that returns its logits: a last Softmax, which hides differences, is left out."""
    model = onnx.load(FOLDER / f"light_{name}.onnx")
    graph = model.graph
    rng = np.random.default_rng(len(graph.node))
    shapes = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    readers = {key: (node.op_type, index) for node in graph.node for index, key in enumerate(node.input)}
    kept = []
    for node in graph.node:
        if node.op_type != "ConstantOfShape":
            kept.append(node)
            continue
        value = _drawn(rng, tuple(shapes[node.input[0]]), readers.get(node.output[0], ("", 0)))
        graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
    last = kept[-1]
    if last.op_type == "Softmax":
        kept.pop()
        graph.output[0].CopyFrom(helper.make_tensor_value_info(last.input[0], onnx.TensorProto.FLOAT, None))
    del graph.node[:]
    graph.node.extend(kept)
    return model


def _drawn(rng: np.random.Generator, shape: tuple[int, ...], reader: tuple[str, int]) -> np.ndarray:
    """Weights that keep values near one from layer to layer."""
    kind, position = reader
    value = rng.standard_normal(shape)
    if position == 1 and kind in {"Conv", "Gemm"}:
        return (value * np.sqrt(1.5 / np.prod(shape[1:]))).astype(np.float32)
    if kind == "BatchNormalization" and position == 4:
        return (1 + 0.2 * np.abs(value)).astype(np.float32)
    is_scale = kind == "Mul" or (kind == "BatchNormalization" and position == 1)
    return (is_scale + 0.1 * value).astype(np.float32)
