"""The ``.bf`` container: a compiled network in one file, with a variant for every target it was compiled for.

An uncompressed zip whose first member is ``manifest.json``. Of a network for one target, ``library.so`` and
``weights.bin`` follow, and there may be ``sources/``, the texts that kernels were made from; for several, these are in
a folder per target, and equal files are stored once. The manifest describes the others and holds their SHA-256.
Everything is checked before any of it is used. The code inside is native code: load only containers from people you
trust, as with any program.

The same files in a folder are a container too, for programs that cannot read a zip. There, a recipe in ``seeded.json``
may stand for the weights (:mod:`blockfuse.runtime.seeded`).

Here containers are written; :mod:`blockfuse.runtime.opening` reads and checks them.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from blockfuse.errors import ArtifactError
from blockfuse.fingerprint import version_of
from blockfuse.replacing import replacing
from blockfuse.runtime.manifest import CODE, MANIFEST, SCHEMA, SOURCES, WEIGHTS, recipe_file
from blockfuse.runtime.opening import load
from blockfuse.runtime.seeded import Recipe
from blockfuse.runtime.variants import Variant
from blockfuse.usage import path_of

__all__ = ["files_of", "load", "save", "save_folder"]

_TIME = (1980, 1, 1, 0, 0, 0)  # equal networks give equal files


def save(variants: Sequence[Variant], path: str | os.PathLike[str]) -> None:
    """Write a container; an existing file is replaced only once the new one is complete.

    Args:
        variants: The network for every target.
        path: Where to.

    Raises:
        ArtifactError: The file cannot be written.
    """
    target = path_of("the file to write", path)
    try:
        with replacing(target) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name, data in _contents(variants).items():
                info = zipfile.ZipInfo(name, _TIME)
                info.file_size = len(data)
                with archive.open(info, "w") as member:
                    member.write(data)
    except OSError as error:
        raise ArtifactError(f"cannot write {target}: {error.strerror or error}") from None


def save_folder(variants: Sequence[Variant], folder: Path, recipes: Sequence[Recipe] = ()) -> None:
    """Write the files of a container into a new folder, which is not removed on an error.

    Args:
        variants: As for :func:`save`.
        folder: Where to.
        recipes: What the weights of every variant were made by, to be written in their place.

    Raises:
        ArtifactError: It cannot be written.
    """
    contents = _contents(variants)
    for files, recipe in zip(files_of(variants) if recipes else (), recipes, strict=True):
        contents.pop(files[WEIGHTS], None)
        contents[recipe_file(files[WEIGHTS])] = memoryview(recipe.to_json().encode())
    try:
        for name, data in contents.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
    except OSError as error:
        raise ArtifactError(f"cannot write {folder}: {error.strerror or error}") from None


def files_of(variants: Sequence[Variant]) -> list[dict[str, str]]:
    """For every variant the names of its files' members, by their own names; equal files are one member."""
    return _named(variants)[0]


def _contents(variants: Sequence[Variant]) -> dict[str, memoryview]:
    """What to write, by the names of the members."""
    names, members = _named(variants)
    manifest = {
        "schema": SCHEMA,
        "versions": {name: version_of(name) for name in ("blockfuse", "apache-tvm", "apache-tvm-ffi")},
        "name": variants[0].library.name,
        "variants": [_description(variant, files) for variant, files in zip(variants, names, strict=True)],
        "members": {name: {"size": len(data), "sha256": digest} for name, (data, digest) in members.items()},
    }
    text = memoryview(json.dumps(manifest, indent=1, allow_nan=False).encode())
    return {MANIFEST: text, **{name: data for name, (data, _) in members.items()}}


def _named(variants: Sequence[Variant]) -> tuple[list[dict[str, str]], dict[str, tuple[memoryview, str]]]:
    """What :func:`files_of` says, and every member's data with its hash, which each file is read once for."""
    known: dict[str, str] = {}
    members: dict[str, tuple[memoryview, str]] = {}
    names = []
    for variant in variants:
        files = {}
        for name, data in _files(variant):
            digest = _hash(data)
            files[name] = known.setdefault(digest, _folder_of(variant, variants) + name)
            members.setdefault(files[name], (data, digest))
        names.append(files)
    return names, members


def _files(variant: Variant) -> Iterator[tuple[str, memoryview]]:
    """A variant's files."""
    yield CODE, memoryview(variant.library.code)
    yield WEIGHTS, variant.library.weights.data
    for name, text in sorted(variant.library.sources.items()):
        yield SOURCES + name, memoryview(text.encode())


def _folder_of(variant: Variant, variants: Sequence[Variant]) -> str:
    return f"{variant.name}/" if len(variants) > 1 else ""


def _description(variant: Variant, files: Mapping[str, str]) -> dict[str, Any]:
    library = variant.library
    return {
        "target": asdict(library.target),
        "inputs": [asdict(port) for port in library.inputs],
        "outputs": [asdict(port) for port in library.outputs],
        "constants": [asdict(constant) for constant in library.constants],
        "layout_changes": library.layout_changes,
        "batch": None if library.batch is None else asdict(library.batch),
        "files": dict(files),
        "report": {**variant.report.to_dict(), "seconds": None},  # equal networks give equal files
    }


def _hash(data: Any) -> str:
    return hashlib.sha256(data).hexdigest()
