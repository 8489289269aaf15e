"""What goes wrong between kernels must be noticed: missing waits, stale addresses, wrong launches, wrong code."""

import json
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import blockfuse as bf
from blockfuse.runtime import artifact
from blockfuse.runtime.variants import Variant
from tests.onnx_models import floats, model, node, run
from tests.standin import run_network

ROOT = Path(__file__).parents[2]
INPUTS = {"x": floats(3, 8, 7, 5)}

STREAMS = """
    import ctypes, json, os
    import numpy as np
    from tests.standin.libraries import StandIn
    device = StandIn("sm_90")
    cudart = ctypes.CDLL("libcudart.so.13")
    first, second = ctypes.c_void_p(), ctypes.c_void_p()
    for stream in (first, second):
        cudart.cudaStreamCreateWithFlags(ctypes.byref(stream), 1)  # as PyTorch's: not ordered with the default one
    first, second = first.value, second.value
    import blockfuse as bf
    from blockfuse.runtime import cuda, dlpack
    from tests.standin.foreign import Foreign, taken
    network = bf.load(CONTAINER)
    x = np.random.default_rng(0).standard_normal((3, 8, 7, 5)).astype("float32")
    expected, other = network.run({"x": x})["y"], network.run({"x": -x})["y"]
    given, negative = Foreign(cudart, x), Foreign(cudart, -x)
    device.work_late()
    exec(MUTANT)
    def copied(value, stream):
        capsule = value.__dlpack__(stream=stream)
        _, _, address = taken(cudart, value, -1)
        flat = np.empty(expected.size, np.float32)
        cudart.cudaMemcpyAsync(ctypes.c_void_p(flat.ctypes.data), ctypes.c_void_p(address), flat.nbytes, 2,
                               ctypes.c_void_p(stream))
        return flat.reshape(3, 7, 5, 12).transpose(0, 3, 1, 2)
    def blank():  # memory that is used again must not hold the right result from before
        zeros = Foreign(cudart, 0 * x)
        return [network.run({"x": zeros}, stream=0) for _ in range(4)]
    def handed_over():
        return np.array_equal(copied(network.run({"x": given}, stream=first)["y"], second), expected)
    def read():
        return np.array_equal(network.run({"x": given}, stream=first)["y"].numpy(), expected)
    def overwritten():
        before = network.run({"x": given}, stream=first)["y"]
        after = network.run({"x": negative}, stream=second)["y"]
        return np.array_equal(after.numpy(), other) and np.array_equal(before.numpy(), expected)
    print(json.dumps([blank() and check() for check in (handed_over, read, overwritten)]), flush=True)
    os._exit(0)  # what was not waited for is not done
"""
HANDED_OVER, READ, OVERWRITTEN = range(3)


@pytest.fixture(scope="module", params=[False, True], ids=["launches", "graph"])
def network(compile_to, request):
    """A container of a network with several kernels, and the right result."""
    weights = {
        "v": floats(8, 8, 3, 3, seed=1) / 9,
        "w": floats(12, 8, 1, 1, seed=2) / 3,
        "u": floats(12, 12, 3, 3, seed=3),
    }
    nodes = [
        node("Conv", "x v", "a", pads=[1, 1, 1, 1]),
        node("Relu", "a", "b"),
        node("Conv", "b w", "c"),
        node("Conv", "c u", "y", pads=[1, 1, 1, 1]),
    ]
    proto = model(nodes, (3, 8, 7, 5), weights)
    _, container = compile_to(proto, cuda_graph=request.param, fuse="never")
    return container, run(proto, INPUTS)["y"], request.param


# ---- waits -----------------------------------------------------------------------------------------------------------
def on_streams(container, mutant=""):
    """Which uses of streams are right on a device that works as late as it may, with something taken out of ours."""
    text = textwrap.dedent(STREAMS).replace("CONTAINER", repr(str(container))).replace("MUTANT", repr(mutant))
    done = subprocess.run([sys.executable, "-c", text], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_late_work_is_right(network):
    assert on_streams(network[0]) == [True, True, True]


@pytest.mark.parametrize(
    ("mutant", "missed"),
    [
        ("dlpack.order = lambda *_: None", HANDED_OVER),
        ("dlpack.wait = lambda *_: None", READ),
        ("cuda.order = lambda *_: None", OVERWRITTEN),
    ],
    ids=["handing over", "reading", "the next run"],
)
def test_a_missing_wait_is_noticed(network, mutant, missed):
    container, _, graph = network
    if graph and missed == OVERWRITTEN:
        pytest.skip("a recorded graph is one piece of work here, and what the late device interleaves are pieces")
    assert not on_streams(container, mutant)[missed]


# ---- launches --------------------------------------------------------------------------------------------------------
def is_right(result, expected):
    """Whether all calls gave the right result without a finding."""
    return not (result.error or result.findings) and all(
        np.abs(outputs["y"] - expected).max() < 0.02 * np.abs(expected).max() for outputs in result.outputs
    )


@pytest.mark.parametrize("fault", [{"grid": -1}, {"grid": 1}, {"shared": -2048}], ids=str)
def test_a_wrong_launch_is_noticed(network, fault):
    container, expected, _ = network
    assert is_right(run_network(container, [INPUTS]), expected)
    assert not is_right(run_network(container, [INPUTS], fault=fault), expected)


@pytest.mark.parametrize("parameter", range(3))
def test_a_stale_address_in_a_recorded_graph_is_noticed(network, parameter):
    container, expected, graph = network
    calls = [INPUTS] * 3
    assert is_right(run_network(container, calls), expected)
    stale = run_network(container, calls, fault={"pointer": parameter})
    assert is_right(stale, expected) == (not graph)


# ---- machine code ----------------------------------------------------------------------------------------------------
def test_code_for_another_architecture_than_the_manifest_says_is_noticed(compile_to, tmp_path):
    proto = model([node("Conv", "x w", "y")], constants={"w": floats(8, 4, 1, 1)})
    executable, container = compile_to(proto, "sm_90a")
    inputs = {"x": floats(1, 4, 8, 8)}
    assert not run_network(container, [inputs]).error
    (variant,) = artifact.load(container, any_machine=True)
    claimed = replace(variant.library, target=replace(variant.library.target, archs=("sm_80",)))
    bf.Executable([Variant(claimed, executable.report())]).save(tmp_path / "claimed.bf")
    result = run_network(tmp_path / "claimed.bf", [inputs], arch="sm_80")
    assert result.error
    assert "stand-in device: the image has code for arch sm_90a" in result.log
