"""Little canonical graphs made by hand or by a seeded generator, and running them and their partitions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort

from blockfuse.block import Block, accumulation_depth, reference
from blockfuse.frontend import to_onnx
from blockfuse.frontend.partition import Partition
from blockfuse.graph import Graph, Op, Tensor

Array = np.ndarray[Any, Any]


class Net:
    """A graph under construction, with one input ``x``; every method adds an op and returns its output's name."""

    def __init__(self, shape: Sequence[int] = (1, 8, 6, 6), seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.tensors = {"x": Tensor("x", tuple(shape), "float32")}
        self.ops: list[Op] = []

    def shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name].shape

    def constant(self, name: str, value: Array) -> str:
        self.tensors[name] = Tensor(name, value.shape, "float32", value.astype(np.float32))
        return name

    def op(self, kind: str, inputs: Sequence[str], shape: Sequence[int], name: str = "", **attrs: object) -> str:
        name = name or f"{kind.lower()}{len(self.ops)}"
        output = f"{name}_out"
        self.tensors[output] = Tensor(output, tuple(shape), "float32")
        self.ops.append(Op(kind, name, tuple(inputs), (output,), attrs, (name,)))
        return output

    def conv(
        self,
        x: str,
        channels: int,
        size: int = 3,
        stride: int = 1,
        group: int = 1,
        name: str = "",
        weights: tuple[str, str] | None = None,
    ) -> str:
        name = name or f"conv{len(self.ops)}"
        n, c, h, w = self.shape(x)
        if weights is None:
            scale = (2.0 / (c // group * size * size)) ** 0.5
            weight = self.rng.standard_normal((channels, c // group, size, size)) * scale
            bias = self.rng.standard_normal(channels) * 0.1
            weights = (self.constant(f"{name}_w", weight), self.constant(f"{name}_b", bias))
        pad = size // 2
        out = (n, channels, (h + 2 * pad - size) // stride + 1, (w + 2 * pad - size) // stride + 1)
        attrs = {"kernel_shape": (size, size), "strides": (stride, stride), "pads": (pad,) * 4, "dilations": (1, 1)}
        return self.op("Conv", (x, *weights), out, name, group=group, **attrs)

    def depthwise(self, x: str, size: int = 3, stride: int = 1, name: str = "") -> str:
        channels = self.shape(x)[1]
        return self.conv(x, channels, size, stride, channels, name)

    def relu(self, x: str, name: str = "") -> str:
        return self.op("Relu", (x,), self.shape(x), name)

    def clip(self, x: str, low: float = 0.0, high: float = 6.0, name: str = "") -> str:
        return self.op("Clip", (x,), self.shape(x), name, min=low, max=high)

    def unary(self, kind: str, x: str, name: str = "", **attrs: object) -> str:
        return self.op(kind, (x,), self.shape(x), name, **attrs)

    def norm(self, x: str, name: str = "") -> str:
        name = name or f"norm{len(self.ops)}"
        channels = self.shape(x)[1]
        scale = self.constant(f"{name}_s", 1 + self.rng.standard_normal(channels) * 0.1)
        shift = self.constant(f"{name}_t", self.rng.standard_normal(channels) * 0.1)
        return self.op("LayerNormalization", (x, scale, shift), self.shape(x), name, axes=(1,), epsilon=1e-5)

    def scale(self, x: str, kind: str = "Mul", name: str = "") -> str:
        name = name or f"scale{len(self.ops)}"
        factor = self.constant(f"{name}_k", self.rng.standard_normal((self.shape(x)[1], 1, 1)))
        return self.op(kind, (x, factor), self.shape(x), name)

    def mul(self, a: str, b: str, name: str = "") -> str:
        return self.op("Mul", (a, b), np.broadcast_shapes(self.shape(a), self.shape(b)), name)

    def squeeze_excite(self, x: str, sigmoid: str = "Sigmoid", *, swap: bool = False) -> str:
        n, channels = self.shape(x)[:2]
        y = self.op("GlobalAveragePool", (x,), (n, channels, 1, 1))
        y = self.conv(self.relu(self.conv(y, max(1, channels // 4), 1)), channels, 1)
        attrs = {"alpha": 1 / 6, "beta": 0.5} if sigmoid == "HardSigmoid" else {}
        gate = self.unary(sigmoid, y, **attrs)
        return self.mul(gate, x) if swap else self.mul(x, gate)

    def add(self, a: str, b: str, name: str = "") -> str:
        return self.op("Add", (a, b), np.broadcast_shapes(self.shape(a), self.shape(b)), name)

    def pool(self, x: str, kind: str = "MaxPool", name: str = "") -> str:
        n, c, h, w = self.shape(x)
        window = {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1), "dilations": (1, 1), "ceil_mode": 0}
        return self.op(kind, (x,), (n, c, (h - 1) // 2 + 1, (w - 1) // 2 + 1), name, **window)

    def graph(self, *outputs: str) -> Graph:
        graph = Graph("net", ("x",), outputs, self.tensors.values(), self.ops)
        graph.prune()
        graph.check()
        return graph


def basic_block(net: Net, x: str, stride: int = 1, *, swap: bool = False, project: bool = False, tag: str = "") -> str:
    """Conv, Relu, Conv, Add, Relu with ops named conv1, relu1, conv2, (down), add, relu2."""
    channels = net.shape(x)[1] * stride
    y = net.relu(net.conv(x, channels, 3, stride, name=f"{tag}conv1"), f"{tag}relu1")
    y = net.conv(y, channels, name=f"{tag}conv2")
    shortcut = net.conv(x, channels, 1, stride, name=f"{tag}down") if project else x
    y = net.add(shortcut, y, f"{tag}add") if swap else net.add(y, shortcut, f"{tag}add")
    return net.relu(y, f"{tag}relu2")


def random_graph(seed: int) -> Graph:
    """A canonical graph of some fifteen ops with branches, shortcuts, values read twice, and one to three outputs."""
    rng = np.random.default_rng(seed)
    net = Net((int(rng.choice((1, 3))), int(rng.choice((4, 6))), *rng.integers(4, 9, 2).tolist()), seed)
    values = ["x"]
    for _ in range(int(rng.integers(8, 20))):
        x = values[-1] if rng.random() < 0.8 else str(rng.choice(values))
        values.append(_random_step(net, rng, x, values))
    extra = rng.choice(values[1:], int(rng.integers(0, 3)), replace=False).tolist()
    return net.graph(*dict.fromkeys([values[-1], *extra]))


def _random_step(net: Net, rng: np.random.Generator, x: str, values: Sequence[str]) -> str:
    channels = net.shape(x)[1]
    partners = [name for name in values[-6:] if name != x and net.shape(name) == net.shape(x)]
    if partners and rng.random() < 0.5:
        pair = [x, str(rng.choice(partners))]
        return net.add(*(pair if rng.random() < 0.5 else pair[::-1]))
    steps: list[Callable[[], str]] = [
        lambda: net.conv(x, channels, int(rng.choice((1, 3)))),
        lambda: net.conv(x, int(rng.choice((4, 6))), 3, int(rng.choice((1, 2)))),
        lambda: net.depthwise(x, int(rng.choice((3, 5)))),
        lambda: net.relu(x),
        lambda: net.clip(x, -1.0, 1.0),
        lambda: net.pool(x),
        lambda: net.unary("Softplus", x),  # has no stage
        lambda: net.unary(str(rng.choice(("Sigmoid", "Swish", "Tanh", "HardSwish"))), x),
        lambda: net.conv(x, channels, 3, group=2),
        lambda: net.norm(x),
        lambda: net.scale(x, str(rng.choice(("Add", "Mul")))),
        lambda: net.squeeze_excite(x, swap=bool(rng.random() < 0.5)),
    ]
    chances = (0.2, 0.16, 0.12, 0.12, 0.08, 0.04, 0.04, 0.06, 0.06, 0.04, 0.04, 0.04)
    return steps[int(rng.choice(len(steps), p=chances))]()


def random_inputs(graph: Graph, seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(graph.tensor(name).shape).astype(np.float32) for name in graph.inputs}


def run_with_onnxruntime(model: Any, inputs: Mapping[str, Array]) -> dict[str, Array]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def run_partition(partition: Partition, inputs: Mapping[str, Array]) -> tuple[dict[str, Array], float]:
    """Run the steps in order: blocks by their float64 reference, other ops by ONNX Runtime.

    Returns:
        The outputs, and how much they may differ from those computed in float32: the rounding errors of all
        accumulations as a random walk, in units of the largest value on the way.
    """
    graph = partition.graph
    values: dict[str, Array] = dict(inputs)
    largest = 1.0
    for step in partition.steps:
        if isinstance(step, Block):
            *sources, output = step.tensors
            made = reference(step, [_to_nhwc(values[name]) for name in sources])
            assert made[-1].shape[0] == step.batch
            values[output] = _to_nchw(made[-1], graph.tensor(output).shape)
        else:
            values.update(_run_op(graph, step, values))
            made = [values[name] for name in step.outputs]
        largest = max(largest, *(float(np.abs(value).max()) for value in made))
    depth = sum(accumulation_depth(block) for block in partition.blocks) + len(partition.steps)
    tolerance = float(4 * np.finfo(np.float32).eps * depth**0.5 * largest)
    return {name: values[name] for name in graph.outputs}, tolerance


def _run_op(graph: Graph, op: Op, values: Mapping[str, Array]) -> dict[str, Array]:
    computed = [name for name in op.inputs if name and not graph.tensor(name).is_constant]
    tensors = [graph.tensor(name) for name in (*op.inputs, *op.outputs) if name]
    alone = Graph(op.name, dict.fromkeys(computed), op.outputs, tensors, [op])
    return run_with_onnxruntime(to_onnx(alone), {name: values[name].astype(np.float32) for name in computed})


def _to_nhwc(x: Array) -> Array:
    return x.transpose(0, 2, 3, 1) if x.ndim == 4 else x[:, None, None, :]


def _to_nchw(y: Array, shape: tuple[int, ...]) -> Array:
    return y.transpose(0, 3, 1, 2).reshape(shape)
