"""Lowering of tile programs to TensorIR for CPUs: one file per instruction, and the packing of weights.

Images are N, H, W, C in memory and in tiles; vectors are channels. Nothing here knows blocks or plans. What lowers is
loaded on first use, with TVM; packing needs numpy alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from blockfuse.schedules.cpu.pack import pack

if TYPE_CHECKING:
    from blockfuse.schedules.cpu.kernel import lower

__all__ = ["lower", "pack"]


def __getattr__(name: str) -> Any:
    if name != "lower":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from blockfuse.schedules.cpu.kernel import lower  # noqa: PLC0415 - loads tvm

    return lower
