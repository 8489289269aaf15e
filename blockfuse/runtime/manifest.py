"""The manifest of a container: parsed, and every field checked."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from blockfuse.errors import ArtifactError
from blockfuse.runtime.library import ALIGNMENT, Batch, Constant, Layout, Port
from blockfuse.target import Target

SCHEMA = 3
"""Version of the container; a reader takes no other."""

CODE, WEIGHTS, SOURCES = "library.so", "weights.bin", "sources/"
"""Names of a variant's files; those of sources begin like that."""

MANIFEST, RECIPE = "manifest.json", "seeded.json"
"""Names of the file that describes all others, and of one that stands for weights."""

_T = TypeVar("_T")
_INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
_FILE = re.compile(r"library\.so|weights\.bin|sources/\w[\w.-]{0,199}")
_MEMBER = re.compile(rf"(?:sm_\d{{2,3}}[a-z]?/)?(?:{_FILE.pattern})")
_DTYPES = frozenset((*_INTEGERS, "bool", "float16", "bfloat16", "float32", "float64"))


def is_member(name: str) -> bool:
    """Whether another file than the manifest may have that name."""
    return _MEMBER.fullmatch(name) is not None


def recipe_file(weights: str) -> str:
    """The file that stands for a member with weights."""
    return weights.replace(WEIGHTS, RECIPE)


@dataclass(frozen=True)
class Member:
    """Another file of the container: its size in bytes and its SHA-256 in hex."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Described:
    """What a manifest says of one variant; most attributes are those of :class:`blockfuse.runtime.library.Library`.

    Attributes:
        files: Names of the members that are its files; equal files of several variants are one member.
        report: What the compiler reported about it.
    """

    target: Target
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    constants: tuple[Constant, ...]
    layout_changes: int
    batch: Batch | None
    files: dict[str, str]
    report: dict[str, Any]


@dataclass(frozen=True)
class Manifest:
    """What a manifest says of a network, its variants, and the other files."""

    name: str
    variants: tuple[Described, ...]
    members: dict[str, Member]


class _FieldError(Exception):
    """A field of the manifest is missing or wrong."""


def parse_manifest(source: Path, text: bytes) -> Manifest:
    """Parse a manifest.

    Args:
        source: The container, for messages.
        text: The manifest as JSON.

    Raises:
        ArtifactError: It is not a manifest, or of another schema version.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{source} is damaged: its manifest is not JSON: {error}") from None
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema != SCHEMA:
        wrote = f", written by blockfuse {_writer(data)}" if schema is not None else ""
        raise ArtifactError(f"{source} has container version {schema}{wrote}; this blockfuse reads version {SCHEMA}")
    try:
        return _manifest(data)
    except _FieldError as error:
        raise ArtifactError(f"{source} is damaged: its manifest {error}") from None


def _writer(data: dict[str, Any]) -> str:
    versions = data.get("versions")
    return str(versions.get("blockfuse", "unknown")) if isinstance(versions, dict) else "unknown"


def _manifest(data: dict[str, Any]) -> Manifest:
    members = {name: _member(name, value) for name, value in _get(data, "members", dict).items()}
    variants = tuple(_variant(item, members) for item in _get(data, "variants", list))
    if not variants:
        raise _FieldError("describes no variant")
    return Manifest(_get(data, "name", str), variants, members)


def _variant(data: Any, members: dict[str, Member]) -> Described:
    files = _files(data, members)
    constants = tuple(_constant(item) for item in _get(data, "constants", list))
    for constant in constants:
        if constant.offset + constant.nbytes > members[files[WEIGHTS]].size:
            raise _FieldError("places a constant behind the end of the weights")
    batch = _batch(data)
    ports = {name: tuple(_port(item, batch) for item in _get(data, name, list)) for name in ("inputs", "outputs")}
    return Described(
        target=_target(_get(data, "target", dict)),
        inputs=ports["inputs"],
        outputs=ports["outputs"],
        constants=constants,
        layout_changes=_get(data, "layout_changes", int),
        batch=batch,
        files=files,
        report=_get(data, "report", dict),
    )


