"""One executable for any batch, where the model leaves it open, against ONNX Runtime."""

import subprocess
import sys
import threading

import numpy as np
import pytest
from tvm import relax

import blockfuse as bf
from blockfuse.build.emitters import EMITTERS
from blockfuse.errors import InputError, UnsupportedModelError, UsageError
from blockfuse.frontend import zoo
from blockfuse.verification.verify import reference_session, seeded_inputs
from tests.onnx_models import floats, model, node
from tests.open_batch import open_batch
from tests.open_forms import FORMS, conv, two_inputs

BATCHES = (1, 3, 2, 16, 5, 1)

NETWORKS = [
    ("resnet18", "never"),
    ("mobilenet_v2", "never"),
    ("efficientnet_b0", "always"),
    ("convnext_tiny", "auto"),
    ("convfirstnet", "always"),
]


def assert_right(executable, proto, batches=BATCHES):
    """Outputs equal the reference for every batch."""
    session = reference_session(proto, 1, optimised=False)
    names = [output.name for output in session.get_outputs()]
    for batch in batches:
        inputs = seeded_inputs(executable.inputs_for(batch), batch)
        expected = dict(zip(names, session.run(names, inputs), strict=True))
        outputs = executable.run(inputs)
        for name in names:
            assert outputs[name].shape == expected[name].shape
            scale = max(1.0, float(np.abs(expected[name]).max()))
            np.testing.assert_allclose(outputs[name], expected[name], rtol=0, atol=2e-5 * scale)


@pytest.mark.parametrize(("name", "fuse"), NETWORKS)
def test_networks(name, fuse):
    proto = open_batch(getattr(zoo, name)(size=33, width=0.25, classes=10))
    assert_right(bf.compile(proto, fuse=fuse), proto)


def test_plans_for_another_batch():
    proto = open_batch(zoo.mobilenet_v2(size=32, width=0.25, classes=10))
    executable = bf.compile(proto, batch=4, fuse="always")
    assert executable.report().planned_batch == 4
    assert executable.inputs[0].shape == (4, 3, 32, 32)
    assert_right(executable, proto)


def test_shares_of_hidden_channels_are_those_of_one_image():
    """A plan that sums partial results of one image after the other."""
    proto = open_batch(zoo.mobilenet_v2(size=64, classes=10))
    executable = bf.compile(proto, fuse="always", threads=2)
    assert any("share" in kernel.plan for step in executable.report().steps for kernel in step.kernels)
    assert_right(executable, proto, (3, 1, 2))


@pytest.mark.parametrize("make", [*FORMS, two_inputs])
@pytest.mark.parametrize("fuse", ["always", "never"])
def test_forms_of_exporters(make, fuse):
    proto = make()
    assert_right(bf.compile(proto, fuse=fuse), proto)


@pytest.fixture(scope="module")
def proto():
    return open_batch(zoo.resnet18(size=32, width=0.25, classes=10))


@pytest.fixture(scope="module")
def executable(proto):
    return bf.compile(proto)


def test_what_it_says(executable):
    assert "input float32[N, 3, 32, 32] -> output float32[N, 10]" in repr(executable)
    assert "any batch, planned for 1" in str(executable.report())
    assert "input float32[N, 3, 32, 32] -> output float32[N, 10]" in str(executable.report())


def test_a_container_keeps_it(executable, proto, tmp_path):
    executable.save(tmp_path / "n.bf")
    loaded = bf.load(tmp_path / "n.bf")
    assert repr(loaded) == repr(executable)
    assert_right(loaded, proto)
    most = loaded.start().library.batch.most
    assert 1000 < most < 2**31 // (3 * 32 * 32)
    with pytest.raises(UsageError, match=f"batch must be 1 to {most:,} for resnet18, not {most + 1}"):
        loaded.inputs_for(most + 1)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((0, 3, 32, 32), r"^input 'input' holds 0 images; the network takes 1 to [\d,]+ at a time$"),
        ((2, 3, 32, 31), r"^input 'input': expected shape \[N, 3, 32, 32\], got \[2, 3, 32, 31\]$"),
        ((3, 32, 32), r"^input 'input': expected shape \[N, 3, 32, 32\], got \[3, 32, 32\]$"),
    ],
)
def test_wrong_inputs(executable, shape, message):
    with pytest.raises(InputError, match=message):
        executable(np.zeros(shape, np.float32))


def test_more_images_than_indices_reach(executable):
    most = executable.start().library.batch.most
    huge = np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), (most + 1, 3, 32, 32), (0, 0, 0, 0))
    with pytest.raises(InputError, match=f"holds {most + 1} images; the network takes 1 to {most:,} at a time"):
        executable(huge)


