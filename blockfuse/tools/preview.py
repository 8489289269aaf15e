"""The report on a model without the time-consuming half of compiling it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from blockfuse.build.assemble import assemble, describe
from blockfuse.build.layout import assign
from blockfuse.compiler import compile as compile_model
from blockfuse.plan.decide import FuseMode
from blockfuse.report import Report
from blockfuse.runtime.library import Library
from blockfuse.steps import Programs
from blockfuse.target import Target, parse_target

if TYPE_CHECKING:
    from blockfuse.frontend.reading import Model
    from blockfuse.pattern import Pattern


def preview(
    model: Model,
    target: str = "cpu",
    shape: Mapping[str, Sequence[int]] | None = None,
    patterns: Sequence[Pattern] | None = None,
    fuse: FuseMode = "auto",
    threads: int | None = None,
    dtype: str | None = None,
    *,
    batch: int | None = None,
) -> tuple[Report, ...]:
    """What the reports on a compiled model will say, one for each target; nothing is lowered or built.

    Args:
        model: Path of an ONNX file, or a model in memory.
        target: As for :func:`blockfuse.compile`, like all that follow.
        shape: Shapes of inputs that the model leaves open.
        patterns: Block patterns.
        fuse: When to fuse blocks.
        threads: Threads that work is divided among.
        dtype: Type to compute in.
        batch: Images to plan for where any batch can be run.

    Returns:
        The reports. Layout changes around operators that only TVM's importer knows are not counted.

    Raises:
        ModelError: The model cannot be read or compiled.
        UsageError: An argument is wrong.
        TargetError: There is no such target.
    """
    arguments = (model, target, dtype, shape, patterns, fuse, threads)
    machine = parse_target(target, threads)
    found = compile_model(*arguments, batch=batch, stop_after="program")
    by_name = found if isinstance(found, dict) else {machine.name: found}
    variants = {one.name: one for one in machine.variants}
    return tuple(previewed(programs, variants[name], fuse) for name, programs in by_name.items())


def previewed(programs: Programs, machine: Target, fuse: FuseMode) -> Report:
    """The report on what the compiler has up to its tile programs, for one target."""
    parts = programs.planned.parts
    network = assemble(parts, programs)
    library = Library(
        name=network.name,
        target=machine,
        inputs=network.inputs,
        outputs=network.outputs,
        constants=(),
        layout_changes=len(assign(network).changes),
        code=b"",
        weights=np.empty(0, np.uint8),
    )
    return describe(parts, programs, library, fuse, {})
