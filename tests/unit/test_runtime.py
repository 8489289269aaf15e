"""Running: inputs of any kind, what is refused, outputs that last, and where the runtime library is found."""

import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from blockfuse.build.build import build
from blockfuse.build.network import Call, Network
from blockfuse.errors import ArtifactError, InputError, TargetError, UsageError
from blockfuse.graph import Op
from blockfuse.report import Report
from blockfuse.runtime import arguments, artifact
from blockfuse.runtime import session as runtime
from blockfuse.runtime.executable import Executable, load
from blockfuse.runtime.library import ALIGNMENT, Port, aligned_empty
from blockfuse.runtime.session import RUNTIME_VARIABLE, Session
from blockfuse.runtime.variants import Variant
from blockfuse.target import parse_target
from tests import toy_networks as toy

CPU = parse_target("cpu", threads=2)


@pytest.fixture(scope="module")
def library():
    network, functions, _ = toy.classifier()
    return build(network, functions, CPU)


@pytest.fixture(scope="module")
def session(library):
    return Session(library)


@pytest.fixture(scope="module")
def reference():
    return toy.classifier()[2]


def two_inputs():
    """Two inputs of which TVM's own code reads one, and an output that is an input."""
    network = Network(
        "two",
        (Port("x", toy.IMAGE), Port("y", toy.IMAGE)),
        (Port("sum", toy.IMAGE), Port("same", toy.IMAGE), Port("again", toy.IMAGE)),
        (
            Op("Add", "add", ("x", "y"), ("sum",)),
            Op("Identity", "identity", ("x",), ("same",)),
            Op("Identity", "identity2", ("sum",), ("again",)),
        ),
        toy.tensors(x=toy.IMAGE, y=toy.IMAGE, sum=toy.IMAGE, same=toy.IMAGE, again=toy.IMAGE),
    )
    return build(network, {}, CPU)


# ---- inputs ----------------------------------------------------------------------------------------------------------
def at_offset(array, offset):
    """A copy whose address is so many bytes after a multiple of 64."""
    raw = aligned_empty(array.nbytes + ALIGNMENT)[offset : offset + array.nbytes]
    copy = raw.view(array.dtype).reshape(array.shape)
    copy[...] = array
    assert copy.ctypes.data % ALIGNMENT == offset
    return copy


def read_only(array):
    copy = array.copy()
    copy.flags.writeable = False
    return copy


VARIANTS = {
    "aligned": lambda x: at_offset(x, 0),
    "four bytes off": lambda x: at_offset(x, 4),
    "sixteen bytes off": lambda x: at_offset(x, 16),
    "fortran": np.asfortranarray,
    "every second": lambda x: np.repeat(x, 2, axis=3)[..., ::2],
    "backwards": lambda x: x[..., ::-1].copy()[..., ::-1],
    "channels last": lambda x: np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
    "broadcast": lambda x: np.broadcast_to(x[:1], x.shape),
    "read only": read_only,
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_any_array_works(session, reference, variant):
    image = VARIANTS[variant](toy.image_input())
    before = image.copy()
    toy.close(session.run({"image": image})["probability"], reference(before)["probability"])
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize(("variant", "copied"), [("aligned", False), ("four bytes off", False), ("fortran", True)])
def test_arrays_the_kernels_can_read_are_not_copied(session, monkeypatch, variant, copied):
    copies = []
    monkeypatch.setattr(arguments, "aligned_copy", lambda array: copies.append(array) or np.ascontiguousarray(array))
    session.run({"image": VARIANTS[variant](toy.image_input())})
    assert bool(copies) == copied


@pytest.mark.parametrize(("variant", "copied"), [("aligned", False), ("four bytes off", True), ("fortran", True)])
def test_arrays_that_tvms_own_code_reads_are_copied_unless_aligned(monkeypatch, variant, copied):
    copies = []
    copy = arguments.aligned_copy
    monkeypatch.setattr(arguments, "aligned_copy", lambda array: copies.append(array) or copy(array))
    image = VARIANTS[variant](toy.image_input())
    Session(two_inputs()).run({"x": image, "y": image})
    assert len(copies) == 2 * copied


@pytest.mark.parametrize("variant", VARIANTS)
def test_code_of_tvm_gets_aligned_inputs(variant):
    x, y = toy.image_input(1), toy.image_input(2)
    outputs = Session(two_inputs()).run({"x": VARIANTS[variant](x), "y": VARIANTS[variant](y)})
    np.testing.assert_array_equal(outputs["sum"], VARIANTS[variant](x) + VARIANTS[variant](y))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "input 'image' is missing; the network takes 'image'"),
        ({"x": 0}, "input 'image' is missing; the network takes 'image'"),
        ({"image": 0, "more": 0}, "the network has no input 'more'; it takes 'image'"),
        ({"image": [[1.0]]}, "input 'image': expected a numpy array, not list"),
        ({"image": np.zeros(toy.IMAGE)}, "input 'image': expected type float32, got float64"),
        ({"image": np.zeros(toy.IMAGE, ">f4")}, "input 'image': expected type float32, got >f4"),
        ({"image": np.zeros((8, 5, 6), "f4")}, "input 'image': expected shape [2, 8, 5, 6], got [8, 5, 6]"),
        ({"image": np.zeros((1, 8, 5, 6), "f4")}, "input 'image': expected shape [2, 8, 5, 6], got [1, 8, 5, 6]"),
        ({"image": np.zeros((2, 5, 6, 8), "f4")}, "input 'image': expected shape [2, 8, 5, 6], got [2, 5, 6, 8]"),
        (np.zeros(toy.IMAGE, "f4"), "expected a dictionary of arrays by input name, not ndarray"),
    ],
)
def test_wrong_inputs_are_one_clear_line(session, inputs, message):
    with pytest.raises(InputError) as caught:
        session.run(inputs)
    assert str(caught.value) == message


