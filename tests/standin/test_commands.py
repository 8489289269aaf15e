"""The command line where there is a GPU: this machine's, as ``--target cuda``, and containers."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import onnx
import pytest

from tests.onnx_models import floats, model, node
from tests.standin import TOOLKIT

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Exit code, standard output and standard error of every command, which run one after the other."""
    folder = tmp_path_factory.mktemp("commands")
    weights = {"w": floats(8, 4, 3, 3, seed=1) / 6, "v": floats(4, 8, 1, 1, seed=2) / 3}
    nodes = [
        node("Conv", "x w", "a", pads=[1, 1, 1, 1]),
        node("Relu", "a", "b"),
        node("Conv", "b v", "c"),
        node("Add", "c x", "y"),
    ]
    onnx.save(model(nodes, (1, 4, 9, 8), weights), folder / "net.onnx")
    commands = {
        "compile": "compile net.onnx -o net.bf --target cuda --dtype float16 --cuda-graph -q",
        "run": "run net.bf --json",
        "verify": "verify net.onnx --artifact net.bf --json",
        "verify blocks": "verify net.onnx --target cuda --dtype bfloat16 --per-block --json",
        "bench": "bench net.bf --model net.onnx --seconds 0 --json",
        "bench alone": "bench net.onnx --target cuda --seconds 0 --json -q",
        "bench against": "bench net.bf --model net.onnx --baseline onnxruntime --seconds 0",
        "inspect": "inspect net.bf --json",
        "kernels": "kernels net.bf --json",
    }
    script = f"""
        import contextlib, io, json, os
        from tests.standin.libraries import StandIn
        device = StandIn("sm_90")
        from blockfuse.cli import main
        os.chdir({str(folder)!r})
        results = {{}}
        for name, command in {commands!r}.items():
            with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
                code = main(command.split())
            results[name] = code, out.getvalue(), err.getvalue()
        results["findings"] = [str(finding) for launch in device.launches for finding in launch.findings]
        print(json.dumps(results))
    """
    environment = {**os.environ, "CUDA_HOME": str(TOOLKIT), "BLOCKFUSE_CACHE_DIR": ""}
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def document(results, name):
    code, out, err = results[name]
    assert code == 0, err
    return json.loads(out)


def test_networks_run_and_are_right(results):
    assert results["compile"][0] == 0, results["compile"]
    assert document(results, "run")["outputs"]["y"]["shape"] == [1, 4, 9, 8]
    assert document(results, "verify")["passed"]
    found = document(results, "verify blocks")
    assert found["passed"]
    assert found["target"] == "sm_90a"
    assert not results["findings"]


def test_times_are_those_of_the_gpu(results):
    for name in ("bench", "bench alone"):
        measured = document(results, name)
        assert measured["facts"]["device"] == "stand-in device (sm_90)"
        assert measured["ours"]["calls"] >= 3
        assert measured["baseline"] is None
    assert "nothing to compare with: ONNX Runtime cannot use the GPU here" in results["bench"][2]
    code, _, err = results["bench against"]
    assert code == 1
    assert err.splitlines()[-1].startswith("blockfuse: error: ONNX Runtime cannot use the GPU here: install")


def test_what_a_container_consists_of(results):
    report = document(results, "inspect")
    assert (report["target"], report["dtype"]) == ("sm_90a", "float16")
    (kernel,) = document(results, "kernels")["kernels"]
    assert kernel["threads"] >= 32
    assert kernel["grid"] >= 1
