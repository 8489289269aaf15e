"""Operators without a stage on the stand-in device: TVM's own code for GPUs between kernels of ours."""

import numpy as np
import pytest

from blockfuse.verification.compare import compare, tolerance
from tests.onnx_models import floats, model, node, run
from tests.standin import run_network

DEPTH = 9 * 8 + 40
STEPS = 8


def check(compile_to, proto, inputs, **options):
    executable, container = compile_to(proto, **options)
    result = run_network(container, [inputs, inputs])
    assert not result.error, result.log
    assert not result.findings
    for name, expected in run(proto, inputs).items():
        for outputs in result.outputs:
            assert outputs[name].dtype == expected.dtype
            assert compare(outputs[name], expected, tolerance(DEPTH, "float16", STEPS)).passed, name
    return executable


@pytest.mark.parametrize("graph", [False, True])
def test_a_classifier_with_branches(compile_to, graph):
    weights = {"v": floats(8, 8, 3, 3, seed=1) / 9, "w": floats(12, 20, 1, 1, seed=2) / 5, "f": floats(7, 12) / 4}
    nodes = [
        node("Conv", "x v", "a", pads=[1, 1, 1, 1]),
        node("Tanh", "a", "b"),
        node("Concat", "x b scaled", "c", axis=1),
        node("Mul", "half y4", "scaled"),
        node("Conv", "c w", "d"),
        node("Relu", "d", "e"),
        node("GlobalAveragePool", "e", "p"),
        node("Flatten", "p", "q"),
        node("Gemm", "q f", "z", transB=1),
        node("Softmax", "z", "y", axis=1),
    ]
    nodes = [nodes[3], *nodes[:3], *nodes[4:]]
    weights |= {"half": np.array(0.5, np.float32), "y4": floats(2, 4, 9, 7, seed=3)}
    check(compile_to, model(nodes, (2, 8, 9, 7), weights, outputs=("y",)), {"x": floats(2, 8, 9, 7)}, cuda_graph=graph)


def test_images_leave_as_the_model_has_them(compile_to):
    proto = model(
        [node("Conv", "x w", "a"), node("Sigmoid", "a", "y"), node("Transpose", "a", "z", perm=[0, 1, 3, 2])],
        (2, 40, 5, 6),
        {"w": floats(24, 40, 1, 1) / 6},
        outputs=("y", "z"),
    )
    check(compile_to, proto, {"x": floats(2, 40, 5, 6)})


def test_a_pool_of_more_than_a_core_holds(compile_to):
    proto = model([node("GlobalAveragePool", "x", "y")], (1, 8, 112, 90))
    executable = check(compile_to, proto, {"x": floats(1, 8, 112, 90)})
    (step,) = executable.report().steps
    assert len(step.kernels) == 2


def test_layers_that_want_more_than_a_core_holds(compile_to):
    """A filter of 51x51, wide groups, and a pool whose channels several CTAs share."""
    nodes = [
        node("Conv", "x v", "a", pads=[25] * 4, group=128),
        node("Conv", "a w", "b", pads=[1] * 4, group=2),
        node("GlobalAveragePool", "b", "y"),
    ]
    weights = {"v": floats(128, 1, 51, 51, seed=1) / 8, "w": floats(128, 64, 3, 3, seed=2) / 24}
    proto = model(nodes, (2, 128, 7, 6), weights)
    executable = check(compile_to, proto, {"x": floats(2, 128, 7, 6)}, fuse="never")
    plans = [kernel.plan for step in executable.report().steps for kernel in step.kernels]
    assert ["from memory to memory" in plan for plan in plans] == [True, False, False]


@pytest.mark.parametrize("mode", ["linear", "cubic", "nearest"])
def test_a_resize_is_one_pass(compile_to, mode):
    proto = model(
        [node("Conv", "x w", "a"), node("Resize", "a - s", "b", mode=mode), node("Conv", "b v", "y")],
        (3, 5, 7, 9),
        {"w": floats(11, 5, 1, 1, seed=1), "s": np.array([1, 1, 1.7, 2.4], np.float32), "v": floats(3, 11, 1, 1) / 3},
    )
    inputs = {"x": floats(3, 5, 7, 9, seed=2)}
    _, container = compile_to(proto)
    result = run_network(container, [inputs])
    assert not result.error, result.log
    assert not result.findings
    assert sum(not launch["kernel"].startswith("bf_") for launch in result.launches) == 1
    assert compare(result.outputs[0]["y"], run(proto, inputs)["y"], tolerance(DEPTH, "float16", STEPS)).passed
