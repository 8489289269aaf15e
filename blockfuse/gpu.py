"""What the GPU driver says of this machine; asked through its own library, without TVM."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

from blockfuse.errors import TargetError

_DRIVER = "libcuda.so.1"
_CORES, _MAJOR, _MINOR, _SHARED_OPT_IN = 16, 75, 76, 97  # CUdevice_attribute
_OWN_INSTRUCTIONS = {"sm_90": "sm_90a"}  # wgmma


@dataclass(frozen=True)
class Gpu:
    """A GPU of this machine.

    Attributes:
        name: As the driver gives it.
        arch: Its architecture, such as ``sm_90``.
        shared_bytes: Shared memory that one CTA may use.
        cores: Streaming multiprocessors; 0 where that was not asked for.
    """

    name: str
    arch: str
    shared_bytes: int
    cores: int = 0

    @property
    def target(self) -> str:
        """What code for this GPU alone is made for: with the suffix where that gives instructions that kernels use."""
        return _OWN_INSTRUCTIONS.get(self.arch, self.arch)

    def __str__(self) -> str:
        return f"{self.name} ({self.arch})"


def this_gpu() -> Gpu:
    """The first GPU of this machine.

    Raises:
        TargetError: There is no driver or no GPU.
    """
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError:
        raise TargetError(f"there is no GPU driver on this machine: {_DRIVER} is not found") from None
    count, device = ctypes.c_int(), ctypes.c_int()
    _call(driver, "cuInit", 0)
    _call(driver, "cuDeviceGetCount", ctypes.byref(count))
    if not count.value:
        raise TargetError("the GPU driver finds no GPU on this machine")
    _call(driver, "cuDeviceGet", ctypes.byref(device), 0)
    name = ctypes.create_string_buffer(256)
    _call(driver, "cuDeviceGetName", name, len(name), device)
    asked = (_MAJOR, _MINOR, _SHARED_OPT_IN, _CORES)
    major, minor, shared, cores = (_attribute(driver, device, number) for number in asked)
    return Gpu(name.value.decode(errors="replace"), f"sm_{major}{minor}", shared, cores)


def _attribute(driver: Any, device: Any, number: int) -> int:
    value = ctypes.c_int()
    _call(driver, "cuDeviceGetAttribute", ctypes.byref(value), number, device)
    return value.value


def _call(driver: Any, function: str, *arguments: Any) -> None:
    code = getattr(driver, function)(*arguments)
    if code:
        raise TargetError(f"the GPU driver does not work here: {function} gives error {code}")
