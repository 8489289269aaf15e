"""The statement builder: text of what it emits, folding of what is known, and index expressions."""

import itertools

import numpy as np
import pytest
import tvm
from tvm import tirx

from blockfuse.machine.affine import Affine, clip, first, var
from blockfuse.schedules.emit import (
    Emitter,
    broadcast,
    constant,
    index,
    larger,
    load,
    quotient,
    remainder,
    smaller,
)


def run(emitter, *arrays):
    module = tvm.IRModule({"f": emitter.function("f")})
    kernel = tvm.compile(module, target={"kind": "llvm"}, tir_pipeline="tirx")["f"]
    tensors = [tvm.runtime.tensor(array) for array in arrays]
    kernel(*tensors)
    return tensors[-1].numpy()


def body(emitter):
    return emitter.function("f").body


def test_vectors_loops_and_views():
    e = Emitter()
    x, y = e.parameter("x", (4, 32)), e.parameter("y", (4, 32))
    with e.loop(4, "h") as h:
        row = e.bind("row", h * 32)
        for c in range(0, 32, 16):
            e.store(y, row + c, load(x, row + c, 16) * broadcast(load(x, 0), 16) + constant(1.0, 16), 16)
    data = np.arange(128, dtype=np.float32).reshape(4, 32) + 1
    np.testing.assert_array_equal(run(e, data, np.zeros_like(data)), data * data[0, 0] + 1)


def test_parallel_loop_with_a_buffer_of_its_own():
    e = Emitter()
    x, y = e.parameter("x", (8,)), e.parameter("y", (8,))
    with e.loop(8, "t", "parallel") as t:
        own = e.alloc("own", 1)
        e.store(own, 0, load(x, t) + constant(2.0))
        e.store(y, t, load(own, 0))
    data = np.arange(8, dtype=np.float32)
    np.testing.assert_array_equal(run(e, data, np.zeros_like(data)), data + 2)


def test_loop_starts_where_it_is_told():
    e = Emitter()
    y = e.parameter("y", (8,))
    with e.loop(3, "i", start=4) as i:
        e.store(y, i, constant(1.0))
    np.testing.assert_array_equal(run(e, np.zeros(8, np.float32)), [0, 0, 0, 0, 1, 1, 1, 0])


def test_conditions():
    e = Emitter()
    y = e.parameter("y", (4,))
    with e.loop(4, "i") as i:
        e.branch(i < 2, lambda: e.store(y, i, constant(1.0)), lambda: e.store(y, i, constant(2.0)))
        with e.when(i == 3):
            e.store(y, i, constant(3.0))
    np.testing.assert_array_equal(run(e, np.zeros(4, np.float32)), [1, 1, 2, 3])


def test_known_conditions_leave_no_trace():
    e = Emitter()
    y = e.parameter("y", (1,))
    with e.when(True):
        e.store(y, 0, constant(1.0))
    with e.when(False):
        e.store(y, 0, constant(2.0))
    e.branch(False, lambda: e.store(y, 0, constant(3.0)), lambda: None)
    assert isinstance(body(e), tirx.BufferStore)


@pytest.mark.parametrize("count", [0, -1])
def test_loops_without_trips_vanish(count):
    e = Emitter()
    y = e.parameter("y", (1,))
    with e.loop(count) as i:
        e.store(y, i, constant(1.0))
    e.store(y, 0, constant(2.0))
    assert isinstance(body(e), tirx.BufferStore)


def test_loop_of_one_trip_is_no_loop():
    e = Emitter()
    y = e.parameter("y", (9,))
    with e.loop(1, start=7) as i:
        assert i == 7
        e.store(y, i, constant(1.0))
    assert isinstance(body(e), tirx.BufferStore)


def test_known_indices_stay_integers():
    e = Emitter()
    assert e.bind("n", 5) == 5
    assert (smaller(3, 4), larger(3, 4), remainder(-1, 3), quotient(-1, 3)) == (3, 4, 2, -1)
    expression = clip(var("a") * 2 + 1, 0, 4) + first("a", Affine(10), Affine(20))
    assert index(expression, {"a": 0}) == 11
    assert index(expression, {"a": 3}) == 24


def test_index_equals_affine():
    """On every value of the variables, the emitted expression is what the affine expression evaluates to."""
    expressions = [
        var("a") * 3 - var("b") + 2,
        clip(var("a") - 2, 0, 3) * 5,
        first("a", var("b"), clip(var("b") * 2, 1, 3)),
        clip(var("a") + var("b"), var("b"), Affine(4)) + first("b", Affine(-1), Affine(1)),
    ]
    e = Emitter()
    y = e.parameter("y", (len(expressions), 5, 4), "int32")
    with e.loop(5, "a") as a, e.loop(4, "b") as b:
        for n, expression in enumerate(expressions):
            e.store(y, n * 20 + a * 4 + b, index(expression, {"a": a, "b": b}))
    actual = run(e, np.zeros((len(expressions), 5, 4), np.int32))
    for (n, expression), a, b in itertools.product(enumerate(expressions), range(5), range(4)):
        assert actual[n, a, b] == expression.at({"a": a, "b": b})
