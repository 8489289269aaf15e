"""What a network is compiled to, before the weights of its kernels are known, and how that is kept on disk.

Code is kept by everything that it depends on: the network but for the weights of its kernels, their programs, the
target, the compiler's own sources, and the versions of what compiles. So a network that was compiled before is neither
lowered nor built, and TVM is not even loaded; other weights for the same network are only packed.

A file holds, after the hash that :mod:`blockfuse.kernel_cache` puts in front::

    u64 bytes of the description | description, JSON | constants of single operators | the library
"""

from __future__ import annotations

import json
import math
import os
import shutil
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from blockfuse.as_data import from_data, to_data
from blockfuse.build.border import Cast
from blockfuse.build.cubin import find_compiler
from blockfuse.build.network import OPEN_BATCH, Call, Network
from blockfuse.dtypes import numpy_type
from blockfuse.errors import InternalError
from blockfuse.fingerprint import own_sources, text_of, version_of
from blockfuse.graph import Op
from blockfuse.integers import round_up
from blockfuse.kernel_cache import KernelCache, key_of
from blockfuse.machine import Program
from blockfuse.runtime.library import ALIGNMENT, Batch, Constant, Layout, Library, Port, aligned_empty
from blockfuse.target import Target

Array = np.ndarray[Any, Any]

_PACKAGES = ("blockfuse", "apache-tvm", "apache-tvm-ffi", "onnx", "numpy")
_MOST_ELEMENTS = 2**31 - 2**16  # the last CTA of a grid may count past the end
_SIZE = struct.Struct("<Q")


@dataclass(frozen=True)
class Weights:
    """A constant of a kernel call.

    Attributes:
        call: Which of the network's calls.
        position: Which of its constants.
        shape: As the code expects it.
    """

    call: int
    position: int
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Code:
    """What a network is compiled to.

    Attributes:
        library: The shared library.
        constants: Of the entry function, in order: those of single operators as they are.
        alignments: Bytes that the address of each input must be a multiple of.
        layouts: In which the code returns each output.
        layout_changes: Number of transpositions in one run.
    """

    library: bytes
    constants: tuple[Weights | Array, ...]
    alignments: tuple[int, ...]
    layouts: tuple[Layout, ...]
    layout_changes: int

    def to_bytes(self) -> bytes:
        """The code as a file."""
        arrays = [each for each in self.constants if not isinstance(each, Weights)]
        description = _Description(
            tuple(_described(each) for each in self.constants), self.alignments, self.layouts, self.layout_changes
        )
        text = json.dumps(to_data(description)).encode()
        return b"".join((_SIZE.pack(len(text)), text, *(array.tobytes() for array in arrays), self.library))

    @classmethod
    def from_bytes(cls, data: bytes) -> Code:
        """The code that :meth:`to_bytes` wrote.

        Raises:
            ValueError: The data is something else.
        """
        try:
            (size,) = _SIZE.unpack_from(data)
            found = from_data(_Description, json.loads(data[_SIZE.size : _SIZE.size + size]))
            types = [None if isinstance(each, Weights) else numpy_type(each.dtype) for each in found.constants]
        except (struct.error, TypeError) as error:
            raise ValueError(f"there is no description: {error}") from None
        constants: list[Weights | Array] = []
        place = _SIZE.size + size
        for each, dtype in zip(found.constants, types, strict=True):
            if isinstance(each, Weights):
                constants.append(each)
                continue
            array = np.frombuffer(data, dtype, math.prod(each.shape), place).reshape(each.shape)
            constants.append(array)
            place += array.nbytes
        return cls(data[place:], tuple(constants), found.alignments, found.layouts, found.layout_changes)


