"""What the planner knows of a processor: cores, on-chip memory, and the rates its pipes and memories reach."""

from __future__ import annotations

from dataclasses import dataclass, replace

from blockfuse.errors import InternalError, TargetError
from blockfuse.gpu import this_gpu
from blockfuse.target import Target, arch_number


@dataclass(frozen=True)
class Device:
    """Rates and sizes of one processor. Rates are for the whole device.

    Attributes:
        name: For people.
        kind: ``cpu`` or ``cuda``.
        cores: Cores that work is divided among, or SMs.
        tensor_peak: Operations per second of the matrix pipe for the kernel's type; on a CPU that of the vector units.
        vector_peak: Operations per second of the ordinary arithmetic units.
        memory_bandwidth: Bytes per second between DRAM and the chip.
        cache_bandwidth: Bytes per second between the last-level cache and the cores.
        local_bandwidth: Bytes per second between LOCAL memory (an SM's shared memory, a core's L2) and the registers.
        local_bytes: Bytes of LOCAL memory that one kernel may use on one core.
        cache_bytes: Bytes of the last-level cache.
        registers: 32-bit registers a thread may use, or vector registers of a CPU.
        launch_seconds: Time to start a kernel, or to wake the threads of a parallel loop.
        lanes: float32 elements per vector; 32 on a GPU.
        clock: Cycles per second.
        wgmma: Whether code for it may use wgmma (sm_90a).
        resident_threads: That an SM can hold.
    """

    name: str
    kind: str
    cores: int
    tensor_peak: float
    vector_peak: float
    memory_bandwidth: float
    cache_bandwidth: float
    local_bandwidth: float
    local_bytes: int
    cache_bytes: int
    registers: int
    launch_seconds: float
    lanes: int = 32
    clock: float = 1e9
    wgmma: bool = False
    resident_threads: int = 2048


_KIB = 1024
_CLOCK = 4.1e9  # Hz, of one core under vector load; measured peaks are 265-270 GFLOP/s with 16 lanes


def cpu_device(target: Target) -> Device:
    """A core of the class that ``target`` names, times its threads.

    Rates were measured on a Zen 5 server core (two 16-lane fused multiply-adds per cycle; 1 MiB L2, 32 MiB L3); other
    CPUs of a class differ in scale more than in proportion, and plans depend on proportions.
    """
    peak = 2 * 2 * target.lanes * _CLOCK
    return Device(
        name=f"{target.name}, {target.threads} threads",
        kind="cpu",
        cores=target.threads,
        tensor_peak=peak * target.threads,
        vector_peak=peak * target.threads,
        memory_bandwidth=40e9 if target.threads == 1 else 43e9,
        cache_bandwidth=60e9 * target.threads,
        local_bandwidth=200e9 * target.threads,
        local_bytes=1024 * _KIB,
        cache_bytes=32 * 1024 * _KIB,
        registers=target.registers,
        launch_seconds=0.3e-6 if target.threads == 1 else 2e-6,
        lanes=target.lanes,
        clock=_CLOCK,
    )


def _gpu(
    name: str, sms: int, tensor: float, vector: float, memory: float, shared_kib: int, l2_mib: int, threads: int
) -> Device:
    """A GPU from its data sheet.

    Its figures are TFLOP/s dense fp16 tensor (fp32 accumulate) and fp32 vector, GB/s, KiB, MiB, and threads of an SM.

    Cache and shared-memory rates follow from the clock implied by the vector peak (128 lanes per SM, 2 operations):
    28 bytes (assumed) and 128 bytes per cycle and SM.
    """
    clock = vector * 1e12 / (sms * 256)
    return Device(
        name=name,
        kind="cuda",
        cores=sms,
        tensor_peak=tensor * 1e12,
        vector_peak=vector * 1e12,
        memory_bandwidth=memory * 1e9,
        cache_bandwidth=28 * sms * clock,
        local_bandwidth=128 * sms * clock,
        local_bytes=shared_kib * _KIB,
        cache_bytes=l2_mib * _KIB * _KIB,
        registers=255,
        launch_seconds=2e-6,
        clock=clock,
        resident_threads=threads,
    )


GPUS: dict[str, Device] = {
    "sm_80": _gpu("A100 80GB", 108, 312, 19.5, 2039, 163, 40, 2048),
    "sm_86": _gpu("RTX 3090", 82, 71, 35.6, 936, 99, 6, 1536),
    "sm_89": _gpu("RTX 4090", 128, 165.2, 82.6, 1008, 99, 72, 1536),
    "sm_90": _gpu("H200", 132, 989, 66.9, 4800, 227, 50, 2048),
}
"""A well-known GPU of each architecture (data-sheet figures), oldest first; plans are made for it."""

_WGMMA = "sm_90a"  # the only architecture that has it, and whose code runs on nothing else
_OLDEST = 80
_SHARED_KIB = {87: 163, 100: 227, 103: 227, 110: 227, 120: 99, 121: 99}
"""Shared memory that a CTA may use, of architectures without a row above (CUDA programming guide)."""
_THREADS = {87: 1536, 110: 1536, 120: 1536, 121: 1536}
"""Threads that an SM can hold, of architectures without a row above that have not 2048 (CUDA programming guide)."""
_LEAST_SHARED_KIB = 99  # of any architecture so far


def device_of(target: Target) -> Device:
    """The device that plans for a target are made for.

    Raises:
        TargetError: Kernels need instructions that the architecture does not have.
        InternalError: There are several architectures, each of which has its own plans.
    """
    if target.kind == "cpu":
        return cpu_device(target)
    if len(target.archs) != 1:
        raise InternalError(f"plans are made for one architecture, not for {', '.join(target.archs) or 'none'}")
    return gpu_device(target.archs[0])


def gpu_device(arch: str) -> Device:
    """The device of an architecture: its row, or the nearest older one with what is known of this architecture.

    Args:
        arch: Such as ``sm_80`` or ``sm_90a``.

    Raises:
        TargetError: Kernels need instructions that the architecture does not have.
    """
    number = arch_number(arch)
    if number < _OLDEST:
        raise TargetError(
            f"{arch} is too old: kernels use mma.sync m16n8k16 and cp.async, which need sm_{_OLDEST} or newer"
        )
    known = GPUS.get(f"sm_{number}")
    return replace(known or _like_the_nearest(number), wgmma=arch == _WGMMA)


def _like_the_nearest(number: int) -> Device:
    """Figures of the nearest older architecture for one without a row; sizes are this machine's GPU's if it is one."""
    nearest = GPUS[max((name for name in GPUS if arch_number(name) <= number), key=arch_number)]
    nearest = replace(nearest, resident_threads=_THREADS.get(number, nearest.resident_threads))
    name, shared = f"sm_{number} by the figures of {nearest.name}", _SHARED_KIB.get(number, _LEAST_SHARED_KIB) * _KIB
    try:
        here = this_gpu()
    except TargetError:
        return replace(nearest, name=name, local_bytes=shared)
    if here.arch != f"sm_{number}":
        return replace(nearest, name=name, local_bytes=shared)
    name = f"{here} by the figures of {nearest.name}, scaled to {here.cores} SMs"
    return replace(_with_cores(nearest, here.cores), name=name, local_bytes=here.shared_bytes)


def _with_cores(device: Device, cores: int) -> Device:
    """A device of another number of SMs at the same clock; memory stays as it is."""
    scaled = ("tensor_peak", "vector_peak", "cache_bandwidth", "local_bandwidth")
    rates = {name: getattr(device, name) * cores / device.cores for name in scaled}
    return replace(device, cores=cores, **rates)
