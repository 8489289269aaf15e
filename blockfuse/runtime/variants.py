"""A network compiled for several targets, and which of them is for this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from blockfuse.errors import TargetError
from blockfuse.gpu import Gpu, this_gpu
from blockfuse.report import Report
from blockfuse.runtime.library import Library
from blockfuse.target import match_of


@dataclass(frozen=True, eq=False)
class Variant:
    """A network for one target.

    Attributes:
        library: Its code and weights.
        report: What the compiler says about it.
    """

    library: Library
    report: Report

    @property
    def name(self) -> str:
        """Of its target."""
        return self.library.target.name


def best_for_this_machine(variants: Sequence[Variant]) -> Variant:
    """The variant that this machine runs best; the only one, where that is for a CPU.

    Raises:
        TargetError: There is no GPU, or none is for it.
    """
    if variants[0].library.target.kind == "cpu":
        return variants[0]
    return best_for(variants, this_gpu())


def best_for(variants: Sequence[Variant], gpu: Gpu) -> Variant:
    """The variant that matches a GPU best: code for exactly that, else of its generation, else translated PTX.

    Raises:
        TargetError: None is for it, or those that are need more shared memory than it has.
    """
    matches = {match_of(one.library.target.archs, gpu.arch): one for one in reversed(variants)}
    running = [matches[match] for match in sorted(filter(None, matches), reverse=True)]
    name, compiled = variants[0].library.name, ", ".join(one.name for one in variants)
    if not running:
        raise TargetError(f"{name} was compiled for {compiled}, and this GPU is {gpu}")
    fitting = [one for one in running if one.library.target.shared_bytes <= gpu.shared_bytes]
    if fitting:
        return fitting[0]
    least = min(running, key=lambda one: one.library.target.shared_bytes)
    raise TargetError(
        f"{name} was planned for {least.name} and needs {least.library.target.shared_bytes:,} bytes of shared memory; "
        f"this GPU, {gpu}, has {gpu.shared_bytes:,}"
    )
