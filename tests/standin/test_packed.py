"""Packed networks for GPUs: a bare Python and a C++ program run them on the stand-in device."""

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import onnx
import pytest

from blockfuse.tools import runtime_files
from blockfuse.tools.pack import pack
from tests.onnx_models import floats, model, node

ROOT = Path(__file__).parents[2]
MOST_WITHOUT_WEIGHTS = 20 * 10**6

RUN = """
import runpy, sys
folder, root, arch, arguments = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:]
sys.path.insert(0, folder + "/python")  # before the checkout, whose tests have the device
sys.path.append(root)
from tests.standin.libraries import StandIn
device = StandIn(arch)
sys.path.remove(root)
sys.argv = [folder + "/run.py", *arguments]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as stop:
    code = stop.code
import blockfuse
from importlib.util import find_spec
assert blockfuse.__file__.startswith(folder), blockfuse.__file__
assert find_spec("tvm") is None and find_spec("onnx") is None
assert not any(launch.findings for launch in device.launches)
sys.stderr.write(f"{len(device.launches)} launches\\n")
sys.exit(code)
"""


@pytest.fixture(scope="module")
def network(compile_to, tmp_path_factory):
    """A container with a vector as output, and the model it was made from."""
    weights = {"w": floats(8, 4, 3, 3, seed=1) / 6, "v": floats(4, 8, 1, 1, seed=2) / 3, "f": floats(7, 4, seed=3) / 2}
    nodes = [
        node("Conv", "x w", "a", pads=[1, 1, 1, 1]),
        node("Relu", "a", "b"),
        node("Conv", "b v", "c"),
        node("Add", "c x", "d"),
        node("GlobalAveragePool", "d", "p"),
        node("Flatten", "p", "q"),
        node("Gemm", "q f", "y", transB=1),
    ]
    proto = model(nodes, (1, 4, 9, 8), weights)
    path = tmp_path_factory.mktemp("model") / "net.onnx"
    onnx.save(proto, path)
    return compile_to(proto, "sm_80,sm_90", cuda_graph=True)[1], path


@pytest.fixture(scope="module", autouse=True)
def runtime_library(tmp_path_factory):
    """Where there is no toolkit, an empty file is packed in place of CUDA's runtime library; it is not loaded."""
    with pytest.MonkeyPatch.context() as patch:
        try:
            runtime_files._cuda_runtime("libcudart.so.13")
        except runtime_files.TargetError:
            empty = tmp_path_factory.mktemp("lib") / "libcudart.so.13"
            empty.write_bytes(b"\0")
            patch.setattr(runtime_files, "_cuda_runtime", lambda _name: empty)
        yield


@pytest.fixture(scope="module")
def packed(network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed") / "net"
    pack(network[0], folder, model=network[1])
    return folder


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A Python of a virtual environment that has numpy and nothing else."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    numpy = Path(np.__file__).parent
    for part in (numpy, numpy.with_name("numpy.libs")):
        if part.is_dir():
            (site / part.name).symlink_to(part)
    return folder / "bin" / "python"


def run_py(python, folder, *words, arch="sm_90"):
    command = [str(python), "-c", RUN, str(folder), str(ROOT), arch, *words]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_a_bare_python_runs_verifies_and_times_it(packed, bare):
    done = run_py(bare, packed, "--bench", "--seconds", "0", "--verify", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["verify"]["y"]["passed"]
    assert result["bench"]["runs"] >= 5
    assert result["target"] == "sm_90"
    references = json.loads((packed / "pack.json").read_text())["reference"]["variants"]
    assert all("by ONNX Runtime" in references[name]["note"] for name in ("sm_80", "sm_90"))
    files = [path for path in packed.rglob("*") if path.is_file() and path.name != "weights.bin"]
    assert sum(path.stat().st_size for path in files) < MOST_WITHOUT_WEIGHTS


def test_a_gpu_without_code_is_named_beside_it(packed, bare):
    done = run_py(bare, packed, arch="sm_75")
    assert done.returncode == 5
    line = done.stderr.splitlines()[0]
    assert line == "run.py: error: small was compiled for sm_80, sm_90, and this GPU is stand-in device (sm_75)"


def test_weights_from_a_seed_are_verified_where_a_gpu_packed_them(network, bare, tmp_path):
    command = [sys.executable, "-m", "tests.gpu.on_standin", "blockfuse/__main__.py", "pack", str(network[0])]
    command += [str(tmp_path / "net"), "--seeded-weights"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "net" / "network" / "weights.bin").exists()
    done = run_py(bare, tmp_path / "net", "--verify", "--json", arch="sm_80")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["verify"]["y"]["passed"]


# ---- C++ -------------------------------------------------------------------------------------------------------------
CALL = """
import ctypes, os, sys
from tests.standin.libraries import StandIn
device = StandIn("sm_90")
program = ctypes.CDLL(sys.argv[1])
words = [word.encode() for word in ["run_packed", *sys.argv[2:]]]
code = program.run_packed(len(words), (ctypes.c_char_p * len(words))(*words))
assert not any(launch.findings for launch in device.launches)
assert len(device.launches) > 2 or code
os._exit(code)  # whatever the program holds is the device's
"""

# The device's launches come back to Python, so the program runs as a library of a Python that does nothing else.
AS_LIBRARY = """
#define main run_packed_main
#include "main.cpp"
#undef main
extern "C" int run_packed(int count, char** words) {
  int code = run_packed_main(count, words);
  std::cout.flush();
  return code;
}
"""


@pytest.fixture(scope="module")
def program(packed, tmp_path_factory):
    """The example, compiled as a library."""
    import tvm_ffi  # noqa: PLC0415 - for its headers

    folder = tmp_path_factory.mktemp("cpp")
    (folder / "library.cpp").write_text(AS_LIBRARY)
    libraries = packed / "python" / "tvm_ffi" / "lib"
    command = [shutil.which("g++"), "-std=c++17", "-O0", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    command += ["-isystem", Path(tvm_ffi.__file__).parent / "include", "-I", ROOT / "examples" / "cpp"]
    command += ["-o", folder / "run_packed.so", folder / "library.cpp", f"-L{libraries}", "-ltvm_ffi", "-ldl"]
    subprocess.run([*command, f"-Wl,-rpath,{libraries}"], check=True)
    return folder / "run_packed.so"


def run_cpp(program, *words):
    command = [sys.executable, "-c", CALL, str(program), *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_example_in_cpp_gives_the_reference(program, packed, tmp_path):
    stored = packed / "reference"
    done = run_cpp(program, packed, stored / "input_0.npy", stored / "output_0.npy")
    assert (done.returncode, done.stderr) == (0, "")
    assert "largest difference " in done.stdout
    np.save(tmp_path / "y.npy", np.load(stored / "output_0.npy") + np.float32(1))
    done = run_cpp(program, packed, stored / "input_0.npy", tmp_path / "y.npy")
    assert (done.returncode, done.stderr) == (1, "run_packed: error: the result is not the expected one\n")
