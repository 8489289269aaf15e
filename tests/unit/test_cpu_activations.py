"""The vector forms of activation functions against float64, over all arguments that matter."""

import math

import numpy as np
import pytest
import tvm
import tvm_ffi

from blockfuse.schedules.cpu.activations import activate
from blockfuse.schedules.emit import Emitter, load
from blockfuse.stages import ACTIVATIONS
from blockfuse.target import best_cpu
from tests.random_blocks import FUNCTIONS

LANES = 16
RELATIVE = 1e-6
CUBED, NEAR = 2.5e-7, 1e-9  # gelu_tanh: times the argument of exp, whose rounding exp multiplies, and that of gelu_tanh
CORNER = 2e-7  # slope * x + offset cancels where a hard sigmoid begins
TINY = 1e-37  # where float32 has no normal numbers any more, times the argument


def kernel(function, lanes, size):
    emitter = Emitter()
    x, y = emitter.parameter("x", (size,)), emitter.parameter("y", (size,))
    with emitter.loop(size // lanes) as i:
        emitter.store(y, i * lanes, activate(function, load(x, i * lanes, lanes), lanes), lanes)
    return emitter.function(f"{function.kind}_{lanes}")


@pytest.fixture(scope="module")
def arguments():
    wide = np.linspace(-30, 30, 60000)
    small = np.logspace(-30, 0, 2000)
    extreme = [-1e38, -1e30, -200.0, -88.5, 88.5, 200.0, 1e30, 1e38, 0.0, -0.0]
    x = np.concatenate([wide, small, -small, extreme]).astype(np.float32)
    return np.resize(x, -(-x.size // LANES) * LANES)


@pytest.fixture(scope="module")
def compiled(arguments):
    parts = {(f, n): kernel(f, n, arguments.size) for f in FUNCTIONS for n in (1, LANES)}
    module = tvm.compile(
        tvm.IRModule({f"{f.kind}_{n}": each for (f, n), each in parts.items()}),
        target={"kind": "llvm", "mcpu": best_cpu().mcpu},
        tir_pipeline="tirx",
    )
    return {(f, n): module[f"{f.kind}_{n}"] for f, n in parts}


@pytest.mark.parametrize("lanes", [1, LANES])
@pytest.mark.parametrize("function", FUNCTIONS, ids=str)
def test_accuracy(function, lanes, arguments, compiled):
    y = np.full_like(arguments, np.nan)
    compiled[function, lanes](*(tvm_ffi.from_dlpack(each, require_alignment=4) for each in (arguments, y)))
    with np.errstate(over="ignore"):
        expected = ACTIVATIONS[function.kind](arguments.astype(np.float64), function)
    size = np.maximum(np.abs(arguments), 1)
    allowed = RELATIVE * np.abs(expected) + TINY * size
    if function.kind == "gelu_tanh":
        allowed += np.minimum(CUBED * _exponent(arguments) * np.abs(expected), NEAR * size)
    allowed += CORNER if function.kind == "hard_sigmoid" else 0.0
    assert (np.abs(y - expected) <= allowed).all(), arguments[np.argmax(np.abs(y - expected) / allowed)]


def _exponent(x):
    """What gelu_tanh takes exp of, up to where that is 0 or infinite."""
    size = np.abs(x.astype(np.float64))
    return np.minimum(2 * math.sqrt(2 / math.pi) * (size + 0.044715 * size**3), 100)


@pytest.mark.parametrize("lanes", [1, LANES])
@pytest.mark.parametrize("function", FUNCTIONS, ids=str)
def test_what_is_not_a_number_stays_so(function, lanes, arguments, compiled):
    x = arguments.copy()
    missing = np.arange(x.size) % 7 == 3
    x[missing] = np.nan
    y = np.zeros_like(x)
    compiled[function, lanes](*(tvm_ffi.from_dlpack(each, require_alignment=4) for each in (x, y)))
    np.testing.assert_array_equal(np.isnan(y), missing)


def test_every_function_is_tried():
    assert {function.kind for function in FUNCTIONS} == ACTIVATIONS.keys()
