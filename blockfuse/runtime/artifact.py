"""The ``.bf`` container: a compiled network in one file.

An uncompressed zip with three members in this order: ``manifest.json``, ``library.so`` and ``weights.bin``. The
manifest describes the other two and holds their SHA-256. Everything is checked before any of it is used. The code
inside is native code: load only containers from people you trust, as with any program.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from importlib import metadata
from io import BufferedReader
from pathlib import Path
from typing import IO, Any

import numpy as np

from blockfuse.errors import ArtifactError
from blockfuse.runtime.library import Library, aligned_empty
from blockfuse.runtime.manifest import SCHEMA, Manifest, parse_manifest

_MANIFEST, _CODE, _WEIGHTS = "manifest.json", "library.so", "weights.bin"
_MEMBERS = (_MANIFEST, _CODE, _WEIGHTS)
_MAX_MANIFEST = 64 << 20
_TIME = (1980, 1, 1, 0, 0, 0)  # equal networks give equal files
_LOCAL_HEADER = struct.Struct("<26xHH")  # ..., length of the name, length of the extra field


def save(library: Library, report: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a container; an existing file is replaced only once the new one is complete.

    Args:
        library: The network.
        report: What the compiler reports about it, as data JSON can hold.
        path: Where to.

    Raises:
        ArtifactError: The file cannot be written.
    """
    target = Path(path)
    members = {_CODE: memoryview(library.code), _WEIGHTS: library.weights.data}
    manifest = json.dumps(_describe(library, report, members), indent=1, allow_nan=False).encode()
    try:
        with _replacing(target) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name, data in {_MANIFEST: memoryview(manifest), **members}.items():
                info = zipfile.ZipInfo(name, _TIME)
                info.file_size = len(data)
                with archive.open(info, "w") as member:
                    member.write(data)
    except OSError as error:
        raise ArtifactError(f"cannot write {target}: {error.strerror or error}") from None


def load(path: str | os.PathLike[str]) -> tuple[Library, dict[str, Any]]:
    """Read and check a container; nothing in it is run.

    Returns:
        The network and what the compiler reported about it.

    Raises:
        ArtifactError: The file cannot be read, is damaged, was written by another version, or needs another machine.
    """
    source = Path(path)
    try:
        with source.open("rb") as file:
            return _read(source, file)
    except OSError as error:
        raise ArtifactError(f"cannot read {source}: {error.strerror or error}") from None


# ---- writing ---------------------------------------------------------------------------------------------------------
@contextlib.contextmanager
def _replacing(target: Path) -> Iterator[IO[bytes]]:
    """A new file beside the target that takes its place at the end, or vanishes on an error."""
    mask = os.umask(0)
    os.umask(mask)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o666 & ~mask)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _describe(library: Library, report: Mapping[str, Any], members: Mapping[str, memoryview]) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "versions": {name: _version(name) for name in ("blockfuse", "apache-tvm", "apache-tvm-ffi")},
        "name": library.name,
        "target": asdict(library.target),
        "inputs": [asdict(port) for port in library.inputs],
        "outputs": [asdict(port) for port in library.outputs],
        "constants": [asdict(constant) for constant in library.constants],
        "layout_changes": library.layout_changes,
        "members": {name: {"size": len(data), "sha256": _hash(data)} for name, data in members.items()},
        "report": dict(report),
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


def _hash(data: Any) -> str:
    return hashlib.sha256(data).hexdigest()


# ---- reading ---------------------------------------------------------------------------------------------------------
def _read(source: Path, file: BufferedReader) -> tuple[Library, dict[str, Any]]:
    try:
        with zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
            _check_structure(source, infos)
            text = archive.read(_MANIFEST)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError, struct.error) as error:
        raise ArtifactError(f"{source} is not a complete container: {error}") from None
    manifest = parse_manifest(source, text)
    _check_machine(source, manifest)
    contents = {info.filename: _read_member(source, file, info, manifest) for info in infos[1:]}
    library = Library(
        name=manifest.name,
        target=manifest.target,
        inputs=manifest.inputs,
        outputs=manifest.outputs,
        constants=manifest.constants,
        layout_changes=manifest.layout_changes,
        code=contents[_CODE].tobytes(),
        weights=contents[_WEIGHTS],
    )
    return library, manifest.report


def _check_structure(source: Path, infos: list[zipfile.ZipInfo]) -> None:
    names = [info.filename for info in infos]
    if names != list(_MEMBERS):
        shown = ", ".join(repr(name) for name in names[:5]) or "nothing"
        raise ArtifactError(f"{source} is not a container: expected {', '.join(_MEMBERS)} inside, found {shown}")
    for info in infos:
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise ArtifactError(f"{source} is not a container: {info.filename} is compressed or encrypted")
    if infos[0].file_size > _MAX_MANIFEST:
        raise ArtifactError(f"{source} is damaged: its manifest claims {infos[0].file_size} bytes")


def _check_machine(source: Path, manifest: Manifest) -> None:
    missing = manifest.target.missing_features()
    if missing:
        raise ArtifactError(
            f"{source} was compiled for {manifest.target} and cannot run here: this machine lacks {', '.join(missing)}"
        )


def _read_member(
    source: Path, file: BufferedReader, info: zipfile.ZipInfo, manifest: Manifest
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A member's bytes, of the size and with the hash that the manifest gives."""
    expected = manifest.members[info.filename]
    if info.file_size != expected.size:
        raise ArtifactError(
            f"{source} is damaged: {info.filename} has {info.file_size} bytes, the manifest says {expected.size}"
        )
    start = _data_offset(source, file, info)
    left = os.fstat(file.fileno()).st_size - start
    if expected.size > left:
        raise ArtifactError(f"{source} is damaged: {info.filename} has {expected.size} bytes, {left} are left")
    file.seek(start)
    data = aligned_empty(expected.size)
    file.readinto(data.data)
    actual = _hash(data)
    if actual != expected.sha256:
        raise ArtifactError(
            f"{source} is damaged: {info.filename} has SHA-256 {actual[:12]}..., the manifest says "
            f"{expected.sha256[:12]}..."
        )
    return data


def _data_offset(source: Path, file: BufferedReader, info: zipfile.ZipInfo) -> int:
    """Where a member's bytes start in the file."""
    file.seek(max(info.header_offset, 0))
    header = file.read(_LOCAL_HEADER.size)
    if info.header_offset < 0 or len(header) < _LOCAL_HEADER.size:
        raise ArtifactError(f"{source} is damaged: there is no {info.filename} at byte {info.header_offset}")
    name_length, extra_length = _LOCAL_HEADER.unpack(header)
    return info.header_offset + _LOCAL_HEADER.size + int(name_length) + int(extra_length)
