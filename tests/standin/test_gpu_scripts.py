"""What runs on a real GPU without the compiler, on the stand-in device: single kernels, networks, the benchmark."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import gpu_export
from benchmarks.cuda_driver import Cuda, CudaError
from blockfuse.errors import InternalError
from blockfuse.gpu import Gpu
from blockfuse.machine import Engine
from blockfuse.schedules.cuda.walk import _LOWERING
from tests.cuda_kernels import build
from tests.emulated.nvcc import find_nvcc
from tests.gpu import export_cases, export_networks
from tests.gpu.cases import CHOSEN, collected
from tests.residual_blocks import hidden_image, mbconv
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
    built["pooled"] = build(replace(hidden_image(7, 6, 16, 32, 2), pooled="mean"), (4, 4), 4)
    built["wrong_parts"] = build(replace(hidden_image(9, 6, 16, 32), pooled="mean"), (4, 4), 4)
    found = export_cases.export(list(built.items()), folder, ["sm_90"])
    with np.load(folder / "wrong.npz") as data:
        arrays = dict(data)
    arrays["packed_weights"][:8] += 1
    np.savez(folder / "wrong.npz", **arrays)
    with np.load(folder / "wrong_parts.npz") as data:
        arrays = dict(data)
    arrays["expected_parts"][0, 1, 0, 3] += 2 * arrays["allowed_parts"].max()
    np.savez(folder / "wrong_parts.npz", **arrays)
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
    assert rows["pooled"]["right"]
    assert 1 < rows["wrong_parts"]["error"] < 4
    assert "2 of 5 cases right" in done.stdout


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
    command = [
        sys.executable,
        "-m",
        "tests.gpu.export_cases",
        tmp_path,
        "--only",
        "test_bfloat16 and kernels",
        "--limit",
        "2",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "2 cases" in done.stdout
    listed = json.loads((tmp_path / "cases.json").read_text())
    assert [one["dtype"] for one in listed] == ["bfloat16", "bfloat16"]
    done = on_device("tests/gpu/run_cases.py", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "right  kernels_bfloat16_0" in done.stdout
    assert "2 of 2 cases right" in done.stdout


def exported_cases(folder: Path, *words: str) -> tuple[dict[str, dict], str]:
    command = [sys.executable, "-m", "tests.gpu.export_cases", folder, *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {one["name"]: one for one in json.loads((folder / "cases.json").read_text())}, done.stdout


def test_any_batch_and_channels_of_wider_images(tmp_path):
    names = ["random_random_block_for_any_batch_700__2"]
    names += [f"random_random_block_among_the_channels_of_wider_images_{case}" for case in ("602_8", "604_2")]
    listed, _ = exported_cases(tmp_path, "--cases", *names)
    assert listed[names[0]]["scalars"] == {"batch": 3}
    first, count = listed[names[1]]["channels"]
    with np.load(tmp_path / f"{names[1]}.npz") as data:
        arrays = dict(data)
    assert first > 0
    assert arrays["result"].shape[-1] > count
    done = on_device("tests/gpu/run_cases.py", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 of 3 cases right" in done.stdout
    arrays["result"][..., 0] = 0  # as if a kernel had written there
    np.savez(tmp_path / f"{names[1]}.npz", **arrays)
    done = on_device("tests/gpu/run_cases.py", tmp_path, "--only", "602_8", "--repeat", 1)
    assert done.returncode == 1
    assert f"{arrays['result'][..., 0].size} elements beside the result were written" in done.stdout


# ---- engines ---------------------------------------------------------------------------------------------------------
EACH_ENGINE = [
    name for name in CHOSEN if name.startswith(("kernels_small", "kernels_float32", "wgmma_small_and_ragged_d"))
]


def test_what_the_sanitizer_looks_at_has_every_instruction_engine_and_type():
    built = collected(names=CHOSEN)
    assert set(CHOSEN) <= set(built)
    programs = [built[name].program for name in CHOSEN]
    assert {type(node) for program in programs for node in program.walk()} >= set(_LOWERING)
    for engine in Engine:
        assert {program.dtype for program in programs if program.uses(engine)} >= {"float16", "bfloat16"}
    assert any(program.dtype == "float32" for program in programs)
    assert all(
        program.uses(Engine.WGMMA) == name.startswith("wgmma") for name, program in zip(CHOSEN, programs, strict=True)
    )


def test_wgmma_is_compiled_for_what_has_it(tmp_path):
    built = [(name, one) for name, one in collected(names=EACH_ENGINE).items() if name in EACH_ENGINE]
    assert [export_cases.archs_of(one, ["sm_90", "sm_90a"]) for name, one in built if name.startswith("wgmma")] == [
        ["sm_90a"]
    ]
    found = export_cases.export(built, tmp_path, ["sm_90"])
    assert [one["name"] for one in found] == [name for name, _ in built if not name.startswith("wgmma")]


def test_a_rejected_kernel_is_one_wrong_case(tmp_path, monkeypatch):
    def compile_kernels(sources, _archs):
        if "wgmma" in sources[0]:
            raise InternalError("nvcc rejects kernel dense: no such thing")
        return [b"\0" * 64]

    monkeypatch.setattr(export_cases, "compile_kernels", compile_kernels)
    export_cases.main([str(tmp_path), "--cases", *EACH_ENGINE])
    done = on_device("tests/gpu/run_cases.py", tmp_path, "--only", "wgmma")
    assert done.returncode == 1
    assert "no result; nvcc rejects kernel dense: no such thing" in done.stdout
    assert len(list(tmp_path.glob("*.fatbin"))) == len(EACH_ENGINE) - 1


@pytest.mark.skipif(find_nvcc() is None, reason="nvcc is not installed")
def test_a_real_nvcc_compiles_each_engine_for_a_hopper(tmp_path, monkeypatch):
    """What `pytest tests/gpu` does first on an H200; the emulator runs what it gets from the real one's output."""
    monkeypatch.setenv("BLOCKFUSE_REAL_NVCC", str(find_nvcc()))
    listed, _ = exported_cases(tmp_path, "--archs", Gpu("H200", "sm_90", 232_448).target, "--cases", *EACH_ENGINE)
    assert list(listed) == EACH_ENGINE
    assert not any("rejected" in one for one in listed.values())
    done = on_device("tests/gpu/run_cases.py", tmp_path, "--repeat", 1)
    assert done.returncode == 0, done.stdout + done.stderr


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
