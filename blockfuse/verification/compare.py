"""How far apart two results may be, and how far apart they are.

Every number is relative to the largest magnitude of the reference: elements near zero are differences of large terms,
and have their error.

The tolerance follows from how the results are computed. Adding n products of zero-mean terms one after the other, the
partial sums grow like a random walk to sqrt(n) times a term, and each addition rounds its partial sum by up to eps/2,
evenly spread. Summed up, the error has a standard deviation of eps * sqrt(n / 24) times that of the result. Errors of
successive stages are independent and pass through later stages as the signal does, so n is the number of terms along
the deepest path. Rounding a stage's result to a type adds eps * sqrt(1 / 12) of that type. Result and reference have
one such error each. The largest error and the largest value of many lie about equally far out in their distributions,
so the ratio of the two is about the ratio of the deviations.

What is allowed is five times that ratio for the sums, because terms may cancel and orders of summation differ, and
three times for the rounding between stages, which depends on neither. A missing tap, bias or channel is off by a
hundred times as much.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np

from blockfuse.errors import UsageError

Array: TypeAlias = np.ndarray[Any, Any]

_EPSILON = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
"""Distance from 1 to the next larger number."""

_MARGIN_OF_SUMS = 5
_MARGIN_OF_ROUNDING = 3


def tolerance(depth: int, dtype: str = "float32", stages: int = 1) -> float:
    """The largest difference, over the largest magnitude of the reference, that rounding explains.

    Args:
        depth: Number of terms added up along the deepest path to the result; sums are float32, or float64 for that.
        dtype: Type in which the stages along the path hand over their results.
        stages: Number of those stages.

    Raises:
        UsageError: There is no tolerance for the type, or a count is not positive.
    """
    if dtype not in _EPSILON:
        raise UsageError(f"there is no tolerance for {dtype!r}; known are {', '.join(_EPSILON)}")
    if depth < 1 or stages < 1:
        raise UsageError(f"depth and stages must be at least 1, not {depth} and {stages}")
    stored = _EPSILON[dtype]
    summed = min(stored, _EPSILON["float32"])
    sums = summed * math.sqrt(2 * depth / 24)
    rounding = stored * math.sqrt(2 * stages / 12)
    return _MARGIN_OF_SUMS * sums + _MARGIN_OF_ROUNDING * rounding


@dataclass(frozen=True)
class Comparison:
    """A result against its reference.

    Attributes:
        shape: Of both.
        allowed: What ``max_rel`` may be.
        max_abs: Largest difference.
        max_rel: The same over the largest magnitude of the reference.
        p99: The difference that 99 % of the elements stay below.
        cosine: Of the angle between the two; 1 for the same direction.
        nan: Number of results that are not a number.
        inf: Number of results that are infinite.
        worst: Index of the element that differs most, or of the first that is not finite.
        actual: That element of the result.
        expected: That element of the reference.
    """

    shape: tuple[int, ...]
    allowed: float
    max_abs: float
    max_rel: float
    p99: float
    cosine: float
    nan: int
    inf: int
    worst: tuple[int, ...]
    actual: float
    expected: float

    @property
    def passed(self) -> bool:
        """Whether every element is finite and within what is allowed."""
        return self.max_rel <= self.allowed

    def to_dict(self) -> dict[str, Any]:
        """The comparison as JSON holds it, which has no infinity: such numbers become None."""
        data = {**asdict(self), "shape": list(self.shape), "worst": list(self.worst), "passed": self.passed}
        return {
            key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in data.items()
        }

    def __str__(self) -> str:
        if self.nan or self.inf:
            found = f"{self.nan} NaN and {self.inf} infinite of {math.prod(self.shape)} elements"
        else:
            found = f"max error {self.max_rel:.1e} of max|reference|, {self.allowed:.1e} allowed"
        is_known = math.isfinite(self.expected)
        rest = f"not {self.expected:.8g}" if is_known else f"and the reference is no finite number: {self.expected:.8g}"
        return f"{found}; worst at {list(self.worst)}: {self.actual:.8g}, {rest}"


def compare(actual: Array, expected: Array, allowed: float) -> Comparison:
    """Compare a result with its reference.

    Args:
        actual: The result, any shape with at least one element.
        expected: The reference, of the same shape.
        allowed: The largest difference over the largest magnitude of the reference, such as :func:`tolerance` gives.

    Returns:
        What was found; a result or a reference that is not finite never passes.

    Raises:
        UsageError: The shapes differ, or there are no elements.
    """
    if actual.shape != expected.shape or not actual.size:
        raise UsageError(f"a result of shape {list(actual.shape)} cannot be compared with {list(expected.shape)}")
    got, wanted = actual.astype(np.float64), expected.astype(np.float64)
    nan, inf = int(np.isnan(got).sum()), int(np.isinf(got).sum())
    unusable = ~(np.isfinite(got) & np.isfinite(wanted))
    with np.errstate(invalid="ignore"):
        difference = np.where(unusable, np.inf, np.abs(got - wanted))
    at = np.unravel_index(int(difference.argmax()), got.shape)
    max_abs = float(difference[at])
    return Comparison(
        shape=actual.shape,
        allowed=allowed,
        max_abs=max_abs,
        max_rel=_over(max_abs, float(np.abs(wanted).max())),
        p99=_percentile(difference),
        cosine=math.nan if unusable.any() else _cosine(got.ravel(), wanted.ravel()),
        nan=nan,
        inf=inf,
        worst=tuple(int(index) for index in at),
        actual=float(got[at]),
        expected=float(wanted[at]),
    )


def _over(error: float, scale: float) -> float:
    """An error over a scale; without an error 0, whatever the scale."""
    if error == 0:
        return 0.0
    return error / scale if 0 < scale < math.inf and math.isfinite(error) else math.inf


def _percentile(difference: Array) -> float:
    """The smallest difference that 99 % of the elements do not exceed."""
    flat = difference.ravel()
    rank = math.ceil(0.99 * flat.size) - 1
    return float(np.partition(flat, rank)[rank])


def _cosine(got: Array, wanted: Array) -> float:
    lengths = float(np.linalg.norm(got) * np.linalg.norm(wanted))
    if lengths == 0:
        return float(not got.any() and not wanted.any())
    return float(got @ wanted) / lengths
