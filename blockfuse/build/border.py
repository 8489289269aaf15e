"""A network on a GPU computes in a type of its own: kernels at its border convert its inputs and outputs.

The first converts an image from N, C, H, W to N, H, W, C on the way, perhaps with squares of pixels as channels.
Inside, every float32 value has the new type; values of other types, such as shapes, stay. Weights of kernels are packed
in the type the kernels read. An input or output that is neither float32 nor of the new type has a ``Cast`` next to it,
which becomes such a kernel.

Values of the same type and order are copied: recorded launches cannot include the kernels that read inputs and write
outputs, which would else be the largest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from blockfuse.build.layout import TO_NHWC, changes_order
from blockfuse.build.network import Call, Network, Step
from blockfuse.dtypes import COMPUTED, HALF, numpy_type
from blockfuse.errors import UnsupportedModelError
from blockfuse.graph import Op, Tensor
from blockfuse.plan.place import Placement
from blockfuse.plan.squares import Squares

CAST = "bf_cast_"
"""What the names of the kernels at the border begin with."""
_LARGEST = {"float32": (2 - 2.0**-23) * 2.0**127, "bfloat16": (2 - 2.0**-7) * 2.0**127, "float16": 65504.0}


@dataclass(frozen=True)
class Written:
    """Squares of pixels as channels; see :class:`~blockfuse.plan.squares.Squares`.

    Attributes:
        shape: Of the result, N, H, W, C.
        size: Of a square.
        top: Rows of zeros above the image.
        left: Columns of zeros before it.
    """

    shape: tuple[int, ...]
    size: int
    top: int
    left: int


@dataclass(frozen=True)
class Cast:
    """A kernel that converts a value.

    Attributes:
        shape: Of what it reads.
        source: Type of that.
        target: Type of the result.
        transposed: Whether it reads N, C, H, W and writes N, H, W, C; else both have the same order.
        squares: What of an image it writes, if not the image.
    """

    shape: tuple[int, ...]
    source: str
    target: str
    transposed: bool = False
    squares: Written | None = None


def computed_in(network: Network, dtype: str) -> tuple[Network, dict[str, Cast]]:
    """The network that computes in a type inside, and the kernels at its border.

    Args:
        network: Computes in float32, its inputs and outputs aside.
        dtype: ``float32``, ``float16`` or ``bfloat16``.

    Raises:
        UnsupportedModelError: A constant is too large for the type.
    """
    border = _Border(network, dtype)
    return border.run(), border.casts


class _Border:
    """The conversion in progress; ``inner`` names the value inside for inputs and outputs."""

    def __init__(self, network: Network, dtype: str) -> None:
        self.network, self.dtype = network, dtype
        self.casts: dict[str, Cast] = {}
        self.written = {step.output: step.output_shape for step in network.steps if isinstance(step, Call)}
        made = {name for step in network.steps for name in _outputs(step)}
        made |= {squares.result for squares in network.squares}
        entering = [port.name for port in network.inputs if port.dtype == COMPUTED]
        leaving = [port.name for port in network.outputs if port.dtype == COMPUTED and port.name in made]
        self.inner = {name: f"{name}.{dtype}" for name in (*entering, *leaving)}
        inside = {name: self._inside(tensor) for name, tensor in network.tensors.items()}
        self.tensors = dict(inside)
        for outer, inner in self.inner.items():
            if outer in network.tensors:
                self.tensors[inner] = replace(inside[outer], name=inner)
                self.tensors[outer] = network.tensors[outer]
        self.entering, self.leaving = entering, leaving

    def run(self) -> Network:
        steps: list[Step] = [self._enter(name, name) for name in self.entering]
        steps += [self._converted(step) or self._renamed(step) for step in self.network.steps]
        steps += [self._leave(name, name) for name in self.leaving]
        return replace(self.network, steps=tuple(steps), tensors=self.tensors, placement=self._placement(), squares=())

    def _placement(self) -> Placement:
        """Where the values inside are."""
        placement = self.network.placement
        places = {
            self.inner.get(name, name): replace(place, buffer=self.inner.get(place.buffer, place.buffer))
            for name, place in placement.places.items()
        }
        return replace(placement, places=places)

    def _inside(self, tensor: Tensor) -> Tensor:
        if tensor.dtype != COMPUTED:
            return tensor
        value = None if tensor.value is None else narrowed(tensor.value, self.dtype, f"constant {tensor.name!r}")
        return replace(tensor, dtype=self.dtype, value=value)

    def _converted(self, step: Step) -> Call | None:
        """The kernel for a Cast next to an input or output of half precision; None for other steps."""
        if not isinstance(step, Op) or step.kind != "Cast":
            return None
        (source,), (target,) = step.inputs, step.outputs
        before, after = self.network.tensors[source].dtype, self.network.tensors[target].dtype
        if before in HALF and after == COMPUTED:
            return self._enter(source, target)
        if before == COMPUTED and after in HALF:
            return self._leave(source, target)
        return None

    def _renamed(self, step: Step) -> Step:
        inputs = tuple(self.inner.get(name, name) for name in step.inputs)
        if isinstance(step, Call):
            in_place = frozenset(self.inner.get(name, name) for name in step.in_place)
            return replace(step, inputs=inputs, output=self.inner.get(step.output, step.output), in_place=in_place)
        return replace(step, inputs=inputs, outputs=tuple(self.inner.get(name, name) for name in step.outputs))

    def _enter(self, outer: str, value: str) -> Call:
        """The kernel that makes a value of the network, or its squares, of what the caller gives."""
        tensor, inner = self.network.tensors[outer], self.inner.get(value, value)
        squares = next((each for each in self.network.squares if each.source == value), None)
        if squares is not None:
            return self._enter_squares(outer, squares)
        is_image = self.network.is_image(outer)
        transposed = is_image and changes_order(tensor.shape)
        result = _nhwc(tensor.shape) if is_image else tensor.shape
        cast = Cast(tensor.shape if transposed else result, tensor.dtype, self.dtype, transposed)
        return Call(self._kernel(cast), (outer,), (), inner, result, (0,) if transposed else ())

    def _enter_squares(self, outer: str, squares: Squares) -> Call:
        tensor, result = self.network.tensors[outer], _nhwc(self.network.tensors[squares.result].shape)
        written = Written(result, squares.size, squares.top, squares.left)
        cast = Cast(tensor.shape, tensor.dtype, self.dtype, transposed=True, squares=written)
        inner = self.inner.get(squares.result, squares.result)
        return Call(self._kernel(cast), (outer,), (), inner, result, (0,))

    def _leave(self, made: str, outer: str) -> Call:
        tensor = self.network.tensors[outer]
        shape = _nhwc(tensor.shape) if self.network.is_image(outer) else tensor.shape
        cast = Cast(self.written.get(made, shape), self.dtype, tensor.dtype)
        return Call(self._kernel(cast), (self.inner.get(made, made),), (), outer, cast.shape)

    def _kernel(self, cast: Cast) -> str:
        """The name of a kernel; equal ones share it."""
        known = next((name for name, other in self.casts.items() if other == cast), None)
        if known is not None:
            return known
        name = f"{CAST}{len(self.casts) + 1}"
        self.casts[name] = cast
        return name


def narrowed(data: np.ndarray[Any, Any], dtype: str, what: str) -> np.ndarray[Any, Any]:
    """Data in a type of floating point.

    Raises:
        UnsupportedModelError: A finite number becomes infinite.
    """
    check_range(data, dtype, what)
    return data.astype(numpy_type(dtype), copy=False)


def check_range(data: np.ndarray[Any, Any], dtype: str, what: str) -> None:
    """Raise :class:`UnsupportedModelError` if a finite number would be infinite in a type of floating point."""
    limit = _LARGEST[dtype]
    if data.size and max(float(data.max()), -float(data.min())) <= limit:  # not so where one is not a number
        return
    finite = np.abs(data[np.isfinite(data)])
    if finite.size and float(finite.max()) > limit:
        raise UnsupportedModelError(f"{what} holds {float(finite.max()):.3g}, and {dtype} ends at {limit:.3g}")


def _nhwc(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(shape[axis] for axis in TO_NHWC)


def _outputs(step: Step) -> tuple[str, ...]:
    return (step.output,) if isinstance(step, Call) else step.outputs
