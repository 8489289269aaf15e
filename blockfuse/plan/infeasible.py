"""A plan that cannot be: a value with the reason, which the planner acts on and reports print."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Infeasible:
    """Why a block cannot be one kernel; false, so that ``plan or fallback`` reads well.

    Attributes:
        limit: What is exceeded, such as ``shared memory``.
        need: How much the smallest plan needs.
        available: How much there is.
        unit: Of both numbers.
        remedy: What would fit.
    """

    limit: str
    need: int
    available: int
    unit: str = "bytes"
    remedy: str = ""

    def __bool__(self) -> bool:
        return False

    def __str__(self) -> str:
        text = f"{self.limit}: needs {self.need:,} {self.unit}, {self.available:,} available"
        return f"{text}; {self.remedy}" if self.remedy else text


@dataclass(frozen=True)
class Impossible:
    """Why a block cannot be computed in some way, however much room there is; false, too.

    Attributes:
        reason: A sentence with the unit's name or the value's number.
    """

    reason: str

    def __bool__(self) -> bool:
        return False

    def __str__(self) -> str:
        return self.reason
