"""What ONNX and the frontend say of an operator: versions, types, rewrites, stage."""

from __future__ import annotations

import re
from dataclasses import dataclass

from onnx.defs import get_all_schemas_with_history, get_schema

from blockfuse.dtypes import COMPUTED, HALF, WHOLE
from blockfuse.frontend.allowed import LIMITS, TEXTS
from blockfuse.frontend.canonical import LAST_REWRITES, REWRITES
from blockfuse.frontend.fold import FOLDABLE
from blockfuse.frontend.load import OPSETS
from blockfuse.frontend.stages import STAGES

_NAMES = {"float": COMPUTED, "double": "float64"}


@dataclass(frozen=True)
class Operator:
    """An operator of the standard domain.

    Attributes:
        kind: Its name.
        versions: Operator sets that are read and in which it, or a new form of it, begins.
        types: Types of its first input that are read.
        attributes: Those of its newest form, each with the texts or numbers it may be where the frontend limits them.
        is_folded: Whether it is evaluated while reading where its inputs are known.
        has_stage: Whether kernels can hold it.
        stage: What the stage says of itself.
        rewrites: What becomes of it, or of ops around it, in the canonical form.
    """

    kind: str
    versions: tuple[int, ...]
    types: tuple[str, ...]
    attributes: tuple[str, ...]
    is_folded: bool
    has_stage: bool
    stage: str
    rewrites: tuple[str, ...]


def operators() -> list[Operator]:
    """All operators of the operator sets that are read, by name."""
    since: dict[str, set[int]] = {}
    types: dict[str, set[str]] = {}
    for schema in get_all_schemas_with_history():
        if schema.domain or schema.since_version > OPSETS[-1]:
            continue
        since.setdefault(schema.name, set()).add(schema.since_version)
        if schema.inputs:
            types.setdefault(schema.name, set()).update(_type(text) for text in schema.inputs[0].types)
    return [_operator(kind, since[kind], types.get(kind, set())) for kind in sorted(since)]


def _operator(kind: str, since: set[int], types: set[str]) -> Operator:
    before = max((version for version in since if version <= OPSETS[0]), default=0)
    versions = sorted({max(version, OPSETS[0]) for version in since if version >= before})
    stage = STAGES.get(kind)
    ours = (COMPUTED, *HALF, *WHOLE)
    return Operator(
        kind,
        tuple(versions),
        tuple(name for name in ours if name in types),
        tuple(_attribute(kind, name) for name in sorted(get_schema(kind, OPSETS[-1], "").attributes)),
        kind in FOLDABLE,
        stage is not None,
        first_line(stage) if stage is not None else "",
        tuple(line for line in map(first_line, (*REWRITES, *LAST_REWRITES)) if _is_about(kind, line)),
    )


def _attribute(kind: str, name: str) -> str:
    """An attribute and what it may be."""
    texts, limits = TEXTS.get(kind, {}).get(name), LIMITS.get(kind, {}).get(name)
    if texts:
        return f"{name} ({', '.join(texts)})"
    if limits is None:
        return name
    least, most = limits
    return f"{name} ({least:g})" if least == most else f"{name} ({least:g} to {most:g})"


def first_line(value: object) -> str:
    """The first line of a docstring; empty where there is none."""
    lines = (value.__doc__ or "").strip().splitlines()
    return lines[0] if lines else ""


def _is_about(kind: str, line: str) -> bool:
    """Whether a line names an operator as code or as a word of its own."""
    return re.search(rf"(?<![A-Za-z]){kind}(?![A-Za-z])", line) is not None


def _type(text: str) -> str:
    """A type of ONNX as numpy calls it."""
    name = text.removeprefix("tensor(").removesuffix(")")
    return _NAMES.get(name, name)
