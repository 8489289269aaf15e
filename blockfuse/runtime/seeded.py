"""Weights made from a seed: a network for benchmarks and tests of machines, without shipping what was trained.

A recipe keeps small and integer constants as they are. Of all others it keeps mean, spread and which elements are zero
(padding stays padding); the values are uniform random numbers. They come from a bit generator whose stream numpy
guarantees and from operations that IEEE 754 rounds in one way only, so every machine makes the same bytes, and their
SHA-256 in the manifest is checked like that of stored weights.
"""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np

from blockfuse.dtypes import item_size, narrowed_bits, widened_values
from blockfuse.runtime.library import Constant, Library, aligned_empty

Bytes: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]

_KEPT_ELEMENTS = 1024
_MANTISSA = 24  # random bits per value: all that float32 holds exactly


@dataclass(frozen=True)
class Recipe:
    """How to make a block of weights.

    Attributes:
        seed: Of the random numbers.
        spreads: Mean and width of the values of every constant; None for those that are kept.
        kept: The bytes of the constants that are kept, one after the other.
        nonzero: One bit per element of the others, one constant after the other, each starting with a new byte.
    """

    seed: int
    spreads: tuple[tuple[float, float] | None, ...]
    kept: bytes
    nonzero: bytes

    def to_json(self) -> str:
        """The recipe as text."""
        packed = {name: base64.b64encode(zlib.compress(getattr(self, name))).decode() for name in ("kept", "nonzero")}
        return json.dumps({**asdict(self), **packed}, allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Recipe:
        """The recipe that :meth:`to_json` wrote.

        Raises:
            ValueError: The text is something else.
        """
        try:
            data = json.loads(text)
            spreads = tuple(None if one is None else (float(one[0]), float(one[1])) for one in data["spreads"])
            kept, nonzero = (zlib.decompress(base64.b64decode(data[name])) for name in ("kept", "nonzero"))
            return cls(int(data["seed"]), spreads, kept, nonzero)
        except (KeyError, TypeError, IndexError, RecursionError, zlib.error) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from None


def recipe_of(library: Library, seed: int = 0, scale: float = 1.0) -> Recipe:
    """The recipe for weights like those of a network.

    Args:
        library: The network.
        seed: Of the random numbers.
        scale: Factor on the width of all distributions.
    """
    spreads: list[tuple[float, float] | None] = []
    kept, nonzero = bytearray(), bytearray()
    for constant in library.constants:
        data = library.weights[constant.offset : constant.offset + constant.nbytes]
        if constant.nbytes <= _KEPT_ELEMENTS * item_size(constant.dtype) or "float" not in constant.dtype:
            spreads.append(None)
            kept += data.tobytes()
            continue
        values = widened_values(data, constant.dtype)
        used = values[values != 0].astype(np.float64)
        width = math.sqrt(12) * float(used.std()) if used.size else 0.0
        spreads.append((float(used.mean()) if used.size else 0.0, scale * width))
        nonzero += np.packbits(values != 0).tobytes()
    return Recipe(seed, tuple(spreads), bytes(kept), bytes(nonzero))


def make_weights(recipe: Recipe, constants: Sequence[Constant], nbytes: int) -> Bytes:
    """The block of weights of a recipe.

    Args:
        recipe: How to make it.
        constants: What lies in it.
        nbytes: Its size.

    Raises:
        ValueError: The recipe is one for other constants.
    """
    if len(constants) != len(recipe.spreads):
        raise ValueError(f"it is for {len(recipe.spreads)} constants, not {len(constants)}")
    weights = aligned_empty(nbytes)
    weights[:] = 0
    kept, nonzero = 0, 0
    for index, (constant, spread) in enumerate(zip(constants, recipe.spreads, strict=True)):
        target = weights[constant.offset : constant.offset + constant.nbytes]
        if spread is None:
            target[:] = np.frombuffer(recipe.kept, np.uint8, constant.nbytes, kept)
            kept += constant.nbytes
            continue
        rows = target.reshape(-1, item_size(constant.dtype))
        mask = np.frombuffer(recipe.nonzero, np.uint8, -(-len(rows) // 8), nonzero)
        nonzero += mask.size
        rows[:] = narrowed_bits(_uniform(len(rows), spread, (recipe.seed, index)), constant.dtype)
        rows[np.unpackbits(mask, count=len(rows)) == 0] = 0
    return weights


def make_input(shape: Sequence[int], dtype: str, seed: Sequence[int]) -> np.ndarray[Any, Any]:
    """Uniform random numbers of mean 0 and deviation 1, the same on every machine.

    Args:
        shape: Of the array.
        dtype: Of the array; whole numbers are truncated.
        seed: Two whole numbers.
    """
    first, second = seed
    values = _uniform(math.prod(shape), (0.0, math.sqrt(12)), (first, second))
    return values.reshape(shape).astype(dtype)


def _uniform(count: int, spread: tuple[float, float], seed: tuple[int, int]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Equal float32 values on every machine: each step below has one correct result."""
    mean, width = spread
    raw = np.random.PCG64(seed).random_raw(-(-count // 2)).astype("<u8", copy=False)
    bits = raw.view("<u4")[:count] >> np.uint32(32 - _MANTISSA)
    values = bits.astype(np.float32) * np.float32(2.0**-_MANTISSA) - np.float32(0.5)
    result: np.ndarray[Any, np.dtype[np.float32]] = values * np.float32(width) + np.float32(mean)
    return result
