"""Random networks of several blocks through the whole compiler, against the same network in float64.

Blocks of every family follow each other, with strides, shared weights, values inside a block that something else reads
or the caller receives, and two branches that are joined; some take any number of images. None may be refused.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx

from blockfuse.compiler import compile as compile_model
from blockfuse.verification.compare import compare, tolerance
from blockfuse.verification.depth import path_depths
from blockfuse.verification.verify import canonical_graph
from tests.fuzz.graphs import as_good_as_onnxruntime, command, in_double, options
from tests.fuzz.harness import Case, Fuzzer, judged
from tests.fuzz.whole_graphs import Impossible, Net


def run(seeds: Sequence[int]) -> Iterator[Case]:
    """Compile and compare."""
    for seed in seeds:
        yield judged(_compare, seed)


def _compare(seed: int) -> str:
    model, chosen = random_network(seed), options(seed)
    executable = compile_model(model, fuse=chosen["fuse"], threads=chosen["threads"], taps=chosen["per_block"])
    for batch in batches(model):
        shape = (batch, *(dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim[1:]))
        inputs = {"x": np.random.default_rng(seed).standard_normal(shape, np.float32)}
        actual, truth = executable.run(inputs), in_double(model, inputs)
        depths = path_depths(canonical_graph(model, {"x": shape}))
        for name, exact in truth.items():
            terms, ops = depths[name]
            found = compare(actual[name], exact, tolerance(max(1, terms), "float32", max(1, ops)))
            if not found.passed and not as_good_as_onnxruntime(model, inputs, actual, truth):
                raise AssertionError(f"{name}, {batch} images: {found}")
    return ""


def batches(model: onnx.ModelProto) -> tuple[int, ...]:
    """The number of images the model takes; several if it takes any."""
    first = model.graph.input[0].type.tensor_type.shape.dim[0]
    return (3, 1, 5) if first.dim_param else (first.dim_value,)


def save(seed: int, folder: Path) -> str:
    """The network as a file."""
    path = folder / f"network_{seed}.onnx"
    onnx.save(random_network(seed), path)
    return command(path, seed)


@functools.lru_cache(maxsize=10)
def random_network(seed: int) -> onnx.ModelProto:
    """A network of two to six blocks; the same seed gives the same one."""
    rng = np.random.default_rng((5, seed))
    shape = (int(rng.choice((1, 1, 2, 3))), int(rng.choice((3, 4, 8, 12, 16, 20))), *rng.integers(5, 18, 2).tolist())
    maker = _Blocks(Net(rng, 17, shape))
    x = maker.conv("x", maker.net.pick(8, 12, 16, 20, 24), 3)
    for _ in range(maker.net.between(2, 6)):
        x = maker.block(x)
    net = maker.net
    inner = [name for name in maker.inner if net.chance(0.08)][:2]
    head = net.op("GlobalAveragePool", [x]) if net.chance(0.3) else x
    model = net.model(list(dict.fromkeys([head, *inner])))
    if net.chance(0.3):
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    return model


class _Blocks:
    """Adds blocks to a network, and keeps the values inside them."""

    def __init__(self, net: Net) -> None:
        self.net = net
        self.inner: list[str] = []
        self.weights: dict[tuple[int, ...], list[str]] = {}

    def block(self, x: str) -> str:
        """A block of any family behind ``x``."""
        net = self.net
        families: tuple[Callable[[str], str], ...] = (
            self.basic,
            self.basic,
            self.bottleneck,
            self.inverted,
            self.inverted,
            self.pre_activation,
            self.convnext,
            self.branches,
        )
        kept = len(net.nodes), len(net.initializers), len(self.inner), {k: [*v] for k, v in self.weights.items()}
        try:
            y = net.pick(*families)(x)
        except Impossible:  # too large
            del net.nodes[kept[0] :], net.initializers[kept[1] :], self.inner[kept[2] :]
            self.weights = kept[3]
            return x
        if self.inner and net.chance(0.15):
            same = [name for name in self.inner if net.shapes[name] == net.shapes[y]]
            if same:
                y = net.op("Add", [y, net.pick(*same)])
        return y

    # ---- parts -------------------------------------------------------------------------------------------------------
    def constant(self, *shape: int, scale: float) -> str:
        """A weight, sometimes one that is used elsewhere, too."""
        known = self.weights.setdefault(shape, [])
        if known and self.net.chance(0.2):
            return self.net.pick(*known)
        known.append(self.net.constant(self.net.normal(*shape, scale=scale)))
        return known[-1]

    def conv(self, x: str, outputs: int, size: int, stride: int = 1, groups: int = 1) -> str:
        """A convolution, whose pads keep the size at stride 1, perhaps with a normalization behind it."""
        net = self.net
        inputs = net.shapes[x][1]
        weight = self.constant(outputs, inputs // groups, size, size, scale=(inputs // groups * size * size) ** -0.5)
        bias = [self.constant(outputs, scale=0.1)] if net.chance(0.6) else []
        low, high = (size - 1) // 2, size // 2
        pads = [low, low, high, high] if net.chance(0.5) else [high, high, low, low]
        y = net.op("Conv", [x, weight, *bias], strides=[stride] * 2, pads=pads, group=groups)
        self.inner.append(y)
        return self.norm(y) if net.chance(0.3) else y

    def norm(self, x: str) -> str:
        """A batch normalization."""
        net, c = self.net, self.net.shapes[x][1]
        variance = np.abs(net.normal(c)) + np.float32(0.5)
        numbers = [net.normal(c, offset=1, scale=0.2), net.normal(c), net.normal(c), variance]
        return net.op("BatchNormalization", [x, *map(net.constant, numbers)])

    def activation(self, x: str) -> str:
        """Any, or none."""
        net = self.net
        kind = net.pick("Relu", "Relu", "HardSwish", "Silu", "Clip", "Sigmoid", "LeakyRelu", "")
        if not kind:
            return x
        if kind == "Silu":
            y = net.op("Mul", [x, net.op("Sigmoid", [x])])
        elif kind == "Clip":
            y = net.op("Clip", [x, *(net.constant(np.float32(bound)) for bound in (0, 6))])
        else:
            y = net.op(kind, [x])
        self.inner.append(y)
        return y

    def added(self, x: str, y: str, stride: int) -> str:
        """The sum with the input, or a projection of it, in either order, or no sum."""
        net = self.net
        if net.shapes[x] != net.shapes[y]:
            if net.chance(0.3):
                return y
            x = self.conv(x, net.shapes[y][1], 1, stride)
        return net.op("Add", [y, x] if net.chance(0.5) else [x, y])

    def _outputs(self, x: str) -> int:
        return self.net.shapes[x][1] if self.net.chance(0.6) else self.net.pick(8, 12, 16, 20, 24, 40)

    def _stride(self, x: str) -> int:
        return 2 if self.net.chance(0.25) and min(self.net.shapes[x][2:]) > 3 else 1

    # ---- families ----------------------------------------------------------------------------------------------------
    def basic(self, x: str) -> str:
        """Two dense convolutions."""
        stride, outputs, size = self._stride(x), self._outputs(x), self.net.pick(3, 3, 3, 5, 2)
        y = self.conv(self.activation(self.conv(x, outputs, size, stride)), outputs, 3)
        return self.activation(self.added(x, y, stride))

    def bottleneck(self, x: str) -> str:
        """1x1, 3x3 perhaps grouped, 1x1."""
        stride, outputs = self._stride(x), self._outputs(x)
        y = self.activation(self.conv(x, 8, 1))
        y = self.activation(self.conv(y, 8, 3, stride, self.net.pick(1, 1, 2, 4)))
        return self.activation(self.added(x, self.conv(y, outputs, 1), stride))

    def inverted(self, x: str) -> str:
        """Expansion, depthwise, perhaps squeeze-excite, projection."""
        stride, inner = self._stride(x), self.net.shapes[x][1] * self.net.pick(1, 2, 3)
        y = self.activation(self.conv(x, inner, 1)) if self.net.chance(0.8) else x
        inner = self.net.shapes[y][1]
        y = self.activation(self.conv(y, inner, self.net.pick(3, 5, 7), stride, inner))
        y = self.squeeze_excite(y) if self.net.chance(0.4) else y
        return self.added(x, self.conv(y, self._outputs(x), 1), stride)

    def squeeze_excite(self, x: str) -> str:
        """The image times a function of its mean."""
        net = self.net
        y = net.op("GlobalAveragePool", [x])
        y = self.conv(self.activation(self.conv(y, 4, 1)), net.shapes[x][1], 1)
        y = net.op(net.pick("Sigmoid", "HardSigmoid"), [y])
        return net.op("Mul", [x, y] if net.chance(0.5) else [y, x])

    def pre_activation(self, x: str) -> str:
        """Normalization and activation before each convolution."""
        outputs = self._outputs(x)
        y = self.conv(self.activation(self.norm(x)), outputs, 3)
        return self.added(x, self.conv(self.activation(self.norm(y)), outputs, 3), 1)

    def convnext(self, x: str) -> str:
        """Depthwise, and a perceptron over normalized channels that lie last."""
        net, c = self.net, self.net.shapes[x][1]
        y = net.op("Transpose", [self.conv(x, c, 7, 1, c)], perm=[0, 2, 3, 1])
        parameters = [net.constant(net.normal(c, offset=1, scale=0.1)), net.constant(net.normal(c, scale=0.1))]
        y = net.op("LayerNormalization", [y, *parameters], axis=-1, epsilon=1e-3)
        y = net.op("MatMul", [y, self.constant(c, 2 * c, scale=c**-0.5)])
        y = net.op("Add", [y, self.constant(2 * c, scale=0.1)])
        y = self.activation(y)
        y = net.op("MatMul", [y, self.constant(2 * c, c, scale=(2 * c) ** -0.5)])
        y = net.op("Transpose", [y], perm=[0, 3, 1, 2])
        return net.op("Add", [x, net.op("Mul", [y, net.constant(net.normal(c, 1, 1))])])

    def branches(self, x: str) -> str:
        """Two branches, concatenated or added, one with a pool."""
        net = self.net
        pool = net.op("MaxPool", [x], kernel_shape=[3, 3], strides=[1, 1], pads=[1] * 4)
        first = self.activation(self.conv(x, 8, 3))
        second = self.conv(pool, 8, 1)
        if net.chance(0.5):
            return net.op("Concat", [first, second, *([x] if net.chance(0.5) else [])], axis=1)
        return self.activation(net.op("Add", [first, second]))


FUZZER = Fuzzer("networks", run, save, seconds=120, gigabytes=16)
