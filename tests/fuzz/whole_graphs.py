"""Seeded random models: some ten operators of any kind and any opset, with branches and joins."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSETS = (7, 9, 10, 11, 12, 13, 14, 15, 17, 17, 18, 18, 20, 20, 21, 22, 23)
LAST_OPSETS = (23, 24, 25)
"""Any of which stands for the last one above, so that a seed of another opset draws what it always drew."""
MAX_ELEMENTS = 30_000


class Net:
    """A model under construction, from an input ``x``.

    Every value has a shape that shape inference found; a node that it refuses is taken back.
    """

    def __init__(self, rng: np.random.Generator, opset: int, shape: Sequence[int]) -> None:
        self.rng = rng
        self.opset = opset
        self.shapes: dict[str, tuple[int, ...]] = {"x": tuple(shape)}
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[TensorProto] = []

    # ---- choices -----------------------------------------------------------------------------------------------------
    def pick(self, *items):
        """One of them."""
        return items[int(self.rng.integers(len(items)))]

    def chance(self, probability: float) -> bool:
        """True as often as that."""
        return bool(self.rng.random() < probability)

    def between(self, low: int, high: int) -> int:
        """A whole number, both bounds included."""
        return int(self.rng.integers(low, high + 1))

    def normal(self, *shape: int, scale: float = 1.0, offset: float = 0.0) -> np.ndarray:
        """Normal float32 numbers."""
        return (self.rng.standard_normal(shape) * scale + offset).astype(np.float32)

    # ---- values ------------------------------------------------------------------------------------------------------
    def constant(self, value) -> str:
        """An initializer, a Constant node, or an Identity of an initializer."""
        array = np.asarray(value)
        name = f"c{len(self.initializers) + len(self.nodes)}"
        if self.chance(0.25) and (self.opset >= 9 or array.dtype.kind == "f"):
            self.nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array, name)))
            return name
        self.initializers.append(numpy_helper.from_array(array, name))
        if array.dtype == np.float32 and self.chance(0.1):
            self.nodes.append(helper.make_node("Identity", [name], [f"{name}_same"]))
            return f"{name}_same"
        return name

    def ints(self, *values: int) -> str:
        """An int64 vector."""
        return self.constant(np.array(values, np.int64))

    def op(self, kind: str, inputs: Sequence[str], outputs: int = 1, **attrs) -> str:
        """A node; the name of its first result. :class:`Impossible` if shape inference refuses it."""
        names = [f"v{len(self.nodes)}_{index}" for index in range(outputs)]
        named = self.chance(0.8)
        attrs = {key: value for key, value in attrs.items() if value is not None}
        node = helper.make_node(kind, list(inputs), names, f"{kind}{len(self.nodes)}" if named else "", **attrs)
        self.nodes.append(node)
        for name, shape in zip(names, self._infer(names), strict=True):
            self.shapes[name] = shape
        return names[0]

    def _infer(self, names: Sequence[str]) -> list[tuple[int, ...]]:
        try:
            inferred = onnx.shape_inference.infer_shapes(self.model(names), strict_mode=True, data_prop=True)
        except onnx.shape_inference.InferenceError as error:
            raise Impossible(str(error)) from None
        found = []
        for value in inferred.graph.output:
            shape = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
            known = value.type.tensor_type.HasField("shape") and min(shape, default=1) >= 1
            if not known or np.prod(shape) > MAX_ELEMENTS:
                raise Impossible(f"{value.name} has the shape {shape}")
            found.append(shape)
        return found

    def model(self, outputs: Sequence[str]) -> onnx.ModelProto:
        """The model with these results."""
        graph = helper.make_graph(
            self.nodes,
            "random",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shapes["x"])],
            [onnx.ValueInfoProto(name=name) for name in outputs],
            self.initializers,
        )
        version = 8 if self.opset < 19 else 10 if self.opset < 24 else 12
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=version)


class Impossible(Exception):  # noqa: N818 - not an error: another operator is tried
    """An operator does not go with the value it was drawn for."""


def image(net: Net, x: str) -> tuple[int, ...]:
    """The shape of an image; :class:`Impossible` if it is none."""
    shape = net.shapes[x]
    if len(shape) != 4:
        raise Impossible("no image")
    return shape


def since(net: Net, opset: int) -> None:
    """:class:`Impossible` before an opset."""
    if net.opset < opset:
        raise Impossible("not in this opset")


def axes(net: Net, numbers: Sequence[int], until: int) -> tuple[list[str], dict]:
    """Axes as an attribute up to an opset, and as an input after it."""
    return ([], {"axes": list(numbers)}) if net.opset <= until else ([net.ints(*numbers)], {})


@functools.lru_cache(maxsize=500)
def random_model(seed: int) -> onnx.ModelProto:
    """A model of float32 images with one to three results.

    The same seed gives the same model.
    """
    from tests.fuzz.operators import random_step  # noqa: PLC0415 - it imports Net

    rng = np.random.default_rng((2, seed))
    opset = int(rng.choice(OPSETS))
    if opset == OPSETS[-1]:
        opset = int(np.random.default_rng((7, seed)).choice(LAST_OPSETS))
    shape = (int(rng.choice((1, 1, 2, 3))), int(rng.choice((1, 3, 4, 6, 8, 12))), *rng.integers(3, 13, 2).tolist())
    net = Net(rng, opset, shape)
    values = ["x"]
    wanted = int(rng.integers(3, 14))
    for _ in range(60):
        if len(values) > wanted:
            break
        x = values[-1] if rng.random() < 0.75 else str(rng.choice(values))
        kept = len(net.nodes), len(net.initializers)
        try:
            values.append(random_step(net, x, values))
        except Impossible:
            del net.nodes[kept[0] :], net.initializers[kept[1] :]
    extra = rng.choice(values[1:], min(len(values) - 1, int(rng.choice((0, 0, 0, 1, 2)))), replace=False).tolist()
    outputs = list(dict.fromkeys([values[-1], *extra]))
    model = onnx.shape_inference.infer_shapes(net.model(outputs), strict_mode=True, data_prop=True)
    del model.graph.value_info[:]
    return model
