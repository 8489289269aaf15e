"""Kernels of a network one by one: what each computes, needs, and was made from."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from blockfuse.build.border import CAST
from blockfuse.build.sources import texts_of
from blockfuse.compiler import compile as compile_model
from blockfuse.errors import UsageError
from blockfuse.plan.decide import FuseMode
from blockfuse.report import KernelRecord, Report, StepRecord
from blockfuse.runtime import artifact
from blockfuse.target import Target, parse_target
from blockfuse.tools.counts import Counts
from blockfuse.tools.machine_code import Code, codes_of
from blockfuse.tools.preview import preview
from blockfuse.tools.resources import Resources, resources_of

if TYPE_CHECKING:
    from blockfuse.frontend.reading import Model
    from blockfuse.pattern import Pattern

_OF_MODELS = "registers, stack and SASS are shown of what compile wrote, a .bf file"
_NO_CODE = "registers, stack and SASS are not known: the file holds no machine code that can be read"


@dataclass(frozen=True)
class KernelView:
    """One kernel.

    Attributes:
        record: What the compiler says about it.
        blocks: Blocks that call it, once per call.
        share: Of the predicted time of all kernels.
        resources: What it needs of an SM, per architecture; empty on a CPU, or where there is no machine code.
        counted_bytes: What an emulation counted of the bytes it moves; None where nothing was counted.
    """

    record: KernelRecord
    blocks: tuple[str, ...]
    share: float
    resources: tuple[Resources, ...] = ()
    counted_bytes: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """The kernel as JSON holds it."""
        data = {**asdict(self.record), "stages": list(self.record.stages), "blocks": list(self.blocks)}
        needs = [one.to_dict() for one in self.resources]
        return {**data, "share": self.share, "resources": needs, "counted_bytes": self.counted_bytes}

    def __str__(self) -> str:
        record, calls = self.record, len(self.blocks)
        time = f"{record.predicted_us:.1f} us each by {record.bound}, {100 * self.share:.0f} % of the network"
        work = f"{record.operations / 1e6:.1f} M operations x {record.recompute:.2f}"
        size = f"{record.global_bytes / 1e3:.0f} kB of memory, {record.local_bytes / 1e3:.0f} kB on chip"
        lines = [
            f"{record.name}: {' | '.join(record.stages) or 'stages not recorded'}",
            f"  {calls} call{'s' * (calls > 1)} ({', '.join(self.blocks)}); {record.plan}",
            f"  {time}; {work}; {size}",
        ]
        if record.grid:
            counted = "-" if self.counted_bytes is None else f"{self.counted_bytes / 1e3:.0f} kB"
            moved = f"moves {record.moved_bytes / 1e3:.0f} kB predicted, {counted} counted in emulation"
            ctas = f"{record.grid} CTAs of {record.threads} threads, {record.shared_bytes} shared bytes"
            lines.append(f"  {ctas}; {moved}")
        lines += [f"  {one}" for one in self.resources]
        return "\n".join(lines)


@dataclass(frozen=True)
class OtherKernel:
    """A kernel in the machine code that no step's record tells of.

    Attributes:
        name: Of the kernel.
        resources: What it needs, per architecture.
    """

    name: str
    resources: tuple[Resources, ...]

    def to_dict(self) -> dict[str, Any]:
        """The kernel as JSON holds it."""
        return {"name": self.name, "resources": [one.to_dict() for one in self.resources]}

    def __str__(self) -> str:
        what = "converts a value at the network's border" if self.name.startswith(CAST) else "of an operator, by TVM"
        return "\n".join([f"{self.name}: {what}", *(f"  {one}" for one in self.resources)])


@dataclass(frozen=True)
class Kernels:
    """All kernels of a network.

    Attributes:
        report: On the network.
        kernels: In order of their first call.
        texts: What they were made from, by name and kind; empty if that was not kept.
        note: Why resources of CUDA kernels are not shown; empty if they are, or on a CPU.
        others: Kernels without a record: conversions at the border, and those that TVM makes of operators.
    """

    report: Report
    kernels: tuple[KernelView, ...]
    texts: Mapping[str, str] = field(default_factory=dict)
    note: str = ""
    others: tuple[OtherKernel, ...] = ()

    @property
    def alone(self) -> tuple[StepRecord, ...]:
        """Operators that run by themselves."""
        return tuple(step for step in self.report.steps if not step.kernels)

    @property
    def without_kernel(self) -> Counter[str]:
        """How many operators of each kind run by themselves; no time is predicted for them."""
        return Counter(step.kind for step in self.alone)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the kernels."""
        return tuple(one.record.name for one in self.kernels)

    def sources(self, name: str) -> dict[str, str]:
        """The texts of one kernel, by name and kind.

        Raises:
            UsageError: There is no such kernel, or its texts were not kept.
        """
        if name not in self.names:
            raise UsageError(f"there is no kernel {name!r}; there are {', '.join(self.names) or 'none'}")
        found = {key: text for key, text in self.texts.items() if key.rpartition(".")[0] == name}
        if not found:
            raise UsageError(f"the artifact has no sources of {name}: compile it with --keep-sources")
        return dict(sorted(found.items(), key=lambda item: not item[0].endswith(".program")))

    def to_dict(self) -> dict[str, Any]:
        """All kernels as JSON holds them."""
        kernels = [one.to_dict() for one in self.kernels]
        head = {"network": self.report.network, "target": self.report.target}
        alone = [{"name": step.name, "kind": step.kind, "note": step.note} for step in self.alone]
        others = [one.to_dict() for one in self.others]
        rest = {"without_kernel": dict(self.without_kernel), "operators": alone, "others": others, "note": self.note}
        return {**head, "kernels": kernels, **rest}

    def __str__(self) -> str:
        calls, report = sum(len(one.blocks) for one in self.kernels), self.report
        head = (
            f"{report.network} for {report.target}, {report.threads} threads: {len(self.kernels)} kernels in {calls} "
            f"calls, {report.predicted_us:.1f} us predicted"
        )
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.without_kernel.most_common())
        rest = [f"without a kernel and a prediction: {kinds}"] if kinds else []
        alone = [f"{step.name}: {step.kind}, an operator without a kernel of ours  {step.note}" for step in self.alone]
        last = [self.note] if self.note else []
        return "\n".join((head, *rest, *map(str, self.kernels), *map(str, self.others), *map(str.rstrip, alone), *last))


