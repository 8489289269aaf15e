"""The ``.bf`` container: a compiled network in one file.

An uncompressed zip with three members in this order: ``manifest.json``, ``library.so`` and ``weights.bin``; after them
may come ``sources/``, the texts that kernels were made from. The manifest describes the others and holds their SHA-256.
Everything is checked before any of it is used. The code inside is native code: load only containers from people you
trust, as with any program.

The same files in a folder are a container too, for programs that cannot read a zip. There, a recipe in ``seeded.json``
may stand for the weights (:mod:`blockfuse.runtime.seeded`).
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
from typing import IO, Any, TypeAlias

import numpy as np

from blockfuse.errors import ArtifactError
from blockfuse.runtime.library import Library, aligned_empty
from blockfuse.runtime.manifest import SCHEMA, Manifest, Member, parse_manifest
from blockfuse.runtime.seeded import Recipe, make_weights
from blockfuse.usage import path_of

Bytes: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]

_MANIFEST, _CODE, _WEIGHTS, _SOURCES, _RECIPE = "manifest.json", "library.so", "weights.bin", "sources/", "seeded.json"
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
    target = path_of("the file to write", path)
    try:
        with _replacing(target) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name, data in _contents(library, report).items():
                info = zipfile.ZipInfo(name, _TIME)
                info.file_size = len(data)
                with archive.open(info, "w") as member:
                    member.write(data)
    except OSError as error:
        raise ArtifactError(f"cannot write {target}: {error.strerror or error}") from None


def save_folder(library: Library, report: Mapping[str, Any], folder: Path, recipe: Recipe | None = None) -> None:
    """Write the files of a container into a new folder, which is not removed on an error.

    Args:
        library: The network.
        report: As for :func:`save`.
        folder: Where to.
        recipe: What the weights were made by, to be written in their place.

    Raises:
        ArtifactError: It cannot be written.
    """
    contents = _contents(library, report)
    if recipe is not None:
        del contents[_WEIGHTS]
        contents[_RECIPE] = memoryview(recipe.to_json().encode())
    try:
        for name, data in contents.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
    except OSError as error:
        raise ArtifactError(f"cannot write {folder}: {error.strerror or error}") from None


def load(path: str | os.PathLike[str], *, any_machine: bool = False) -> tuple[Library, dict[str, Any]]:
    """Read and check a container; nothing in it is run.

    Args:
        path: The file or folder.
        any_machine: Also read what this machine cannot run.

    Returns:
        The network and what the compiler reported about it.

    Raises:
        ArtifactError: The file cannot be read, is damaged, was written by another version, or needs another machine.
    """
    source = path_of("a container", path)
    try:
        if source.is_dir():
            return _read_folder(source, any_machine=any_machine)
        if source.exists() and not source.is_file():
            raise ArtifactError(f"cannot read {source}: it is not a file")
        with source.open("rb") as file:
            return _read_file(source, file, any_machine=any_machine)
    except OSError as error:
        raise ArtifactError(f"cannot read {error.filename or source}: {error.strerror or error}") from None


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


def _contents(library: Library, report: Mapping[str, Any]) -> dict[str, memoryview]:
    """What to write, by the names of the members."""
    sources = {_SOURCES + name: memoryview(text.encode()) for name, text in sorted(library.sources.items())}
    members = {_CODE: memoryview(library.code), _WEIGHTS: library.weights.data, **sources}
    manifest = {
        "schema": SCHEMA,
        "versions": {name: _version(name) for name in ("blockfuse", "apache-tvm", "apache-tvm-ffi")},
        "name": library.name,
        "target": asdict(library.target),
        "inputs": [asdict(port) for port in library.inputs],
        "outputs": [asdict(port) for port in library.outputs],
        "constants": [asdict(constant) for constant in library.constants],
        "layout_changes": library.layout_changes,
        "batch": None if library.batch is None else asdict(library.batch),
        "members": {name: {"size": len(data), "sha256": _hash(data)} for name, data in members.items()},
        "report": dict(report),
    }
    return {_MANIFEST: memoryview(json.dumps(manifest, indent=1, allow_nan=False).encode()), **members}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


def _hash(data: Any) -> str:
    return hashlib.sha256(data).hexdigest()


# ---- reading ---------------------------------------------------------------------------------------------------------
def _read_file(source: Path, file: BufferedReader, *, any_machine: bool) -> tuple[Library, dict[str, Any]]:
    try:
        with zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
            _check_structure(source, infos)
            text = archive.read(_MANIFEST)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError, struct.error) as error:
        raise ArtifactError(f"{source} is not a complete container: {error}") from None
    manifest = _checked_manifest(source, text, any_machine=any_machine)
    if [info.filename for info in infos[1:]] != list(manifest.members):
        raise ArtifactError(f"{source} is damaged: its manifest lists other members than are inside")
    contents = {info.filename: _read_member(source, file, info, manifest) for info in infos[1:]}
    return _library(manifest, contents), manifest.report


def _read_folder(source: Path, *, any_machine: bool) -> tuple[Library, dict[str, Any]]:
    size = (source / _MANIFEST).stat().st_size
    if size > _MAX_MANIFEST:
        raise ArtifactError(f"{source} is damaged: its manifest has {size} bytes")
    manifest = _checked_manifest(source, (source / _MANIFEST).read_bytes(), any_machine=any_machine)
    contents = {}
    for name, expected in manifest.members.items():
        if name == _WEIGHTS and not (source / name).exists() and (source / _RECIPE).is_file():
            data = _made_weights(source, manifest)
        else:
            with (source / name).open("rb") as file:
                _check_size(source, name, os.fstat(file.fileno()).st_size, expected)
                data = _read_bytes(file, expected.size)
        _check_hash(source, name, data, expected)
        contents[name] = data
    return _library(manifest, contents), manifest.report


def _made_weights(source: Path, manifest: Manifest) -> Bytes:
    """The weights that a recipe stands for."""
    try:
        recipe = Recipe.from_json((source / _RECIPE).read_bytes())
        return make_weights(recipe, manifest.constants, manifest.members[_WEIGHTS].size)
    except ValueError as error:
        raise ArtifactError(f"{source} is damaged: {_RECIPE} makes no weights: {error}") from None


def _library(manifest: Manifest, contents: Mapping[str, Bytes]) -> Library:
    sources = {name: data for name, data in contents.items() if name.startswith(_SOURCES)}
    return Library(
        name=manifest.name,
        target=manifest.target,
        inputs=manifest.inputs,
        outputs=manifest.outputs,
        constants=manifest.constants,
        layout_changes=manifest.layout_changes,
        batch=manifest.batch,
        code=contents[_CODE].tobytes(),
        weights=contents[_WEIGHTS],
        sources={name[len(_SOURCES) :]: data.tobytes().decode(errors="replace") for name, data in sources.items()},
    )


def _check_structure(source: Path, infos: list[zipfile.ZipInfo]) -> None:
    names = [info.filename for info in infos]
    others = [name for name in names[len(_MEMBERS) :] if not name.startswith(_SOURCES)]
    if names[: len(_MEMBERS)] != list(_MEMBERS) or others:
        shown = ", ".join(repr(name) for name in (*names[: len(_MEMBERS)], *others[:2])) or "nothing"
        raise ArtifactError(f"{source} is not a container: expected {', '.join(_MEMBERS)} inside, found {shown}")
    for info in infos:
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise ArtifactError(f"{source} is not a container: {info.filename} is compressed or encrypted")
    if infos[0].file_size > _MAX_MANIFEST:
        raise ArtifactError(f"{source} is damaged: its manifest claims {infos[0].file_size} bytes")


def _checked_manifest(source: Path, text: bytes, *, any_machine: bool) -> Manifest:
    manifest = parse_manifest(source, text)
    missing = () if any_machine else manifest.target.missing_features()
    if missing:
        raise ArtifactError(
            f"{source} was compiled for {manifest.target} and cannot run here: this machine lacks {', '.join(missing)}"
        )
    return manifest


def _read_member(source: Path, file: BufferedReader, info: zipfile.ZipInfo, manifest: Manifest) -> Bytes:
    """A member's bytes, of the size and with the hash that the manifest gives."""
    expected = manifest.members[info.filename]
    _check_size(source, info.filename, info.file_size, expected)
    start = _data_offset(source, file, info)
    left = os.fstat(file.fileno()).st_size - start
    if expected.size > left:
        raise ArtifactError(f"{source} is damaged: {info.filename} has {expected.size} bytes, {left} are left")
    file.seek(start)
    data = _read_bytes(file, expected.size)
    _check_hash(source, info.filename, data, expected)
    return data


def _read_bytes(file: BufferedReader, size: int) -> Bytes:
    data = aligned_empty(size)
    file.readinto(data.data)
    return data


def _check_size(source: Path, name: str, size: int, expected: Member) -> None:
    if size != expected.size:
        raise ArtifactError(f"{source} is damaged: {name} has {size} bytes, the manifest says {expected.size}")


def _check_hash(source: Path, name: str, data: Bytes, expected: Member) -> None:
    actual = _hash(data)
    if actual != expected.sha256:
        raise ArtifactError(
            f"{source} is damaged: {name} has SHA-256 {actual[:12]}..., the manifest says {expected.sha256[:12]}..."
        )


def _data_offset(source: Path, file: BufferedReader, info: zipfile.ZipInfo) -> int:
    """Where a member's bytes start in the file."""
    file.seek(max(info.header_offset, 0))
    header = file.read(_LOCAL_HEADER.size)
    if info.header_offset < 0 or len(header) < _LOCAL_HEADER.size:
        raise ArtifactError(f"{source} is damaged: there is no {info.filename} at byte {info.header_offset}")
    name_length, extra_length = _LOCAL_HEADER.unpack(header)
    return info.header_offset + _LOCAL_HEADER.size + int(name_length) + int(extra_length)
