"""Device code inside a library: TVM's import tree with CUDA C replaced by machine code.

Without a GPU, TVM packs CUDA *source* into a library, which only a machine with a compiler could load. The packer here
is handed to ``export_library(fpack_imports=...)``; it compiles every source and rewrites the tree::

    u64 bytes of the rest | u64 n, n x u64 row pointers | u64 m, m x u64 children | (key, value) per module
    key "cuda": value = format, function table, code;   each part is u64 length, bytes
"""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import tvm
from tvm.support.cc import get_cc

from blockfuse.errors import InternalError

Compile: TypeAlias = Callable[[Sequence[str]], list[bytes]]
"""CUDA C of several modules to their machine code."""

_HOST_MODULE = b"_lib"
_DEVICE_MODULE = b"cuda"
_BINARY = b"cubin"  # any image that the driver loads
_SYMBOL = "__tvm_ffi__library_bin"
_ASSEMBLY = """.section .rodata
.globl {symbol}
.balign 64
{symbol}:
.incbin "{path}"
.section .note.GNU-stack,"",@progbits
"""


def packer(compile_sources: Compile) -> Callable[[Any, bool, str, str], str]:
    """What ``export_library`` calls to turn the imports of a module into an object file."""

    def pack(module: Any, _is_system_library: bool, prefix: str, workspace: str) -> str:
        sources = cuda_sources(module)
        code = dict(zip(sources, compile_sources(sources), strict=True))
        data = tvm.get_global_func("runtime.ModulePackImportsToTensor")(module).numpy().tobytes()
        packed = Path(workspace) / "imports.bin"
        packed.write_bytes(rewritten(data, code))
        assembly = packed.with_suffix(".S")
        assembly.write_text(_ASSEMBLY.format(symbol=f"{prefix}{_SYMBOL}", path=packed), encoding="utf-8")
        result = packed.with_suffix(".o")
        command = [get_cc() or "g++", "-c", "-o", str(result), str(assembly)]
        subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - the linker's own compiler
        return str(result)

    return pack


def cuda_sources(module: Any) -> list[str]:
    """CUDA C of all modules below one, each once."""
    found: dict[str, None] = {}
    waiting = [module]
    while waiting:
        current = waiting.pop()
        waiting.extend(current.imports)
        if current.kind == "cuda":
            found[str(current.inspect_source("cuda"))] = None
    return list(found)


def rewritten(data: bytes, code: dict[str, bytes]) -> bytes:
    """A packed import tree with machine code in place of every source.

    Raises:
        InternalError: A module holds something other than a known source.
    """
    (size,) = struct.unpack_from("<Q", data)
    body = data[8 : 8 + size]
    position = 0
    for _ in range(2):
        (count,) = struct.unpack_from("<Q", body, position)
        position += 8 + 8 * count
    parts = [body[:position]]
    while position < len(body):
        key, position = _read(body, position)
        parts.append(_written(key))
        if key == _HOST_MODULE:
            continue
        value, position = _read(body, position)
        parts.append(_written(_with_code(value, code) if key == _DEVICE_MODULE else value))
    return _written(b"".join(parts))


def _with_code(value: bytes, code: dict[str, bytes]) -> bytes:
    """A serialised CUDA module with the code of its source."""
    _, after_format = _read(value, 0)
    for source, binary in code.items():
        tail = _written(source.encode())
        if value.endswith(tail):
            return _written(_BINARY) + value[after_format : -len(tail)] + _written(binary)
    raise InternalError("a CUDA module of the library holds no source that was compiled")


def _read(data: bytes, position: int) -> tuple[bytes, int]:
    (size,) = struct.unpack_from("<Q", data, position)
    end = position + 8 + size
    return data[position + 8 : end], end


def _written(data: bytes) -> bytes:
    return struct.pack("<Q", len(data)) + data
