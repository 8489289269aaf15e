"""A small writer of ONNX convnets in the style of exporters: batch normalisation folded, every convolution biased."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from blockfuse.errors import UsageError

OPSET = 17
"""Version of the standard operator set the models are written in."""

_IR_VERSION = 8

_BIAS = 0.1
"""Standard deviation of the biases."""


class Builder:
    """Collects the nodes and seeded weights of one model with one input and one output.

    Weights follow He et al. (arXiv 1502.01852): their variance is ``gain / fan_in``, which keeps the size of
    activations from layer to layer when the gain is 2 before a Relu and 1 before nothing.

    Args:
        name: The model's name.
        shape: Shape of the input, N x C x H x W.
        seed: Seed of the weights.
    """

    def __init__(self, name: str, shape: tuple[int, int, int, int], seed: int) -> None:
        if min(shape) < 1:
            raise UsageError(f"{name}: the input shape {shape} has a dimension below 1")
        self.name = name
        self.shape = shape
        self._random = np.random.default_rng(seed)
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        self._channels = {"input": shape[1]}

    def conv(
        self,
        x: str,
        outputs: int,
        kernel: int,
        name: str,
        stride: int = 1,
        groups: int = 1,
        gain: float = 2.0,
    ) -> str:
        """A square convolution with a bias and pads that keep the image size at stride 1.

        Args:
            x: The tensor it reads.
            outputs: Number of output channels.
            kernel: Window size; odd.
            name: Name of the node and its result.
            stride: Step in both directions.
            groups: Number of channel groups.
            gain: Variance of the result over that of ``x``, roughly; times 2 for what a Relu after it drops.

        Returns:
            The name of the result.
        """
        width = self._channels[x] // groups
        weight = self._constant(f"{name}.weight", (outputs, width, kernel, kernel), gain / (width * kernel * kernel))
        bias = self._constant(f"{name}.bias", (outputs,), _BIAS**2)
        pad = kernel // 2
        self._channels[name] = outputs
        return self.node(
            "Conv",
            [x, weight, bias],
            name,
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[pad] * 4,
            dilations=[1, 1],
            group=groups,
        )

    def relu6(self, x: str, name: str) -> str:
        """``Clip(x, 0, 6)``; all of a model's share their two bounds."""
        if not any(weight.name == "zero" for weight in self._weights):
            self._weights.append(numpy_helper.from_array(np.array(0, np.float32), "zero"))
            self._weights.append(numpy_helper.from_array(np.array(6, np.float32), "six"))
        return self.node("Clip", [x, "zero", "six"], name)

    def classifier(self, x: str, classes: int) -> onnx.ModelProto:
        """Mean over the image and one fully connected layer, whose result is the output; returns the model."""
        if classes < 1:
            raise UsageError(f"{self.name}: the number of classes must be above 0, not {classes}")
        channels = self._channels[x]
        pooled = self.node("GlobalAveragePool", [x], "pool")
        flat = self.node("Flatten", [pooled], "flatten", axis=1)
        weight = self._constant("fc.weight", (classes, channels), 1 / channels)
        bias = self._constant("fc.bias", (classes,), _BIAS**2)
        self.node("Gemm", [flat, weight, bias], "output", transB=1)
        return self._model(classes)

    def node(self, kind: str, inputs: list[str], name: str, **attrs: Any) -> str:
        """Any other operator with one result, which keeps the channels of its first input; returns its name."""
        self._channels.setdefault(name, self._channels[inputs[0]])
        self._nodes.append(helper.make_node(kind, inputs, [name], name, **attrs))
        return name

    def _constant(self, name: str, shape: tuple[int, ...], variance: float) -> str:
        value = self._random.standard_normal(shape, np.float32) * np.float32(math.sqrt(variance))
        self._weights.append(numpy_helper.from_array(value, name))
        return name

    def _model(self, classes: int) -> onnx.ModelProto:
        graph = helper.make_graph(
            self._nodes,
            self.name,
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, self.shape)],
            [helper.make_tensor_value_info("output", TensorProto.FLOAT, (self.shape[0], classes))],
            self._weights,
        )
        return helper.make_model(
            graph, producer_name="blockfuse", opset_imports=[helper.make_opsetid("", OPSET)], ir_version=_IR_VERSION
        )


def scaled_channels(channels: int, width: float) -> int:
    """A channel count times a width multiplier, as the nearest multiple of 8 that loses at most a tenth."""
    if width <= 0:
        raise UsageError(f"the width multiplier must be above 0, not {width}")
    scaled = max(8, int(channels * width + 4) // 8 * 8)
    return scaled + 8 if scaled < 0.9 * channels * width else scaled
