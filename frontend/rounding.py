"""Pools whose size is rounded up: windows that begin behind the image do not count.

ONNX says so from opset 22 on, and what exporters and runtimes do was so before; onnx's shape inference for older opsets
counts them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from onnx import helper

from blockfuse.frontend.canonical.windows import Window, window_of

if TYPE_CHECKING:
    import onnx

    from blockfuse.frontend.settle import Draft

_POOLS = {"AveragePool", "LpPool", "MaxPool"}
_SAID_SINCE = 22


def has_rounded_pools(draft: Draft) -> bool:
    """Whether the shapes of any pools may be inferred too large."""
    return draft.opset < _SAID_SINCE and any(_attributes(node).get("ceil_mode") for node in _pools(draft))


def drop_windows(draft: Draft) -> bool:
    """Let pools have no windows that begin behind the image; returns whether any had."""
    changed = False
    for index, node in enumerate(draft.nodes):
        info = draft.infos.get(node.input[0]) or draft.inputs.get(node.input[0]) if node.op_type in _POOLS else None
        shape = info.known_shape if info else None
        attrs = _attributes(node) if shape else {}
        if shape is None or not attrs.get("ceil_mode") or attrs.get("auto_pad", b"NOTSET") not in {b"", b"NOTSET"}:
            continue
        if not _is_sound(attrs, len(shape) - 2):
            continue
        window = window_of({**attrs, "auto_pad": "NOTSET"}, tuple(attrs["kernel_shape"]), shape[2:])
        pads = _pads_of_rest(window, shape[2:])
        if pads is None or (pads != window.pads and attrs.get("count_include_pad")):
            continue
        attrs |= {"ceil_mode": 0, "pads": pads}
        draft.nodes[index] = helper.make_node(
            node.op_type, node.input, node.output, node.name, node.doc_string, node.domain
        )
        draft.nodes[index].attribute.extend(helper.make_attribute(name, value) for name, value in attrs.items())
        changed = True
    return changed


def _is_sound(attrs: Mapping[str, Any], rank: int) -> bool:
    """Whether a window has the axes of the image, and moves; what is wrong with others is told later."""
    entries = {"kernel_shape": rank, "strides": rank, "dilations": rank, "pads": 2 * rank}
    lists = {key: attrs[key] for key in entries if key in attrs}
    if "kernel_shape" not in lists or not all(isinstance(values, list) for values in lists.values()):
        return False
    return all(len(values) == entries[key] for key, values in lists.items()) and min(lists.get("strides", [1])) > 0


def _pads_of_rest(window: Window, image: tuple[int, ...]) -> tuple[int, ...] | None:
    """The pads with which rounding down gives what rounding up does where no window is lost; None if none is."""
    rank, pads, lost = len(image), list(window.pads), False
    for axis, size in enumerate(image):
        begin, end, stride = window.pads[axis], window.pads[rank + axis], window.strides[axis]
        last = -(-(size + begin + end - window.extent[axis]) // stride) * stride
        if last >= size + begin:
            lost = True
        else:
            pads[rank + axis] = max(end, last + window.extent[axis] - size - begin)
    return tuple(pads) if lost else None


def _pools(draft: Draft) -> list[onnx.NodeProto]:
    return [node for node in draft.nodes if node.op_type in _POOLS]


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