def test_too_little_memory_is_one_line(executable, tmp_path):
    """In a process whose memory is limited, which goes on afterwards."""
    executable.save(tmp_path / "n.bf")
    program = (
        "import resource, sys, numpy, blockfuse\n"
        "network = blockfuse.load(sys.argv[1])\n"
        "network.start()\n"
        "x = numpy.zeros((20000, 3, 32, 32), numpy.float32)\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 2**27, used + 2**27))\n"
        "try:\n"
        "    network(x)\n"
        "except blockfuse.InputError as error:\n"
        "    print(error)\n"
        "print(network(x[:2]).shape)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "n.bf")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    lines = ["there is not enough memory to run resnet18 for 20000 images at a time", "(2, 10)"]
    assert done.stdout.splitlines() == lines, done.stderr


def test_inputs_of_different_batches():
    executable = bf.compile(two_inputs())
    inputs = {"x": np.zeros((2, 4, 6, 6), np.float32), "z": np.zeros((3, 4, 6, 6), np.float32)}
    with pytest.raises(InputError, match=r"^input 'x' holds 2 images and input 'z' 3$"):
        executable.run(inputs)


def test_threads_with_different_batches(executable):
    """Every thread has a batch of its own, more than are kept memory for."""
    inputs = {batch: seeded_inputs(executable.inputs_for(batch), batch) for batch in range(1, 9)}
    expected = {batch: executable.run(one)["output"] for batch, one in inputs.items()}
    wrong = []

    def work(start):
        for step in range(24):
            batch = 1 + (start + step) % 8
            if not np.array_equal(executable.run(inputs[batch])["output"], expected[batch]):
                wrong.append(batch)

    threads = [threading.Thread(target=work, args=(2 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_given_shapes_fix_the_batch(proto):
    executable = bf.compile(proto, shape={"input": (2, 3, 32, 32)})
    assert executable.start().library.batch is None
    assert "input float32[2, 3, 32, 32] -> output float32[2, 10]" in repr(executable)
    with pytest.raises(InputError, match=r"expected shape \[2, 3, 32, 32\]"):
        executable(np.zeros((1, 3, 32, 32), np.float32))
    with pytest.raises(UsageError, match="the batch of resnet18 is fixed"):
        executable.inputs_for(3)


def test_arguments_that_contradict_the_model(proto):
    with pytest.raises(UsageError, match="batch is for models whose batch is open"):
        bf.compile(zoo.resnet18(size=32, width=0.25), batch=2)
    with pytest.raises(UsageError, match="batch must be at least 1, not 0"):
        bf.compile(proto, batch=0)
    with pytest.raises(UsageError, match="cuda_graph needs a fixed batch"):
        bf.compile(proto, target="sm_90", dtype="float16", cuda_graph=True)


def test_verify_compares_two_batches(proto, executable):
    found = bf.verify(proto, executable=executable)
    assert [check.batch for check in found.checks] == [1, 3]
    assert [check.batch for check in bf.verify(proto, executable=executable, batch=5).checks] == [5]
    per_block = bf.verify(proto, fuse="always", per_block=True)
    assert len(per_block.blocks) == 2 * 8


@pytest.mark.parametrize("via", ["output", "sum", "broadcast"])
def test_code_for_a_fixed_batch_is_refused(monkeypatch, via):
    """An operator whose code would hold a number of images is named before anything is compiled."""

    def fixed(o):
        if via == "broadcast":
            return relax.op.add(o.tensor(), relax.op.sum(relax.op.reshape(o.tensor(), o.shape), [0], keepdims=True))
        value = relax.op.reshape(o.tensor(), o.shape)
        return value if via == "output" else relax.op.add(o.tensor(), value)

    monkeypatch.setitem(EMITTERS, "Softmax", fixed)
    nodes = [conv("x", "a", "w"), node("Softmax", "a", "y", axis=1)]
    with pytest.raises(UnsupportedModelError, match="1 ops that cannot be compiled: Softmax 'Softmax_y': "):
        bf.compile(model(nodes, ("N", 4, 8, 8), {"w": floats(4, 4, 3, 3)}))


@pytest.mark.parametrize("shape", [(1, 3, 32, 32), {"input": 32}])
def test_shapes_that_are_not_by_name_are_refused(proto, shape):
    with pytest.raises(UsageError, match="shape must be a dictionary like"):
        bf.compile(proto, shape=shape)
