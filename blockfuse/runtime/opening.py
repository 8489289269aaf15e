"""Reading a container, file or folder, and checking everything in it before any of it is used."""

from __future__ import annotations

import hashlib
import os
import struct
import zipfile
from collections.abc import Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from blockfuse.errors import ArtifactError, InternalError
from blockfuse.report import Report
from blockfuse.runtime.library import Library, aligned_empty
from blockfuse.runtime.manifest import (
    CODE,
    MANIFEST,
    SOURCES,
    WEIGHTS,
    Described,
    Manifest,
    Member,
    is_member,
    parse_manifest,
    recipe_file,
)
from blockfuse.runtime.seeded import Recipe, make_weights
from blockfuse.runtime.variants import Variant
from blockfuse.usage import path_of

Bytes: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]

_MAX_MANIFEST = 64 << 20
_LOCAL_HEADER = struct.Struct("<26xHH")  # ..., length of the name, length of the extra field


def load(path: str | os.PathLike[str], *, any_machine: bool = False) -> tuple[Variant, ...]:
    """Read and check a container; nothing in it is run.

    Args:
        path: The file or folder.
        any_machine: Also read what this machine cannot run.

    Returns:
        The network for every target.

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


def _read_file(source: Path, file: BufferedReader, *, any_machine: bool) -> tuple[Variant, ...]:
    try:
        with zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
            _check_structure(source, infos)
            text = archive.read(MANIFEST)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError, struct.error) as error:
        raise ArtifactError(f"{source} is not a complete container: {error}") from None
    manifest = _checked_manifest(source, text, any_machine=any_machine)
    if [info.filename for info in infos[1:]] != list(manifest.members):
        raise ArtifactError(f"{source} is damaged: its manifest lists other members than are inside")
    contents = {info.filename: _read_member(source, file, info, manifest) for info in infos[1:]}
    return _variants(source, manifest, contents)


def _read_folder(source: Path, *, any_machine: bool) -> tuple[Variant, ...]:
    size = (source / MANIFEST).stat().st_size
    if size > _MAX_MANIFEST:
        raise ArtifactError(f"{source} is damaged: its manifest has {size} bytes")
    manifest = _checked_manifest(source, (source / MANIFEST).read_bytes(), any_machine=any_machine)
    contents = {}
    for name, expected in manifest.members.items():
        if name.endswith(WEIGHTS) and not (source / name).exists() and (source / recipe_file(name)).is_file():
            data = _made_weights(source, manifest, name)
        else:
            with (source / name).open("rb") as file:
                _check_size(source, name, os.fstat(file.fileno()).st_size, expected)
                data = _read_bytes(file, expected.size)
        _check_hash(source, name, data, expected)
        contents[name] = data
    return _variants(source, manifest, contents)


def _made_weights(source: Path, manifest: Manifest, name: str) -> Bytes:
    """The weights that a recipe stands for."""
    constants = next(one.constants for one in manifest.variants if one.files[WEIGHTS] == name)
    try:
        recipe = Recipe.from_json((source / recipe_file(name)).read_bytes())
        return make_weights(recipe, constants, manifest.members[name].size)
    except ValueError as error:
        raise ArtifactError(f"{source} is damaged: {recipe_file(name)} makes no weights: {error}") from None


def _variants(source: Path, manifest: Manifest, contents: Mapping[str, Bytes]) -> tuple[Variant, ...]:
    try:
        return tuple(
            Variant(_library(manifest.name, one, contents), Report.from_dict(one.report)) for one in manifest.variants
        )
    except InternalError as error:
        raise ArtifactError(f"{source} is damaged: {error}") from None


def _library(name: str, one: Described, contents: Mapping[str, Bytes]) -> Library:
    texts = {file[len(SOURCES) :]: contents[member] for file, member in one.files.items() if file.startswith(SOURCES)}
    return Library(
        name=name,
        target=one.target,
        inputs=one.inputs,
        outputs=one.outputs,
        constants=one.constants,
        layout_changes=one.layout_changes,
        batch=one.batch,
        code=contents[one.files[CODE]].tobytes(),
        weights=contents[one.files[WEIGHTS]],
        sources={file: data.tobytes().decode(errors="replace") for file, data in texts.items()},
    )


def _check_structure(source: Path, infos: list[zipfile.ZipInfo]) -> None:
    names = [info.filename for info in infos]
    has_all = all(any(name.endswith(part) for name in names) for part in (CODE, WEIGHTS))
    if names[:1] != [MANIFEST] or not has_all or not all(map(is_member, names[1:])) or len(set(names)) < len(names):
        shown = ", ".join(map(repr, names[:6])) or "nothing"
        raise ArtifactError(
            f"{source} is not a container: expected {MANIFEST}, {CODE}, {WEIGHTS} inside, found {shown}"
        )
    for info in infos:
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise ArtifactError(f"{source} is not a container: {info.filename} is compressed or encrypted")
    if infos[0].file_size > _MAX_MANIFEST:
        raise ArtifactError(f"{source} is damaged: its manifest claims {infos[0].file_size} bytes")


def _checked_manifest(source: Path, text: bytes, *, any_machine: bool) -> Manifest:
    manifest = parse_manifest(source, text)
    target = manifest.variants[0].target  # others are for the same processor, and other GPUs
    missing = () if any_machine else target.missing_features()
    if missing:
        raise ArtifactError(
            f"{source} was compiled for {target} and cannot run here: this machine lacks {', '.join(missing)}"
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
    actual = hashlib.sha256(data.data).hexdigest()
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
