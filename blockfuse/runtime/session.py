"""Run a compiled network with TVM's runtime library, without the compiler.

One call runs on one virtual machine. A machine serves one thread at a time, so a :class:`Session` keeps the idle ones
and makes another only when more calls run at once than ever before; they share code and weights, and one costs 0.2 ms.
A lock around a single machine instead made eight callers on two busy cores take three to five times as long. Kernels
divide their work among a pool of threads that TVM keeps per calling thread.

On a GPU calls take turns: there is one machine, whose kernels the device runs one after the other.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import itertools
import os
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import tvm_ffi

from blockfuse.errors import ArtifactError, InputError, TargetError, UsageError
from blockfuse.runtime.arguments import Inputs, failure, outputs
from blockfuse.runtime.cuda import CudaMachine, load_cuda_runtime, upload
from blockfuse.runtime.dlpack import DeviceArray, adopt, stream_of, to_tensor, wait
from blockfuse.runtime.kept_memory import KeptMemory
from blockfuse.runtime.library import ALIGNMENT, Library
from blockfuse.target import available_cpus
from blockfuse.usage import whole_number

Array: TypeAlias = np.ndarray[Any, Any]

RUNTIME_VARIABLE = "BLOCKFUSE_RUNTIME_DIR"
"""Environment variable with the folder of TVM's runtime libraries."""

_RUNTIME_LIBRARY = "libtvm_runtime.so"

_SPIN_VARIABLE, _SPINS = "TVM_THREAD_POOL_SPIN_COUNT", "200"  # yields of an idle thread before it sleeps
_CPU_DEVICE = (1, 0, 2)  # device type, its number, pooled allocation
_PIN_ONE_CORE_EACH = -2


class Session:
    """A compiled network, ready to run.

    Args:
        library: The network.
        threads: Threads that kernels divide their work among; by default what the environment variable
            ``TVM_NUM_THREADS`` says, else what the network was planned for; never more than one per core. Any number is
            right; the planned one is the fastest.

    Raises:
        UsageError: ``threads`` is not positive.
        TargetError: This machine lacks features that the code needs, or TVM's runtime library is not found.
        ArtifactError: The code cannot be loaded.
    """

    def __init__(self, library: Library, threads: int | None = None) -> None:
        threads = None if threads is None else whole_number("threads", threads)
        _require_machine(library)
        folder = load_runtime().parent
        self._is_gpu = library.target.kind == "cuda"
        if self._is_gpu:
            load_cuda_runtime(folder)
        self.library = library
        self.threads = min(threads or _default_threads(library), len(available_cpus()))
        self._process = os.getpid()
        self._inputs = Inputs(library)
        self._memory = KeptMemory() if library.batch else None
        self._module = _load_code(library)
        self._constants = [] if self._is_gpu else _views(library)
        self._turn = threading.Lock()
        self._idle = [self._machine()]

    def run(self, inputs: Mapping[str, Any], stream: Any = None) -> dict[str, Any]:
        """Outputs for inputs, both by name; safe to call from several threads.

        Args:
            inputs: One array per input, of numpy or of another library that knows DLPack, such as PyTorch or CuPy.
                C-contiguous arrays that may be written and are at an address the code can read are used in place, on a
                GPU those that are there; others are copied.
            stream: On a GPU, what to run on: a handle, or PyTorch's or CuPy's stream; by default the current one of the
                library whose array on the GPU is an input, else the legacy default stream.

        Returns:
            New arrays of the shapes in the model: of numpy, or, where an input was on the GPU, arrays that stay there
            (see :class:`blockfuse.runtime.dlpack.DeviceArray`) and that the stream may still be computing.

        Raises:
            InputError: An input is missing, unknown, of another type or shape, or on another device.
            UsageError: The process was forked after the session was made, as pools of threads do not survive that; or
                there is a stream on a CPU.
        """
        arguments, handle = self._arguments(inputs, stream)
        if not self._is_gpu:
            return self._run_on_cpu(arguments)
        results = self._run_on_gpu(arguments, handle)
        if any(isinstance(array, DeviceArray) for array in arguments):
            return results
        return {name: array.numpy() for name, array in results.items()}

    def bind(self, inputs: Mapping[str, Any], stream: Any = None) -> Callable[[], dict[str, Any]]:
        """A run with inputs that are checked once, and read when it is called.

        On a GPU, inputs on the CPU are copied there now, and results stay there as if all had been there.

        Args:
            inputs: As for :meth:`run`, like the stream and what is raised.
            stream: What to run on.
        """
        arguments, handle = self._arguments(inputs, stream)
        if not self._is_gpu:
            return lambda: self._run_on_cpu(arguments)
        placed = [array if isinstance(array, DeviceArray) else upload(array) for array in arguments]
        return lambda: self._run_on_gpu(placed, handle)

    def wait(self, stream: Any = None) -> None:
        """Wait for all that a stream of the GPU was given so far; on a CPU there is nothing to wait for."""
        if self._is_gpu:
            wait(stream_of(stream, ()))

    def _arguments(self, inputs: Mapping[str, Any], stream: Any) -> tuple[list[Any], int]:
        """The inputs in order as the code reads them, and the handle of the stream."""
        if os.getpid() != self._process:
            raise UsageError(
                "the process was forked after the network was loaded: load it in the new process, or spawn"
            )
        if stream is not None and not self._is_gpu:
            raise UsageError("stream is for GPUs, and the network runs on the CPU")
        if type(inputs) is not dict and not isinstance(inputs, Mapping):
            raise InputError(f"expected a dictionary of arrays by input name, not {type(inputs).__name__}")
        handle = stream_of(stream, inputs.values()) if self._is_gpu else 0
        arguments = self._inputs.arguments(
            {
                name: value if type(value) is np.ndarray else adopt(value, name, gpu=self._is_gpu, stream=handle)
                for name, value in inputs.items()
            }
        )
        if self._memory is not None:
            self._memory.prepare(arguments[0].shape[0])
        return arguments, handle

    def _run_on_gpu(self, arguments: Sequence[Array | DeviceArray], stream: int) -> dict[str, DeviceArray]:
        try:
            with self._turn:
                results = self._idle[0](arguments, stream)
        except (MemoryError, RuntimeError) as error:
            raise failure(error, self.library, arguments) from None
        return {
            port.name: DeviceArray(result, port.at(int(result.shape[0])).shape, port.layout, stream)
            for port, result in zip(self.library.outputs, results, strict=True)
        }

    def _run_on_cpu(self, arguments: list[Array]) -> dict[str, Array]:
        """Few calls and no context manager: after a run, Python's own code and data are no longer in the cache."""
        use_threads(self.threads)
        try:
            main = self._idle.pop()
        except IndexError:
            main = self._machine()
        try:
            results = main(*map(to_tensor, arguments), *self._constants)
        except (MemoryError, RuntimeError) as error:
            raise failure(error, self.library, arguments) from None
        finally:
            self._idle.append(main)
        return outputs(results, self.library.outputs, arguments)

    def _machine(self) -> Any:
        """A machine that runs the network: on a GPU of numpy arrays, else TVM's own, of its tensors."""
        if self._is_gpu:
            return CudaMachine(self._module, self.library)
        machine = self._module["vm_load_executable"]()
        machine["vm_initialization"](*_CPU_DEVICE)
        return machine["main"]


