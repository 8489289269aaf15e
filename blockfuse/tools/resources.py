"""What CUDA kernels need of a streaming multiprocessor: registers, stack, shared memory, and how many CTAs fit.

All of it is read from the machine code in a container (:mod:`blockfuse.tools.machine_code`); no GPU and no compiler is
needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from blockfuse.machine.occupancy import ctas_per_sm
from blockfuse.report import KernelRecord
from blockfuse.tools.machine_code import Code

_SHARED = {"sm_80": 164, "sm_86": 100, "sm_89": 100, "sm_90": 228}  # KiB of an SM
_THREADS = {"sm_80": 2048, "sm_86": 1536, "sm_89": 1536, "sm_90": 2048}
_SYMBOL_END = "_kernel"  # of the function that TVM makes of a kernel
_TOLD = ("HGMMA", "HMMA", "LDSM", "LDS", "STS", "LDGSTS", "LDG", "STG", "LDL", "STL", "FFMA", "IMAD", "MUFU", "BAR")
_PADDING = "NOP"


@dataclass(frozen=True)
class Resources:
    """What one kernel needs on one architecture.

    Attributes:
        arch: Which.
        registers: Of a thread.
        stack_bytes: Of a thread; registers that do not suffice are kept there.
        spill_bytes: That local loads and stores of the code move; None where there is a stack and no disassembler.
        ctas: That fit on an SM at once; 0 where the architecture's sizes, or the shared memory, are not known.
        occupancy: Their threads over those an SM can hold.
        sass: Instructions by opcode, as they stand in the code; None where there is no disassembler.
    """

    arch: str
    registers: int
    stack_bytes: int
    spill_bytes: int | None
    ctas: int
    occupancy: float
    sass: Mapping[str, int] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON holds it."""
        return asdict(self)

    def __str__(self) -> str:
        spilled = "-" if self.spill_bytes is None else self.spill_bytes
        fit = f"; {self.ctas} CTAs per SM, occupancy {100 * self.occupancy:.0f} %" if self.ctas else ""
        stack = f"{self.registers} registers, {self.stack_bytes} bytes of stack, {spilled} spilled"
        return f"{self.arch}: {stack}{fit}; SASS: {_histogram(self.sass)}"


def _histogram(sass: Mapping[str, int] | None) -> str:
    if sass is None:
        return "-"
    total = sum(count for name, count in sass.items() if name != _PADDING)
    return f"{total} ({', '.join(f'{name} {sass[name]}' for name in _TOLD if name in sass)})"


def resources_of(
    records: Sequence[KernelRecord], codes: Sequence[Code]
) -> tuple[dict[str, tuple[Resources, ...]], dict[str, tuple[Resources, ...]]]:
    """Resources by the names of kernels, and of those that no record tells of: conversions, and operators of TVM's."""
    known = {record.name: record for record in records}
    ours: dict[str, tuple[Resources, ...]] = {}
    others: dict[str, tuple[Resources, ...]] = {}
    for code in codes:
        name = code.kernel.removesuffix(_SYMBOL_END)
        found = ours if name in known else others
        found[name] = (*found.get(name, ()), _resources(known.get(name), code))
    return ours, others


def _resources(record: KernelRecord | None, code: Code) -> Resources:
    ctas = ctas_on(code.arch, record.threads, code.registers, record.shared_bytes) if record else 0
    occupancy = ctas * record.threads / _THREADS.get(_plain(code.arch), 2048) if record else 0.0
    return Resources(code.arch, code.registers, code.stack_bytes, code.spill_bytes, ctas, occupancy, code.sass)


def ctas_on(arch: str, threads: int, registers: int, shared_bytes: int) -> int:
    """CTAs that fit on an SM at once; 0 for an architecture whose sizes are not known."""
    name = _plain(arch)
    if name not in _SHARED or threads < 1:
        return 0
    sizes = {"sm_threads": _THREADS[name], "sm_shared": _SHARED[name] * 1024}
    return ctas_per_sm(threads, registers, shared_bytes, **sizes)


def _plain(arch: str) -> str:
    return arch.rstrip("af")
