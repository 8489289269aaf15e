"""The pattern language: a block is described by a Python function in the words of ONNX.

::

    @bf.pattern
    def basic_block(op, x, w1, b1, w2, b2):
        y = op.Relu(op.Conv(x, w1, b1, kernel_shape=(3, 3), name="conv1"))
        y = op.Conv(y, w2, b2, kernel_shape=(3, 3), name="conv2")
        return op.Relu(op.Add(y, x))

Calling the function once with placeholders gives a graph of :mod:`values <blockfuse.pattern.values>`, which
:mod:`canonical <blockfuse.pattern.canonical>` brings to the form that models have after reading, and which
:mod:`match <blockfuse.pattern.match>` compares with a model. :func:`pattern` states the rules.
"""

import sys
from collections.abc import Callable
from types import ModuleType

from blockfuse.pattern.match import Match, Mismatch, match
from blockfuse.pattern.trace import Ops, Pattern, check_pattern, either, optional, pattern
from blockfuse.pattern.values import Value

__all__ = ["Match", "Mismatch", "Ops", "Pattern", "Value", "check_pattern", "either", "match", "optional", "pattern"]


class _CallableModule(ModuleType):
    """``bf.pattern`` is this module once something has imported it, and the decorator before: both must decorate."""

    def __call__(self, function: Callable[..., Value]) -> Pattern:
        return pattern(function)


sys.modules[__name__].__class__ = _CallableModule
