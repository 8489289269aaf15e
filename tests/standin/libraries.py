"""Builds the two libraries that stand in for CUDA's, and connects them with the emulator."""

import ctypes
import functools
import hashlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from tests.emulated.emulator import Counters, EmulationError, Finding, emulate
from tests.emulated.emulator.host_source import HostKernel, host_kernel
from tests.emulated.emulator.toolchain import _cache

_HERE = Path(__file__).parent
_COMPILE = ("g++", "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC")
_READ_ONLY = re.compile(r"(input_\d+|packed_\w+)_ptr")
_DESCRIBE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p)
_LAUNCH = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.POINTER(ctypes.c_uint),
    ctypes.POINTER(ctypes.c_uint),
    ctypes.c_uint,
    ctypes.POINTER(ctypes.c_void_p),
    ctypes.c_int,
)


class Launch(NamedTuple):
    """A kernel that ran.

    Attributes:
        kernel: Its name.
        grid: Blocks.
        block: Threads of each.
        shared_bytes: Dynamic shared memory of each.
        memory: For every parameter the bytes from its address to the end of its allocation.
        findings: What the emulator found.
        counters: What it counted, if that was asked for.
    """

    kernel: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int
    memory: dict[str, int]
    findings: tuple[Finding, ...]
    counters: Counters


class Statistics(NamedTuple):
    """What the device was asked for.

    Attributes:
        allocations: Of memory.
        bytes: Of them.
        graph_launches: Recorded graphs.
        host_copies: Copies that begin or end in the host's memory.
        default_work: Launches and copies on the default stream.
        waits: How often a stream had to wait for another.
    """

    allocations: int
    bytes: int
    graph_launches: int
    host_copies: int
    default_work: int
    waits: int


class StandIn:
    """The device in this process; made before anything asks for a GPU.

    Args:
        arch: The architecture it claims to be, such as ``sm_90``.
        replaced: CUDA C that runs in place of a kernel's own, by the kernel's name.
        fault: What is wrong with launches: ``grid`` or ``shared`` and a number that is added, ``pointer`` and the
            number of a parameter that a recorded graph passes wrongly. Tests must notice.
        count: Whether the emulator counts what kernels ask of the memory system.
    """

    def __init__(
        self,
        arch: str,
        replaced: Mapping[str, str] = MappingProxyType({}),
        fault: Mapping[str, int] = MappingProxyType({}),
        *,
        count: bool = False,
    ) -> None:
        self._replaced, self._fault, self._count = replaced, fault, count
        folder = _libraries()
        self._driver = ctypes.CDLL(str(folder / "libcuda.so.1"), mode=ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(folder / "libcudart.so.13"), mode=ctypes.RTLD_GLOBAL)
        self._driver.standin_set_arch(int(arch.removeprefix("sm_")))
        self._driver.standin_bytes_left.restype = ctypes.c_size_t
        self._callbacks = (_DESCRIBE(self._describe), _LAUNCH(self._launch))
        self._driver.standin_set_launcher(*self._callbacks)
        self.launches: list[Launch] = []

    def work_late(self) -> None:
        """From here on do what streams are given as late as waits allow; see ``device.h``."""
        self._driver.standin_set_late()

    def statistics(self) -> Statistics:
        """What was asked for so far."""
        values = (ctypes.c_long * len(Statistics._fields))()
        self._driver.standin_statistics(values)
        return Statistics(*values)

    def _describe(self, source: bytes, name: bytes) -> int:
        """Number of parameters of a kernel; -1 if the source has no such kernel."""
        try:
            return len(_host_kernel(source, name).parameters)
        except EmulationError as error:
            sys.stderr.write(f"stand-in device: {error}\n")
            return -1

    def _launch(
        self, source: bytes, name: bytes, grid: Any, block: Any, shared_bytes: int, pointers: Any, count: int
    ) -> int:
        """Run a kernel; other than 0 if it cannot be run."""
        text = self._replaced.get(name.decode(), source.decode())
        parameters = _host_kernel(source, name).parameters
        shape = (grid[0] + self._fault.get("grid", 0), *grid[1:3]), tuple(block[:3])
        shared_bytes += self._fault.get("shared", 0)
        try:
            arguments = {p.name: self._argument(p.type, pointers[i]) for i, p in enumerate(parameters[:count])}
            if self.statistics().graph_launches and "pointer" in self._fault:
                _mislead(arguments, self._fault["pointer"])
            emulated = emulate(
                text,
                arguments,
                outputs={name for name in arguments if not _READ_ONLY.fullmatch(name)},
                grid=shape[0],
                shared_bytes=shared_bytes,
                kernel=name.decode(),
                block=shape[1],
                count=self._count,
            )
        except (EmulationError, ValueError) as error:
            sys.stderr.write(f"stand-in device: {name.decode()}: {error}\n")
            return 1
        memory = {parameter: array.nbytes for parameter, array in arguments.items()}
        self.launches.append(Launch(name.decode(), *shape, shared_bytes, memory, emulated.findings, emulated.counters))
        return 0

    def _argument(self, kind: str, pointer: int | None) -> np.ndarray[Any, Any]:
        """The memory from a pointer to the end of its allocation, as bytes; or the number itself."""
        if kind == "int":
            return np.array([(pointer or 0) & 0xFFFFFFFF], np.uint32).view(np.int32)
        left = self._driver.standin_bytes_left(ctypes.c_void_p(pointer))
        if not kind.endswith("*") or pointer is None or not left:
            raise ValueError(f"{pointer} is no pointer to memory of the device")
        return np.ctypeslib.as_array((ctypes.c_uint8 * left).from_address(pointer))


def _mislead(arguments: dict[str, np.ndarray[Any, Any]], number: int) -> None:
    """Put other memory, all NaN, in place of an argument, as a graph does that keeps an address of before."""
    for name in list(arguments)[number : number + 1]:
        arguments[name] = np.full_like(arguments[name], 0xFF)


@functools.lru_cache(maxsize=256)
def _host_kernel(source: bytes, name: bytes) -> HostKernel:
    return host_kernel(source.decode(), name.decode())


@functools.cache
def _libraries() -> Path:
    """The folder with both libraries; compiled once per version of their sources."""
    sources = sorted(path for path in _HERE.iterdir() if path.suffix in {".cpp", ".h", ".map"})
    digest = hashlib.sha256(b"\0".join(path.read_bytes() for path in sources)).hexdigest()[:24]
    target = _cache() / f"standin-{digest}"
    if target.exists():
        return target
    with tempfile.TemporaryDirectory(dir=_cache()) as name:
        folder = Path(name) / "built"
        folder.mkdir()
        driver, runtime = folder / "libcuda.so.1", folder / "libcudart.so.13"
        _compile(driver, "device.cpp", "driver.cpp")
        _compile(runtime, "runtime.cpp", str(driver), f"-Wl,--version-script={_HERE / 'runtime.map'}")
        try:
            folder.rename(target)
        except OSError:  # another process was faster
            if not target.exists():
                raise
    return target


def _compile(library: Path, *parts: str) -> None:
    command = [*_COMPILE, "-o", str(library), f"-Wl,-soname,{library.name}", *parts]
    subprocess.run(command, cwd=_HERE, check=True)
