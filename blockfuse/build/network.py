"""A network ready to build: kernel calls and single graph ops in execution order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from blockfuse.errors import InternalError
from blockfuse.graph import Op, Tensor
from blockfuse.plan.place import Placement
from blockfuse.plan.squares import Squares
from blockfuse.runtime.library import Port

OPEN_BATCH = 1_000_003
"""Stands for the batch in the shapes of a network that takes any; no other dimension is a multiple of it."""


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a kernel.

    Attributes:
        kernel: Name of the kernel's function; calls that differ only in their constants share one.
        inputs: Names of the values read.
        constants: Packed weights of this call, flat, in the order of the function's constant parameters.
        output: Name of the value written.
        output_shape: As the kernel writes it, such as (N, H, W, C).
        nchw_inputs: Positions of inputs that the kernel reads as N, C, H, W; it reads other images as N, H, W, C.
        in_place: Names of the inputs, and perhaps the output, that the kernel was made to find where the network's
            placement puts them.
        parts: Of a kernel with a second result: the name of that value, which is for kernels only, and its shape.
    """

    kernel: str
    inputs: tuple[str, ...]
    constants: tuple[np.ndarray[Any, Any], ...]
    output: str
    output_shape: tuple[int, ...]
    nchw_inputs: tuple[int, ...] = ()
    in_place: frozenset[str] = frozenset()
    parts: tuple[str, tuple[int, ...]] | None = None

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the values written, the main one first."""
        return (self.output, *((self.parts[0],) if self.parts else ()))


Step: TypeAlias = Call | Op


@dataclass(frozen=True, eq=False)
class Network:
    """Everything that is compiled into one library.

    A value that ``tensors`` does not name passes from kernel to kernel in a form of their own.

    Attributes:
        name: Of the model.
        inputs: Values given at run time.
        outputs: Values returned.
        steps: In execution order.
        tensors: The graph tensors that steps name, constants of operators with their data.
        placement: Images that lie among the channels of others; kernels were made for these places.
        batch: Where the network takes any batch, the one it was planned for; the first dimension of every computed
            value is :data:`OPEN_BATCH` then.
        squares: Images that no step makes, but the kernels at the border, which are still to be put there.
    """

    name: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    steps: tuple[Step, ...]
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    placement: Placement = field(default_factory=Placement)
    batch: int | None = None
    squares: tuple[Squares, ...] = ()

    def is_image(self, value: str) -> bool:
        """Whether a value is computed and has the four dimensions N, C, H, W."""
        tensor = self.tensors.get(value)
        return tensor is not None and len(tensor.shape) == 4 and not tensor.is_constant

    def is_constant(self, value: str) -> bool:
        """Whether a value is known before the network runs."""
        return value in self.tensors and self.tensors[value].is_constant

    def check(self) -> None:
        """Raise :class:`InternalError` unless every value is made once, and before it is read."""
        made = {port.name for port in self.inputs}
        for step in self.steps:
            for value in step.inputs:
                if isinstance(step, Op) and value and value not in self.tensors:
                    raise InternalError(f"network {self.name}: {step} reads {value!r}, which is for kernels only")
                if value and value not in made and not self.is_constant(value):
                    raise InternalError(f"network {self.name}: {describe(step)} reads {value!r} before it is made")
            outputs = [name for name in step.outputs if name]
            for value in outputs:
                if value in made:
                    raise InternalError(f"network {self.name}: {value!r} is made twice")
            made.update(outputs)
        for port in self.outputs:
            tensor = self.tensors.get(port.name)
            if port.name not in made or tensor is None:
                raise InternalError(f"network {self.name}: output {port.name!r} is not made")
            if (tensor.shape, tensor.dtype) != (port.shape, port.dtype):
                raise InternalError(f"network {self.name}: output {port} is made as {tensor.dtype}{list(tensor.shape)}")


def describe(step: Step) -> str:
    """A step by kind and name."""
    return f"kernel {step.kernel!r}" if isinstance(step, Call) else str(step)
