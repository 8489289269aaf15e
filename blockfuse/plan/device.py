"""What the planner knows of a processor: cores, on-chip memory, and the rates its pipes and memories reach."""

from __future__ import annotations

from dataclasses import dataclass, replace

from blockfuse.errors import TargetError
from blockfuse.target import Target


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

    @property
    def waterline(self) -> float:
        """Operations per DRAM byte at which a perfect kernel turns from memory-bound to arithmetic-bound: P / B."""
        return self.tensor_peak / self.memory_bandwidth


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


def _gpu(name: str, sms: int, tensor: float, vector: float, memory: float, shared_kib: int, l2_mib: int) -> Device:
    """A GPU from its data sheet: TFLOP/s dense fp16 tensor (fp32 accumulate) and fp32 vector, GB/s, KiB, MiB.

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
    )


GPUS: dict[str, Device] = {
    "sm_80": _gpu("A100 80GB", 108, 312, 19.5, 2039, 163, 40),
    "sm_86": _gpu("RTX 3090", 82, 71, 35.6, 936, 99, 6),
    "sm_89": _gpu("RTX 4090", 128, 165.2, 82.6, 1008, 99, 72),
    "sm_90": _gpu("H200", 132, 989, 66.9, 4800, 227, 50),
}
"""A well-known GPU of each architecture (data-sheet figures); plans for an architecture are made for it."""

_WGMMA = "sm_90a"  # code of this architecture runs on nothing else, so only a kernel that is for it alone may need it


def device_of(target: Target) -> Device:
    """The device that plans for a target are made for: of several architectures the first one, with the least memory.

    Raises:
        TargetError: No figures are known for the architecture.
    """
    if target.kind == "cpu":
        return cpu_device(target)
    unknown = [arch for arch in target.archs if _figures_of(arch) not in GPUS]
    if unknown:
        raise TargetError(f"no device figures for {', '.join(unknown)}; known are {', '.join(GPUS)}")
    devices = [GPUS[_figures_of(arch)] for arch in target.archs or ("sm_90",)]
    wgmma = bool(target.archs) and all(arch == _WGMMA for arch in target.archs)
    return replace(devices[0], local_bytes=min(device.local_bytes for device in devices), wgmma=wgmma)


def _figures_of(arch: str) -> str:
    """The architecture without the suffix for its own instructions."""
    return arch.rstrip("af")
