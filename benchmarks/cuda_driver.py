"""Just enough of CUDA through ctypes to load kernels and launch them: numpy and the driver, nothing else."""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, Any]

_DRIVER = "libcuda.so.1"
_RUNTIMES = ("libcudart.so.13", "libcudart.so.12")
_FOLDERS = ("/usr/local/cuda/lib64", "/usr/local/cuda/lib")
_PACKAGES = ("cu13/lib", "cuda_runtime/lib")  # below the namespace package ``nvidia``
_MAJOR, _MINOR = 75, 76  # CUdevice_attribute
_SHARED_BYTES = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
_TO_DEVICE, _TO_HOST = 1, 2  # cudaMemcpyKind
_FREE_SHARED_BYTES = 48 * 1024


class CudaError(Exception):
    """A call failed, or there is no GPU."""


class _LaunchConfig(ctypes.Structure):
    """``CUlaunchConfig``."""

    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared_bytes", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.c_void_p),
        ("attribute_count", ctypes.c_uint),
    )


class Kernel:
    """A kernel of a loaded module.

    Args:
        cuda: Where it runs.
        function: Its handle.
        grid: CTAs of a launch.
        threads: Of a CTA.
        shared_bytes: Dynamic shared memory of a CTA.
    """

    def __init__(self, cuda: Cuda, function: ctypes.c_void_p, grid: int, threads: int, shared_bytes: int) -> None:
        self._cuda, self._function = cuda, function
        self._launch = (grid, threads, shared_bytes)

    def __call__(self, pointers: Sequence[int], stream: int = 0) -> None:
        """Launch it on arrays of the device, or whole numbers in their places, in the order of its parameters."""
        grid, threads, shared_bytes = self._launch
        config = _LaunchConfig((grid, 1, 1), (threads, 1, 1), shared_bytes, stream or None, None, 0)
        values = [ctypes.c_void_p(pointer) for pointer in pointers]
        places = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        self._cuda.call("cuLaunchKernelEx", ctypes.byref(config), self._function, places, None)


class Cuda:
    """The first GPU of this machine.

    Raises:
        CudaError: There is none, or a library is not found.
    """

    def __init__(self) -> None:
        self._driver = _load([_DRIVER])
        self.call("cuInit", 0)
        self._runtime = _load(_runtime_paths())
        device = ctypes.c_int()
        self.call("cuDeviceGet", ctypes.byref(device), 0)
        name = ctypes.create_string_buffer(256)
        self.call("cuDeviceGetName", name, len(name), device)
        self.name = name.value.decode(errors="replace")
        self.arch = f"sm_{self._attribute(device, _MAJOR)}{self._attribute(device, _MINOR)}"
        self.call("cudaSetDevice", 0)
        self._modules: list[ctypes.c_void_p] = []
        self._memory: list[int] = []
        self.allocate(256)  # makes the context that modules are loaded into

    def call(self, function: str, *arguments: Any) -> None:
        """Call a function of the driver or the runtime.

        Raises:
            CudaError: It says no.
        """
        library = self._runtime if function.startswith("cuda") else self._driver
        code = getattr(library, function)(*arguments)
        if code:
            raise CudaError(f"{function} gives error {code}")

    def load(self, image: bytes, name: str, grid: int, threads: int, shared_bytes: int) -> Kernel:
        """A kernel of a cubin or fat binary."""
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        self.call("cuModuleLoadData", ctypes.byref(module), image)
        self._modules.append(module)
        self.call("cuModuleGetFunction", ctypes.byref(function), module, name.encode())
        if shared_bytes > _FREE_SHARED_BYTES:
            self.call("cuFuncSetAttribute", function, _SHARED_BYTES, shared_bytes)
        return Kernel(self, function, grid, threads, shared_bytes)

    def allocate(self, nbytes: int) -> int:
        """The address of new memory."""
        pointer = ctypes.c_void_p()
        self.call("cudaMalloc", ctypes.byref(pointer), ctypes.c_size_t(nbytes))
        self._memory.append(pointer.value or 0)
        return pointer.value or 0

    def upload(self, array: Array) -> int:
        """The address of a copy of an array."""
        data = np.ascontiguousarray(array)
        pointer = self.allocate(data.nbytes)
        self._copy(pointer, data.ctypes.data, data.nbytes, _TO_DEVICE)
        return pointer

    def write(self, pointer: int, array: Array) -> None:
        """Overwrite memory with an array."""
        data = np.ascontiguousarray(array)
        self._copy(pointer, data.ctypes.data, data.nbytes, _TO_DEVICE)

    def download(self, pointer: int, like: Array) -> Array:
        """What memory holds, as an array like another."""
        result = np.empty_like(like, order="C")
        self._copy(result.ctypes.data, pointer, result.nbytes, _TO_HOST)
        return result

    def synchronize(self) -> None:
        """Wait until everything is done."""
        self.call("cudaStreamSynchronize", None)

    def free(self) -> None:
        """Give all memory back."""
        for pointer in self._memory:
            self.call("cudaFree", ctypes.c_void_p(pointer))
        self._memory.clear()

    def _copy(self, to: int, source: int, nbytes: int, kind: int) -> None:
        arguments = (ctypes.c_void_p(to), ctypes.c_void_p(source), ctypes.c_size_t(nbytes), kind, None)
        self.call("cudaMemcpyAsync", *arguments)
        self.synchronize()

    def _attribute(self, device: ctypes.c_int, number: int) -> int:
        value = ctypes.c_int()
        self.call("cuDeviceGetAttribute", ctypes.byref(value), number, device)
        return value.value


def _runtime_paths() -> list[str]:
    spec = importlib.util.find_spec("nvidia")
    places = [] if spec is None else list(spec.submodule_search_locations or ())
    folders = [*(Path(place) / package for place in places for package in _PACKAGES), *map(Path, _FOLDERS)]
    paths = [folder / name for name in _RUNTIMES for folder in folders]
    return [*_RUNTIMES, *(str(path) for path in paths if path.is_file())]


def _load(names: Iterable[str]) -> Any:
    """The first library of a list that there is."""
    tried = list(names)
    for name in tried:
        try:
            return ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
    raise CudaError(f"{tried[0]} is not found on this machine")
