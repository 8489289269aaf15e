"""A compiled network as plain data: what is built, saved, loaded and run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import numpy as np

from blockfuse.dtypes import item_size
from blockfuse.target import Target

ALIGNMENT = 64
"""Bytes. Every constant starts at a multiple of it: one cache line, and one AVX-512 register."""


class Layout(StrEnum):
    """Order of a value's dimensions in memory."""

    PLAIN = "plain"
    """As ONNX orders them: images are N, C, H, W."""
    NHWC = "nhwc"
    """Images with their channels last."""


@dataclass(frozen=True)
class Batch:
    """How many images a network takes that takes any number.

    Attributes:
        planned: What it was planned for.
        most: The most whose largest value its kernels can index.
    """

    planned: int
    most: int


@dataclass(frozen=True)
class Port:
    """A value that enters or leaves a network.

    Attributes:
        name: As in the model.
        shape: As the user sees it, in ONNX order.
        dtype: A numpy type name.
        layout: In which the compiled code holds it.
        alignment: Bytes that the address of an input must be a multiple of; other inputs are copied.
        any_batch: Whether the first dimension is the batch, and ``shape`` has it as it was planned for.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    layout: Layout = Layout.PLAIN
    alignment: int = ALIGNMENT

    any_batch: bool = False

    def at(self, batch: int) -> Port:
        """The port of the network with that batch; itself where the batch is fixed."""
        return replace(self, shape=(batch, *self.shape[1:])) if self.any_batch else self

    def takes(self, shape: Sequence[int]) -> bool:
        """Whether a value may have that shape, for some batch where it is open."""
        same = len(shape) == len(self.shape) and tuple(shape[1:]) == self.shape[1:]
        return same if self.any_batch else tuple(shape) == self.shape

    @property
    def shape_text(self) -> str:
        """The shape as people read it."""
        dims = [str(size) for size in self.shape]
        return f"[{', '.join(['N', *dims[1:]] if self.any_batch else dims)}]"

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}{self.shape_text}"


@dataclass(frozen=True)
class Constant:
    """A constant of the network inside the block of weights.

    Attributes:
        offset: Bytes from the start of the block, a multiple of :data:`ALIGNMENT`.
        shape: As the code expects it.
        dtype: A numpy type name.
    """

    offset: int
    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return int(np.prod(self.shape, dtype=np.int64)) * item_size(self.dtype)


@dataclass(frozen=True, eq=False)
class Library:
    """A compiled network.

    Attributes:
        name: Of the model.
        target: What the code was made for, with the number of threads that work was divided among.
        inputs: In the order of the entry function's parameters.
        outputs: In the order in which the entry function returns them.
        constants: The entry function's parameters after the inputs, in execution order.
        layout_changes: Number of transpositions between N, C, H, W and N, H, W, C in one run.
        code: A shared library with the entry function ``main`` for TVM's virtual machine.
        weights: The block of weights, uint8, aligned to :data:`ALIGNMENT`.
        sources: Texts that kernels were made from, where they were to be kept: a kernel's name and ``.program``,
            ``.tir`` or ``.cu``.
        batch: How many images it takes, where the model leaves that open; None where all shapes are fixed.
    """

    name: str
    target: Target
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    constants: tuple[Constant, ...]
    layout_changes: int
    code: bytes
    weights: np.ndarray[Any, np.dtype[np.uint8]]
    sources: Mapping[str, str] = field(default_factory=dict)
    batch: Batch | None = None


def signature(library: Library) -> str:
    """Inputs and outputs with their types and shapes."""
    return f"{', '.join(map(str, library.inputs))} -> {', '.join(map(str, library.outputs))}"


def aligned_empty(nbytes: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """An uninitialised uint8 array whose address is a multiple of :data:`ALIGNMENT`."""
    raw = np.empty(nbytes + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + nbytes]


def aligned_copy(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A C-contiguous copy at an address that is a multiple of :data:`ALIGNMENT`."""
    copy: np.ndarray[Any, Any] = aligned_empty(array.nbytes).view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy
