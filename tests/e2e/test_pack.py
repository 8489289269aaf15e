"""Packed networks: what a bare Python makes of the folder, and what is refused in one line."""

import ast
import hashlib
import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

import blockfuse
from blockfuse import cli
from blockfuse.errors import ArtifactError, ModelError, TargetError, UsageError
from blockfuse.frontend.zoo import resnet18
from blockfuse.runtime import artifact
from blockfuse.target import parse_target
from blockfuse.tools import pack as packing
from blockfuse.tools import pack_reference
from blockfuse.tools import runtime_files as files
from blockfuse.tools.pack import pack

MEGABYTE = 10**6


@pytest.fixture(scope="module")
def model():
    return resnet18(size=32, width=0.25, classes=10)


@pytest.fixture(scope="module")
def container(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("container") / "net.bf"
    blockfuse.compile(model, threads=1).save(path)
    return path


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


@pytest.fixture(scope="module")
def whole(container, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed") / "net"
    pack(container, folder)
    return folder


@pytest.fixture(scope="module")
def seeded(container, tmp_path_factory):
    folder = tmp_path_factory.mktemp("seeded") / "net"
    pack(container, folder, seeded_weights=True)
    return folder


@pytest.fixture
def copy(whole, tmp_path):
    """A folder to damage."""
    return Path(shutil.copytree(whole, tmp_path / "net"))


def run(python, folder, *words):
    """Code, output and messages of ``run.py``, started elsewhere, without the variables of this environment."""
    command = [str(python), str(folder / "run.py"), *map(str, words)]
    environment = {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", env=environment, timeout=60, check=False)
    return done.returncode, done.stdout, done.stderr


def refusal(python, folder, *words):
    """The code, and the one line on standard error."""
    code, out, err = run(python, folder, *words)
    assert not out
    assert err.startswith("run.py: error: ")
    assert err.count("\n") == 1
    return code, err


# ---- what works ------------------------------------------------------------------------------------------------------
def test_a_bare_python_runs_verifies_and_times(whole, bare):
    probe = [str(bare), "-c", "import tvm_ffi"]
    assert subprocess.run(probe, capture_output=True, cwd="/", check=False).returncode, "tvm_ffi is there anyway"
    code, out, err = run(bare, whole, "--verify", "--bench", "--seconds", "0", "--threads", "1", "--json")
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert result["verify"]["output"]["passed"]
    assert 0 < result["bench"]["min_ms"] <= result["bench"]["median_ms"]
    assert (result["network"], result["threads"]) == ("resnet18", 1)
    assert result["outputs"]["output"]["shape"] == [1, 10]


def test_other_inputs_and_an_output_file(whole, bare, container, tmp_path):
    x = np.random.default_rng(5).standard_normal((1, 3, 32, 32), np.float32)
    np.save(tmp_path / "x.npy", x)
    code, out, _ = run(bare, whole, "--input", f"input={tmp_path / 'x.npy'}", "--output", tmp_path / "y.npz")
    assert code == 0
    assert "output float32[1, 10]: " in out
    with np.load(tmp_path / "y.npz") as written:
        np.testing.assert_array_equal(written["output"], blockfuse.load(container)(x))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.npy", "y.npz"]


def test_the_folder_is_small_and_listed(whole, container):
    sizes = {str(path.relative_to(whole)): path.stat().st_size for path in whole.rglob("*") if path.is_file()}
    assert sum(sizes.values()) - sizes["network/weights.bin"] < 20 * MEGABYTE
    index = json.loads((whole / "pack.json").read_text())
    assert {name: size for name, (size, _) in index["files"].items()} | {"pack.json": sizes["pack.json"]} == sizes
    assert {path.name for path in (whole / "licences").iterdir()} >= {"apache-tvm"}
    assert str(container.parent) not in (whole / "pack.json").read_text()


def test_only_modules_that_running_needs_are_packed(whole):
    modules = files.runtime_modules()
    assert {"blockfuse.runtime.session", "blockfuse.verification.compare", "blockfuse"} <= modules.keys()
    assert not {
        name for name in modules if name.startswith(("blockfuse.frontend", "blockfuse.build", "blockfuse.plan"))
    }
    imported = {name.partition(".")[0] for path in modules.values() for name in files._imports(_tree(path))}
    only_for_bfloat16 = {"ml_dtypes"}
    assert imported - set(sys.stdlib_module_names) - only_for_bfloat16 == {"blockfuse", "numpy", "tvm_ffi"}
    assert len(list((whole / "python" / "blockfuse").rglob("*.py"))) == len(modules)


def _tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def test_blockfuse_loads_the_containers_folder(whole, container):
    x = np.random.default_rng(6).standard_normal((1, 3, 32, 32), np.float32)
    np.testing.assert_array_equal(blockfuse.load(whole / "network")(x), blockfuse.load(container)(x))


def test_seeded_weights_are_made_there(seeded, whole, bare, container, tmp_path):
    assert not (seeded / "network" / "weights.bin").exists()
    assert sum(path.stat().st_size for path in seeded.rglob("*") if path.is_file()) < 20 * MEGABYTE
    code, out, err = run(bare, seeded, "--verify")
    assert (code, err) == (0, "")
    assert "output: verified" in out
    stored = [np.load(folder / "reference" / "output_0.npy") for folder in (seeded, whole)]
    assert np.isfinite(stored[0]).all()
    assert not np.array_equal(*stored)
    pack(container, tmp_path / "again", seeded_weights=True)
    names = ("network/manifest.json", "network/seeded.json")
    assert all((tmp_path / "again" / name).read_bytes() == (seeded / name).read_bytes() for name in names)


def test_the_command(container, tmp_path, capsys):
    assert cli.main(["pack", str(container), str(tmp_path / "net"), "--seeded-weights", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["weight_bytes"], result["has_reference"], result["note"]) == (0, True, "")
    assert result["bytes"] == sum(path.stat().st_size for path in (tmp_path / "net").rglob("*") if path.is_file())
    assert len(result["pythons"]) == 1
    (tmp_path / "empty").mkdir()
    assert cli.main(["pack", str(container), str(tmp_path / "empty")]) == 0
    assert "with reference outputs" in capsys.readouterr().out


def test_wheels_add_pythons(container, tmp_path):
    release = metadata.version("apache-tvm-ffi")
    wheel = tmp_path / f"apache_tvm_ffi-{release}-cp399-cp399-manylinux_2_28_x86_64.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tvm_ffi/core.cpython-399-x86_64-linux-gnu.so", b"code")
    packed = pack(container, tmp_path / "net", wheels=[wheel])
    assert "core.cpython-399-x86_64-linux-gnu.so" in packed.pythons
    assert len(packed.pythons) == 2
    for name in (f"apache_tvm_ffi-0.0.1-{wheel.name.split('-', 2)[2]}", "numpy.whl"):
        with pytest.raises(UsageError, match="is no wheel of apache-tvm-ffi"):
            pack(container, tmp_path / "other", wheels=[tmp_path / name])


def test_what_cannot_run_here_is_packed_without_a_reference(container, tmp_path, monkeypatch):
    (variant,) = artifact.load(container)
    library = replace(variant.library, target=parse_target("sm_90"))
    artifact.save([replace(variant, library=library)], tmp_path / "gpu.bf")
    (tmp_path / "lib64").mkdir()
    for number in range(11, 15):
        (tmp_path / "lib64" / f"libcudart.so.{number}").write_bytes(b"code")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setattr(pack_reference.Executable, "run", _no_gpu)
    packed = pack(tmp_path / "gpu.bf", tmp_path / "net")
    assert "without reference outputs: there is no GPU" in str(packed)
    names = {path.name.split(".")[0] for path in (tmp_path / "net" / "python/blockfuse/runtime/lib").iterdir()}
    assert names == {"libtvm_runtime", "libtvm_runtime_cuda", "libcudart"}
    assert json.loads((tmp_path / "net" / "pack.json").read_text())["reference"]["variants"]["sm_90"]["outputs"] == {}
    monkeypatch.delenv("CUDA_HOME")
    monkeypatch.setattr(files, "_TOOLKIT", str(tmp_path / "nowhere"))
    monkeypatch.setattr(files, "_module_folder", lambda _: tmp_path)
    with pytest.raises(TargetError, match=r"libcudart\.so\.\d+ is not found"):
        files._libraries(cuda=True)


def test_the_model_gives_a_reference_where_the_container_cannot_run(container, model, bare, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(pack_reference.Executable, "run", _no_gpu)
        packed = pack(container, tmp_path / "net", model=model)
        with pytest.raises(ModelError, match="is not one of the model"):
            pack(container, tmp_path / "other", model=resnet18(size=32, width=0.25, classes=11))
    assert packed.has_reference
    assert packed.note == "by ONNX Runtime, as there is no GPU"
    code, out, err = run(bare, tmp_path / "net", "--verify")
    assert (code, err) == (0, "")
    assert "verified, max error 0.0e+00" not in out  # it is another program's
    with pytest.raises(UsageError, match="random weights"):
        pack(container, tmp_path / "other", seeded_weights=True, model=model)


def _no_gpu(_self, _inputs):
    raise TargetError("there is no GPU")


# ---- damage ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "name",
    ["python/blockfuse/runtime/lib/libtvm_runtime.so", "python/tvm_ffi/registry.py", "network/weights.bin"],
)
def test_a_missing_or_shorter_file_is_named_before_anything_is_loaded(copy, bare, name):
    data = (copy / name).read_bytes()
    (copy / name).write_bytes(data[:-1])
    code, message = refusal(bare, copy)
    assert code == 1
    assert f"{copy / name} is damaged: it has {len(data) - 1} bytes, not {len(data)}; copy the folder again" in message
    (copy / name).unlink()
    assert refusal(bare, copy) == (1, f"run.py: error: {copy / name} is missing: copy the folder again\n")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("network/library.so", []),
        ("network/weights.bin", []),
        ("python/tvm_ffi/lib/libtvm_ffi_testing.so", ["--verify"]),
    ],
)
def test_a_changed_file_is_named(copy, bare, name, words):
    data = bytearray((copy / name).read_bytes())
    data[-1] ^= 1
    (copy / name).write_bytes(data)
    code, message = refusal(bare, copy, *words)
    assert code == 1
    assert "is damaged: " in message
    assert Path(name).name in message


def test_a_changed_recipe_is_refused(seeded, bare, tmp_path):
    folder = Path(shutil.copytree(seeded, tmp_path / "net"))
    text = (folder / "network" / "seeded.json").read_text()
    (folder / "network" / "seeded.json").write_text(text.replace('"seed": 0', '"seed": 1'))
    code, message = refusal(bare, folder)
    assert code == 1
    assert "weights.bin has SHA-256" in message
    (folder / "network" / "seeded.json").write_text("[" + " " * (len(text) - 2) + "]")
    assert "seeded.json makes no weights" in refusal(bare, folder)[1]


def test_another_result_is_not_verified(copy, bare):
    _replace(copy, "reference/output_0.npy", lambda array: array + 1)
    code, message = refusal(bare, copy, "--verify")
    assert code == 3
    assert "output 'output' is wrong: max error" in message


def _replace(folder, name, change):
    """Change an array, and what the index says of its file."""
    np.save(folder / name, change(np.load(folder / name)))
    index = json.loads((folder / "pack.json").read_text())
    index["files"][name] = [(folder / name).stat().st_size, hashlib.sha256((folder / name).read_bytes()).hexdigest()]
    (folder / "pack.json").write_text(json.dumps(index))


def test_another_python_is_told_which_it_needs(copy, bare):
    (core,) = (copy / "python" / "tvm_ffi").glob("core.*.so")
    core.rename(core.with_name("core.cpython-39-x86_64-linux-gnu.so"))
    index = (copy / "pack.json").read_text()
    (copy / "pack.json").write_text(index.replace(core.name, "core.cpython-39-x86_64-linux-gnu.so"))
    code, message = refusal(bare, copy)
    assert code == 1
    assert f"this Python {sys.version_info[0]}.{sys.version_info[1]} finds no tvm_ffi/core for itself" in message
    assert "core.cpython-39-x86_64-linux-gnu.so" in message


def test_a_python_without_numpy(whole):
    done = subprocess.run([sys.executable, "-IS", whole / "run.py"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "run.py: error: numpy is not installed: pip install numpy\n")


@pytest.mark.parametrize(
    "text", [None, "", "[]", '{"files": {"run.py": 1}}', '{"files": []}', '{"files": {"a": ["x", 1]}}']
)
def test_a_wrong_index(copy, bare, text):
    (copy / "pack.json").unlink()
    if text is not None:
        (copy / "pack.json").write_text(text)
    assert "is no complete packed network" in refusal(bare, copy)[1]


def test_libraries_that_cannot_be_loaded_here(copy, bare):
    path = copy / "python" / "tvm_ffi" / "lib" / "libtvm_ffi.so"
    path.write_bytes(bytes(path.stat().st_size))
    code, message = refusal(bare, copy)
    assert code == 1
    assert "the libraries in the folder cannot be loaded here: " in message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--input", "y=x.npy"], "--input y: the network has no such input; it has input"),
        (["--input", "input"], "--input input is not like input=image.npy"),
        (["--input", "input=/nowhere.npy"], "cannot read /nowhere.npy: No such file"),
        (["--verify", "--input", "input=x.npy"], "--verify compares what the stored inputs give"),
        (["--threads", "0"], "threads must be at least 1"),
        (["--threads", "x"], "invalid int value: 'x'"),
        (["--bench", "--seconds", "-1"], "--seconds must be from 0"),
        (["--output", "/nowhere/y.npz"], "cannot write /nowhere/y.npz"),
    ],
)
def test_wrong_words_give_one_line(whole, bare, words, message):
    code, found = refusal(bare, whole, *words)
    assert code == 2
    assert message in found


# ---- what is not written ---------------------------------------------------------------------------------------------
def test_what_is_there_stays(container, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    (tmp_path / "file").touch()
    for name, message in (("full", "not empty"), ("file", "a file of that name"), ("a/b", "there is no folder")):
        with pytest.raises(UsageError, match=message):
            pack(container, tmp_path / name)
    with pytest.raises(ArtifactError, match="cannot read"):
        pack(tmp_path / "none.bf", tmp_path / "net")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "full", "mine"]


def test_a_failure_leaves_nothing(container, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packing, "_write_index", full)
    with pytest.raises(ArtifactError, match="No space left on device"):
        pack(container, tmp_path / "net")
    assert not list(tmp_path.iterdir())


def test_a_large_input_is_made_from_its_seed(container, bare, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "_STORED_INPUT", 1000)
    pack(container, tmp_path / "net")
    assert not list((tmp_path / "net" / "reference").glob("input_*"))
    code, _, err = run(bare, tmp_path / "net", "--verify")
    assert (code, err) == (0, "")
