"""Runs generated CUDA C on the CPU and reports what a GPU would do wrong silently.

A kernel's source is compiled with g++ and run with one fiber per CUDA thread. Every memory access goes
through the emulator, which knows where each pointer may point and who touched each byte last. So a run
yields, besides the outputs:

* findings: races, out-of-bounds and misaligned accesses, uninitialised shared memory, asynchronous copies
  read too early or never waited for, divergent barriers and warp instructions;
* counters: tensor-core and shared-memory instructions with their bank conflicts, global sectors.

What it cannot see: timing, registers and spills, memory ordering finer than barriers, and races between
accesses the compiler removed. The order in which a tensor core adds up is not specified; the emulator
adds in ascending k.
"""

from .launch import emulate
from .ptx import UnsupportedInstruction
from .results import Counters, EmulationError, EmulationResult, Finding

__all__ = ["Counters", "EmulationError", "EmulationResult", "Finding", "UnsupportedInstruction", "emulate"]
