"""One container for several GPUs: each runs the variant that matches it best, and gets the right results."""

import json
import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

import blockfuse as bf
from blockfuse.build import build
from blockfuse.cli import main
from blockfuse.runtime import artifact
from tests.onnx_models import floats, model, node
from tests.standin import OnStandIn, run_network

ROOT = Path(__file__).parents[2]
TARGETS = "sm_80,sm_86,sm_90a"


@pytest.fixture(scope="module")
def network():
    """A dense convolution, for which wgmma is faster, and a depthwise one; odd sizes, stride 2, asymmetric padding."""
    weights = {
        "stem": floats(72, 3, 3, 3, seed=1) / 4,
        "dense": floats(40, 72, 3, 3, seed=2) / 16,
        "deep": floats(40, 1, 5, 5, seed=3) / 4,
        "back": floats(72, 40, 1, 1, seed=4) / 6,
        "f": floats(7, 72, seed=5) / 6,
    }
    nodes = [
        node("Conv", "x stem", "a", strides=[2, 2], pads=[1, 0, 0, 1]),
        node("Conv", "a dense", "b", pads=[1, 1, 1, 1]),
        node("Relu", "b", "c"),
        node("Conv", "c deep", "d", pads=[2, 2, 2, 2], group=40),
        node("Conv", "d back", "e"),
        node("Add", "e a", "g"),
        node("GlobalAveragePool", "g", "p"),
        node("Flatten", "p", "q"),
        node("Gemm", "q f", "y", transB=1),
    ]
    return model(nodes, (3, 3, 23, 19), weights)


@pytest.fixture(scope="module", params=[False, True], ids=["launches", "graph"])
def compiled(request, compile_to, network):
    return compile_to(network, TARGETS, cuda_graph=request.param, keep_sources=True)


def kernels_of(container: Path) -> dict[str, dict[str, str]]:
    """By the names of variants, the CUDA C of their kernels."""
    return {
        one.name: {name: text for name, text in one.library.sources.items() if name.endswith(".cu")}
        for one in artifact.load(container, any_machine=True)
    }


@pytest.mark.parametrize(
    ("arch", "variant"),
    [("sm_80", "sm_80"), ("sm_86", "sm_86"), ("sm_89", "sm_86"), ("sm_90", "sm_90a"), ("sm_100", "sm_86")],
)
def test_every_gpu_runs_its_variant(compiled, network, arch, variant):
    executable, container = compiled
    device = OnStandIn(executable, container, arch)
    assert bf.verify(network, executable=device).passed
    result = device.result
    assert not result.findings
    assert result.ran == variant
    shared = {one.name: one.library.target.shared_bytes for one in artifact.load(container, any_machine=True)}
    assert max(launch["shared_bytes"] for launch in result.launches) == shared[variant]


def test_a_hopper_runs_wgmma_and_no_other_does(compiled):
    sources = kernels_of(compiled[1])
    uses = {name: sum("wgmma" in text for text in texts.values()) for name, texts in sources.items()}
    assert uses["sm_90a"] > 0
    assert (uses["sm_80"], uses["sm_86"]) == (0, 0)


def test_a_gpu_that_no_variant_is_for_is_one_line(compiled):
    result = run_network(compiled[1], [], arch="sm_75")
    assert result.error == (
        "TargetError: small was compiled for sm_80, sm_86, sm_90a, and this GPU is stand-in device (sm_75)"
    )


def test_every_variant_has_a_report(compiled):
    reports = compiled[0].reports()
    assert [one.target for one in reports] == TARGETS.split(",")
    assert [one.device for one in reports] == ["A100 80GB", "RTX 3090", "H200"]
    assert "predicted for RTX 3090" in str(reports[1])
    assert all(one.seconds["build"] > 0 for one in reports)
    assert "for sm_80, sm_86, sm_90a:" in repr(compiled[0])


def test_it_is_saved_again_whole(compiled, tmp_path):
    executable, container = compiled
    executable.save(tmp_path / "again.bf")
    assert (tmp_path / "again.bf").read_bytes() == container.read_bytes()


# ---- steps and commands ----------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("compile_to")
def test_steps_that_come_for_every_variant(network, tmp_path):
    steps = []
    options = {"dtype": "float16", "dump": tmp_path, "progress": lambda *step: steps.append(step)}
    bf.compile(network, target="sm_80,sm_90a", **options)
    assert [step[1:] for step in steps] == [(done, 12) for done in range(13)]
    assert [step[0] for step in steps if "planning" in step[0]] == [
        "planning kernels for sm_80",
        "planning kernels for sm_90a",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1_read.txt", "2_canonicalize.txt", "sm_80", "sm_90a"]
    assert {"4_plan.txt", "5_program", "6_lower"} <= {path.name for path in (tmp_path / "sm_90a").iterdir()}
    plans = bf.compile(network, target="sm_80,sm_90a", dtype="float16", stop_after="plan")
    assert [(name, plan.device.name) for name, plan in plans.items()] == [("sm_80", "A100 80GB"), ("sm_90a", "H200")]
    assert bf.compile(network, target="sm_120", stop_after="plan").device.name == "sm_120 by the figures of H200"


def test_commands_show_every_variant(compiled, capsys, tmp_path, network):
    onnx.save(network, tmp_path / "net.onnx")
    container = str(compiled[1])
    targets = TARGETS.split(",")

    def shown(*words: str) -> str:
        capsys.readouterr()
        assert main(list(words)) == 0
        return capsys.readouterr().out

    for words in ([container], [str(tmp_path / "net.onnx"), "--target", TARGETS]):
        data = json.loads(shown("inspect", *words, "--json"))
        assert [one["target"] for one in data["variants"]] == targets
        data = json.loads(shown("kernels", *words, "--json"))
        assert [one["target"] for one in data["variants"]] == targets
    assert shown("inspect", container).count("predicted for") == len(targets)
    (name, *_) = kernels_of(compiled[1])["sm_90a"]
    text = shown("kernels", container, "--source", name.removesuffix(".cu"))
    assert f"==== sm_90a/{name}" in text


def test_scripts_report_the_variant_that_ran(compiled):
    command = [sys.executable, "-m", "tests.gpu.on_standin", "blockfuse/__main__.py", "bench", str(compiled[1])]
    command += ["--seconds", "0", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout[: done.stdout.rindex("}") + 1])["target"] == "sm_90a"


@pytest.mark.usefixtures("compile_to")
def test_a_library_is_lowered_once(network, tmp_path, monkeypatch):
    """From the cache it comes as long as its code, architecture and way of launching are the same."""
    monkeypatch.setenv("BLOCKFUSE_CACHE_DIR", str(tmp_path))
    lowered = []
    compiled = build._compiled
    monkeypatch.setattr(build, "_compiled", lambda *a, **k: lowered.append(a[1].name) or compiled(*a, **k))
    one = {"target": "sm_80", "dtype": "float16"}
    first, second, other, recorded = (
        bf.compile(network, **options)
        for options in (one, one, {**one, "target": "sm_80,sm_89"}, {**one, "cuda_graph": True})
    )
    assert lowered == ["sm_80", "sm_89", "sm_80"]
    codes = [one._variants[0].library.code for one in (first, second, other, recorded)]
    assert codes[0] == codes[1] == codes[2] != codes[3]
    for name, executable in {"first": first, "second": second}.items():
        executable.save(tmp_path / f"{name}.bf")
    assert (tmp_path / "first.bf").read_bytes() == (tmp_path / "second.bf").read_bytes()
