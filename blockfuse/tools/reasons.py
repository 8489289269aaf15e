"""Why every operator of a model is where it is: in a block, in a segment, in a kernel of its own, or in none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from blockfuse.block import Block
from blockfuse.compiler import compile as compile_model
from blockfuse.plan.decide import FuseMode
from blockfuse.report import StepRecord, table
from blockfuse.steps import Programs
from blockfuse.target import parse_target
from blockfuse.tools.preview import previewed

if TYPE_CHECKING:
    from blockfuse.frontend.partition.result import Partition
    from blockfuse.frontend.reading import Model
    from blockfuse.graph import Op
    from blockfuse.pattern import Pattern

_NO_PATTERN = "no pattern matches more than one operator that ends here"


@dataclass(frozen=True)
class Reason:
    """Why an operator is where it is.

    Attributes:
        op: Its name in the canonical graph.
        kind: Its ONNX kind.
        step: The step of the network it is in.
        runs: What that is: the name of a pattern, ``segment``, ``single``, or ``by itself``.
        why: What decided it, and where no pattern did, the one that came nearest and the first difference.
    """

    op: str
    kind: str
    step: str
    runs: str
    why: str


@dataclass(frozen=True)
class Reasons:
    """Those of all operators, in the order of the network's steps."""

    network: str
    ops: tuple[Reason, ...]

    def to_dict(self) -> dict[str, Any]:
        """The same in types that JSON has."""
        return asdict(self)

    def __str__(self) -> str:
        rows = [("operator", "kind", "step", "runs", "why")]
        rows += [(one.op, one.kind, one.step, one.runs, one.why) for one in self.ops]
        return "\n".join((f"{self.network}: {len(self.ops)} operators", *table(rows)))


def reasons(
    model: Model,
    target: str = "cpu",
    shape: Mapping[str, Sequence[int]] | None = None,
    patterns: Sequence[Pattern] | None = None,
    fuse: FuseMode = "auto",
    threads: int | None = None,
    dtype: str | None = None,
    *,
    batch: int | None = None,
) -> Reasons:
    """Say for every operator of a model why it is where it is; nothing is lowered or built.

    Args:
        model: Path of an ONNX file, or a model in memory.
        target: As for :func:`blockfuse.compile`, like all that follow; of several architectures the first one counts.
        shape: Shapes of inputs that the model leaves open.
        patterns: Block patterns.
        fuse: When to fuse blocks.
        threads: Threads that work is divided among.
        dtype: Type to compute in.
        batch: Images to plan for where any batch can be run.

    Raises:
        ModelError: The model cannot be read or compiled.
        UsageError: An argument is wrong.
        TargetError: There is no such target.
    """
    machine = parse_target(target, threads).variants[0]
    arguments = (model, machine.name, dtype, shape, patterns, fuse, threads)
    programs: Programs = compile_model(*arguments, batch=batch, stop_after="program")
    parts = programs.planned.parts
    notes = {step.name: step for step in previewed(programs, machine, fuse).steps}
    found = []
    for step in parts.steps:
        ops = [parts.graph.op(name) for name in step.ops] if isinstance(step, Block) else [step]
        found += [_reason(parts, op, step, notes[step.name]) for op in ops]
    return Reasons(parts.graph.name, tuple(found))


def _reason(parts: Partition, op: Op, step: Block | Op, record: StepRecord) -> Reason:
    if not isinstance(step, Block):
        return Reason(op.name, op.kind, step.name, "by itself", _joined(parts.reasons[step.name], _nearest(parts, op)))
    if step.pattern:
        return Reason(op.name, op.kind, step.name, step.pattern, _joined(f"{step.pattern} matches", record.note))
    runs = "segment" if len(step.ops) > 1 else "single"
    text = parts.reasons.get(op.name, "") or f"joined with the operators around it as {step.name}"
    note = record.note.removesuffix(parts.nearest_to(step)).removesuffix("; ")
    decided = "" if note.startswith(text) else note
    return Reason(op.name, op.kind, step.name, runs, _joined(text, decided, _nearest(parts, op)))


def _nearest(parts: Partition, op: Op) -> str:
    """The pattern that matched most operators before it ended or failed at this one, and the first difference."""
    return parts.nearest_to(op) or _NO_PATTERN


def _joined(*texts: str) -> str:
    return "; ".join(text for text in texts if text)
