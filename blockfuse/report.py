"""What was compiled, as plain data: which blocks are fused, into which kernels, and the time predicted for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from blockfuse.errors import InternalError


@dataclass(frozen=True)
class BlockRecord:
    """One step of the network.

    Attributes:
        name: Of the block or the op.
        kind: Name of the pattern that matched, or the ONNX kind of a single op.
        kernels: Names of the kernels it runs, in order; empty for ops without a kernel of ours.
        predicted_us: Predicted time of one run in microseconds, None if there is no prediction.
        note: Why it is not one kernel, if it is not.
    """

    name: str
    kind: str
    kernels: tuple[str, ...] = ()
    predicted_us: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Report:
    """What a compiled network consists of.

    Attributes:
        network: Name of the model.
        target: What it was compiled for.
        blocks: All steps in execution order.
        layout_changes: Transpositions of images in one run.
    """

    network: str
    target: str
    blocks: tuple[BlockRecord, ...] = ()
    layout_changes: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The report as data that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Report:
        """The report that :meth:`to_dict` gave.

        Raises:
            InternalError: The data is something else.
        """
        try:
            blocks = tuple(BlockRecord(**{**block, "kernels": tuple(block["kernels"])}) for block in data["blocks"])
            return cls(data["network"], data["target"], blocks, data["layout_changes"])
        except (KeyError, TypeError) as error:
            raise InternalError(f"not a report: {error}") from None

    def __str__(self) -> str:
        rows = [("step", "kind", "kernels", "predicted us", "")]
        for block in self.blocks:
            time = "" if block.predicted_us is None else f"{block.predicted_us:.1f}"
            rows.append((block.name, block.kind, str(len(block.kernels)), time, block.note))
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = [f"{self.network} for {self.target}: {len(self.blocks)} steps, {self.layout_changes} layout changes"]
        for row in rows:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            lines.append("  ".join(cells).rstrip())
        return "\n".join(lines)
