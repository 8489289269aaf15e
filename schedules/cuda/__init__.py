"""Lowering of tile programs to CUDA kernels: one file per instruction, and the packing of weights.

Images in N, H, W, C order; float32 sums, of fp16 and bf16 on the tensor cores (mma.sync: sm_80 and later; wgmma:
sm_90a). Nothing here knows blocks or plans. What lowers is loaded on first use, with TVM; packing needs numpy alone.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from blockfuse.schedules.cuda.packing import pack

if TYPE_CHECKING:
    from blockfuse.schedules.cuda.cast import lower_cast
    from blockfuse.schedules.cuda.source import cuda_source
    from blockfuse.schedules.cuda.squares import lower_squares
    from blockfuse.schedules.cuda.walk import lower

_HOME = {"cuda_source": "source", "lower": "walk", "lower_cast": "cast", "lower_squares": "squares"}

__all__ = ["cuda_source", "lower", "lower_cast", "lower_squares", "pack"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
