"""A block as an ONNX model, for ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from blockfuse.block import Block
from blockfuse.stages import Activation, Add, Conv, Depthwise, Grouped, Multiply, Norm, Pool, Scale, Slope, Window


def onnx_session(block: Block) -> onnxruntime.InferenceSession:
    """The block as an ONNX model, on one thread."""
    constants = {f"p{n}_{key}": _shaped(block, n, data) for (n, key), data in block.parameters.items()}
    for n, stage in enumerate(block.stages):
        if isinstance(stage, Activation) and stage.function.kind == "clip":
            constants |= {f"low{n}": np.float32(stage.function.low), f"high{n}": np.float32(stage.function.high)}
    last = len(block.inputs) + len(block.stages) - 1
    nodes = [node for n in range(len(block.stages)) for node in _nodes(block, n)]
    graph = helper.make_graph(
        nodes,
        "block",
        [
            helper.make_tensor_value_info(f"v{i}", TensorProto.FLOAT, [1, s.channels, s.height, s.width])
            for i, s in enumerate(block.inputs)
        ],
        [helper.make_tensor_value_info(f"v{last}", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _shaped(block: Block, n: int, data: Any) -> Any:
    """The constants of a scale or slope as one per channel of an N, C, H, W image."""
    return data.reshape(-1, 1, 1) if isinstance(block.stages[n], Scale | Slope) else data


def _nodes(block: Block, n: int) -> list[Any]:
    """The nodes of one stage, with names of its own for what lies between them."""
    stage = block.stages[n]
    inputs, out = [f"v{i}" for i in stage.inputs], f"v{n + len(block.inputs)}"
    match stage:
        case Conv() | Depthwise() | Grouped():
            weights = [f"p{n}_weight", f"p{n}_bias"]
            geometry = _geometry(stage.window)
            return [helper.make_node("Conv", inputs + weights, [out], group=_groups(block, n), **geometry)]
        case Pool() if (stage.window.r, stage.window.s) == (block.input_shapes(n)[0].height,) * 2:
            kind = "GlobalLpPool" if stage.reduction == "l2" else "GlobalAveragePool"
            return [helper.make_node(kind, inputs, [out])]
        case Pool() if stage.reduction != "l2":
            kind = "MaxPool" if stage.reduction == "max" else "AveragePool"
            return [helper.make_node(kind, inputs, [out], **_geometry(stage.window))]
        case Norm() if stage.divisor == "deviation":
            parts = [f"p{n}_scale", f"p{n}_shift"]
            return [
                helper.make_node("Transpose", inputs, [f"{out}_nhwc"], perm=(0, 2, 3, 1)),
                helper.make_node(
                    "LayerNormalization", [f"{out}_nhwc", *parts], [f"{out}_norm"], axis=-1, epsilon=stage.epsilon
                ),
                helper.make_node("Transpose", [f"{out}_norm"], [out], perm=(0, 3, 1, 2)),
            ]
        case Scale():
            return [
                helper.make_node("Mul", [*inputs, f"p{n}_scale"], [f"{out}_scaled"]),
                helper.make_node("Add", [f"{out}_scaled", f"p{n}_shift"], [out]),
            ]
        case Slope():
            return [helper.make_node("PRelu", [*inputs, f"p{n}_slope"], [out])]
        case Activation():
            return _activation(stage, n, inputs, out)
        case Add() | Multiply():
            return [helper.make_node("Add" if isinstance(stage, Add) else "Mul", inputs, [out])]
    raise ValueError(f"{stage.name} has no ONNX form here")


def _activation(stage: Activation, n: int, inputs: list[str], out: str) -> list[Any]:
    match stage.function.kind:
        case "clip":
            return [helper.make_node("Clip", [*inputs, f"low{n}", f"high{n}"], [out])]
        case "silu":
            gate = helper.make_node("Sigmoid", inputs, [f"{out}_gate"])
            return [gate, helper.make_node("Mul", [*inputs, f"{out}_gate"], [out])]
    kinds = {"relu": "Relu", "sigmoid": "Sigmoid", "gelu": "Gelu", "tanh": "Tanh", "hard_swish": "HardSwish"}
    return [helper.make_node(kinds[stage.function.kind], inputs, [out])]


def _groups(block: Block, n: int) -> int:
    stage = block.stages[n]
    if isinstance(stage, Grouped):
        return stage.groups
    return block.input_shapes(n)[0].channels if isinstance(stage, Depthwise) else 1


def _geometry(window: Window) -> dict[str, list[int]]:
    return {
        "kernel_shape": [window.r, window.s],
        "strides": [window.stride_h, window.stride_w],
        "pads": [window.pad_top, window.pad_left, window.pad_bottom, window.pad_right],
    }


def onnx_runner(block: Block, inputs: list[np.ndarray[Any, Any]]) -> Callable[[], object]:
    """A call of ONNX Runtime with inputs and output bound, so that nothing is allocated or copied around it."""
    session = onnx_session(block)
    binding = session.io_binding()
    for i, x in enumerate(inputs):
        planar = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
        binding.bind_ortvalue_input(f"v{i}", onnxruntime.OrtValue.ortvalue_from_numpy(planar))
    shape = block.output
    y = np.zeros((1, shape.channels, shape.height, shape.width), np.float32)
    binding.bind_ortvalue_output(session.get_outputs()[0].name, onnxruntime.OrtValue.ortvalue_from_numpy(y))
    return lambda: session.run_with_iobinding(binding)
