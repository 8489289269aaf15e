"""From kernels to a running network, in this process and in one without a compiler."""

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from blockfuse.build.build import build
from blockfuse.build.code import pack
from blockfuse.build.network import Call, Network
from blockfuse.errors import InternalError, TargetError, UnsupportedModelError
from blockfuse.graph import Op, Tensor
from blockfuse.report import Report
from blockfuse.runtime.executable import Executable, load
from blockfuse.runtime.library import ALIGNMENT, Layout, Port
from blockfuse.runtime.session import Session
from blockfuse.runtime.variants import Variant
from blockfuse.target import parse_target
from tests import toy_networks as toy

CPU = parse_target("cpu", threads=2)


@pytest.fixture(scope="module")
def classifier():
    network, functions, reference = toy.classifier()
    return build(network, functions, CPU), reference


@pytest.fixture(scope="module")
def saved(classifier, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "classifier.bf"
    Executable([Variant(classifier[0], Report("classifier", "cpu"))]).save(path)
    return path


def test_kernels_and_single_ops_give_the_right_result(classifier):
    library, reference = classifier
    image = toy.image_input()
    outputs = Session(library).run({"image": image})
    expected = reference(image)
    assert list(outputs) == ["probability", "features"]
    for name, value in expected.items():
        assert outputs[name].shape == value.shape
        toy.close(outputs[name], value)


def test_calls_share_a_function_and_weights_lie_in_execution_order(classifier):
    library, _ = classifier
    assert library.code.count(b"scale\0") >= 1
    assert b"scale_1\0" not in library.code
    offsets = [constant.offset for constant in library.constants]
    assert offsets == [ALIGNMENT * i for i in range(6)]
    for seed in range(3):
        for part, constant in zip(toy.weights(seed), library.constants[2 * seed :], strict=False):
            stored = library.weights[constant.offset : constant.offset + constant.nbytes].view(np.float32)
            np.testing.assert_array_equal(stored, part)


def test_inputs_that_kernels_read_need_no_alignment(classifier):
    assert [port.alignment for port in classifier[0].inputs] == [4]


def test_small_images_change_layout_for_free(classifier):
    assert classifier[0].layout_changes == 0
    assert b"transpose" not in classifier[0].code


def test_a_saved_network_runs_where_no_compiler_is_loaded(saved, classifier, tmp_path):
    image = toy.image_input(1)
    np.save(tmp_path / "x.npy", image)
    script = f"""
import sys
import numpy as np
from blockfuse.runtime.executable import load
executable = load({saved.name!r})
np.savez({str(tmp_path / "y.npz")!r}, **executable(np.load({str(tmp_path / "x.npy")!r})))
loaded = {{name.partition(".")[0] for name in sys.modules}}
assert not loaded & {{"tvm", "onnx", "networkx"}}, loaded
"""
    environment = {"PYTHONPATH": str(Path.cwd()), "PATH": ""}
    subprocess.run([sys.executable, "-c", script], check=True, cwd=saved.parent, env=environment, timeout=60)
    with np.load(tmp_path / "y.npz") as outputs:
        for name, value in classifier[1](image).items():
            toy.close(outputs[name], value)


def test_many_threads_may_run_at_once(saved, classifier):
    executable = load(saved)
    failures = []

    def work(seed):
        for step in range(20):
            image = toy.image_input(100 * seed + step)
            outputs = executable.run({"image": image})
            try:
                toy.close(outputs["probability"], classifier[1](image)["probability"])
            except AssertionError:
                failures.append((seed, step))

    callers = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not failures


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_any_number_of_threads_gives_the_same(classifier, threads):
    library, reference = classifier
    image = toy.image_input(2)
    toy.close(Session(library, threads).run({"image": image})["probability"], reference(image)["probability"])


def test_kernels_of_one_tensor_are_not_taken_for_reshapes():
    shapes = toy.tensors(x=toy.IMAGE, a=toy.IMAGE, y=toy.IMAGE)
    calls = [Call("negate", (x,), (), y, toy.KERNEL_IMAGE) for x, y in ("xa", "ay")]
    network = Network("n", (Port("x", toy.IMAGE),), (Port("y", toy.IMAGE),), tuple(calls), shapes)
    library = build(network, {"negate": toy.negate_kernel()}, CPU)
    image = toy.image_input()
    np.testing.assert_array_equal(Session(library).run({"x": image})["y"], image)
    assert b"transpose" in library.code


# ---- layouts ---------------------------------------------------------------------------------------------------------
def test_an_op_that_needs_onnx_order_gets_it_and_kernels_get_theirs_back():
    parts = [toy.weights(seed) for seed in range(2)]
    network = Network(
        "shuffle",
        (Port("x", toy.IMAGE),),
        (Port("y", toy.IMAGE), Port("shuffled", toy.IMAGE)),
        (
            Call("stem", ("x",), parts[0], "a", toy.KERNEL_IMAGE, nchw_inputs=(0,)),
            Op("Reshape", "split", ("a", "split_shape"), ("groups",)),
            Op("Transpose", "swap", ("groups",), ("swapped",), {"perm": (0, 2, 1, 3, 4)}),
            Op("Reshape", "join", ("swapped", "join_shape"), ("shuffled",)),
            Call("scale", ("shuffled",), parts[1], "y", toy.KERNEL_IMAGE),
        ),
        {
            **toy.tensors(x=toy.IMAGE, a=toy.IMAGE, shuffled=toy.IMAGE, y=toy.IMAGE),
            **toy.tensors(groups=(2, 2, 4, 5, 6), swapped=(2, 4, 2, 5, 6)),
            "split_shape": Tensor("split_shape", (5,), "int64", np.array([2, 2, 4, 5, 6])),
            "join_shape": Tensor("join_shape", (4,), "int64", np.array(toy.IMAGE)),
        },
    )
    library = build(network, {"stem": toy.scale_kernel(reads_nchw=True), "scale": toy.scale_kernel()}, CPU)
    assert library.layout_changes == 3  # before Reshape, before the kernel, and for the caller
    assert [port.layout for port in library.outputs] == [Layout.NHWC, Layout.PLAIN]
    x = toy.image_input(3)
    outputs = Session(library).run({"x": x})
    shuffled = toy.scaled(x, parts[0]).reshape(2, 2, 4, 5, 6).swapaxes(1, 2).reshape(toy.IMAGE)
    toy.close(outputs["shuffled"], shuffled)
    toy.close(outputs["y"], toy.scaled(shuffled, parts[1]))


def test_an_input_read_in_both_orders():
    part = toy.weights(0)
    network = Network(
        "both",
        (Port("x", toy.IMAGE),),
        (Port("y", toy.IMAGE), Port("z", toy.IMAGE)),
        (
            Call("scale", ("x",), part, "y", toy.KERNEL_IMAGE),
            Call("stem", ("x",), part, "z", toy.KERNEL_IMAGE, nchw_inputs=(0,)),
        ),
        toy.tensors(x=toy.IMAGE, y=toy.IMAGE, z=toy.IMAGE),
    )
    library = build(network, {"stem": toy.scale_kernel(reads_nchw=True), "scale": toy.scale_kernel()}, CPU)
    assert library.inputs[0].alignment == ALIGNMENT  # TVM's own code transposes it
    x = toy.image_input(4)
    outputs = Session(library).run({"x": x})
    toy.close(outputs["y"], toy.scaled(x, part))
    toy.close(outputs["z"], toy.scaled(x, part))


# ---- what does not build ---------------------------------------------------------------------------------------------
def test_all_ops_without_code_are_named_before_anything_is_compiled():
    steps = (
        Op("Det", "first", ("x",), ("a",)),
        Op("Relu", "fine", ("a",), ("b",)),
        Op("NonZero", "second", ("b",), ("y",)),
    )
    network = Network(
        "odd", (Port("x", (2, 3)),), (Port("y", (2, 3)),), steps, toy.tensors(x=(2, 3), a=(2, 3), b=(2, 3), y=(2, 3))
    )
    with pytest.raises(UnsupportedModelError) as caught:
        build(network, {}, CPU)
    assert str(caught.value) == (
        "odd has 2 ops that cannot be compiled: Det 'first': there is no code for Det; "
        "NonZero 'second': there is no code for NonZero"
    )


def test_an_op_whose_result_has_another_shape_is_refused():
    network, functions = toy.single_op(Op("Relu", "r", ("x0",), ("y",)), (2, 3), output=(3, 2))
    with pytest.raises(UnsupportedModelError, match=r"Relu 'r': Relu 'r' gives \[2, 3\] for 'y', not \[3, 2\]"):
        build(network, functions, CPU)


def calls(**changes):
    call = {
        "kernel": "scale",
        "inputs": ("x",),
        "constants": toy.weights(0),
        "output": "y",
        "output_shape": toy.KERNEL_IMAGE,
    }
    return Network(
        "n",
        (Port("x", toy.IMAGE),),
        (Port("y", toy.IMAGE),),
        (Call(**{**call, **changes}),),
        toy.tensors(x=toy.IMAGE, y=toy.IMAGE),
    )


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (calls(constants=()), r"kernel 'scale' has 4 parameters, its call gives 1 inputs, 0 constants and outputs y"),
        (calls(constants=toy.weights(0, 7)), r"takes constant weight as float32\[8\], its call gives float32\[7\]"),
        (calls(nchw_inputs=(0,)), r"input 'x' of kernel 'scale' has shape \[2, 8, 5, 6\], not \[2, 5, 6, 8\]"),
        (calls(output_shape=toy.IMAGE), r"writes \[2, 8, 5, 6\] for 'y', not \[2, 5, 6, 8\]"),
        (calls(inputs=("z",)), r"kernel 'scale' reads 'z' before it is made"),
        (calls(output="x"), r"'x' is made twice"),
    ],
)
def test_inconsistent_calls_are_caught(network, message):
    with pytest.raises(InternalError, match=message):
        build(network, {"scale": toy.scale_kernel()}, CPU)


def test_a_network_for_another_machine_builds_and_saves_but_does_not_run(tmp_path):
    other = parse_target("cpu:generic")
    foreign = type(other)(**{**other.__dict__, "machine": "s390x"})
    executable = Executable([Variant(build(calls(), {"scale": toy.scale_kernel()}, foreign), Report("n", "cpu"))])
    executable.save(tmp_path / "n.bf")
    with pytest.raises(TargetError, match="which needs an s390x processor"):
        executable(toy.image_input())


def test_without_a_linker_the_message_says_so(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(TargetError, match=r"linking needs a C\+\+ compiler"):
        build(calls(), {"scale": toy.scale_kernel()}, CPU)


def test_packed_constants_are_aligned_and_gaps_are_zero():
    constants, weights = pack([np.arange(3, dtype=np.float32), np.arange(2, dtype=np.int64).reshape(1, 2)])
    assert [(c.offset, c.shape, c.dtype, c.nbytes) for c in constants] == [
        (0, (3,), "float32", 12),
        (64, (1, 2), "int64", 16),
    ]
    assert weights.nbytes == 80
    assert weights.ctypes.data % ALIGNMENT == 0
    assert not weights[12:64].any()
