"""What code is made for: a class of CPUs, or GPU architectures; and what this machine is.

CPU code is chosen by feature, never by the name of a CPU: three classes, of which every x86-64 machine runs at least
the last. Other architectures have the generic class alone.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from blockfuse.errors import TargetError, UsageError
from blockfuse.usage import whole_number

_V3 = ("avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "abm")
_V4 = (*_V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")


@dataclass(frozen=True)
class Target:
    """What a network is compiled for.

    Attributes:
        name: As a user writes it, such as ``"cpu:avx512"`` or ``"sm_90a"``.
        kind: ``"cpu"`` or ``"cuda"``.
        machine: Processor architecture of the host code, as ``platform.machine()`` spells it.
        features: CPU features the code uses, by their names in ``/proc/cpuinfo``.
        mcpu: LLVM's name of the CPU class.
        lanes: float32 values in one vector register.
        registers: Vector registers for sums, weights and pixels of a kernel.
        threads: Threads that work is divided among.
        archs: CUDA architectures, such as ``("sm_80", "sm_90a")``; empty for CPUs.
        shared_bytes: The most shared memory that a CTA of any kernel uses; 0 where that is not known yet.
    """

    name: str
    kind: str = "cpu"
    machine: str = "x86_64"
    features: tuple[str, ...] = ()
    mcpu: str = "generic"
    lanes: int = 4
    registers: int = 15
    threads: int = 1
    archs: tuple[str, ...] = ()
    shared_bytes: int = 0

    def missing_features(self) -> tuple[str, ...]:
        """What this machine lacks to run code for the target; empty if it can."""
        here = platform.machine()
        if here != self.machine:
            return (f"an {self.machine} processor (this one is {here})",)
        available = cpu_features()
        return tuple(feature for feature in self.features if feature not in available)

    @property
    def variants(self) -> tuple[Target, ...]:
        """A target for every GPU architecture, each of which gets its own plans and code; for a CPU itself."""
        if self.kind == "cpu" or len(self.archs) < 2:
            return (self,)
        return tuple(replace(self, name=arch, archs=(arch,)) for arch in dict.fromkeys(self.archs))

    def __str__(self) -> str:
        return self.name


CPU_CLASSES: dict[str, Target] = {
    "cpu:avx512": Target("cpu:avx512", features=_V4, mcpu="x86-64-v4", lanes=16, registers=32),
    "cpu:avx2": Target("cpu:avx2", features=_V3, mcpu="x86-64-v3", lanes=8, registers=16),
    "cpu:generic": Target("cpu:generic"),
}
"""The CPU classes for one thread, best first."""


def parse_target(text: str, threads: int | None = None) -> Target:
    """The target that a user means.

    Args:
        text: ``cpu`` (the best class this machine runs), ``cpu:avx512``, ``cpu:avx2``, ``cpu:generic``, ``cuda`` (this
            machine's device) or a comma list of architectures such as ``sm_80,sm_90a``.
        threads: Number of threads to divide work among; by default one per core this process may use.

    Raises:
        TargetError: The text names no target.
        UsageError: ``threads`` is not positive, or the target is no text.
    """
    if not isinstance(text, str):
        raise UsageError(f"target must be a text such as 'cpu' or 'sm_90', not {type(text).__name__}")
    threads = available_cores() if threads is None else whole_number("threads", threads)
    name = text.strip().lower()
    if name == "cpu":
        return replace(best_cpu(), threads=threads)
    if name in CPU_CLASSES:
        machine = platform.machine() if name == "cpu:generic" else "x86_64"
        return replace(CPU_CLASSES[name], machine=machine, threads=threads)
    archs = tuple(part.strip() for part in name.split(","))
    if name == "cuda" or all(re.fullmatch(r"sm_\d{2,3}[a-z]?", arch) for arch in archs):
        archs = () if name == "cuda" else archs
        return Target(name, kind="cuda", machine=platform.machine(), threads=threads, archs=archs)
    known = ", ".join(("cpu", *CPU_CLASSES, "cuda", "sm_<number>"))
    raise TargetError(f"unknown target {text!r}; known are {known}")


def arch_number(arch: str) -> int:
    """The number of a GPU architecture, such as 90 of ``sm_90a``."""
    return int(re.sub(r"\D", "", arch))


def newest_plain(archs: Sequence[str]) -> int | None:
    """The number of the newest architecture without a suffix: code for it runs, as PTX, on all newer GPUs."""
    return max((arch_number(arch) for arch in archs if arch[3:].isdecimal()), default=None)


def runs_on(archs: Sequence[str], gpu: str) -> bool:
    """Whether code made for some architectures runs on a GPU of another, such as ``sm_89``."""
    return match_of(archs, gpu) is not None


def match_of(archs: Sequence[str], gpu: str) -> tuple[int, int] | None:
    """How well code made for some architectures matches a GPU of another, such as ``sm_89``; larger is better.

    Machine code runs on its own generation from its own number on; with the suffix ``a`` on nothing but its own number,
    with ``f`` on its family, the newer ones of its generation. PTX of the newest architecture without a suffix runs on
    that and everything newer, if nothing else does.

    Returns:
        What kind of code it is (2: for this very GPU's instructions, 1: for its generation, 0: PTX) and the number of
        the architecture; None if it does not run.
    """
    here, newest = arch_number(gpu), newest_plain(archs)
    found = [match for arch in archs if (match := _match(arch, here)) is not None]
    if newest is not None and newest <= here:
        found.append((0, newest))
    return max(found, default=None)


def _match(arch: str, here: int) -> tuple[int, int] | None:
    """How well machine code of one architecture matches a GPU of a number."""
    number = arch_number(arch)
    if arch.endswith("a"):
        return (2, number) if number == here else None
    return (1, number) if number // 10 == here // 10 and number <= here else None


def best_cpu() -> Target:
    """The best class this machine runs, for one thread."""
    for target in CPU_CLASSES.values():
        if target.features and not target.missing_features():
            return target
    return replace(CPU_CLASSES["cpu:generic"], machine=platform.machine())


def cpu_features() -> frozenset[str]:
    """Features of this machine's processor that the operating system enables; empty where it does not say."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return frozenset(found.group(1).split()) if found else frozenset()


def available_cores() -> int:
    """Number of physical cores that this process may use, at least 1."""
    return len(available_cpus())


def available_cpus() -> tuple[int, ...]:
    """Numbers of the logical CPUs this process may use, one per physical core, ascending."""
    if not hasattr(os, "sched_getaffinity"):
        return tuple(range(os.cpu_count() or 1))
    allowed = sorted(os.sched_getaffinity(0))
    first_of_core: dict[str, int] = {}
    for cpu in allowed:
        first_of_core.setdefault(_core_of(cpu), cpu)
    return tuple(first_of_core.values())


def _core_of(cpu: int) -> str:
    siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    try:
        return siblings.read_text(encoding="ascii").strip()
    except OSError:
        return str(cpu)
