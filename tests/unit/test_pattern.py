"""The pattern language: what a function traces to, and how a malformed one is refused."""

# ruff: noqa: ARG005 - malformed patterns ignore what they are given
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from blockfuse.errors import PatternError
from blockfuse.frontend import canonicalize, patterns, zoo
from blockfuse.frontend.explain import explain
from blockfuse.frontend.partition import partition
from blockfuse.frontend.reading import read
from blockfuse.pattern import either, optional, pattern
from blockfuse.pattern.values import Call

ROOT = Path(__file__).parents[2]


def text(function):
    """The operators of the canonical pattern, one per line."""
    return [line.strip() for line in pattern(function).explain().splitlines()[1:]]


def test_explain():
    @pattern
    def basic_block(op, x, w1, b1, w2, b2):
        """Two 3x3 convolutions and an identity shortcut.

        More about it.
        """
        y = op.Relu(op.Conv(x, w1, b1, kernel_shape=(3, 3), name="conv1"))
        y = op.Conv(y, w2, b2, kernel_shape=(3, 3), strides=either((1, 1), (2, 2)), name="conv2")
        return op.Relu(op.Add(y, x))

    assert basic_block.name == str(basic_block) == "basic_block"
    assert basic_block.parameters == ("x", "w1", "b1", "w2", "b2")
    assert basic_block.anchors == ("Relu",)
    assert basic_block.explain().splitlines() == [
        "basic_block(x, w1, b1, w2, b2): Two 3x3 convolutions and an identity shortcut.",
        "  %0 = Conv(x, w1, b1) kernel_shape=(3, 3)  # conv1",
        "  %1 = Relu(%0)",
        "  %2 = Conv(%1, w2, b2) kernel_shape=(3, 3) strides=one of (1, 1), (2, 2)  # conv2",
        "  %3 = Add(%2, x)",
        "  %4 = Relu(%3)",
        "  return %4",
    ]


def test_lists_are_tuples():
    traced = pattern(lambda op, x: op.MaxPool(x, kernel_shape=[3, 3])).root
    assert isinstance(traced, Call)
    assert traced.attrs == {"kernel_shape": (3, 3)}


@pytest.mark.parametrize(
    ("function", "lines"),
    [
        (lambda op, x: op.Mul(x, op.Sigmoid(x)), ["%0 = Swish(x)"]),
        (lambda op, x: op.Mul(op.Sigmoid(x), x, name="act"), ["%0 = Swish(x)  # act"]),
        (lambda op, x: op.Mul(x, op.HardSigmoid(x, alpha=1 / 6)), ["%0 = HardSwish(x)"]),
        (lambda op, x: op.Mul(x, op.Div(op.Clip(op.Add(x, 3), 0, 6), 6)), ["%0 = HardSwish(x)"]),
        (lambda op, x: op.Div(op.Mul(op.Clip(op.Add(3, x), 0, 6), x), 6), ["%0 = HardSwish(x)"]),
        (lambda op, x: op.Clip(x, 0, 6), ["%0 = Clip(x) min=0.0 max=6.0"]),
        (lambda op, x: op.Clip(x, None, 6), ["%0 = Clip(x) min=-inf max=6.0"]),
        (lambda op, x: op.Clip(x), ["%0 = Clip(x)"]),
        (lambda op, x: op.Clip(x, 0), ["%0 = Relu(x)"]),
        (lambda op, x: op.Max(0.0, x), ["%0 = Relu(x)"]),
        (lambda op, x: op.Min(x, 6), ["%0 = Clip(x) min=-inf max=6.0"]),
        (lambda op, x, y: op.Sum(x, y, name="s"), ["%0 = Add(x, y)  # s"]),
        (lambda op, x, y, z: op.Sum(x, y, z), ["%0 = Add(x, y)", "%1 = Add(%0, z)"]),
        (lambda op, x: op.Relu(op.Sum(x)), ["%0 = Relu(x)"]),
        (lambda op, x: op.Relu(op.Identity(op.Dropout(x))), ["%0 = Relu(x)"]),
        (lambda op, x: op.ReduceMean(x, axes=(-1, -2)), ["%0 = GlobalAveragePool(x)"]),
        (
            lambda op, x, w, s, b, m, v: op.BatchNormalization(op.Conv(x, w, name="c"), s, b, m, v),
            ["%0 = Conv(x, w)  # c"],
        ),
        (lambda op, x, w: op.Conv(x, w, None), ["%0 = Conv(x, w)"]),
        (
            lambda op, x: op.Div(op.Clip(op.Add(x, 3), 0, 6), 6),
            ["%0 = HardSigmoid(x) alpha=0.16666666666666666 beta=0.5"],
        ),
        (lambda op, x, w, b: op.Gemm(x, w, b, transB=1, alpha=1.0), ["%0 = Gemm(x, w, b)"]),
    ],
)
def test_canonical_form(function, lines):
    assert text(function)[:-1] == lines


@pytest.mark.parametrize(
    ("function", "lines"),
    [
        (lambda op, x, y: op.Mul(x, op.Sigmoid(y)), ["%0 = Sigmoid(y)", "%1 = Mul(x, %0)"]),
        (
            lambda op, x: op.Mul(x, op.HardSigmoid(x, alpha=0.25)),
            ["%0 = HardSigmoid(x) alpha=0.25", "%1 = Mul(x, %0)"],
        ),
        (lambda op, x: op.ReduceMean(x, axes=(1,)), ["%0 = ReduceMean(x) axes=(1,)"]),
        (lambda op, x: op.Mul(x, 0.5), ["%0 = Mul(x, 0.5)"]),
        (lambda op, x: op.Mul(op.Clip(x, 0, 6), x), ["%0 = Clip(x) min=0.0 max=6.0", "%1 = Mul(%0, x)"]),
        (
            lambda op, x: op.Div(op.Clip(op.Add(x, 3), 0, 6), 5),
            ["%0 = Add(x, 3)", "%1 = Clip(%0) min=0.0 max=6.0", "%2 = Div(%1, 5)"],
        ),
    ],
)
def test_what_is_canonical_already_stays(function, lines):
    assert text(function)[:-1] == lines


