"""The table of operators in ``docs/support.md``, made from the tables that the compiler works with."""

from __future__ import annotations

import sys

from blockfuse.build.emitters import EMITTERS
from blockfuse.build.importer import imported_kinds
from blockfuse.build.layout import CHANNELS_LAST
from blockfuse.dtypes import HALF, WHOLE
from blockfuse.frontend.operators import Operator, first_line, operators

_HEAD = """\
# Operators

Written by `make support` from the code. Opsets 7 to 25 are read.

How an operator runs:

- **kernel**: as a stage, in one kernel with the operators around it or in one of its own, on CPUs and GPUs. Where its
  attributes or types have no stage, it runs by itself.
- **by itself**: code that TVM generates for it alone; right, not fast. *(NHWC)* says that it takes images as kernels
  leave them, with their channels last, so that nothing is transposed for it.
- **constant**: evaluated while the model is read, where all it reads is known.
- **through TVM's importer**: TVM's own translation of the operator, alone, in the forms that it knows.
- **rewritten**: gone from the canonical form, in favour of other operators.

Types are those of the first input. *half* is float16 and bfloat16, which CPUs compute in float32; *whole* are the
integers of 8 to 64 bits. Quantized models (QuantizeLinear, DequantizeLinear) compute with dequantized float32 between
the two. Attributes are those of the newest form; behind some stands what they may be, and every other value is refused.
Operators that are not in the table are refused, all nodes at once, before anything is compiled.

| operator | opsets | attributes | runs | types | remarks |
| --- | --- | --- | --- | --- | --- |
"""


_GRAPHS = {"If", "Loop", "Scan"}
"""Operators that hold graphs, which are refused while a model is read."""


def support() -> str:
    """The page."""
    rows = [row for operator in operators() if (row := _row(operator))]
    return _HEAD + "\n".join(rows) + "\n"


def _row(operator: Operator) -> str:
    """A row of the table; empty for an operator that the code does not name."""
    ways = _ways(operator)
    if not ways:
        return ""
    emitter = EMITTERS.get(operator.kind)
    alone = first_line(emitter) if emitter else ""
    remarks = [f"Kernel: {operator.stage}" if operator.stage else "", f"By itself: {alone}" if alone else ""]
    remarks += operator.rewrites
    cells = (
        operator.kind,
        ", ".join(map(str, operator.versions)),
        ", ".join(operator.attributes),
        "; ".join(ways),
        _types(operator),
        "<br>".join(_escaped(text) for text in dict.fromkeys(remarks) if text),
    )
    return "| " + " | ".join(cells) + " |"


def _ways(operator: Operator) -> list[str]:
    ways = []
    if operator.has_stage:
        ways.append("kernel")
    if operator.kind in EMITTERS:
        ways.append("by itself" + (" (NHWC)" if operator.kind in CHANNELS_LAST else ""))
    if operator.is_folded:
        ways.append("constant")
    if operator.kind not in {*EMITTERS, *_GRAPHS} and not operator.has_stage and _is_imported(operator):
        ways.append("through TVM's importer")
    if operator.rewrites and not ways:
        ways.append("rewritten")
    return ways


def _is_imported(operator: Operator) -> bool:
    """Whether TVM's importer may run it; what is no tensor of numbers is refused while a model is read."""
    return bool(operator.types) and operator.kind in imported_kinds()


def _types(operator: Operator) -> str:
    groups = {"float32": ("float32",), "half": HALF, "bool": ("bool",), "whole": WHOLE[1:]}
    return ", ".join(name for name, members in groups.items() if set(members) & set(operator.types))


def _escaped(text: str) -> str:
    """A docstring's line as it stands in a table."""
    return text.replace("``", "`").replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(support())