@dataclass(frozen=True)
class _Data:
    """A constant of a single operator, whose data follows."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class _Description:
    """A :class:`Code` but for its data."""

    constants: tuple[Weights | _Data, ...]
    alignments: tuple[int, ...]
    layouts: tuple[Layout, ...]
    layout_changes: int


def _described(constant: Weights | Array) -> Weights | _Data:
    return constant if isinstance(constant, Weights) else _Data(constant.dtype.name, constant.shape)


# ---- what it depends on ----------------------------------------------------------------------------------------------
def key_of_code(
    network: Network,
    programs: Mapping[str, Program],
    casts: Mapping[str, Cast],
    target: Target,
    *,
    cuda_graph: bool = False,
) -> str:
    """The key of the code of a network: another one if anything differs that the code depends on.

    Args:
        network: Its structure; constants of kernel calls do not count.
        programs: Of every kernel, by name.
        casts: The kernels at its border, by name.
        target: What the code is for.
        cuda_graph: Whether launches are recorded.
    """
    compiler = find_compiler().version if target.kind == "cuda" else ""
    made_by = (own_sources(), *((name, version_of(name)) for name in _PACKAGES), _linker(), compiler)
    return key_of(["code", text_of((_structure(network), programs, casts, target, cuda_graph)), text_of(made_by)])


def kept_code(cache: KernelCache, key: str) -> Code | None:
    """The code of a key; None if there is none, or what there is is damaged."""
    data = cache.get(key)
    try:
        return None if data is None else Code.from_bytes(data)
    except ValueError:
        return None


def _structure(network: Network) -> Network:
    """A network without constants of kernels; those of operators may decide what their code is."""
    named = {name for step in network.steps for name in _named(step)}
    named |= {port.name for port in (*network.inputs, *network.outputs)}
    steps = tuple(replace(step, constants=()) if isinstance(step, Call) else step for step in network.steps)
    return replace(network, steps=steps, tensors={key: one for key, one in network.tensors.items() if key in named})


def _named(step: Call | Op) -> tuple[str, ...]:
    return (*step.inputs, step.output) if isinstance(step, Call) else (*step.inputs, *step.outputs)


def _linker() -> tuple[object, ...]:
    """What TVM links with: g++, or what the environment names, and when that was installed."""
    named = os.environ.get("CXX") or os.environ.get("CC")
    path = named or next(filter(None, map(shutil.which, ("g++", "gcc", "clang++", "clang", "c++", "cc"))), "")
    try:
        facts = Path(path).resolve().stat()
    except OSError:
        return (path,)
    return str(Path(path).resolve()), facts.st_size, facts.st_mtime_ns


# ---- with weights ----------------------------------------------------------------------------------------------------
def library_of(network: Network, target: Target, code: Code) -> Library:
    """A compiled network with its weights.

    Args:
        network: What was compiled, with the constants of its calls.
        target: What for.
        code: What it was compiled to.

    Raises:
        InternalError: The code is of another network.
    """
    calls = [step for step in network.steps if isinstance(step, Call)]
    constants, weights = pack([_array(each, calls) for each in code.constants])
    inputs = zip(network.inputs, code.alignments, strict=True)
    outputs = zip(network.outputs, code.layouts, strict=True)
    return Library(
        name=network.name,
        target=target,
        inputs=tuple(_planned(network, replace(port, layout=Layout.PLAIN, alignment=at)) for port, at in inputs),
        outputs=tuple(_planned(network, replace(port, layout=layout)) for port, layout in outputs),
        constants=constants,
        layout_changes=code.layout_changes,
        code=code.library,
        weights=weights,
        batch=None if network.batch is None else Batch(network.batch, most_images(network)),
    )


def _array(constant: Weights | Array, calls: Sequence[Call]) -> Array:
    if not isinstance(constant, Weights):
        return constant
    array = calls[constant.call].constants[constant.position]
    if array.size != math.prod(constant.shape):
        kernel = calls[constant.call].kernel
        raise InternalError(f"kernel {kernel!r} takes {list(constant.shape)}, its call gives {list(array.shape)}")
    return array.reshape(constant.shape)


def _planned(network: Network, port: Port) -> Port:
    return port if network.batch is None else port.at(network.batch)


def most_images(network: Network) -> int:
    """The largest batch with which kernels can number the elements of every value, which they do with 32 bits."""
    shapes = [tensor.shape for tensor in network.tensors.values() if not tensor.is_constant]
    for step in network.steps:
        if isinstance(step, Call):
            place = network.placement.places.get(step.output)
            shapes.append((*step.output_shape[:-1], place.slot.width) if place else step.output_shape)
    return _MOST_ELEMENTS // max(math.prod(shape) // OPEN_BATCH for shape in shapes)


def pack(arrays: Sequence[Array]) -> tuple[tuple[Constant, ...], np.ndarray[Any, np.dtype[np.uint8]]]:
    """Lay constants out one after the other, each aligned; the gaps are zero."""
    constants = []
    end = 0
    for array in arrays:
        offset = round_up(end, ALIGNMENT)
        constants.append(Constant(offset, array.shape, array.dtype.name))
        end = offset + array.nbytes
    weights = aligned_empty(end)
    end = 0
    for constant, array in zip(constants, arrays, strict=True):
        weights[end : constant.offset] = 0
        end = constant.offset + constant.nbytes
        weights[constant.offset : end] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return tuple(constants), weights
