"""Fat binaries: several images of one kernel in one file, of which the driver takes the one that fits.

The file format is NVIDIA's; the tests compare what is written here with what ``fatbinary`` of the toolkit writes::

    u32 magic | u16 version | u16 bytes of this header | u64 bytes of the rest
    per image: u16 kind | u16 version | u32 bytes of this header | u64 bytes of the image | u32 compressed bytes
               u32 place of options | u16 minor | u16 major version | u32 architecture | u64 name | u64 flags | 2 x u64
               the image, padded to 8 bytes
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping

_MAGIC = 0xBA55ED50
_START = struct.pack("<I", _MAGIC)
_PTX, _ELF = 1, 2
_ENTRY = "<HHIQIIHHIQQQQ"
_ENTRY_SIZE = struct.calcsize(_ENTRY)
_ENTRY_VERSION = 0x101
_LINUX_64_BIT, _OF_ONE_ARCHITECTURE = 0x11, 0x100000
_OPTIONS_AT = 0x40
_OPTIONS = struct.pack("<QQ", 0x48, 0)  # where the text of the options is, and no text


def fat_binary(images: Mapping[str, bytes]) -> bytes:
    """The fat binary of images.

    Args:
        images: Machine code by architectures such as ``sm_90a``, PTX by such as ``compute_90``.
    """
    entries = b"".join(_entry(target, image) for target, image in images.items())
    return struct.pack("<IHHQ", _MAGIC, 1, 16, len(entries)) + entries


def _entry(target: str, image: bytes) -> bytes:
    is_ptx = target.startswith("compute_")
    image = image.rstrip(b"\0") + b"\0" if is_ptx else image
    padded = image + bytes(-len(image) % 8)
    number = int(re.sub(r"\D", "", target))
    flags = _LINUX_64_BIT | (_OF_ONE_ARCHITECTURE if target[-1].isalpha() else 0)
    major, minor = _ptx_version(image) if is_ptx else (1, image[8])
    options = _OPTIONS if is_ptx else b""
    kind, place = (_PTX, _OPTIONS_AT) if is_ptx else (_ELF, 0)
    header = struct.calcsize(_ENTRY) + len(options)
    fields = (kind, _ENTRY_VERSION, header, len(padded), 0, place, minor, major, number, 0, flags, 0, 0)
    return struct.pack(_ENTRY, *fields) + options + padded


def _ptx_version(image: bytes) -> tuple[int, int]:
    found = re.search(rb"\.version (\d+)\.(\d+)", image)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def machine_code(data: bytes) -> list[tuple[str, bytes]]:
    """Every piece of machine code in the fat binaries that some data holds, with its architecture, in order.

    What begins like a fat binary and is none is passed over, and so is compressed code, which no compiler writes unless
    asked to.
    """
    found = []
    place = data.find(_START)
    while place >= 0:
        found += list(_images(data, place))
        place = data.find(_START, place + 1)
    return found


def _images(data: bytes, place: int) -> Iterator[tuple[str, bytes]]:
    if place + 16 > len(data):
        return
    _, version, header, size = struct.unpack_from("<IHHQ", data, place)
    position, end = place + header, place + header + size
    if version != 1 or end > len(data):
        return
    while position + _ENTRY_SIZE <= end:
        kind, _, header, size, packed, _, _, _, number, _, flags, _, _ = struct.unpack_from(_ENTRY, data, position)
        image = data[position + header : position + header + size]
        if kind == _ELF and not packed:
            yield f"sm_{number}{'a' if flags & _OF_ONE_ARCHITECTURE else ''}", image
        position += max(header + size, _ENTRY_SIZE)
