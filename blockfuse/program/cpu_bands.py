"""Rows that the steps of a band make, as expressions of the loop variables ``band`` and ``step``."""

from __future__ import annotations

from dataclasses import dataclass

from blockfuse.machine.affine import Affine, Range, clip, first, var
from blockfuse.plan.row_span import RowSpan
from blockfuse.stages import ImageShape


@dataclass(frozen=True)
class Bands:
    """Rows in bands, and each of them in steps.

    Attributes:
        height: Rows in all.
        tasks: Bands.
        rows: Rows of a step.
    """

    height: int
    tasks: int
    rows: int

    @property
    def per_band(self) -> int:
        """Rows of a band; the last one may have fewer."""
        return -(-self.height // self.tasks)

    @property
    def step_rows(self) -> int:
        """Rows of a step; the last one may have fewer."""
        return min(self.rows, self.per_band)

    @property
    def steps(self) -> int:
        """Steps of a band."""
        return -(-self.per_band // self.step_rows)

    def made(self) -> tuple[Affine, Affine]:
        """First and last-plus-one row of a step."""
        start = var("band") * self.per_band if self.tasks > 1 else Affine()
        h0 = start + var("step") * self.step_rows if self.steps > 1 else start
        if self.per_band * self.tasks == self.height and self.steps * self.step_rows == self.per_band:
            return h0, h0 + self.step_rows
        end = clip(start + self.per_band, 0, self.height)
        return h0, clip(h0 + self.step_rows, 0, end)

    def new_rows(self, needed: RowSpan, shape: ImageShape) -> Range:
        """Rows of a value that this step needs and no earlier step of the band made."""
        h0, h1 = self.made()
        if needed == RowSpan():
            return Range(h0, h1)
        low = clip(h0 * needed.stride - needed.before, 0, shape.height)
        high = clip((h1 - 1) * needed.stride + needed.after, 0, shape.height)
        if self.steps == 1 or needed.after + needed.before < needed.stride:
            return Range(low, high)
        made = clip((h0 - 1) * needed.stride + needed.after, 0, shape.height)
        return Range(first("step", low, made), high)
