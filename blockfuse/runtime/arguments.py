"""What goes into a run and comes out: arrays checked against ports, and results in the shapes of the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from blockfuse.dtypes import numpy_type
from blockfuse.errors import InputError
from blockfuse.runtime.dlpack import DeviceArray, at_alignment, to_array
from blockfuse.runtime.library import Layout, Library, Port, aligned_copy

Array: TypeAlias = np.ndarray[Any, Any]

_NO_MEMORY = ("bad_alloc", "out of memory")  # as TVM says it
_FROM_NHWC = (0, 3, 1, 2)


class Inputs:
    """The inputs that a network takes.

    Args:
        library: The network.
    """

    def __init__(self, library: Library) -> None:
        self._ports = library.inputs
        self._batch = library.batch
        self._names = frozenset(port.name for port in library.inputs)
        self._shapes = [(port, port.shape, numpy_type(port.dtype)) for port in library.inputs]

    def arguments(self, inputs: Mapping[str, Any]) -> list[Any]:
        """One array per port that the code can read; others are copied.

        Raises:
            InputError: An input is missing, unknown, or of another type or shape.
        """
        if inputs.keys() != self._names:
            raise _wrong_names(inputs, self._ports)
        if self._batch is not None:
            self._check_batch([(port, inputs[port.name]) for port in self._ports], self._batch.most)
        return [
            _argument(inputs[port.name], port, None if port.any_batch else shape, dtype)
            for port, shape, dtype in self._shapes
        ]

    def _check_batch(self, given: Sequence[tuple[Port, Any]], most: int) -> None:
        """Refuse arrays that are not the same number of images, or too many."""
        first: tuple[Port, int] | None = None
        for port, array in given:
            if not isinstance(array, np.ndarray | DeviceArray) or not port.takes(array.shape):
                continue  # which is said next
            batch = array.shape[0]
            if not 1 <= batch <= most:
                raise InputError(f"input {port.name!r} holds {batch} images; the network takes 1 to {most:,} at a time")
            if first is not None and batch != first[1]:
                raise InputError(f"input {first[0].name!r} holds {first[1]} images and input {port.name!r} {batch}")
            first = first or (port, batch)


def _argument(value: Any, port: Port, shape: tuple[int, ...] | None, dtype: np.dtype[Any]) -> Array | DeviceArray:
    if not isinstance(value, np.ndarray | DeviceArray):
        raise InputError(f"input {port.name!r}: expected a numpy array, not {type(value).__name__}")
    if value.dtype != dtype:
        raise InputError(f"input {port.name!r}: expected type {port.dtype}, got {value.dtype}")
    if value.shape != shape and not (shape is None and port.takes(value.shape)):
        raise InputError(f"input {port.name!r}: expected shape {port.shape_text}, got {list(value.shape)}")
    if isinstance(value, DeviceArray):
        return at_alignment(value, port)
    flags = value.flags
    if (
        flags.c_contiguous
        and flags.writeable
        and ((flags.aligned and port.alignment <= dtype.alignment) or address(value) % port.alignment == 0)
    ):
        return value
    return aligned_copy(value)


def _wrong_names(inputs: Mapping[str, Any], ports: tuple[Port, ...]) -> InputError:
    expected = ", ".join(repr(port.name) for port in ports)
    missing = [repr(port.name) for port in ports if port.name not in inputs]
    if missing:
        return InputError(f"input {', '.join(missing)} is missing; the network takes {expected}")
    names = {port.name for port in ports}
    unknown = ", ".join(repr(name) for name in inputs if name not in names)
    return InputError(f"the network has no input {unknown}; it takes {expected}")


def failure(error: Exception, library: Library, arguments: Sequence[Any]) -> Exception:
    """What to raise if a run with these arguments failed: the error, or that there is not enough memory."""
    if not isinstance(error, MemoryError) and not any(words in str(error) for words in _NO_MEMORY):
        return error
    images = f" for {arguments[0].shape[0]} images at a time" if library.batch else ""
    return InputError(f"there is not enough memory to run {library.name}{images}")


def outputs(results: Iterable[Any], ports: tuple[Port, ...], arguments: Sequence[Array]) -> dict[str, Array]:
    """The results, TVM's tensors, by name as arrays of their own in the model's shapes."""
    found: dict[str, Array] = {}
    for port, result in zip(ports, results, strict=True):
        array = to_array(result, port.dtype)
        if port.layout is Layout.NHWC:
            array = np.ascontiguousarray(array.transpose(_FROM_NHWC))
        if not array.flags.writeable or any(
            np.may_share_memory(array, other) for other in (*arguments, *found.values())
        ):
            array = array.copy()
        found[port.name] = array.reshape(port.at(array.shape[0]).shape if port.any_batch else port.shape)
    return found


def address(array: Array) -> int:
    """Where an array's data is."""
    return int(array.__array_interface__["data"][0])  # ten times as fast as array.ctypes
