"""The C++ example: it builds against the headers of tvm_ffi and gives what Python gives."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import blockfuse
from blockfuse.frontend.zoo import resnet18
from blockfuse.tools.pack import pack
from tests.open_batch import open_batch

EXAMPLE = Path(__file__).parents[2] / "examples" / "cpp"

pytestmark = pytest.mark.skipif(
    not (shutil.which("g++") and shutil.which("make")), reason="building the example needs g++ and make"
)


@pytest.fixture(scope="module")
def container(tmp_path_factory):
    path = tmp_path_factory.mktemp("container") / "net.bf"
    blockfuse.compile(resnet18(size=32, width=0.25, classes=10), threads=1).save(path)
    return path


@pytest.fixture(scope="module")
def packed(container, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed") / "net"
    pack(container, folder)
    return folder


@pytest.fixture(scope="module")
def program(packed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cpp")
    for name in ("main.cpp", "Makefile"):
        shutil.copy(EXAMPLE / name, folder)
    command = ["make", f"PYTHON={sys.executable}", f"PACKED={packed}", "CXXFLAGS=-O0 -Wall -Wextra -Werror", "CXX=g++"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "run_packed"


def run(program, *words):
    """Code, output and messages, in a process without Python."""
    environment = {"PATH": os.environ["PATH"], "TVM_NUM_THREADS": "2"}
    command = [str(program), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    return done.returncode, done.stdout, done.stderr


def test_the_stored_input_gives_the_stored_output(program, packed):
    code, out, err = run(program, packed, packed / "reference/input_0.npy", packed / "reference/output_0.npy")
    assert (code, err) == (0, "")
    assert "largest difference " in out


def test_the_five_largest_of_another_input(program, packed, container, tmp_path):
    x = np.random.default_rng(7).standard_normal((1, 3, 32, 32), np.float32)
    np.save(tmp_path / "x.npy", x)
    y = blockfuse.load(container)(x)[0]
    code, out, _ = run(program, packed, tmp_path / "x.npy")
    assert code == 0
    indices = [int(line.partition("[")[2].partition("]")[0]) for line in out.splitlines()]
    assert indices == list(np.argsort(-y)[:5])
    np.testing.assert_allclose([float(line.split("= ")[1]) for line in out.splitlines()], y[indices], rtol=1e-5)


def test_another_result_is_noticed(program, packed, tmp_path):
    np.save(tmp_path / "y.npy", np.load(packed / "reference/output_0.npy") + np.float32(1))
    code, _, err = run(program, packed, packed / "reference/input_0.npy", tmp_path / "y.npy")
    assert (code, err) == (1, "run_packed: error: the result is not the expected one\n")


@pytest.fixture(scope="module")
def any_batch(tmp_path_factory):
    """An executable that takes any batch, and its packed folder."""
    folder = tmp_path_factory.mktemp("any_batch")
    executable = blockfuse.compile(open_batch(resnet18(size=32, width=0.25, classes=10)), threads=1)
    executable.save(folder / "net.bf")
    pack(folder / "net.bf", folder / "net")
    return executable, folder / "net"


@pytest.mark.parametrize("batch", [1, 3])
def test_any_batch(program, any_batch, tmp_path, batch):
    executable, folder = any_batch
    x = np.random.default_rng(batch).standard_normal((batch, 3, 32, 32), np.float32)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", executable(x))
    code, out, err = run(program, folder, tmp_path / "x.npy", tmp_path / "y.npy")
    assert (code, err) == (0, "")
    assert "largest difference " in out


@pytest.mark.parametrize(("values", "message"), [(0, "holds not 1 to "), (4000, "has another shape than the network")])
def test_no_whole_number_of_images(program, any_batch, tmp_path, values, message):
    np.save(tmp_path / "x.npy", np.zeros(values, np.float32))
    code, out, err = run(program, any_batch[1], tmp_path / "x.npy")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert message in err


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((1, 3, 8, 8), np.float32), "has another shape than the network"),
        (np.zeros((1, 3, 32, 32)), "is no C-ordered float32 array"),
        (None, "cannot be read"),
    ],
)
def test_wrong_inputs_give_one_line(program, packed, tmp_path, array, message):
    if array is not None:
        np.save(tmp_path / "x.npy", array)
    code, out, err = run(program, packed, tmp_path / "x.npy")
    assert (code, out) == (1, "")
    assert message in err
    assert err.count("\n") == 1


def test_folders_without_weights_or_without_a_network(program, packed, container, tmp_path):
    pack(container, tmp_path / "seeded", seeded_weights=True)
    code, _, err = run(program, tmp_path / "seeded", packed / "reference/input_0.npy")
    assert code == 1
    assert "weights.bin cannot be read" in err
    code, _, err = run(program, tmp_path / "nothing", packed / "reference/input_0.npy")
    assert (code, err.count("\n")) == (1, 1)
    assert "tensors.txt cannot be opened; DIR is a folder that blockfuse pack made" in err
