"""Compiles generated CUDA with nvcc, where it is installed, and reads what ptxas says about the result.

No GPU is needed. Registers, spills and shared memory are those of the real kernel; instruction counts are
read only where ``cuobjdump`` is found.
"""

import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from blockfuse.tools.machine_code import sections_of

_INSTRUCTION = 16  # bytes
_FALLBACK = Path("/usr/local/cuda/bin")
_SASS_LINE = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?(?P<opcode>[A-Z][A-Z0-9]+)", re.MULTILINE)


class CompilationError(Exception):
    """nvcc rejected a source; the message is what it printed."""


@dataclass(frozen=True)
class CubinStats:
    """What one compiled kernel needs.

    ``sass`` counts instructions by opcode (``HMMA``, ``LDSM``, ``LDL``, ...) as they stand in the code, loops
    once; it is None where ``cuobjdump`` is not installed. Dynamic shared memory is chosen at launch, so
    ``static_shared_bytes`` is all the compiler knows; ``shared_bytes`` adds what the launch asks for.
    ``remarks`` are what ptxas says of wgmma: waits that it puts in, products that it runs one by one.
    ``instructions`` are all that stand in the code, with those that only fill its last line.
    """

    kernel: str
    arch: str
    registers: int
    stack_bytes: int
    spill_load_bytes: int
    spill_store_bytes: int
    static_shared_bytes: int
    dynamic_shared_bytes: int
    sass: Mapping[str, int] | None
    remarks: tuple[str, ...] = ()
    instructions: int = 0

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a block, static and dynamic."""
        return self.static_shared_bytes + self.dynamic_shared_bytes


def find_nvcc() -> Path | None:
    """The nvcc on the path or in the usual place; None when there is none."""
    return _find_tool("nvcc")


def compile_cubin(
    source: str, arch: str, *, dynamic_shared_bytes: int = 0, kernel: str | None = None, fast_math: bool = True
) -> CubinStats:
    """Compiles a source for an architecture (``sm_90a``) and returns the statistics of one of its kernels.

    Args:
        source: CUDA C.
        arch: The real architecture to compile for.
        dynamic_shared_bytes: What the launch will ask for.
        kernel: Which kernel of the source; by default the only one.
        fast_math: Whether to compile as kernels are compiled for use, with ``--use_fast_math``.

    Raises:
        CompilationError: nvcc is not installed, or rejects the source.
    """
    nvcc = find_nvcc()
    if nvcc is None:
        raise CompilationError("nvcc is not installed")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "kernel.cu").write_text(source)
        options = [f"-arch={arch}", "-O3", "-w", *(["--use_fast_math"] if fast_math else [])]
        command = [str(nvcc), *options, "-Xptxas", "-v", "-cubin", "-o", "kernel.cubin", "kernel.cu"]
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise CompilationError(result.stdout + result.stderr)
        cubin = folder / "kernel.cubin"
        stats = _statistics(result.stderr, arch, kernel, dynamic_shared_bytes, _sass(cubin))
        size = len(dict(sections_of(cubin.read_bytes())).get(f".text.{stats.kernel}", b""))
        return replace(stats, instructions=size // _INSTRUCTION)


def _find_tool(name: str) -> Path | None:
    path = shutil.which(name) or shutil.which(name, path=str(_FALLBACK))
    return Path(path) if path else None


def _statistics(
    log: str, arch: str, kernel: str | None, dynamic: int, sass: Mapping[str, Mapping[str, int]] | None
) -> CubinStats:
    """Reads the output of ``ptxas -v``, which has one section for each kernel."""
    sections = re.split(r"Compiling entry function '", log)[1:]
    by_kernel = {section.partition("'")[0]: section for section in sections}
    if kernel is None and len(by_kernel) != 1:
        raise CompilationError(f"name one of the kernels {sorted(by_kernel)}")
    name = kernel if kernel is not None else next(iter(by_kernel))
    section = by_kernel[name]
    return CubinStats(
        kernel=name,
        arch=arch,
        registers=_number(r"Used (\d+) registers", section),
        stack_bytes=_number(r"(\d+) bytes stack frame", section),
        spill_load_bytes=_number(r"(\d+) bytes spill loads", section),
        spill_store_bytes=_number(r"(\d+) bytes spill stores", section),
        static_shared_bytes=_number(r"(\d+) bytes smem", section),
        dynamic_shared_bytes=dynamic,
        sass=None if sass is None else sass.get(name, {}),
        remarks=tuple(re.findall(r"\(C75\d\d\).*", log)),
    )


def _number(pattern: str, text: str) -> int:
    """ptxas leaves out what is zero."""
    match = re.search(pattern, text)
    return int(match[1]) if match else 0


def _sass(cubin: Path) -> Mapping[str, Mapping[str, int]] | None:
    """Opcode counts by kernel."""
    tool = _find_tool("cuobjdump")
    if tool is None:
        return None
    text = subprocess.run([str(tool), "-sass", str(cubin)], capture_output=True, text=True, check=True).stdout
    counts = {}
    for section in text.split("Function : ")[1:]:
        name, _, code = section.partition("\n")
        counts[name.strip()] = MappingProxyType(Counter(match["opcode"] for match in _SASS_LINE.finditer(code)))
    return counts
