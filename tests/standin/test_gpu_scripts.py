"""What runs on a real GPU without the compiler, on the stand-in device: single kernels, networks, the benchmark."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import gpu_export
from benchmarks.cuda_driver import Cuda, CudaError
from tests.cuda_kernels import build
from tests.gpu import export_cases, export_networks
from tests.residual_blocks import mbconv
from tests.standin import TOOLKIT
from tests.torch_python import needs_torch, run

ROOT = Path(__file__).parents[2]
TINY = ["--networks", "resnet18", "--size", "32", "--width", "0.125"]


@pytest.fixture(scope="module", autouse=True)
def toolkit():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_HOME", str(TOOLKIT))
        patch.setenv("BLOCKFUSE_CACHE_DIR", "")
        yield


def on_device(script: str, *words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.gpu.on_standin", script, *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=500)


# ---- single kernels --------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cases")
    block = mbconv(7, 6, 16, 64)
    built = {"right": build(block, (4, 4), 4), "wrong": build(block, (4, 4), 4)}
    built["half_written"] = build(mbconv(9, 6, 16, 64), (4, 4), 4)
    found = export_cases.export(list(built.items()), folder, ["sm_90"])
    with np.load(folder / "wrong.npz") as data:
        arrays = dict(data)
    arrays["packed_weights"][:8] += 1
    np.savez(folder / "wrong.npz", **arrays)
    found[2]["grid"] -= 1
    (folder / "cases.json").write_text(json.dumps(found))
    return folder


def test_kernels_are_launched_and_checked(cases, tmp_path):
    done = on_device("tests/gpu/run_cases.py", cases, "--json", tmp_path / "result.json")
    assert done.returncode == 1, done.stdout + done.stderr
    rows = {row["name"]: row for row in json.loads((tmp_path / "result.json").read_text())["cases"]}
    assert rows["right"]["right"]
    assert rows["right"]["same"]
    assert not rows["wrong"]["right"]
    assert rows["wrong"]["error"] > 1
    assert "are NaN" in rows["half_written"]["note"]
    assert rows["half_written"]["error"] is None
    assert "1 of 3 cases right" in done.stdout


def test_a_kernel_that_does_not_load_is_one_wrong_case(cases, tmp_path):
    for path in cases.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "wrong.fatbin").write_bytes(b"\0" * 64)
    done = on_device("tests/gpu/run_cases.py", tmp_path, "--repeat", 1)
    assert "WRONG  wrong: no result; cuModuleLoadData gives error" in done.stdout
    assert "right  right" in done.stdout


def test_without_a_gpu_the_scripts_say_so(cases):
    done = subprocess.run(
        [sys.executable, "tests/gpu/run_cases.py", cases], cwd=ROOT, capture_output=True, text=True, check=False
    )
    try:
        Cuda()
    except CudaError:
        assert done.returncode == 5
        assert "no GPU" in done.stderr


def test_the_cases_are_what_the_emulators_tests_run(tmp_path):
    command = [sys.executable, "-m", "tests.gpu.export_cases", tmp_path, "--only", "test_bfloat16", "--limit", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "2 cases" in done.stdout
    listed = json.loads((tmp_path / "cases.json").read_text())
    assert [one["dtype"] for one in listed] == ["bfloat16", "bfloat16"]
    done = on_device("tests/gpu/run_cases.py", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "right  bfloat16_0" in done.stdout
    assert "2 of 2 cases right" in done.stdout


# ---- networks --------------------------------------------------------------------------------------------------------
def test_networks_are_run_and_checked(tmp_path):
    export_networks.main([str(tmp_path), *TINY, "--batch", "1", "--fuse", "always"])
    done = on_device("tests/gpu/run_networks.py", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 of 2 networks right" in done.stdout
    with np.load(tmp_path / "resnet18.npz") as data:
        arrays = dict(data)
    np.savez(tmp_path / "resnet18.npz", **{**arrays, "output output": 2 * arrays["output output"]})
    done = on_device("tests/gpu/run_networks.py", tmp_path, "--only", "graph")
    assert done.returncode == 1
    assert "WRONG  resnet18_always_graph" in done.stdout


# ---- the benchmark ---------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    gpu_export.main([str(folder), *TINY, "--batches", "1"])
    return folder


def test_the_benchmark_measures_networks_and_blocks(exported, tmp_path):
    output = tmp_path / "gpu_standin.json"
    done = on_device("benchmarks/gpu.py", exported, "--output", output, "--sides", "fused", "unfused", "--seconds", 0)
    assert done.returncode == 0, done.stdout + done.stderr
    records = records_in(output)
    assert sum(key[0] == "block" for key in records) >= 2
    assert all(record["times"].keys() == {"fused", "unfused"} for record in records.values())
    network = records["network", "resnet18", 1]
    assert network["measured"]["device"] == "stand-in device"
    assert network["efficiency"]["fused"]["of_chip"] < network["efficiency"]["fused"]["of_engine"]
    predicted = network["waterline"]["predicted"]
    assert predicted["fused"]["kernels"] < predicted["unfused"]["kernels"]


@needs_torch
def test_kernels_and_pytorch_agree_on_the_same_weights(exported, tmp_path):
    output = tmp_path / "gpu_standin.json"
    words = ["--output", output, "--torch-device", "cpu", "--sides", "fused", "unfused", "torch eager", "--seconds", 0]
    run("-m", "tests.gpu.on_standin", "benchmarks/gpu.py", exported, *words)
    for record in records_in(output).values():
        assert record["errors"].keys() == {"fused", "unfused", "torch eager"}
        assert max(record["errors"].values()) <= 1
        assert not record["failed"]


def records_in(output: Path) -> dict[tuple[object, ...], dict]:
    return {tuple(record["key"]): record for record in json.loads(output.read_text())["records"]}
