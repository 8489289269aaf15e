"""Compiles kernels and the runtime with g++, and keeps the results by the hash of what went in."""

import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from .results import EmulationError

_RUNTIME = Path(__file__).parent / "runtime"
_COMMON_FLAGS = ("-std=c++17", "-march=native", "-ffp-contract=off", "-fno-pie", "-I", str(_RUNTIME))
_RUNTIME_FLAGS = (*_COMMON_FLAGS, "-O2", "-Wall", "-Wextra", "-Werror")
_KERNEL_FLAGS = (
    *_COMMON_FLAGS,
    "-O1",
    "-g1",  # line numbers, for findings
    "-w",
    "-fsanitize=thread",  # a call before every access; the sanitizer's library is not linked
    "-fno-tree-sra",  # would split vector accesses, and so change what is counted
    "-fno-tree-loop-distribute-patterns",  # would hide accesses in memset and memcpy
    "-fno-strict-aliasing",
    "-fno-threadsafe-statics",  # static shared memory needs no guards
)
# Registers that were never written must not look like zeros; g++ knows how from version 12 on.
_PATTERN_FLAG = "-ftrivial-auto-var-init=pattern"
_PATTERN_SINCE = 12


def build_kernel(source: str) -> Path:
    """The program that runs a kernel, from the C++ that ``host_source`` made."""
    runtime = _build_runtime()
    flags = ("-I", str(_headers()), *_kernel_flags())  # first, for the precompiled one
    key = _digest(source, str(flags), str(runtime))
    program = _cache() / f"kernel-{key}"
    if not program.exists():
        with tempfile.TemporaryDirectory(dir=_cache()) as name:
            folder = Path(name)
            (folder / "kernel.cpp").write_text(source)
            _run([_compiler(), *flags, "-c", "kernel.cpp", "-o", "kernel.o"], folder)
            objects = [str(path) for path in sorted(runtime.glob("*.o"))]
            _run([_compiler(), "-no-pie", "kernel.o", *objects, "-o", "kernel"], folder)
            (folder / "kernel").replace(program)
    return program


def _kernel_flags() -> tuple[str, ...]:
    is_known = int(_compiler_version().split(".")[0]) >= _PATTERN_SINCE
    return (*_KERNEL_FLAGS, _PATTERN_FLAG) if is_known else _KERNEL_FLAGS


def source_lines(program: Path, addresses: list[str]) -> list[str]:
    """Where in the kernel's source each instruction is (``line 12``), or nothing where that is unknown."""
    tool = shutil.which("addr2line")
    if tool is None:
        return [""] * len(addresses)
    lines = []
    for address in addresses:
        # A return address is behind the call. The last line is that of the outermost inlined function.
        before = hex(max(int(address, 16) - 1, 0))
        output = subprocess.run(
            [tool, "-i", "-e", str(program), before], capture_output=True, text=True, check=True
        ).stdout
        file, _, line = output.strip().rsplit("\n", 1)[-1].rpartition(":")
        lines.append(f"line {line.split()[0]}" if file.endswith("kernel.cpp") else "")
    return lines


@functools.cache
def _build_runtime() -> Path:
    """The folder with the runtime's objects."""
    sources = sorted(_RUNTIME.glob("*.cpp"))
    contents = [path.read_text() for path in (*sources, *sorted(_RUNTIME.glob("*.h")))]
    target = _cache() / f"runtime-{_digest(*contents, str(_RUNTIME_FLAGS), _compiler_version())}"
    if target.exists():
        return target
    with tempfile.TemporaryDirectory(dir=_cache()) as name:
        folder = Path(name) / "objects"
        folder.mkdir()
        _compile_all(sources, folder)
        _rename(folder, target)
    return target


@functools.cache
def _headers() -> Path:
    """A folder with what every kernel includes, compiled once: that takes a tenth of a second."""
    headers = sorted(_RUNTIME.glob("*.h"))
    key = _digest(*[path.read_text() for path in headers], str(_kernel_flags()), _compiler_version())
    target = _cache() / f"headers-{key}"
    if target.exists():
        return target
    with tempfile.TemporaryDirectory(dir=_cache()) as name:
        folder = Path(name) / "headers"
        folder.mkdir()
        for header in headers:
            shutil.copy(header, folder)
        flags = ("-I", str(folder), *_kernel_flags())
        _run([_compiler(), *flags, "-x", "c++-header", "cuda_host.h", "-o", "cuda_host.h.gch"], folder)
        _rename(folder, target)
    return target


def _rename(folder: Path, target: Path) -> None:
    try:
        folder.rename(target)
    except OSError:  # another process was faster
        if not target.exists():
            raise


def _compile_all(sources: list[Path], folder: Path) -> None:
    """Compiles the runtime's sources at the same time."""
    running = [
        subprocess.Popen(
            [_compiler(), *_RUNTIME_FLAGS, "-c", str(source), "-o", f"{source.stem}.o"],
            cwd=folder,
            stderr=subprocess.PIPE,
            text=True,
        )
        for source in sources
    ]
    messages = [process.communicate()[1] for process in running]
    failed = [text for process, text in zip(running, messages, strict=True) if process.returncode != 0]
    if failed:
        raise EmulationError(f"the emulator's runtime does not compile:\n{failed[0]}")


def _run(command: list[str], folder: Path) -> None:
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise EmulationError(f"the kernel does not compile for the host:\n{result.stderr[:4000]}")


@functools.cache
def _cache() -> Path:
    folder = Path(tempfile.gettempdir()) / f"blockfuse-emulator-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


@functools.cache
def _compiler() -> str:
    path = shutil.which("g++")
    if path is None:
        raise EmulationError("emulation needs g++")
    return path


@functools.cache
def _compiler_version() -> str:
    return subprocess.run([_compiler(), "-dumpfullversion"], capture_output=True, text=True, check=True).stdout


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]
