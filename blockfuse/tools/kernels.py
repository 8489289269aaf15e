"""Kernels of a network one by one: what each computes, needs, and was made from."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from blockfuse.build.sources import texts_of
from blockfuse.compiler import compile as compile_model
from blockfuse.errors import UsageError
from blockfuse.plan.decide import FuseMode
from blockfuse.report import KernelRecord, Report
from blockfuse.runtime import artifact
from blockfuse.target import Target, parse_target
from blockfuse.tools.preview import preview
from blockfuse.tools.resources import Resources, resources_of

if TYPE_CHECKING:
    from blockfuse.frontend.reading import Model
    from blockfuse.pattern import Pattern


@dataclass(frozen=True)
class KernelView:
    """One kernel.

    Attributes:
        record: What the compiler says about it.
        blocks: Blocks that call it, once per call.
        share: Of the predicted time of all kernels.
        resources: What it needs of an SM, per architecture; empty on a CPU, or where that cannot be found out.
    """

    record: KernelRecord
    blocks: tuple[str, ...]
    share: float
    resources: tuple[Resources, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The kernel as JSON holds it."""
        data = {**asdict(self.record), "stages": list(self.record.stages), "blocks": list(self.blocks)}
        return {**data, "share": self.share, "resources": [one.to_dict() for one in self.resources]}

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
            lines.append(f"  {record.grid} CTAs of {record.threads} threads, {record.shared_bytes} shared bytes")
        lines += [f"  {one}" for one in self.resources]
        return "\n".join(lines)


@dataclass(frozen=True)
class Kernels:
    """All kernels of a network.

    Attributes:
        report: On the network.
        kernels: In order of their first call.
        texts: What they were made from, by name and kind; empty if that was not kept.
        note: Why resources of CUDA kernels are not shown; empty if they are, or on a CPU.
    """

    report: Report
    kernels: tuple[KernelView, ...]
    texts: Mapping[str, str] = field(default_factory=dict)
    note: str = ""

    @property
    def without_kernel(self) -> Counter[str]:
        """How many operators of each kind run by themselves; no time is predicted for them."""
        return Counter(step.kind for step in self.report.steps if not step.kernels)

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
        return {**head, "kernels": kernels, "without_kernel": dict(self.without_kernel), "note": self.note}

    def __str__(self) -> str:
        calls, report = sum(len(one.blocks) for one in self.kernels), self.report
        head = (
            f"{report.network} for {report.target}, {report.threads} threads: {len(self.kernels)} kernels in {calls} "
            f"calls, {report.predicted_us:.1f} us predicted"
        )
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.without_kernel.most_common())
        rest = [f"without a kernel and a prediction: {kinds}"] if kinds else []
        return "\n".join((head, *rest, *map(str, self.kernels), *([self.note] if self.note else [])))


def kernels_of_artifact(path: str | os.PathLike[str], *, resources: bool = True) -> tuple[Kernels, ...]:
    """The kernels of a container, of any machine's, for each of its targets.

    Args:
        path: The container.
        resources: Also find out what CUDA kernels need, which compiles them once more.

    Raises:
        ArtifactError: It cannot be read or is damaged.
    """
    return tuple(
        kernels_of(one.report, one.library.target.archs, one.library.sources, resources=resources)
        for one in artifact.load(path, any_machine=True)
    )


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

    Raises:
        ModelError: The model cannot be read or compiled.
        UsageError: An argument is wrong.
        TargetError: There is no such target.
    """
    variants = parse_target(target, threads).variants
    reports = preview(model, target, shape, patterns, fuse, threads, dtype, batch=batch)
    if not sources:
        return tuple(kernels_of(report, one.archs, {}) for report, one in zip(reports, variants, strict=True))
    arguments = (model, target, dtype, shape, patterns, fuse, threads)
    programs = _each(compile_model(*arguments, batch=batch, stop_after="program"), variants)
    functions = _each(compile_model(*arguments, batch=batch, stop_after="lower"), variants)
    found = []
    for report, one in zip(reports, variants, strict=True):
        texts = texts_of(programs[one.name].by_name, functions[one.name], cuda=one.kind == "cuda")
        found.append(kernels_of(report, one.archs, texts, resources=False))
    return tuple(found)


def _each(found: Any, variants: Sequence[Target]) -> dict[str, Any]:
    """What the compiler gives after a step, by the names of targets."""
    return dict(found) if len(variants) > 1 else {variants[0].name: found}


def kernels_of(report: Report, archs: Sequence[str], texts: Mapping[str, str], *, resources: bool = True) -> Kernels:
    """The kernels a report tells of."""
    calls: Counter[str] = Counter()
    records: dict[str, KernelRecord] = {}
    blocks: dict[str, list[str]] = {}
    for step in report.steps:
        for record in step.kernels:
            calls[record.name] += 1
            records.setdefault(record.name, record)
            blocks.setdefault(record.name, []).append(step.name)
    whole = report.predicted_us or 1.0
    found, note = resources_of(list(records.values()), archs, texts) if resources else ({}, "")
    views = (
        KernelView(record, tuple(blocks[name]), calls[name] * record.predicted_us / whole, found.get(name, ()))
        for name, record in records.items()
    )
    return Kernels(report, tuple(views), texts, note)
