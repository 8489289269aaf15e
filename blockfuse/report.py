"""What was compiled, as plain data: blocks, stages, plans, kernels, bytes, predicted time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from blockfuse.errors import InternalError


@dataclass(frozen=True)
class KernelRecord:
    """One kernel call.

    Attributes:
        name: Of the kernel's function; equal blocks share one.
        plan: The choices, in words.
        operations: Of the model; a multiply-accumulate counts two.
        recompute: Operations done over operations of the model.
        global_bytes: Bytes of inputs, constants and result, each once.
        local_bytes: Bytes of intermediate values kept on the chip by one core.
        predicted_us: Predicted time, microseconds.
        bound: What takes that time: ``arithmetic``, ``cache``, ``memory`` or, on a GPU, ``shared memory``.
        stages: What it computes, in words.
        grid: CTAs of a launch; 0 on a CPU, like the next two.
        threads: Of a CTA.
        shared_bytes: Shared memory of a CTA.
        moved_bytes: On a GPU what all CTAs are predicted to read from and write to the last-level cache or memory;
            halos and weights count as often as they are read.
    """

    name: str
    plan: str
    operations: int
    recompute: float
    global_bytes: int
    local_bytes: int
    predicted_us: float
    bound: str
    stages: tuple[str, ...] = ()
    grid: int = 0
    threads: int = 0
    shared_bytes: int = 0
    moved_bytes: int = 0


@dataclass(frozen=True)
class StepRecord:
    """One step of the network: a block, or an operator that runs by itself.

    Attributes:
        name: Of the block or operator.
        kind: Name of the pattern that matched, ``single`` for a convolution or pool by itself, or the ONNX kind of an
            operator without a kernel of ours.
        stages: The block's stages, in words.
        output: Name of the graph tensor it makes.
        kernels: What it runs, in order; empty for an operator without a kernel of ours.
        saved_bytes: Bytes of intermediate values, written and read, that stay on the chip.
        note: What decided between one kernel and several, or why the operator runs by itself.
    """

    name: str
    kind: str
    output: str
    stages: tuple[str, ...] = ()
    kernels: tuple[KernelRecord, ...] = ()
    saved_bytes: int = 0
    note: str = ""

    @property
    def is_block(self) -> bool:
        """Whether a pattern named it."""
        return bool(self.kernels) and self.kind != "single"

    @property
    def is_fused(self) -> bool:
        """Whether it is a block that one kernel computes."""
        return self.is_block and len(self.kernels) == 1

    @property
    def predicted_us(self) -> float | None:
        """Predicted time, microseconds; None without a prediction."""
        return sum(kernel.predicted_us for kernel in self.kernels) if self.kernels else None


@dataclass(frozen=True)
class Report:
    """What a compiled network consists of.

    Attributes:
        network: Name of the model.
        target: What it was compiled for.
        threads: Threads planned for.
        fuse: The policy.
        steps: In execution order.
        unfused_kernels: Kernels there would be if nothing were fused.
        layout_changes: Transpositions of images in one run.
        seconds: Time each compiler stage took, by name; not known of a network from a file.
        dtype: Type that is computed in.
        signature: Inputs and outputs with their types and shapes.
        planned_batch: Where any batch can be run, the one that plans and predictions are for; else None.
        device: The GPU that plans and predictions are for, and whose figures they use; empty on a CPU.
    """

    network: str
    target: str
    threads: int = 1
    fuse: str = "auto"
    steps: tuple[StepRecord, ...] = ()
    unfused_kernels: int = 0
    layout_changes: int = 0
    seconds: Mapping[str, float] | None = None
    dtype: str = "float32"
    signature: str = ""
    planned_batch: int | None = None
    device: str = ""

    @property
    def blocks(self) -> tuple[StepRecord, ...]:
        """Steps that a pattern named."""
        return tuple(step for step in self.steps if step.is_block)

    @property
    def kernel_count(self) -> int:
        """Kernel calls and single operators of one run."""
        return sum(max(1, len(step.kernels)) for step in self.steps)

    @property
    def saved_bytes(self) -> int:
        """Bytes of intermediate values per run that stay on the chip."""
        return sum(step.saved_bytes for step in self.steps)

    @property
    def predicted_us(self) -> float:
        """Predicted time of all kernels, microseconds."""
        return sum(step.predicted_us or 0.0 for step in self.steps)

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
            steps = tuple(_step(step) for step in data["steps"])
            return cls(**{**data, "steps": steps})
        except (KeyError, TypeError) as error:
            raise InternalError(f"not a report: {error}") from None

    def __str__(self) -> str:
        fused = sum(step.is_fused for step in self.blocks)
        batch = f"any batch, planned for {self.planned_batch}, " if self.planned_batch else ""
        head = (
            f"{self.network} for {self.target}, {self.threads} threads, {batch}fuse={self.fuse}: "
            f"{len(self.blocks)} blocks, "
            f"{fused} fused; {self.kernel_count} kernels instead of {self.unfused_kernels}; "
            f"{self.saved_bytes / 1e6:.1f} MB of intermediates stay on the chip; {self.layout_changes} layout changes"
        )
        rows = [_HEADER, *(_row(step) for step in self.steps)]
        device = f"predicted for {self.device}" if self.device else ""
        return "\n".join((head, *filter(None, (self.signature, device)), *table(rows)))


_HEADER = ("step", "kind", "kernels", "predicted us", "bound", "plan")


def _step(data: Mapping[str, Any]) -> StepRecord:
    kernels = tuple(KernelRecord(**{**one, "stages": tuple(one.get("stages", ()))}) for one in data["kernels"])
    return StepRecord(**{**data, "kernels": kernels, "stages": tuple(data["stages"])})


def _row(step: StepRecord) -> tuple[str, ...]:
    time = "" if step.predicted_us is None else f"{step.predicted_us:.1f}"
    plan = step.kernels[0].plan if len(step.kernels) == 1 else step.note
    bound = max(step.kernels, key=lambda kernel: kernel.predicted_us).bound if step.kernels else ""
    return (step.name, step.kind, str(len(step.kernels)), time, bound, plan)


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table whose columns are as wide as their widest cell."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
