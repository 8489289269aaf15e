"""Kernels in the machine code of a container: registers, stack, threads and instructions, without a GPU.

Machine code is an ELF file. What ptxas knows of a kernel is in its sections ``.nv.info``, a list of::

    u8 format | u8 attribute | u16 value          or, where the format is 4,
    u8 4      | u8 attribute | u16 bytes | bytes

Instructions are counted where nvdisasm or cuobjdump of the CUDA toolkit is found: on the path, beside nvcc, or in the
packages ``nvidia-cuda-nvdisasm`` and ``nvidia-cuda-cuobjdump``.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import struct
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import NamedTuple

from blockfuse.build.cubin import find_nvcc
from blockfuse.build.fatbin import machine_code
from blockfuse.errors import TargetError
from blockfuse.target import available_cores

_SYMBOLS, _SYMBOL = 2, 24  # type of the section of symbols, and bytes of one
_SIZED = 4
_MAX_THREADS, _FRAME_SIZE, _REGISTERS = 0x05, 0x11, 0x2F
_INFO = ".nv.info"
_TOOLS = {"nvdisasm": ("-c", "-ndf"), "cuobjdump": ("-sass",)}
_FUNCTION = re.compile(r"^\s*(?:Function : |\.text\.)(?P<name>\w+):?\s*$", re.MULTILINE)
_INSTRUCTION = re.compile(
    r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?(?P<opcode>[A-Z][A-Z0-9]+)(?P<rest>[.\w]*)", re.MULTILINE
)
_WIDTHS = {"64": 8, "128": 16, "U8": 1, "S8": 1, "U16": 2, "S16": 2}
_LOCAL = ("LDL", "STL")
_PATIENCE = 120  # seconds


@dataclass(frozen=True)
class Code:
    """Machine code of one kernel for one architecture.

    Attributes:
        kernel: Its name.
        arch: Such as ``sm_90a``.
        registers: Of a thread.
        stack_bytes: Of a thread; registers that are spilled are kept there.
        threads: The most that a CTA may have.
        sass: Instructions by opcode, as they stand in the code; None where no disassembler is found.
        spill_bytes: That local loads and stores move, as they stand in the code; None where that is not known.
    """

    kernel: str
    arch: str
    registers: int
    stack_bytes: int
    threads: int
    sass: Mapping[str, int] | None = None
    spill_bytes: int | None = None


class Instructions(NamedTuple):
    """Instructions of a kernel by opcode, and bytes that its local loads and stores move, as they stand in the code."""

    sass: Mapping[str, int]
    local_bytes: int


def codes_of(library: bytes) -> list[Code]:
    """All kernels in a library's fat binaries, for every architecture."""
    images = machine_code(library)
    tool = find_disassembler()
    with ThreadPoolExecutor(max(1, available_cores())) as pool:
        listings = list(pool.map(lambda one: _listing(tool, one[1]) if tool else {}, images))
    codes = []
    for (arch, image), listing in zip(images, listings, strict=True):
        for name, attributes in kernel_attributes(image).items():
            stack = attributes.get(_FRAME_SIZE, 0)
            known = listing.get(name)
            moved = known.local_bytes if known else None if stack else 0
            needs = (attributes[_REGISTERS], stack, attributes.get(_MAX_THREADS, 0))
            codes.append(Code(name, arch, *needs, known and known.sass, moved))
    return codes


# ---- the file --------------------------------------------------------------------------------------------------------
def kernel_attributes(image: bytes) -> dict[str, dict[int, int]]:
    """Attributes of every kernel of an ELF file by their numbers; empty where the file has another form."""
    try:
        sections = dict(sections_of(image))
        symbols = _symbol_names(sections)
        found: dict[str, dict[int, int]] = {}
        for attribute, value in _attributes(sections.get(_INFO, b"")):
            if attribute in (_FRAME_SIZE, _REGISTERS):
                symbol, number = struct.unpack("<II", value)
                found.setdefault(symbols[symbol], {})[attribute] = number
        for name, known in found.items():
            for attribute, value in _attributes(sections.get(f"{_INFO}.{name}", b"")):
                if attribute == _MAX_THREADS:
                    known[attribute] = prod(struct.unpack("<III", value))
    except (struct.error, IndexError, OverflowError, UnicodeDecodeError):
        return {}
    return {name: attributes for name, attributes in found.items() if _REGISTERS in attributes}


