"""Kernels of operators that have no tile program, on the stand-in device: right for any shape, wide where it allows.

TVM's own schedules give every thread one element, so a thread must not be found for each.
"""

import numpy as np
import pytest

from blockfuse.verification.compare import compare, tolerance
from tests.onnx_models import floats, model, node, run
from tests.standin import kernel_sources, run_network
from tests.standin.test_single_ops import DEPTH, STEPS

TWICE = np.array([1, 1, 2, 2], np.float32)
SECTOR = 32  # bytes


def ran(compile_to, proto, *inputs, count=False, **options):
    """Launches of kernels that are none of ours, after their results were compared."""
    _, container = compile_to(proto, **options)
    result = run_network(container, inputs, count=count)
    assert not result.error, result.log
    assert not result.findings
    dtype = options.get("dtype", "float16")
    for given, outputs in zip(inputs, result.outputs, strict=True):
        for name, expected in run(proto, given).items():
            assert compare(outputs[name], expected, tolerance(DEPTH, dtype, STEPS)).passed, name
    return [launch for launch in result.launches if not launch["kernel"].startswith("bf_")], container


def several(channels, batch, axis):
    """A network of one of each: moves along an axis, interpolation, reductions, and arithmetic between."""
    shape = (2, channels, 5, 6)
    other = [*shape[:axis], 4, *shape[axis + 1 :]]
    pads = [0] * 8
    pads[axis], pads[4 + axis] = (1, 2) if axis else (0, 0)
    nodes = [
        node("Concat", "x k x", "y0", axis=axis),
        node("Resize", "x - s", "y1", mode="linear"),
        node("Resize", "x - s", "y2", mode="nearest"),
        node("Softmax", "x", "y3", axis=axis),
        node("LogSoftmax", "x", "y4", axis=-axis),
        node("Pad", "x p", "a"),
        node("Neg", "a", "y5"),
        node("ReduceMax", "x", "y6", axes=[axis]),
        node("Slice", "x one big one", "b"),
        node("Mul", "b g", "y7"),
    ]
    constants = {"k": floats(*other, seed=1), "s": np.array([1, 1, 1.7, 2], np.float32), "p": np.array(pads)}
    constants |= {"one": np.array([1]), "big": np.array([100]), "g": floats(1, channels - 1, 1, 1, seed=2)}
    if batch != shape[0]:  # a constant would have a batch
        nodes[0] = node("Concat", "x x", "y0", axis=axis)
    return model(nodes, (batch, *shape[1:]), constants, outputs=[f"y{i}" for i in range(8)])


@pytest.mark.parametrize(("channels", "axis", "dtype"), [(7, 2, "float16"), (20, 1, "float32")])
def test_operators_of_any_shape(compile_to, channels, axis, dtype):
    proto = several(channels, 2, axis)
    ran(compile_to, proto, {"x": floats(2, channels, 5, 6, seed=axis)}, dtype=dtype)


def test_operators_of_any_batch(compile_to):
    inputs = [{"x": floats(batch, 24, 5, 6, seed=batch)} for batch in (1, 3)]
    ran(compile_to, several(24, "N", 1), *inputs)


def test_a_value_without_axes(compile_to):
    """What is divided by where the norm is zero; it is computed when the network runs."""
    ran(compile_to, model([node("LpNormalization", "x", "y", axis=1)], (2, 64, 3, 5)), {"x": floats(2, 64, 3, 5)})


def test_the_first_axis(compile_to):
    proto = model(
        [node("Concat", "x k", "a", axis=0), node("Softmax", "a", "y", axis=0)], (1, 8, 3, 5), {"k": floats(2, 8, 3, 5)}
    )
    ran(compile_to, proto, {"x": floats(1, 8, 3, 5, seed=1)})


WIDE = {
    "Concat": [node("Concat", "x k k x", "y", axis=1)],
    "Resize": [node("Resize", "x - s", "y", mode="nearest")],
    "linear": [node("Resize", "x - s", "y", mode="linear")],
    "Neg": [node("Neg", "x", "y")],
    "Slice": [node("Slice", "x half big one", "y")],
    "Pad": [node("Pad", "x p", "y")],
}


@pytest.mark.parametrize("kind", WIDE)
def test_threads_have_16_bytes_each(compile_to, kind):
    constants = {"k": floats(1, 8, 12, 14), "s": TWICE, "p": np.array([0, 8, 1, 0, 0, 0, 0, 2])}
    constants |= {"half": np.array([16]), "big": np.array([32]), "one": np.array([1])}
    proto = model(WIDE[kind], (1, 32, 12, 14), constants)
    (launch,), container = ran(compile_to, proto, {"x": floats(1, 32, 12, 14)}, count=True)
    counters, source = launch["counters"], kernel_sources(container)[launch["kernel"]]
    vectors = run(proto, {"x": floats(1, 32, 12, 14)})["y"].size // 8
    assert launch["grid"][0] == -(-vectors // 256)
    assert launch["block"] == [256, 1, 1]
    assert source.count("*(uint4*)") >= 2
    assert counters["global_store_sectors"] == vectors // 2
    taps = 4 if kind == "linear" else 1
    assert counters["global_load_sectors"] <= 1.1 * taps * vectors / 2


def test_a_softmax_reads_its_rows_once(compile_to):
    """Each row in one block, which reads neighbours side by side, converts them on the way, and stores halves."""
    proto = model([node("Softmax", "x", "y")], (5, 1008))
    (launch,), _ = ran(compile_to, proto, {"x": floats(5, 1008)}, count=True)
    assert launch["grid"] == [5, 1, 1]
    assert launch["counters"]["block_sectors"] <= 1.1 * 2 * 5 * 1008 * 2 / SECTOR


@pytest.mark.parametrize(("axes", "results"), [([-1], 40), ([2, 3], 8)])
def test_threads_share_an_extreme(compile_to, axes, results):
    shape = (5, 8, 1008) if len(axes) == 1 else (1, 8, 48, 21)
    proto = model([node("ReduceMax", "x", "a", axes=axes), node("Neg", "a", "y")], shape)
    launches, _ = ran(compile_to, proto, {"x": floats(*shape)}, count=True)
    (launch,) = [one for one in launches if "max" in one["kernel"]]
    ideal = np.prod(shape) * 2 / SECTOR
    assert launch["counters"]["global_load_sectors"] <= 1.1 * ideal
    assert launch["counters"]["global_store_sectors"] <= results


def test_short_sums_are_of_whole_warps(compile_to):
    """Else threads would exchange sums with some that do not exist: alone, and with something behind."""
    nodes = [
        *(node("LpNormalization", "x", "y0", axis=1), node("ReduceMean", "x", "a", axes=[1]), node("Neg", "a", "y1")),
        *(node("LpNormalization", "z", "y2", axis=1), node("ReduceMean", "z", "b", axes=[1]), node("Neg", "b", "y3")),
    ]
    proto = model([node("Concat", "x x x", "z", axis=1), *nodes], (2, 7, 3, 5), outputs=[f"y{i}" for i in range(4)])
    launches, _ = ran(compile_to, proto, {"x": floats(2, 7, 3, 5)})
    assert all(launch["block"][0] % 32 == 0 for launch in launches)
