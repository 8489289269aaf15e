"""Arrays of other libraries on the CPU are used in place; what cannot be used says so."""

import gc
import weakref

import numpy as np
import pytest

import blockfuse as bf
from blockfuse.errors import InputError, UsageError
from blockfuse.runtime.dlpack import adopt
from tests.onnx_models import floats, model, node, run


class Foreign:
    """What other libraries have in common, over a numpy array."""

    def __init__(self, array, device=(1, 0), error=None):
        self.array, self.device, self.error = array, device, error

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, **options):
        if self.error:
            raise self.error
        return self.array.__dlpack__(**options)


def proto():
    return model([node("Conv", "x w", "y")], (2, 4, 6, 5), {"w": floats(3, 4, 1, 1)})


@pytest.fixture(scope="module")
def network():
    return bf.compile(proto())


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int64, np.uint8])
@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1)])
def test_an_array_is_adopted_without_a_copy(dtype, axes):
    array = (9 * floats(3, 4, 5)).astype(dtype).transpose(axes)
    adopted = adopt(Foreign(array), "x", gpu=False, stream=0)
    assert np.shares_memory(adopted, array)
    assert adopted.flags.writeable
    np.testing.assert_array_equal(adopted, array)


def test_adopted_memory_lives_as_long_as_the_array():
    array = floats(3, 4)
    owner = weakref.ref(array)
    adopted = adopt(Foreign(array), "x", gpu=False, stream=0)[1:]
    del array
    gc.collect()
    assert owner() is not None
    del adopted
    gc.collect()
    assert owner() is None


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_network_takes_arrays_of_other_libraries(network, order):
    x = np.asarray(floats(2, 4, 6, 5), order=order)
    output = network(Foreign(x))
    assert isinstance(output, np.ndarray)
    np.testing.assert_array_equal(output, network(x))
    np.testing.assert_allclose(output, run(proto(), {"x": x})["y"], atol=1e-5)
    np.testing.assert_array_equal(network.start().bind({"x": Foreign(x)})()["y"], output)


def test_what_cannot_be_taken_says_so(network):
    x = floats(2, 4, 6, 5)
    for value, message in (
        (Foreign(x, device=(2, 0)), "input 'x' is on GPU 0, and the network runs on the CPU"),
        (Foreign(x, device=(12, 0)), "input 'x' is on a device of DLPack's kind 12, and the network runs on the CPU"),
        (Foreign(x, error=BufferError("it needs grad\nand more")), "cannot be taken from Foreign: it needs grad$"),
        (Foreign(x[:, :3]), r"input 'x': expected shape \[2, 4, 6, 5\], got \[2, 3, 6, 5\]"),
        (Foreign(x.astype(np.float64)), "input 'x': expected type float32, got float64"),
    ):
        with pytest.raises(InputError, match=message):
            network(value)
    with pytest.raises(UsageError, match="stream is for GPUs, and the network runs on the CPU"):
        network.run({"x": x}, stream=1)
    network.start().wait()