def test_what_finishes_concatenated_convolutions_stands_before():
    def halves(op, x, w1, w2, scale, shift, mean, variance):
        both = op.Concat(op.Conv(x, w1), op.Conv(x, w2), axis=1)
        return op.Relu(op.BatchNormalization(both, scale, shift, mean, variance))

    assert text(lambda op, x, w1, w2: op.Relu(op.Concat(op.Conv(x, w1), op.Conv(x, w2), axis=1)))[:-1] == [
        "%0 = Conv(x, w1)",
        "%1 = Relu(%0)",
        "%2 = Conv(x, w2)",
        "%3 = Relu(%2)",
        "%4 = Concat(%1, %3) axis=1",
    ]
    assert text(halves)[-2] == "%4 = Concat(%1, %3) axis=1"


def test_a_difference_is_a_sum():
    assert text(lambda op, x, y: op.Sub(x, y))[:-1] == ["%0 = Mul(y, -1)", "%1 = Add(x, %0)"]
    assert text(lambda op, x: op.Sub(x, 2.0))[:-1] == ["%0 = Sub(x, 2)"]


def test_a_shared_value_stays_shared():
    def gated(op, x, w):
        y = op.Identity(op.Conv(x, w))
        return op.Add(op.Mul(y, op.Sigmoid(y)), y)

    assert text(gated) == ["%0 = Conv(x, w)", "%1 = Swish(%0)", "%2 = Add(%1, %0)", "return %2"]


def test_optional_and_either_nest():
    def block(op, x, w):
        y = optional(op.Conv(x, w), lambda y: either(op.Relu(y), op.Mul(y, op.Sigmoid(y))))
        return optional(y, op.Identity)

    traced = pattern(block)
    assert traced.anchors == ("Relu", "Swish", "Conv")
    assert "%3 = either(%1, %2)" in traced.explain()


def test_a_pattern_is_used_inside_another():
    @pattern
    def inner(op, x, w):
        return op.Relu(op.Conv(x, w))

    outer = text(lambda op, x, w1, w2: inner(op, inner(op, x, w1), w2))
    assert outer == ["%0 = Conv(x, w1)", "%1 = Relu(%0)", "%2 = Conv(%1, w2)", "%3 = Relu(%2)", "return %3"]


def test_the_decorator_works_whatever_was_imported_first():
    program = "import {}, blockfuse as bf; print(bf.pattern(lambda op, x: op.Relu(x)).anchors)"
    for first in ("blockfuse", "blockfuse.pattern"):
        command = [sys.executable, "-c", program.format(first)]
        result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
        assert result.stdout.strip() == "('Relu',)"


def repeated_name(op, x):
    return op.Relu(op.Relu(x, name="a"), name="a")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda op: op.Relu(1.0), "needs the parameters op and at least one captured tensor"),
        (lambda op, *xs: op.Relu(xs[0]), "parameter *xs cannot be given by position"),
        (lambda op, x, *, w: op.Conv(x, w), "parameter w cannot be given by position"),
        (lambda op, x, w=None: op.Conv(x, w), "captured tensor w has a default value"),
        (lambda op, x: None, "must return one value, not NoneType"),
        (lambda op, x: (op.Relu(x), x), "must return one value, not tuple"),
        (lambda op, x: x, "can match without any operator"),
        (lambda op, x: op.Identity(x), "can match without any operator"),
        (lambda op, x: optional(x, op.Relu), "can match without any operator"),
        (lambda op, x, w: op.Relu(x), "captured tensor w does not reach the output"),
        (repeated_name, "2 operators are called 'a'"),
        (lambda op, x: op.relu(x), "op.relu: ONNX operators start with a capital letter"),
        (lambda op, x: op.Relu("x"), "op.Relu: an input must be a tensor of the pattern or a number, not 'x'"),
        (lambda op, x: op.Relu(x + 1), "unsupported operand"),
        (lambda op, x: op.Add(x), "op.Add takes 2 inputs, not 1"),
        (lambda op, x: op.Relu(), "op.Relu takes 1 input, not 0"),
        (lambda op, x, w: op.Conv(x, w, w, w), "op.Conv takes 1 to 3 inputs, not 4"),
        (lambda op, x, lo: op.Clip(x, lo, 6), "op.Clip: a bound must be a number"),
        (lambda op, x: either(op.Relu(x)), "either(...) needs two alternatives or more"),
        (lambda op, x: either(op.Relu(x), 3), "either(...) mixes values of the pattern with literals"),
    ],
)
def test_a_malformed_pattern_is_refused(function, message):
    with pytest.raises(PatternError) as caught:
        pattern(function)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_function_without_the_decorator_is_refused():
    def block(op, x):
        return op.Relu(x)

    graph = canonicalize(read(zoo.resnet18(size=32, width=0.25, classes=10)))
    message = "block is not a pattern; decorate its function with blockfuse.pattern"
    with pytest.raises(PatternError, match=message):
        explain(graph, block)
    with pytest.raises(PatternError, match=message):
        partition(graph, [*patterns.all(), block])


def test_the_built_in_patterns_print():
    names = [one.name for one in patterns.all()]
    assert sorted(names) == sorted(name for name in patterns.__all__ if name != "all")
    for one in patterns.all():
        assert one.doc
        assert "return %" in one.explain()