def kernels_of_artifact(
    path: str | os.PathLike[str], counts: Counts | None = None, *, code: bool = True
) -> tuple[Kernels, ...]:
    """The kernels of a container, of any machine's, for each of its targets.

    Args:
        path: The container.
        counts: What emulation counted.
        code: Also read the machine code of CUDA kernels.

    Raises:
        ArtifactError: It cannot be read or is damaged.
    """
    found = []
    for one in artifact.load(path, any_machine=True):
        library = one.library
        codes = codes_of(library.code) if code and library.target.archs else []
        note = _NO_CODE if code and library.target.archs and not codes else ""
        found.append(kernels_of(one.report, library.sources, codes, counts, note))
    return tuple(found)


def kernels_of_model(
    model: Model,
    target: str = "cpu",
    shape: Mapping[str, Sequence[int]] | None = None,
    patterns: Sequence[Pattern] | None = None,
    fuse: FuseMode = "auto",
    threads: int | None = None,
    dtype: str | None = None,
    *,
    batch: int | None = None,
    sources: bool = False,
    counts: Counts | None = None,
) -> tuple[Kernels, ...]:
    """The kernels a model will have for each of its targets; nothing is built, and only with ``sources`` lowered.

    Args:
        model: Path of an ONNX file, or a model in memory.
        target: As for :func:`blockfuse.compile`, like all that follow.
        shape: Shapes of inputs that the model leaves open.
        patterns: Block patterns.
        fuse: When to fuse blocks.
        threads: Threads that work is divided among.
        dtype: Type to compute in.
        batch: Images to plan for where any batch can be run.
        sources: Also make the texts.
        counts: What emulation counted.

    Raises:
        ModelError: The model cannot be read or compiled.
        UsageError: An argument is wrong.
        TargetError: There is no such target.
    """
    variants = parse_target(target, threads).variants
    reports = preview(model, target, shape, patterns, fuse, threads, dtype, batch=batch)
    notes = [_OF_MODELS if one.archs else "" for one in variants]
    if not sources:
        return tuple(kernels_of(report, counts=counts, note=note) for report, note in zip(reports, notes, strict=True))
    arguments = (model, target, dtype, shape, patterns, fuse, threads)
    programs = _each(compile_model(*arguments, batch=batch, stop_after="program"), variants)
    functions = _each(compile_model(*arguments, batch=batch, stop_after="lower"), variants)
    found = []
    for report, note, one in zip(reports, notes, variants, strict=True):
        texts = texts_of(programs[one.name].by_name, functions[one.name], cuda=one.kind == "cuda")
        found.append(kernels_of(report, texts, counts=counts, note=note))
    return tuple(found)


def _each(found: Any, variants: Sequence[Target]) -> dict[str, Any]:
    """What the compiler gives after a step, by the names of targets."""
    return dict(found) if len(variants) > 1 else {variants[0].name: found}


def kernels_of(
    report: Report,
    texts: Mapping[str, str] = MappingProxyType({}),
    codes: Sequence[Code] = (),
    counts: Counts | None = None,
    note: str = "",
) -> Kernels:
    """The kernels a report tells of, and those of the machine code that it does not tell of."""
    calls: Counter[str] = Counter()
    records: dict[str, KernelRecord] = {}
    blocks: dict[str, list[str]] = {}
    for step in report.steps:
        for record in step.kernels:
            calls[record.name] += 1
            records.setdefault(record.name, record)
            blocks.setdefault(record.name, []).append(step.name)
    whole = report.predicted_us or 1.0
    found, others = resources_of(list(records.values()), codes)
    counted = {name: counts.of(record) if counts else None for name, record in records.items()}
    views = (
        KernelView(
            record, tuple(blocks[name]), calls[name] * record.predicted_us / whole, found.get(name, ()), counted[name]
        )
        for name, record in records.items()
    )
    rest = tuple(OtherKernel(name, needs) for name, needs in others.items())
    return Kernels(report, tuple(views), texts, note, rest)
