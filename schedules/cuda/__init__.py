"""Lowering of tile programs to CUDA kernels: one file per instruction, and the packing of weights.

Images in N, H, W, C order; float32 sums, of fp16 and bf16 on the tensor cores (mma.sync: sm_80 and later; wgmma:
sm_90a). Nothing here knows blocks or plans.
"""

from blockfuse.schedules.cuda.cast import lower_cast
from blockfuse.schedules.cuda.packing import pack
from blockfuse.schedules.cuda.source import cuda_source
from blockfuse.schedules.cuda.walk import lower

__all__ = ["cuda_source", "lower", "lower_cast", "pack"]