def test_after_a_wrong_input_the_session_still_runs(session, reference):
    with pytest.raises(InputError):
        session.run({})
    image = toy.image_input(5)
    toy.close(session.run({"image": image})["features"], reference(image)["features"])


# ---- outputs ---------------------------------------------------------------------------------------------------------
def test_outputs_outlive_later_runs_and_the_session(library, reference):
    session = Session(library)
    images = [toy.image_input(seed) for seed in range(6)]
    outputs = [session.run({"image": image}) for image in images]
    del session
    for image, output in zip(images, outputs, strict=True):
        for name, value in reference(image).items():
            toy.close(output[name], value)


def test_outputs_share_no_memory_with_anything():
    session = Session(two_inputs())
    x, y = at_offset(toy.image_input(1), 0), at_offset(toy.image_input(2), 0)
    arrays = [x, y, *session.run({"x": x, "y": y}).values(), *session.run({"x": x, "y": y}).values()]
    for index, array in enumerate(arrays):
        assert array.flags.writeable
        assert array.flags.c_contiguous
        assert not any(np.shares_memory(array, other) for other in arrays[:index])
    np.testing.assert_array_equal(arrays[3], x)


def test_executable_takes_and_returns_bare_arrays(library, reference):
    executable = Executable([Variant(library, Report("classifier", "cpu"))])
    image = toy.image_input(3)
    outputs = executable(image)
    assert list(outputs) == [port.name for port in executable.outputs] == ["probability", "features"]
    only = Executable([Variant(features_only(library.target), Report("classifier", "cpu"))])
    toy.close(only(image), reference(image)["features"])
    with pytest.raises(InputError, match=r"takes 2 inputs, 'x', 'y': call run\(\) with a dictionary"):
        Executable([Variant(two_inputs(), Report("two", "cpu"))])(image)


def features_only(target):
    network = Network(
        "mean",
        (Port("image", toy.IMAGE),),
        (Port("features", (2, 8, 1, 1)),),
        (
            Call("stem", ("image",), toy.weights(0), "a", toy.KERNEL_IMAGE, nchw_inputs=(0,)),
            Call("scale", ("a",), toy.weights(1), "b", toy.KERNEL_IMAGE),
            Call("scale", ("b",), toy.weights(2), "c", toy.KERNEL_IMAGE),
            Call("mean", ("c",), (), "features", (2, 1, 1, 8)),
        ),
        toy.tensors(image=toy.IMAGE, a=toy.IMAGE, b=toy.IMAGE, c=toy.IMAGE, features=(2, 8, 1, 1)),
    )
    functions = {"stem": toy.scale_kernel(reads_nchw=True), "scale": toy.scale_kernel(), "mean": toy.mean_kernel()}
    return build(network, functions, target)


# ---- threads and processes -------------------------------------------------------------------------------------------
def test_machines_are_reused(library):
    session = Session(library)
    for _ in range(5):
        session.run({"image": toy.image_input()})
    assert len(session._idle) == 1


def test_the_callers_affinity_stays(library, monkeypatch):
    monkeypatch.setattr(runtime, "available_cpus", lambda: (min(os.sched_getaffinity(0)),))
    before = os.sched_getaffinity(0)
    seen = []

    def work():
        Session(library, 1).run({"image": toy.image_input()})
        seen.append(os.sched_getaffinity(0))

    caller = threading.Thread(target=work)
    caller.start()
    caller.join()
    assert seen == [before]


