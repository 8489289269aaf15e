"""A block: the stages that one kernel may compute, as a directed acyclic graph.

Values are numbered: first the block's inputs, then one per stage. The last stage makes the output. Nothing else leaves
the block.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import networkx as nx
import numpy as np

from blockfuse.dtypes import item_size
from blockfuse.errors import InternalError
from blockfuse.stages import Array, Concat, Conv, Depthwise, Grouped, ImageShape, Norm, Reduction, Slice, Stage

ParameterKey = tuple[int, str]  # stage number, name of the parameter
PARTIAL = "float32"
"""Type of partial results."""
PARTIAL_BYTES = item_size(PARTIAL)


@dataclass(frozen=True)
class Block:
    """Stages over images; equal if they compute the same function of their inputs and parameters.

    Attributes:
        inputs: Shapes of the values read from memory. Value 0 is what the first stage reads.
        stages: In an order in which every stage follows the ones it reads.
        batch: Number of images N.
        any_batch: Whether ``batch`` is only what to plan for, and the block takes any number of images.
        dtype: Of inputs and output, a numpy type name.
        pooled: How a kernel also reduces the result, tile by tile of its own choice, into a second result of float32
            that another kernel completes; "" where it does not.
        partial: Numbers of the inputs that are such results, and so float32 whatever ``dtype`` is.
        name: For people and for kernel names.
        pattern: Name of the pattern that matched, or "" for a stage left single.
        parameters: Data of every stage's constants.
        tensors: Names of the graph tensors that are the block's inputs and, last, its output.
        ops: Names of the graph ops the block stands for.
    """

    inputs: tuple[ImageShape, ...]
    stages: tuple[Stage, ...]
    batch: int = 1
    dtype: str = "float32"
    name: str = field(default="block", compare=False)
    pattern: str = field(default="", compare=False)
    parameters: Mapping[ParameterKey, Array] = field(default_factory=dict, compare=False, repr=False)
    tensors: tuple[str, ...] = field(default=(), compare=False)
    ops: tuple[str, ...] = field(default=(), compare=False)
    any_batch: bool = False
    pooled: Reduction | Literal[""] = ""
    partial: tuple[int, ...] = ()

    @functools.cached_property
    def shapes(self) -> tuple[ImageShape, ...]:
        """Shape of every value."""
        shapes = list(self.inputs)
        for stage in self.stages:
            shapes.append(stage.output_shape([shapes[i] for i in stage.inputs]))
        return tuple(shapes)

    @functools.cached_property
    def global_bytes(self) -> int:
        """Bytes that a kernel for the whole batch must move: inputs and parameters once, the result once."""
        images = sum(shape.elements for shape in (*self.inputs, self.output)) * self.batch
        constants = sum(math.prod(shape) for shape in self.parameter_shapes().values())
        wider = sum(self.inputs[i].elements for i in self.partial) * (PARTIAL_BYTES - item_size(self.dtype))
        return (images + constants) * item_size(self.dtype) + wider * self.batch

    @property
    def output(self) -> ImageShape:
        """Shape of the result."""
        return self.shapes[-1]

    @property
    def parts_name(self) -> str:
        """Name of the tensor of what tiles of the result are reduced to, where it is pooled."""
        return f"{self.tensors[-1] if self.tensors else self.name}.parts"

    @property
    def operations(self) -> int:
        """Arithmetic operations for the whole batch."""
        shapes = self.shapes
        return self.batch * sum(stage.operations([shapes[i] for i in stage.inputs]) for stage in self.stages)

    @property
    def has_joins(self) -> bool:
        """Whether channels lie side by side inside it."""
        return any(isinstance(stage, Concat | Slice) for stage in self.stages)

    @property
    def described(self) -> tuple[str, ...]:
        """The stages in words, and what the tiles of the result are reduced to."""
        return (
            *(stage.describe() for stage in self.stages),
            *([f"{self.pooled} of every tile"] if self.pooled else []),
        )

    def input_shapes(self, stage: int) -> tuple[ImageShape, ...]:
        """Shapes of what a stage reads."""
        shapes = self.shapes
        return tuple(shapes[i] for i in self.stages[stage].inputs)

    def network(self) -> nx.DiGraph[int]:
        """Values as nodes, with an edge from each value to the ones computed from it."""
        network: nx.DiGraph[int] = nx.DiGraph()
        network.add_nodes_from(range(len(self.inputs) + len(self.stages)))
        for number, stage in enumerate(self.stages, len(self.inputs)):
            network.add_edges_from((i, number) for i in stage.inputs)
        return network

    def parameter_shapes(self) -> dict[ParameterKey, tuple[int, ...]]:
        """Shape of every constant."""
        shapes: dict[ParameterKey, tuple[int, ...]] = {}
        for number, stage in enumerate(self.stages):
            for key, shape in stage.parameters(self.input_shapes(number)).items():
                shapes[number, key] = shape
        return shapes

    def with_random_parameters(self, seed: int) -> Block:
        """The block with He-scaled normal weights and small biases from a seeded generator."""
        rng = np.random.default_rng(seed)
        data = {}
        for key, shape in self.parameter_shapes().items():
            fan_in = int(np.prod(shape[1:], dtype=np.int64)) if key[1] == "weight" else 4
            data[key] = (rng.standard_normal(shape) * (2.0 / fan_in) ** 0.5).astype(np.float32)
        return replace(self, parameters=data)

    def check(self) -> None:
        """Raise :class:`InternalError` unless the stages form one computation with one result."""
        reads = {i for stage in self.stages for i in stage.inputs}
        values = len(self.inputs) + len(self.stages)
        for number, stage in enumerate(self.stages, len(self.inputs)):
            if any(i >= number for i in stage.inputs):
                raise InternalError(f"block {self.name}: stage {stage.name} reads a value made after it")
            shape = self.shapes[number]
            if min(shape.height, shape.width, shape.channels) < 1:
                raise InternalError(f"block {self.name}: stage {stage.name} makes an empty image {shape}")
        unread = set(range(values - 1)) - reads
        if unread:
            raise InternalError(f"block {self.name}: values {sorted(unread)} are computed and never read")
        expected = self.parameter_shapes()
        for key, array in self.parameters.items():
            if tuple(array.shape) != expected.get(key):
                raise InternalError(
                    f"block {self.name}: parameter {key} has shape {array.shape}, not {expected.get(key)}"
                )

    def __str__(self) -> str:
        shapes = self.shapes
        inputs = ", ".join(f"%{i} {shape}" for i, shape in enumerate(self.inputs))
        images = "any batch" if self.any_batch else str(self.batch)
        lines = [f"block {self.name}{f' ({self.pattern})' if self.pattern else ''}: {images} x ({inputs})"]
        for number, stage in enumerate(self.stages, len(self.inputs)):
            reads = ", ".join(f"%{i}" for i in stage.inputs)
            lines.append(f"  %{number} {shapes[number]} = {stage.describe()} ({reads})  # {stage.name}")
        lines += [f"  {self.pooled} of every tile of %{len(shapes) - 1}"] if self.pooled else []
        return "\n".join(lines)


def reference(block: Block, inputs: Sequence[Array]) -> list[Array]:
    """Every value of the block in float64 for N, H, W, C inputs: the definition that kernels are tested against."""
    values = [np.asarray(x, np.float64) for x in inputs]
    for number, stage in enumerate(block.stages):
        parameters = {key: data for (owner, key), data in block.parameters.items() if owner == number}
        values.append(stage.reference([values[i] for i in stage.inputs], parameters))
    return values


def accumulation_depth(block: Block) -> int:
    """Sum over the stages of a path of the number of terms added per output: the basis of the tolerance."""
    depth = 0
    for number, stage in enumerate(block.stages):
        if isinstance(stage, Conv):
            depth += block.input_shapes(number)[0].channels * stage.window.taps
        elif isinstance(stage, Grouped):
            depth += block.input_shapes(number)[0].channels // stage.groups * stage.window.taps
        elif isinstance(stage, Depthwise):
            depth += stage.window.taps
        elif isinstance(stage, Norm):
            depth += block.input_shapes(number)[0].channels
        else:
            depth += 1
    return depth
