"""Decide, block by block, what becomes one kernel: the whole block, or parts of it.

``auto`` takes what is predicted to be fastest; within 5 % the choice that moves fewer bytes wins. ``always`` fuses
every block that can be one kernel; ``never`` gives every convolution, pool or fully connected layer its own kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from blockfuse.block import Block
from blockfuse.errors import InternalError
from blockfuse.plan.choose_cpu import plan_cpu
from blockfuse.plan.cost import Cost, interior_bytes
from blockfuse.plan.cpu import CpuPlan
from blockfuse.plan.cut import into_units
from blockfuse.plan.device import Device
from blockfuse.plan.fold import fold
from blockfuse.plan.infeasible import Infeasible

FuseMode: TypeAlias = Literal["auto", "always", "never"]
FUSE_MODES: tuple[FuseMode, ...] = ("auto", "always", "never")

_TIE = 0.05


@dataclass(frozen=True)
class Kernel:
    """A block that becomes one kernel, how, and at what predicted cost."""

    block: Block
    plan: CpuPlan
    cost: Cost


@dataclass(frozen=True)
class Decision:
    """What becomes of a block.

    Attributes:
        block: The block.
        kernels: In execution order; one if it is fused.
        why: One sentence with the numbers that decided.
        saved_bytes: Bytes of intermediate values that no longer pass through memory.
    """

    block: Block
    kernels: tuple[Kernel, ...]
    why: str
    saved_bytes: int

    @property
    def is_fused(self) -> bool:
        """Whether the whole block is one kernel."""
        return len(self.kernels) == 1

    @property
    def seconds(self) -> float:
        """Predicted time."""
        return sum(kernel.cost.seconds for kernel in self.kernels)


def decide(block: Block, device: Device, fuse: FuseMode = "auto", planar: frozenset[str] = frozenset()) -> Decision:
    """Choose kernels for a block.

    Args:
        block: Any block.
        device: Where it runs.
        fuse: The policy.
        planar: Names of tensors that memory holds as N, C, H, W.
    """
    folded = fold(block)
    whole = best(block, device, planar) if fuse != "never" or len(folded.units) == 1 else None
    if len(folded.units) == 1:
        return _single(block, whole)
    parts = tuple(_must(best(part, device, planar)) for part in into_units(folded))
    apart = sum(kernel.cost.seconds for kernel in parts)
    if fuse == "never":
        return Decision(block, parts, "fuse=never", 0)
    if not isinstance(whole, Kernel):
        return Decision(block, parts, f"cannot be one kernel: {whole}", 0)
    together = whole.cost.seconds
    why = f"fused {together * 1e6:.0f} us, apart {apart * 1e6:.0f} us (predicted)"
    if fuse == "auto" and together > apart * (1 + _TIE):
        return Decision(block, parts, f"left apart: {why}", 0)
    if fuse == "auto" and not _moves_less(folded.block, whole, device) and together > apart:
        return Decision(block, parts, f"left apart: {why}, nothing leaves the cache", 0)
    return Decision(block, (whole,), why, interior_bytes(block))


def _moves_less(block: Block, whole: Kernel, device: Device) -> bool:
    """Whether fusing saves traffic: the intermediate values would not stay in a core's cache, and the rings do."""
    return interior_bytes(block) / 2 > device.local_bytes * device.cores >= whole.cost.local_bytes


def best(block: Block, device: Device, planar: frozenset[str] = frozenset()) -> Kernel | Infeasible:
    """The plan predicted to be fastest for the block as one kernel."""
    names = block.tensors[: len(block.inputs)]
    flags = tuple(name in planar for name in names) if names else (False,) * len(block.inputs)
    found = plan_cpu(fold(block), device, flags)
    if isinstance(found, Infeasible):
        return found
    return Kernel(block, found[0].plan, found[0].cost)


def _single(block: Block, whole: Kernel | Infeasible | None) -> Decision:
    return Decision(block, (_must(whole),), "a single stage", 0)


def _must(kernel: Kernel | Infeasible | None) -> Kernel:
    if isinstance(kernel, Kernel):
        return kernel
    raise InternalError(f"a single stage has no plan: {kernel}")