# ---- parts -----------------------------------------------------------------------------------------------------------
def _target(data: dict[str, Any]) -> Target:
    strings = {name: _get(data, name, str) for name in ("name", "kind", "machine", "mcpu")}
    numbers = {name: _natural(data, name) for name in ("lanes", "registers", "threads", "shared_bytes")}
    lists = {name: _strings(data, name) for name in ("features", "archs")}
    return Target(**strings, **numbers, **lists)  # type: ignore[arg-type] # the three groups have one type each


def _batch(data: Any) -> Batch | None:
    """How many images the network takes; null where all shapes are fixed."""
    if isinstance(data, dict) and "batch" in data and data["batch"] is None:
        return None
    found = _get(data, "batch", dict)
    batch = Batch(_natural(found, "planned"), _natural(found, "most"))
    if batch.planned < 1 or batch.most < 1:
        raise _FieldError("takes a batch of no images")
    return batch


def _port(data: Any, batch: Batch | None) -> Port:
    layout = _get(data, "layout", str)
    if layout not in set(Layout):
        raise _FieldError(f"gives a value the unknown layout {layout!r}")
    alignment = _natural(data, "alignment")
    if alignment < 1:
        raise _FieldError("gives an input the alignment 0")
    any_batch = _get(data, "any_batch", bool)
    port = Port(_get(data, "name", str), _shape(data), _dtype(data), Layout(layout), alignment, any_batch)
    if any_batch != (batch is not None) or (batch is not None and port.shape[:1] != (batch.planned,)):
        raise _FieldError(f"gives {port.name!r} another batch than the network")
    return port


def _constant(data: Any) -> Constant:
    offset = _natural(data, "offset")
    if offset % ALIGNMENT:
        raise _FieldError(f"places a constant at offset {offset}, which is no multiple of {ALIGNMENT}")
    return Constant(offset, _shape(data), _dtype(data))


def _files(data: Any, members: dict[str, Member]) -> dict[str, str]:
    """The library, the weights, and sources if there are any; each is a member."""
    files = _get(data, "files", dict)
    for name, member in files.items():
        if not _FILE.fullmatch(name):
            raise _FieldError(f"names the unknown file {name!r}")
        if not isinstance(member, str) or member not in members:
            raise _FieldError(f"has no member that is the file {name!r}")
    for name in (CODE, WEIGHTS):
        _get(files, name, str)
    return files


def _member(name: str, data: Any) -> Member:
    if not is_member(name):
        raise _FieldError(f"names the unknown member {name!r}")
    digest = _get(data, "sha256", str)
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise _FieldError("holds a malformed SHA-256")
    return Member(_natural(data, "size"), digest)


def _shape(data: dict[str, Any]) -> tuple[int, ...]:
    shape = _get(data, "shape", list)
    if not all(type(size) is int and size >= 0 for size in shape):
        raise _FieldError(f"holds the shape {shape}")
    return tuple(shape)


def _dtype(data: dict[str, Any]) -> str:
    name = _get(data, "dtype", str)
    if name not in _DTYPES:
        raise _FieldError(f"holds the type {name!r}")
    return name


def _strings(data: dict[str, Any], name: str) -> tuple[str, ...]:
    values = _get(data, name, list)
    if not all(isinstance(value, str) for value in values):
        raise _FieldError(f"holds something other than names in {name!r}")
    return tuple(values)


def _natural(data: Any, name: str) -> int:
    value = _get(data, name, int)
    if value < 0:
        raise _FieldError(f"holds {value} as {name!r}")
    return value


def _get(data: Any, name: str, kind: type[_T]) -> _T:
    """The field of a JSON object, of the type it must have."""
    value = data.get(name) if isinstance(data, dict) else None
    if type(value) is not kind:
        raise _FieldError(f"has no {name!r} that is a {kind.__name__}")
    return value