def test_the_number_of_threads(library, monkeypatch):
    monkeypatch.delenv("TVM_NUM_THREADS", raising=False)
    cores = len(runtime.available_cpus())
    assert Session(library).threads == min(2, cores)
    assert Session(library, 1).threads == 1
    assert Session(library, 1000).threads == cores
    monkeypatch.setenv("TVM_NUM_THREADS", "1")
    assert Session(library).threads == 1
    with pytest.raises(UsageError, match="threads must be at least 1, not 0"):
        Session(library, 0)


def test_a_forked_process_is_told_to_load_again(session):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(10)  # without the check, the call never returns
        try:
            session.run({"image": toy.image_input()})
        except UsageError as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    message = os.read(read, 1000).decode()
    os.close(read)
    assert message.startswith("the process was forked after the network was loaded")


def test_a_call_adds_little_to_the_machine(library):
    """Measured against the virtual machine alone, the best of several rounds."""
    session = Session(library, 1)
    image = at_offset(toy.image_input(), 0)
    session.run({"image": image})
    arguments = [runtime.tvm_ffi.from_dlpack(image), *session._constants]
    machine = session._idle[0]

    def fastest(call):
        times = []
        for _ in range(30):
            start = time.perf_counter()
            for _ in range(20):
                call()
            times.append((time.perf_counter() - start) / 20)
        return min(times)

    overhead = fastest(lambda: session.run({"image": image})) - fastest(lambda: machine(*arguments))
    assert overhead < 30e-6


# ---- what does not load ----------------------------------------------------------------------------------------------
def test_code_that_is_no_library(library, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(runtime.tempfile, "tempdir", None)
    with pytest.raises(ArtifactError, match="classifier: the code cannot be loaded: ") as caught:
        Session(replace(library, code=b"\x7fELF nothing"))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_container_whose_report_is_no_report(library, tmp_path):
    odd = SimpleNamespace(to_dict=lambda: {"odd": 1})
    artifact.save([Variant(library, odd)], tmp_path / "n.bf")
    with pytest.raises(ArtifactError, match=r"n.bf is damaged: ") as caught:
        load(tmp_path / "n.bf")
    assert "\n" not in str(caught.value)


def test_the_code_file_is_gone_once_loaded(library, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(runtime.tempfile, "tempdir", None)
    Session(library).run({"image": toy.image_input()})
    assert not list(tmp_path.iterdir())


def test_a_runtime_folder_without_the_library(monkeypatch, tmp_path):
    monkeypatch.setenv(RUNTIME_VARIABLE, str(tmp_path))
    with pytest.raises(TargetError) as caught:
        runtime.load_runtime.__wrapped__()
    assert str(caught.value) == (
        f"libtvm_runtime.so is not in {tmp_path}; install apache-tvm or set BLOCKFUSE_RUNTIME_DIR"
    )


def test_a_runtime_library_that_is_damaged(monkeypatch, tmp_path):
    monkeypatch.setenv(RUNTIME_VARIABLE, str(tmp_path))
    (tmp_path / "libtvm_runtime.so").write_bytes(b"nothing")
    with pytest.raises(TargetError, match=r"cannot load the TVM runtime .*libtvm_runtime.so: "):
        runtime.load_runtime.__wrapped__()


def test_the_runtime_folder_of_the_environment_is_used(monkeypatch, tmp_path):
    found = runtime.load_runtime()
    (tmp_path / "libtvm_runtime.so").symlink_to(found)
    monkeypatch.setenv(RUNTIME_VARIABLE, str(tmp_path))
    assert runtime.load_runtime.__wrapped__() == Path(tmp_path).resolve() / "libtvm_runtime.so"


def test_without_tvm_only_the_packages_own_folder_is_searched(monkeypatch):
    monkeypatch.delenv(RUNTIME_VARIABLE, raising=False)
    monkeypatch.setattr(runtime.importlib.util, "find_spec", lambda _: None)
    assert [folder.name for folder in runtime._runtime_folders()] == ["lib"]


def test_features_are_checked_before_code_is_loaded(library, monkeypatch):
    monkeypatch.setattr(runtime, "_load_code", lambda _: pytest.fail("the code was loaded"))
    with pytest.raises(TargetError, match="classifier was compiled for cpu:avx512, which needs an s390x processor"):
        Session(replace(library, target=replace(parse_target("cpu:avx512"), machine="s390x")))


def test_idle_threads_sleep_soon_unless_the_caller_says_otherwise(library, monkeypatch):
    """TVM's default keeps a process on a busy machine from ending for minutes."""
    for given, expected in ((None, "200"), ("7", "7")):
        monkeypatch.delenv("TVM_THREAD_POOL_SPIN_COUNT", raising=False)
        if given:
            monkeypatch.setenv("TVM_THREAD_POOL_SPIN_COUNT", given)
        thread = threading.Thread(target=lambda: Session(library).run({"image": toy.image_input()}))
        thread.start()
        thread.join()
        assert os.environ["TVM_THREAD_POOL_SPIN_COUNT"] == expected
