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
        """A square convolution with a bias; odd ones have pads that keep the image size at stride 1, even ones none.

        Args:
            x: The tensor it reads.
            outputs: Number of output channels.
            kernel: Window size.
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
        pad = kernel // 2 if kernel % 2 else 0
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
        return self.node("Clip", [x, self._scalar("zero", 0), self._scalar("six", 6)], name)

    def silu(self, x: str, name: str) -> str:
        """``x * Sigmoid(x)`` as the two nodes that exporters write."""
        return self.node("Mul", [x, self.node("Sigmoid", [x], f"{name}.sigmoid")], name)

    def gelu(self, x: str, name: str) -> str:
        """Gelu by Erf, as it is written where the operator set lacks it."""
        root, one, half = (self._scalar(key, value) for key, value in (("root", 2**0.5), ("one", 1), ("half", 0.5)))
        curve = self.node("Erf", [self.node("Div", [x, root], f"{name}.div")], f"{name}.erf")
        total = self.node("Add", [curve, one], f"{name}.add")
        return self.node("Mul", [self.node("Mul", [x, total], f"{name}.mul"), half], name)

    def squeeze_excite(self, x: str, channels: int, name: str) -> str:
        """The channels weighed by a gate made of their means, with that many channels in between."""
        y = self.node("GlobalAveragePool", [x], f"{name}.pool")
        y = self.silu(self.conv(y, channels, 1, f"{name}.reduce"), f"{name}.silu")
        y = self.conv(y, self._channels[x], 1, f"{name}.expand", gain=1.0)
        return self.node("Mul", [self.node("Sigmoid", [y], f"{name}.sigmoid"), x], name)

    def to_last(self, x: str, name: str) -> str:
        """The image with its channels last."""
        return self.node("Transpose", [x], name, perm=[0, 2, 3, 1])

    def to_first(self, x: str, name: str) -> str:
        """The image with its channels first again."""
        return self.node("Transpose", [x], name, perm=[0, 3, 1, 2])

    def layer_norm(self, x: str, name: str) -> str:
        """Layer normalization over the last axis."""
        channels = self._channels[x]
        scale = self._constant(f"{name}.weight", (channels,), _BIAS**2, mean=1.0)
        shift = self._constant(f"{name}.bias", (channels,), _BIAS**2)
        return self.node("LayerNormalization", [x, scale, shift], name, axis=-1, epsilon=1e-6)

    def linear(self, x: str, outputs: int, name: str, gain: float) -> str:
        """A fully connected layer over the last axis."""
        inputs = self._channels[x]
        weight = self._constant(f"{name}.weight", (inputs, outputs), gain / inputs)
        bias = self._constant(f"{name}.bias", (outputs,), _BIAS**2)
        self._channels[name] = outputs
        return self.node("Add", [self.node("MatMul", [x, weight], f"{name}.matmul"), bias], name)

    def layer_scale(self, x: str, scale: float, name: str) -> str:
        """An image times a constant per channel of about that size."""
        factor = self._constant(f"{name}.weight", (self._channels[x], 1, 1), (_BIAS * scale) ** 2, mean=scale)
        return self.node("Mul", [x, factor], name)

    def classifier(self, x: str, classes: int, *, norm: bool = False) -> onnx.ModelProto:
        """Mean over the image and one fully connected layer, whose result is the output; returns the model.

        Args:
            x: The last image.
            classes: Number of outputs.
            norm: Whether the means are normalized.
        """
        if classes < 1:
            raise UsageError(f"{self.name}: the number of classes must be above 0, not {classes}")
        channels = self._channels[x]
        pooled = self.node("GlobalAveragePool", [x], "pool")
        if norm:
            pooled = self.to_first(self.layer_norm(self.to_last(pooled, "head.last"), "head.norm"), "head.first")
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

    def _scalar(self, name: str, value: float) -> str:
        """A constant number, of which a model has one of each name."""
        if not any(weight.name == name for weight in self._weights):
            self._weights.append(numpy_helper.from_array(np.array(value, np.float32), name))
        return name

    def _constant(self, name: str, shape: tuple[int, ...], variance: float, mean: float = 0.0) -> str:
        value = self._random.standard_normal(shape, np.float32) * np.float32(math.sqrt(variance)) + np.float32(mean)
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
