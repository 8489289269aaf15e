"""A stand-in for a GPU: whole networks run through TVM's CUDA runtime on machines that have none.

Three pieces pretend to be what is missing, and everything between them is the real thing:

* ``toolkit/bin/nvcc`` puts the CUDA C itself into the fat binaries of a container,
* ``libcuda.so.1`` and ``libcudart.so.13`` keep device memory, streams and graphs, and refuse what a device refuses,
* the emulator of ``tests/emulated`` runs every kernel that is launched.

A network runs in a process of its own, so that a wild pointer cannot hurt the test. Work is done at once; told to work
late, the device does what streams are given only when something waits for it, so that missing waits show
(``test_mutations.py``). What this cannot see: timing, the machine code, and overruns that stay inside an allocation.
"""

from .networks import TOOLKIT, OnStandIn, Run, kernel_sources, run_network

__all__ = ["TOOLKIT", "OnStandIn", "Run", "kernel_sources", "run_network"]
