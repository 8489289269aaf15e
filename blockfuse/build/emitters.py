"""How single ops are written in Relax: one small function per kind.

Ops are in canonical form (see ``blockfuse.frontend.canonical``). An emitter gets the op's operands, images among them
in one of two layouts, and returns the result in the same layout. It refuses what it cannot express.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from blockfuse.build.emit_arithmetic import ARITHMETIC
from blockfuse.build.emit_norms import NORMS
from blockfuse.build.emit_reductions import REDUCTIONS
from blockfuse.build.emit_resize import emit_resize
from blockfuse.build.emit_shapes import SHAPES
from blockfuse.build.emit_windows import WINDOWS
from blockfuse.build.operands import Emitter, Operands, Refusal

EMITTERS: Mapping[str, Emitter] = {**ARITHMETIC, **NORMS, **REDUCTIONS, "Resize": emit_resize, **SHAPES, **WINDOWS}
"""Emitters by kind."""


def refuse(o: Operands) -> Any:
    """The emitter of every kind that has no other."""
    raise Refusal(f"there is no code for {o.op.kind}")
