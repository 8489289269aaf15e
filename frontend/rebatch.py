"""Models exported for one batch size, given another.

Exporters write the batch size they were run with into the target shapes of Reshape. When the caller gives another size
for the first dimension of an input, those constants follow it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

    from blockfuse.frontend.settle import Draft


def follow_batch(draft: Draft) -> bool:
    """Correct the Reshape targets that still hold the declared batch size; returns whether there was any.

    A target follows if it begins with the declared size and its data begins with the given one.
    """
    if draft.batch is None:
        return False
    declared, given = draft.batch
    changed = False
    for index, node in enumerate(draft.nodes):
        target = draft.values.get(node.input[1]) if node.op_type == "Reshape" and len(node.input) > 1 else None
        if target is None or target.size == 0 or target.flat[0] != declared or _first_dim(draft, node) != given:
            continue
        draft.nodes[index] = _retargeted(draft, node, target, given)
        changed = True
    return changed


def _first_dim(draft: Draft, node: onnx.NodeProto) -> int | None:
    info = draft.infos.get(node.input[0]) or draft.inputs.get(node.input[0])
    return info.shape[0] if info is not None and info.shape else None


def _retargeted(draft: Draft, node: onnx.NodeProto, target: np.ndarray[Any, Any], batch: int) -> onnx.NodeProto:
    """A copy of the node with a target of its own: others may share the constant."""
    name = f"{node.input[1]}.batch{batch}"
    draft.values[name] = np.concatenate([[batch], target.reshape(-1)[1:]]).astype(target.dtype)
    copy = type(node)()
    copy.CopyFrom(node)
    copy.input[1] = name
    return copy
