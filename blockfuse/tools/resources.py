"""What CUDA kernels need of a streaming multiprocessor: registers, spills, shared memory, and how many fit.

Registers and spills are those that ptxas reports when it compiles the kept CUDA C once more; no GPU is needed.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from blockfuse.build.cubin import find_nvcc
from blockfuse.errors import TargetError
from blockfuse.report import KernelRecord
from blockfuse.target import available_cores

_REGISTERS = 64 << 10  # of an SM, 32 bits each
_WARP_GRAIN = 256  # registers are given out to warps in multiples of this
_CTA_SHARED = 1024  # bytes the system takes of every CTA
_MOST_CTAS = 32
_SHARED = {"sm_80": 164, "sm_86": 100, "sm_89": 100, "sm_90": 228}  # KiB of an SM
_THREADS = {"sm_80": 2048, "sm_86": 1536, "sm_89": 1536, "sm_90": 2048}
_PATIENCE = 300  # seconds
_FLAGS = ("-std=c++17", "-O3", "--use_fast_math", "-w")


@dataclass(frozen=True)
class Resources:
    """What one kernel needs on one architecture.

    Attributes:
        arch: Which.
        registers: Of a thread.
        spill_bytes: Written to and read from memory because registers do not suffice.
        ctas: That fit on an SM at once; 0 where the architecture's sizes are not known.
        occupancy: Their threads over those an SM can hold.
    """

    arch: str
    registers: int
    spill_bytes: int
    ctas: int
    occupancy: float

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON holds it."""
        return asdict(self)

    def __str__(self) -> str:
        fit = f"; {self.ctas} CTAs per SM, occupancy {100 * self.occupancy:.0f} %" if self.ctas else ""
        return f"{self.arch}: {self.registers} registers, {self.spill_bytes} bytes spilled{fit}"


def resources_of(
    records: Sequence[KernelRecord], archs: Sequence[str], texts: Mapping[str, str]
) -> tuple[dict[str, tuple[Resources, ...]], str]:
    """Resources by the names of kernels, and why there are none; the reason is empty on a CPU."""
    if not archs or not records:
        return {}, ""
    sources = {record.name: texts.get(f"{record.name}.cu") for record in records}
    if not any(sources.values()):
        return {}, "registers and spills are shown of a .bf file that was compiled with --keep-sources"
    tasks = [(record, source, arch) for record in records if (source := sources[record.name]) for arch in archs]
    found: dict[str, tuple[Resources, ...]] = {}
    try:
        compiler = find_nvcc()
        with ThreadPoolExecutor(max(1, available_cores())) as pool:
            results = list(pool.map(lambda task: _resources(compiler, *task), tasks))
    except TargetError as error:
        return {}, f"registers and spills are not known: {error}"
    for (record, _, _), one in zip(tasks, results, strict=True):
        found[record.name] = (*found.get(record.name, ()), one)
    return found, ""


def _resources(compiler: str, record: KernelRecord, source: str, arch: str) -> Resources:
    log = _ptxas(compiler, source, arch)
    registers = _number(r"Used (\d+) registers", log)
    spilled = _number(r"(\d+) bytes spill stores", log) + _number(r"(\d+) bytes spill loads", log)
    ctas = ctas_per_sm(arch, record.threads, registers, record.shared_bytes)
    occupancy = ctas * record.threads / _THREADS.get(_plain(arch), 2048)
    return Resources(arch, registers, spilled, ctas, occupancy)


def ctas_per_sm(arch: str, threads: int, registers: int, shared_bytes: int) -> int:
    """CTAs that fit on an SM at once; 0 for an architecture whose sizes are not known."""
    if _plain(arch) not in _SHARED or threads < 1:
        return 0
    warps = -(-threads // 32)
    per_warp = max(1, -(-32 * registers // _WARP_GRAIN)) * _WARP_GRAIN
    return min(
        _MOST_CTAS,
        _THREADS[_plain(arch)] // (32 * warps),
        _REGISTERS // (warps * per_warp),
        _SHARED[_plain(arch)] * 1024 // (shared_bytes + _CTA_SHARED),
    )


def _plain(arch: str) -> str:
    return arch.rstrip("af")


def _ptxas(compiler: str, source: str, arch: str) -> str:
    """What ptxas says about a source."""
    with tempfile.TemporaryDirectory(prefix="blockfuse-") as name:
        (Path(name) / "kernel.cu").write_text(source, encoding="utf-8")
        command = [compiler, f"-arch={arch}", *_FLAGS, "-Xptxas", "-v", "-cubin", "-o", "kernel.cubin", "kernel.cu"]
        try:
            done = subprocess.run(  # noqa: S603 - the compiler of the user's choice
                command, cwd=name, capture_output=True, text=True, check=False, timeout=_PATIENCE
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise TargetError(f"nvcc cannot be run: {error}") from None
    if done.returncode != 0:
        reason = next((line for line in (done.stderr + done.stdout).splitlines() if "error" in line.lower()), "?")
        raise TargetError(f"nvcc does not compile the kept source for {arch}: {reason}")
    return done.stderr


def _number(pattern: str, log: str) -> int:
    """Zeros are left out of the log."""
    return int(found[1]) if (found := re.search(pattern, log)) else 0
