"""Lowering of tile programs to TensorIR for CPUs: one file per instruction, and the packing of weights.

Images are N, H, W, C in memory and in tiles; vectors are channels. Nothing here knows blocks or plans.
"""

from blockfuse.schedules.cpu.kernel import lower
from blockfuse.schedules.cpu.pack import pack

__all__ = ["lower", "pack"]
