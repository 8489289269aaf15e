"""Weights that travel as a recipe: both sides of a benchmark make the same ones from a seed.

The constants of a graph become seeded random numbers (:mod:`blockfuse.runtime.seeded`), the same on every machine. A
kernel reads them packed in an order of its own, and packing needs the compiler. So the order travels: for each packed
constant the position of every element in the graph's constants, found by packing numbers in their place. Positions
follow patterns, so their differences compress to next to nothing. Constants that packing adds up, such as biases, are
small and travel as they are. What is made is checked: the container knows the SHA-256 of its weights.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from blockfuse.runtime.library import Constant, Library, aligned_empty
from blockfuse.runtime.seeded import Recipe, make_weights, recipe_of
from blockfuse.target import Target

Array: TypeAlias = np.ndarray[Any, Any]
Constants: TypeAlias = dict[str, Array]
Json: TypeAlias = dict[str, Any]

_DIGIT = 1024  # float16 holds every integer up to twice that
_DIGITS = 3
_ALIGNMENT = 64


# ---- a graph's constants ---------------------------------------------------------------------------------------------
def recipe_of_constants(constants: Mapping[str, Array]) -> Json:
    """How to make constants like these: as JSON holds it."""
    layout, end = [], 0
    for array in constants.values():
        layout.append(Constant(end, array.shape, array.dtype.name))
        end += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
    weights = aligned_empty(end)
    weights[:] = 0
    for constant, array in zip(layout, constants.values(), strict=True):
        weights[constant.offset : constant.offset + constant.nbytes] = (
            np.ascontiguousarray(array).view(np.uint8).ravel()
        )
    recipe = recipe_of(Library("constants", Target("cpu", "cpu"), (), (), tuple(layout), 0, b"", weights))
    table = [[name, one.offset, one.shape, one.dtype] for name, one in zip(constants, layout, strict=True)]
    return {"bytes": end, "constants": table, "recipe": json.loads(recipe.to_json())}


def make_constants(data: Json) -> Constants:
    """The constants of a recipe, by name."""
    layout = [Constant(offset, tuple(shape), dtype) for _, offset, shape, dtype in data["constants"]]
    weights = make_weights(Recipe.from_json(json.dumps(data["recipe"])), layout, data["bytes"])
    return {
        entry[0]: weights[one.offset : one.offset + one.nbytes].view(one.dtype).reshape(one.shape)
        for entry, one in zip(data["constants"], layout, strict=True)
    }


# ---- where the compiler is: how they are packed ----------------------------------------------------------------------
Pack: TypeAlias = Callable[[Mapping[Any, Array]], tuple[Array, ...]]


def trace(pack: Pack, parameters: Mapping[Any, Array]) -> list[Array]:
    """For every packed constant, the position of its elements among all parameters, one after the other, plus one.

    Zero is padding. Constants that add several parameters up give numbers without a meaning.

    Args:
        pack: Lays parameters out as a kernel reads them.
        parameters: Arrays of the shapes it takes.
    """
    totals: list[Array] = []
    for power in range(_DIGITS):
        start, digits = 1, {}
        for key, array in parameters.items():
            numbers = np.arange(start, start + array.size) // _DIGIT**power % _DIGIT
            digits[key] = numbers.reshape(array.shape).astype(np.float32)
            start += array.size
        packed = [array.astype(np.int64) * _DIGIT**power for array in pack(digits)]
        totals = [a + b for a, b in zip(totals, packed, strict=True)] if totals else packed
    return [array.ravel() for array in totals]


def gather(positions: Array, sources: Sequence[Array], dtype: str) -> Array:
    """The packed constant whose elements lie at these positions of the sources."""
    zero = np.zeros(1, np.float32)
    return np.concatenate([zero, *(np.asarray(array).ravel() for array in sources)])[positions].astype(dtype)


class PackedWeights:
    """How the packed constants of some kernels are made from a graph's constants.

    Args:
        constants: Of the graph, as the recipe makes them.
    """

    def __init__(self, constants: Constants) -> None:
        self._names: dict[bytes, str] = {}
        for name, array in constants.items():
            self._names.setdefault(_content(array), name)
        self._constants = constants
        self._arrays: dict[str, Array] = {}
        self._known: dict[bytes, str] = {}

    def add(self, packed: Array, positions: Array, parameters: Sequence[Array]) -> Json:
        """A packed constant in words.

        Args:
            packed: What is to be made.
            positions: What :func:`trace` found for it.
            parameters: What it was packed from.
        """
        names = [self._names.get(_content(array), "") for array in parameters]
        sources = [self._constants[name] if name else array for name, array in zip(names, parameters, strict=True)]
        used = [bool(name) for name in names]
        flat, kind = packed.ravel(), packed.dtype.name
        size = 1 + sum(array.size for array in sources)
        fits = positions.max(initial=0) < size and _only_from(positions, sources, used)
        if fits and np.array_equal(gather(positions, sources, kind), flat):
            key = self._keep(np.diff(positions, prepend=0).astype(np.int32))
            sizes = [array.size for array in parameters]
            return {"dtype": kind, "positions": key, "sources": names, "sizes": sizes}
        return {"dtype": kind, "kept": self._keep(flat.view(np.uint8))}

    def _keep(self, array: Array) -> str:
        """The name of an array in the file; equal ones share it."""
        content = _content(array)
        if content not in self._known:
            self._known[content] = f"a{len(self._arrays)}"
            self._arrays[self._known[content]] = array
        return self._known[content]

    def save(self, path: Path) -> None:
        """Write all arrays that descriptions name."""
        np.savez_compressed(path, **self._arrays)  # type: ignore[arg-type]


def _only_from(positions: Array, sources: Sequence[Array], used: Sequence[bool]) -> bool:
    """Whether all positions lie in sources that travel."""
    edges = np.cumsum([1, *(array.size for array in sources)])
    owners = np.searchsorted(edges, np.unique(positions[positions > 0] // 1), side="right") - 1
    return all(used[owner] for owner in np.unique(owners))


def _content(array: Array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array).ravel())
    return buffer.getvalue()


# ---- where the kernels run -------------------------------------------------------------------------------------------
def unpack(description: Json, arrays: Mapping[str, Array], constants: Constants) -> Array:
    """The packed constant of a description that :meth:`PackedWeights.add` gave, flat."""
    if "kept" in description:
        return arrays[description["kept"]].view(description["dtype"])
    positions = np.cumsum(arrays[description["positions"]], dtype=np.int64)
    pairs = zip(description["sources"], description["sizes"], strict=True)
    sources = [constants[name] if name else np.zeros(size, np.float32) for name, size in pairs]
    return gather(positions, sources, description["dtype"])
