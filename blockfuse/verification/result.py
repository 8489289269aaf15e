"""What comparing a compiled network with its reference found."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from blockfuse.report import table
from blockfuse.verification.compare import Comparison


@dataclass(frozen=True)
class Check:
    """One tensor of a network against the reference.

    Attributes:
        tensor: Its name in the model.
        block: Name of the block that makes it, or "".
        is_output: Whether it is an output of the model.
        comparison: What was found.
        batch: Images at a time, where the network takes any batch; else 0.
    """

    tensor: str
    block: str
    is_output: bool
    comparison: Comparison
    batch: int = 0

    def __str__(self) -> str:
        place = f"block {self.block} ({self.tensor})" if self.block else f"output {self.tensor}"
        images = f" at batch {self.batch}" if self.batch else ""
        return f"{place}{images}: {self.comparison}"


@dataclass(frozen=True)
class Verification:
    """What comparing a network with its reference found.

    Attributes:
        network: Name of the model.
        target: What it was compiled for.
        fuse: The policy it was compiled with.
        threads: Threads it ran with.
        seed: Of the inputs.
        reference: What it was compared with.
        checks: Blocks in execution order, then outputs.
        unchecked: Names of blocks whose results the model does not name, so that the reference has none.
        moved: Where something is outside its tolerance, how far the reference's own outputs move, over the largest
            magnitude of each, when inputs move to a neighbouring number; else None.
    """

    network: str
    target: str
    fuse: str
    threads: int
    seed: int
    reference: str
    checks: tuple[Check, ...]
    unchecked: tuple[str, ...] = ()
    moved: float | None = None

    @property
    def passed(self) -> bool:
        """Whether every tensor is within its tolerance."""
        return all(check.comparison.passed for check in self.checks)

    @property
    def is_undecided(self) -> bool:
        """Whether rounding alone moves the reference further than the tolerance, so that it cannot decide."""
        return self.moved is not None and self.moved > max(check.comparison.allowed for check in self.outputs)

    @property
    def outputs(self) -> tuple[Check, ...]:
        """The outputs of the model."""
        return tuple(check for check in self.checks if check.is_output)

    @property
    def blocks(self) -> tuple[Check, ...]:
        """The results of blocks."""
        return tuple(check for check in self.checks if check.block)

    @property
    def first_wrong(self) -> Check | None:
        """The first in execution order that is not within its tolerance."""
        return next((check for check in self.checks if not check.comparison.passed), None)

    @property
    def worst(self) -> Check:
        """The check with the largest error over what is allowed."""
        return max(self.checks, key=lambda check: check.comparison.max_rel / check.comparison.allowed)

    @property
    def max_rel(self) -> float:
        """The largest error of an output, over the largest magnitude of that output."""
        return max(check.comparison.max_rel for check in self.outputs)

    def to_dict(self) -> dict[str, Any]:
        """The verification as JSON holds it."""
        checks = [
            {
                "tensor": check.tensor,
                "block": check.block,
                "is_output": check.is_output,
                "batch": check.batch,
                **check.comparison.to_dict(),
            }
            for check in self.checks
        ]
        return {**asdict(self), "checks": checks, "unchecked": list(self.unchecked), "passed": self.passed}

    def __str__(self) -> str:
        verdict = "passed" if self.passed else f"FAILED, first in {self.first_wrong}"
        head = f"{self.network} for {self.target}, fuse={self.fuse}, against {self.reference}: {verdict}"
        rows: list[tuple[str, ...]] = [("tensor", "block", "max error", "allowed", "p99", "cosine", "NaN", "inf")]
        rows += [_row(check) for check in self.checks]
        lines = [head, *table(rows)]
        if self.unchecked:
            lines.append(f"not compared, the model does not name their results: {', '.join(self.unchecked)}")
        return "\n".join(lines)


def _row(check: Check) -> tuple[str, ...]:
    found = check.comparison
    numbers = (f"{found.max_rel:.1e}", f"{found.allowed:.1e}", f"{found.p99:.1e}", f"{found.cosine:.9f}")
    tensor = f"{check.tensor}, batch {check.batch}" if check.batch else check.tensor
    return (tensor, check.block or "(output)", *numbers, str(found.nan), str(found.inf))
