"""Single ops through TVM's own ONNX importer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from tvm import relax, tirx

from blockfuse.graph import Op

Importer: TypeAlias = Callable[[Op], Any]
"""An op as an ``onnx.ModelProto``: computed inputs, each once and in order, as inputs, constants as initializers."""


def imported_kinds() -> frozenset[str]:
    """The operators that TVM's importer has a translation of, in some forms at least."""
    from tvm.relax.frontend.onnx import onnx_frontend  # noqa: PLC0415 - as below

    return frozenset(onnx_frontend._get_convert_map())  # noqa: SLF001 - there is no public list


def call_imported(op: Op, values: Sequence[Any], importer: Importer, builder: Any) -> tuple[Any, ...]:
    """Write a call of the imported op; its results, one per output.

    Args:
        op: The op.
        values: Its computed inputs in ONNX order, each once.
        importer: Rebuilds the op as an ONNX model.
        builder: Receives the functions and the call.

    Raises:
        Exception: Whatever TVM raises for an op it does not know.
    """
    from tvm.relax.frontend.onnx import from_onnx  # noqa: PLC0415 - it imports onnx, which few networks need here

    module = from_onnx(importer(op), keep_params_in_input=False)
    names = {}
    for name, function in module.functions.items():
        if isinstance(function, tirx.PrimFunc):
            names[name] = builder.add_func(function.without_attr("global_symbol"), name.name_hint)
    main = _Rename(names).visit_expr(module["main"]).without_attr("global_symbol")
    callee = builder.add_func(main, f"{op.kind.lower()}_imported")
    result = builder.emit(relax.Call(callee, list(values)))
    if len(op.outputs) == 1:
        return (result,)
    return tuple(builder.emit(relax.TupleGetItem(result, index)) for index in range(len(op.outputs)))


@relax.expr_functor.mutator
class _Rename(relax.PyExprMutator):  # type: ignore[misc] # TVM is untyped
    """References to other functions."""

    def __init__(self, names: dict[Any, Any]) -> None:
        super().__init__()
        self.names = names

    def visit_global_var_(self, op: Any) -> Any:
        """The new reference for an old one."""
        return self.names.get(op, op)
