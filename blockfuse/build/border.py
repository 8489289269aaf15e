"""A network that computes in another type than its inputs and outputs have: kernels at its border convert them.

The first converts an image from N, C, H, W to N, H, W, C on the way. Inside, every float32 value has the new type;
values of other types, such as shapes, stay. Weights of kernels are packed in the type the kernels read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from blockfuse.build.layout import TO_NHWC, changes_order
from blockfuse.build.network import Call, Network, Step
from blockfuse.errors import UnsupportedModelError
from blockfuse.graph import Tensor
from blockfuse.runtime.library import Port

_OUTSIDE = "float32"


@dataclass(frozen=True)
class Cast:
    """A kernel that converts a value.

    Attributes:
        shape: Of what it reads.
        source: Type of that.
        target: Type of the result.
        transposed: Whether it reads N, C, H, W and writes N, H, W, C; else both have the same order.
    """

    shape: tuple[int, ...]
    source: str
    target: str
    transposed: bool = False


def computed_in(network: Network, dtype: str) -> tuple[Network, dict[str, Cast]]:
    """The network with float32 inputs and outputs that computes in another type, and the kernels it needs for that.

    Raises:
        UnsupportedModelError: A constant is too large for the type.
    """
    border = _Border(network, dtype)
    return border.run(), border.casts


class _Border:
    """The conversion in progress."""

    def __init__(self, network: Network, dtype: str) -> None:
        self.network, self.dtype = network, dtype
        self.casts: dict[str, Cast] = {}
        self.written = {step.output: step.output_shape for step in network.steps if isinstance(step, Call)}
        made = {name for step in network.steps for name in _outputs(step)}
        self.entering = [port for port in network.inputs if port.dtype == _OUTSIDE]
        self.leaving = [port for port in network.outputs if port.dtype == _OUTSIDE and port.name in made]
        self.inner = {port.name: f"{port.name}.{dtype}" for port in (*self.entering, *self.leaving)}
        self.tensors = {name: self._inside(tensor) for name, tensor in network.tensors.items()}
        for outer, inner in self.inner.items():
            if outer in network.tensors:
                self.tensors[inner] = replace(self.tensors[outer], name=inner)
                self.tensors[outer] = network.tensors[outer]

    def run(self) -> Network:
        steps: list[Step] = [self._enter(port) for port in self.entering]
        steps += [self._renamed(step) for step in self.network.steps]
        steps += [self._leave(port) for port in self.leaving]
        return replace(self.network, steps=tuple(steps), tensors=self.tensors)

    def _inside(self, tensor: Tensor) -> Tensor:
        if tensor.dtype != _OUTSIDE:
            return tensor
        value = None if tensor.value is None else narrowed(tensor.value, self.dtype, f"constant {tensor.name!r}")
        return replace(tensor, dtype=self.dtype, value=value)

    def _renamed(self, step: Step) -> Step:
        inputs = tuple(self.inner.get(name, name) for name in step.inputs)
        if isinstance(step, Call):
            return replace(step, inputs=inputs, output=self.inner.get(step.output, step.output))
        return replace(step, inputs=inputs, outputs=tuple(self.inner.get(name, name) for name in step.outputs))

    def _enter(self, port: Port) -> Call:
        is_image = self.network.is_image(port.name)
        transposed = is_image and changes_order(port.shape)
        result = _nhwc(port.shape) if is_image else port.shape
        cast = Cast(port.shape if transposed else result, _OUTSIDE, self.dtype, transposed)
        nchw = (0,) if transposed else ()
        return Call(self._kernel(cast), (port.name,), (), self.inner[port.name], result, nchw)

    def _leave(self, port: Port) -> Call:
        shape = _nhwc(port.shape) if self.network.is_image(port.name) else port.shape
        cast = Cast(self.written.get(port.name, shape), self.dtype, _OUTSIDE)
        return Call(self._kernel(cast), (self.inner[port.name],), (), port.name, cast.shape)

    def _kernel(self, cast: Cast) -> str:
        """The name of a kernel; equal ones share it."""
        known = next((name for name, other in self.casts.items() if other == cast), None)
        if known is not None:
            return known
        name = f"bf_cast_{len(self.casts) + 1}"
        self.casts[name] = cast
        return name


def narrowed(data: np.ndarray[Any, Any], dtype: str, what: str) -> np.ndarray[Any, Any]:
    """Data in a narrower type.

    Raises:
        UnsupportedModelError: A finite number becomes infinite.
    """
    limit = float(np.finfo(dtype).max)
    finite = np.abs(data[np.isfinite(data)])
    if finite.size and float(finite.max()) > limit:
        raise UnsupportedModelError(f"{what} holds {float(finite.max()):.3g}, and {dtype} ends at {limit:.3g}")
    return data.astype(dtype)


def check_range(parameters: Mapping[Any, np.ndarray[Any, Any]], dtype: str, what: str) -> None:
    """Raise :class:`UnsupportedModelError` if a weight does not fit the type that kernels read."""
    for data in parameters.values():
        narrowed(np.asarray(data), dtype, what)


def _nhwc(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(shape[axis] for axis in TO_NHWC)


def _outputs(step: Step) -> tuple[str, ...]:
    return (step.output,) if isinstance(step, Call) else step.outputs