def sections_of(image: bytes) -> Iterator[tuple[str, bytes]]:
    """Name and content of every section; that of the symbols and their names have the names of their kinds."""
    (table,) = struct.unpack_from("<Q", image, 0x28)
    size, count, names = struct.unpack_from("<HHH", image, 0x3A)
    headers = [struct.unpack_from("<IIQQQQII", image, table + size * number) for number in range(count)]
    texts = _content(image, headers[names])
    for header in headers:
        yield _text(texts, header[0]), _content(image, header)
        if header[1] == _SYMBOLS:
            yield "symbols", _content(image, header)
            yield "names", _content(image, headers[header[6]])


def _content(image: bytes, header: tuple[int, ...]) -> bytes:
    return image[header[4] : header[4] + header[5]]


def _text(texts: bytes, start: int) -> str:
    return texts[start : texts.index(b"\0", start)].decode() if b"\0" in texts[start:] else ""


def _symbol_names(sections: Mapping[str, bytes]) -> list[str]:
    symbols, names = sections.get("symbols", b""), sections.get("names", b"")
    starts = [struct.unpack_from("<I", symbols, place)[0] for place in range(0, len(symbols), _SYMBOL)]
    return [_text(names, start) for start in starts]


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position + 4 <= len(data):
        form, attribute, size = struct.unpack_from("<BBH", data, position)
        position += 4
        if form == _SIZED:
            yield attribute, data[position : position + size]
            position += size


# ---- instructions ----------------------------------------------------------------------------------------------------
def find_disassembler() -> Path | None:
    """The path of nvdisasm or cuobjdump; None where there is neither."""
    folders: list[Path | None] = [None]
    with suppress(TargetError):
        folders.append(Path(find_nvcc()).resolve().parent)
    packages = importlib.util.find_spec("nvidia")
    for place in packages.submodule_search_locations or [] if packages else []:
        folders += sorted(Path(place).glob("*/bin"))
    found = (shutil.which(name, path=folder and str(folder)) for name in _TOOLS for folder in folders)
    return next((Path(path) for path in found if path), None)


def _listing(tool: Path, image: bytes) -> dict[str, Instructions]:
    """Instructions and bytes of local loads and stores of every kernel of an ELF file."""
    with tempfile.TemporaryDirectory(prefix="blockfuse-") as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(image)
        command = [str(tool), *_TOOLS[tool.stem], str(path)]
        try:
            done = subprocess.run(  # noqa: S603 - a tool of the user's toolkit
                command, capture_output=True, text=True, check=False, timeout=_PATIENCE
            )
        except (OSError, subprocess.TimeoutExpired):
            return {}
    return counted(done.stdout) if done.returncode == 0 else {}


def counted(listing: str) -> dict[str, Instructions]:
    """Instructions and bytes of local loads and stores of every kernel in what a disassembler prints."""
    found: dict[str, Instructions] = {}
    heads = list(_FUNCTION.finditer(listing))
    ends = [*(head.start() for head in heads[1:]), len(listing)]
    for head, end in zip(heads, ends, strict=True):
        every = list(_INSTRUCTION.finditer(listing, head.end(), end))
        if every:
            local = sum(_bytes_of(one["rest"]) for one in every if one["opcode"] in _LOCAL)
            found[head["name"]] = Instructions(dict(Counter(one["opcode"] for one in every).most_common()), local)
    return found


def _bytes_of(suffixes: str) -> int:
    return next((_WIDTHS[part] for part in suffixes.split(".") if part in _WIDTHS), 4)