# ---- threads ---------------------------------------------------------------------------------------------------------
def _default_threads(library: Library) -> int:
    chosen = os.environ.get("TVM_NUM_THREADS", "")
    if chosen.isdecimal() and int(chosen) > 0:
        return int(chosen)
    return library.target.threads


_local = threading.local()
_callers = itertools.count()


def use_threads(count: int) -> None:
    """Make kernels that the calling thread starts use that many threads; its own CPU affinity stays as it is.

    TVM keeps a pool per calling thread, whose size never changes: it gets one thread per core here, of which ``count``
    work. Left alone, TVM would also ask the operating system for the number of cores at every parallel loop. Pools of
    several callers are pinned to different cores as far as there are enough.

    An idle thread of a pool yields 200 times before it sleeps, not TVM's 300,000 times. That is as fast, and on a busy
    machine, where a yield may last milliseconds, processes end at once instead of after minutes.
    """
    if getattr(_local, "threads", 0) == count:
        return
    if not hasattr(_local, "caller"):
        _local.caller = next(_callers)
    cpus = available_cpus()
    first = _local.caller * count
    order = [str(cpus[(first + index) % len(cpus)]) for index in range(max(count, len(cpus)))]
    affinity = os.sched_getaffinity(0)
    os.environ.setdefault(_SPIN_VARIABLE, _SPINS)
    tvm_ffi.get_global_func("runtime.config_threadpool")(_PIN_ONE_CORE_EACH, count, order)
    os.sched_setaffinity(0, affinity)
    _local.threads = count


# ---- loading ---------------------------------------------------------------------------------------------------------
def _require_machine(library: Library) -> None:
    missing = library.target.missing_features()
    if missing:
        raise TargetError(f"{library.name} was compiled for {library.target}, which needs {', '.join(missing)}")


@functools.cache
def load_runtime() -> Path:
    """Load TVM's runtime library into this process, once; return its path.

    Raises:
        TargetError: It is not found or cannot be loaded.
    """
    for folder in _runtime_folders():
        path = folder / _RUNTIME_LIBRARY
        if path.is_file():
            try:
                ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
            except OSError as error:
                raise TargetError(f"cannot load the TVM runtime {path}: {error}") from None
            return path
    searched = ", ".join(str(folder) for folder in _runtime_folders())
    raise TargetError(f"{_RUNTIME_LIBRARY} is not in {searched}; install apache-tvm or set {RUNTIME_VARIABLE}")


def _runtime_folders() -> list[Path]:
    variable = os.environ.get(RUNTIME_VARIABLE)
    if variable:
        return [Path(variable).resolve()]
    folders = [Path(__file__).resolve().parent / "lib"]
    spec = importlib.util.find_spec("tvm")
    if spec is not None and spec.origin is not None:
        folders.append(Path(spec.origin).parent / "lib")
    return folders


def _load_code(library: Library) -> Any:
    """The library's code as a module; its file exists only while the loader maps it."""
    with tempfile.TemporaryDirectory(prefix="blockfuse-") as folder:
        path = Path(folder) / "library.so"
        path.write_bytes(library.code)
        try:
            return tvm_ffi.load_module(str(path), keep_module_alive=False)
        except (OSError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[-1]
            raise ArtifactError(f"{library.name}: the code cannot be loaded: {reason}") from None


def _views(library: Library) -> list[Any]:
    """The constants as tensors inside the block of weights."""
    views = []
    for constant in library.constants:
        data = library.weights[constant.offset : constant.offset + constant.nbytes]
        array = data.view(constant.dtype).reshape(constant.shape)
        views.append(tvm_ffi.from_dlpack(array, require_alignment=ALIGNMENT))
    return views
