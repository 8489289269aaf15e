"""Arrays that are on the GPU go in and come out without copies, on the caller's stream."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.onnx_models import floats, model, node

ROOT = Path(__file__).parents[2]

START = """
    import ctypes, json, sys, types
    import numpy as np
    from tests.standin.libraries import StandIn
    device = StandIn("sm_90")
    cudart = ctypes.CDLL("libcudart.so.13")
    first, second = ctypes.c_void_p(), ctypes.c_void_p()
    cudart.cudaStreamCreate(ctypes.byref(first)), cudart.cudaStreamCreate(ctypes.byref(second))
    first, second = first.value, second.value
    import blockfuse as bf
    from tests.standin.foreign import Foreign, taken
    network = bf.load(CONTAINER)
    x = np.random.default_rng(0).standard_normal((2, 8, 6, 5)).astype("float32")
    expected = network.run({"x": x})
    def counted(field, call):
        before = getattr(device.statistics(), field)
        result = call()
        return getattr(device.statistics(), field) - before, result
    def refused(call):
        try:
            call()
        except bf.errors.BlockfuseError as error:
            return str(error)
"""


def in_child(container, script):
    """What a script prints as JSON; it has a device, a network, inputs and what they give."""
    text = textwrap.dedent(START).replace("CONTAINER", repr(str(container))) + textwrap.dedent(script)
    done = subprocess.run([sys.executable, "-c", text], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module", params=[False, True], ids=["launches", "graph"])
def container(compile_to, request):
    """A network with an image and a vector as outputs."""
    weights = {"v": floats(8, 8, 3, 3, seed=1) / 9, "w": floats(12, 8, 1, 1, seed=2) / 3}
    nodes = [
        node("Conv", "x v", "a", pads=[1, 1, 1, 1]),
        node("Relu", "a", "b"),
        node("Conv", "b w", "y"),
        node("GlobalAveragePool", "y", "z"),
        node("Flatten", "z", "v2"),
    ]
    proto = model(nodes, (2, 8, 6, 5), weights, outputs=("y", "v2"))
    return compile_to(proto, cuda_graph=request.param)[1]


def test_nothing_is_copied_and_the_stream_is_the_callers(container):
    script = """
        results = []
        for stream in (0, first, first, second):
            array = Foreign(cudart, x)
            copies, outputs = counted("host_copies", lambda: network.run({"x": array}, stream=stream))
            plain, outputs = counted("default_work", lambda: network.run({"x": array}, stream=stream))
            found = {name: taken(cudart, value, stream or 1) for name, value in outputs.items()}
            results.append({
                "copies": copies,
                "plain": plain > 0,
                "equal": all(np.array_equal(found[name][0], expected[name]) for name in expected),
                "strides": found["y"][1],
                "streams": [one == (stream or 1) for one in array.streams],
                "numpy": all(np.array_equal(value.numpy(), expected[name]) for name, value in outputs.items()),
                "own": len({address for _, _, address in found.values()} | {array.data}),
            })
        print(json.dumps(results))
    """
    for number, result in enumerate(in_child(container, script)):
        assert result == {
            "copies": 0,
            "plain": number == 0,
            "equal": True,
            "strides": [360, 1, 60, 12],  # channels last
            "streams": [True, True],
            "numpy": True,
            "own": 3,
        }


def test_runs_on_other_streams_wait_for_each_other(container):
    script = """
        array, other = Foreign(cudart, x), Foreign(cudart, -x)
        network.run({"x": array}, stream=first)
        same, _ = counted("waits", lambda: network.run({"x": other}, stream=first))
        changed, outputs = counted("waits", lambda: network.run({"x": array}, stream=second))
        fed, _ = counted("waits", lambda: [value.__dlpack__(stream=first) for value in outputs.values()])
        no_wait, _ = counted("waits", lambda: [value.__dlpack__(stream=-1) for value in outputs.values()])
        print(json.dumps([same, changed, fed, no_wait]))
    """
    assert in_child(container, script) == [0, 1, 2, 0]


def test_the_current_stream_of_the_library_is_taken(container):
    script = """
        class Tensor(Foreign):
            pass
        asked = []
        def current_stream(index):
            asked.append(index)
            return types.SimpleNamespace(cuda_stream=first)
        sys.modules["torch"] = types.SimpleNamespace(cuda=types.SimpleNamespace(current_stream=current_stream))
        Tensor.__module__ = "torch"
        array = Tensor(cudart, x)
        network.run({"x": array})
        plain, _ = counted("default_work", lambda: network.run({"x": array}))
        handle = types.SimpleNamespace(cuda_stream=second)
        network.run({"x": array}, stream=handle)
        print(json.dumps([asked, plain, array.streams == [first, first, second]]))
    """
    assert in_child(container, script) == [[0, 0], 0, True]


def test_results_go_in_again_and_calls_are_bound(container):
    script = """
        bound = network.start().bind({"x": x}, stream=first)
        bound()
        copies, outputs = counted("host_copies", bound)
        network.start().wait(first)
        right = np.array_equal(outputs["y"].numpy(), expected["y"])
        again = Foreign(cudart, x)
        mixed = network.start().bind({"x": again})()
        print(json.dumps([copies, right, np.array_equal(mixed["v2"].numpy(), expected["v2"])]))
    """
    assert in_child(container, script) == [0, True, True]


def test_what_cannot_be_taken_says_so(container):
    script = """
        run = lambda value, **more: refused(lambda: network.run({"x": value}, **more))
        print(json.dumps([
            run(Foreign(cudart, x, offset=2)),
            run(Foreign(cudart, x.transpose(0, 1, 3, 2))),
            run(Foreign(cudart, np.asfortranarray(x))),
            run(Foreign(cudart, x[:1].astype("float16"))),
            run(Foreign(cudart, x, index=1)),
            run(x, stream="first"),
        ]))
    """
    assert in_child(container, script) == [
        "input 'x' is at no multiple of 4 bytes: pass a copy",
        "input 'x' is not contiguous: call contiguous() on it",
        "input 'x' is not contiguous: call contiguous() on it",
        "input 'x': expected type float32, got float16",
        "input 'x' is on GPU 1, and the network runs on GPU 0",
        "stream must be a handle, or a stream of PyTorch or CuPy, not str",
    ]
