"""The command line: what it prints, the codes it leaves with, and what it leaves behind."""

import json
import os
import re
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest

import blockfuse
from blockfuse import cli
from blockfuse.errors import VerificationError
from blockfuse.frontend.zoo import resnet18
from blockfuse.verification.verify import verify
from tests.onnx_models import floats, model, node
from tests.open_batch import open_batch

ROOT = Path(__file__).parents[2]

PATTERNS = """
import blockfuse as bf

@bf.pattern
def two_convs(op, x, w1, b1, w2, b2):
    '''A convolution, an activation and a convolution.'''
    return op.Conv(op.Relu(op.Conv(x, w1, b1)), w2, b2)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, an artifact made of it, an array, a file of patterns, and files that are none of these."""
    path = tmp_path_factory.mktemp("cli")
    onnx.save(resnet18(size=32, width=0.25, classes=10), path / "net.onnx")
    model = resnet18(size=32, width=0.25, classes=10)
    model = open_batch(model)
    onnx.save(model, path / "batches.onnx")
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "H"
    onnx.save(model, path / "open.onnx")
    np.save(path / "x.npy", np.random.default_rng(0).standard_normal((1, 3, 32, 32), np.float32))
    np.save(path / "small.npy", np.zeros((1, 3, 8, 8), np.float32))
    np.savez(path / "x.npz", x=np.zeros(3))
    (path / "patterns.py").write_text(PATTERNS)
    (path / "raises.py").write_text("1 / 0")
    (path / "syntax.py").write_text("def (")
    (path / "none.py").write_text("x = 1")
    (path / "garbage.onnx").write_bytes(b"\xff" * 64)
    (path / "garbage.bf").write_bytes(b"PK\3\4" + b"\0" * 64)
    (path / "garbage.npy").write_bytes(b"\x93NUMPY")
    (path / "empty.npy").write_bytes(b"")
    assert cli.main(["compile", str(path / "net.onnx"), "-o", str(path / "net.bf"), "-q", "--threads", "1"]) == 0
    whole = (path / "net.bf").read_bytes()
    (path / "cut.bf").write_bytes(whole[: len(whole) // 2])
    return path


@pytest.fixture
def run(folder, monkeypatch, capsys):
    """Runs a command in the folder: its code, its output, its messages."""
    monkeypatch.chdir(folder)

    def command(*words):
        before = set(folder.iterdir())
        code = cli.main([str(word) for word in words])
        captured = capsys.readouterr()
        assert not {path for path in set(folder.iterdir()) - before if code or path.name.startswith(".")}
        return code, captured.out, captured.err

    return command


def process(folder, *words, warnings="error", **options):
    """The same in a process of its own."""
    command = [sys.executable, "-W", warnings, "-m", "blockfuse", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("environment", {})}
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=-1, stderr=-1, text=True, **options)


def is_one_line(error):
    return error.startswith("blockfuse: error: ") and error.count("\n") == 1 and "Traceback" not in error


# ---- every command ---------------------------------------------------------------------------------------------------
def test_compile_writes_one_file_and_reports(run, tmp_path):
    code, out, err = run(
        "compile", "net.onnx", "-o", tmp_path / "a.bf", "--fuse", "always", "--dump", tmp_path / "dump"
    )
    assert code == 0
    assert "8 blocks, 8 fused" in out
    assert "compiling net.onnx: [6/7] generating code" in err
    assert f"wrote {tmp_path / 'a.bf'}" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bf", "dump"]
    assert (tmp_path / "dump" / "4_plan.txt").read_text()


def test_compile_with_all_options_in_json(run, tmp_path):
    options = ["--target", "cpu:generic", "--dtype", "float32", "--shape", "input=2x3x32x32", "--threads", "2"]
    more = ["--patterns", "patterns.py", "--fuse", "never", "--json", "-q"]
    code, out, err = run("compile", "open.onnx", "-o", tmp_path / "a.bf", *options, *more)
    document = json.loads(out)
    assert (code, err) == (0, "")
    assert document["bytes"] == (tmp_path / "a.bf").stat().st_size
    report = document["report"]
    assert (report["target"], report["threads"], report["fuse"]) == ("cpu:generic", 2, "never")
    assert "two_convs" in {step["kind"] for step in report["steps"]}


def test_quiet_compile_says_nothing_but_the_report(run, tmp_path):
    code, out, err = run("compile", "net.onnx", "-o", tmp_path / "a.bf", "-q")
    assert (code, err) == (0, "")
    assert out.startswith("resnet18 for cpu")


def test_inspect_says_the_same_of_a_model_and_of_its_artifact(run):
    code, out, _ = run("inspect", "net.bf", "--json")
    compiled = json.loads(out)
    assert code == 0
    code, out, _ = run("inspect", "net.onnx", "--json", "--threads", "1")
    planned = json.loads(out)
    assert code == 0
    assert compiled.pop("seconds") != planned.pop("seconds")
    assert compiled == planned
    code, out, _ = run("inspect", "net.bf", "-v")
    assert "left apart" in out or "fused" in out
    assert "basic_block_0: conv 3x3 -> 16 | relu | conv 3x3 -> 16 | add | relu" in out


def test_explain_says_why_every_operator_is_where_it_is(run, tmp_path):
    nodes = [
        node("Conv", "x w", "c", "c1", pads=[1] * 4),
        node("Relu", "c", "r", "relu"),
        node("LRN", "r", "l", "lrn", size=3),
        node("Conv", "l v", "d", "c2"),
        node("Conv", "d v", "e", "c3"),
        node("Add", "e l", "y", "add"),
    ]
    onnx.save(model(nodes, constants={"w": floats(4, 4, 3, 3), "v": floats(4, 4, 1, 1)}), tmp_path / "odd.onnx")
    code, out, _ = run("explain", tmp_path / "odd.onnx", "--json", "--threads", "1")
    ops = {one["op"]: one for one in json.loads(out)["ops"]}
    assert code == 0
    assert set(ops) == {"c1", "relu", "lrn", "c2", "c3", "add"}
    assert all(one["why"].count("nearest is") <= 1 for one in ops.values())
    assert ops["lrn"]["runs"] == "by itself"
    assert "has no stage" in ops["lrn"]["why"]
    assert "no pattern matches more than one operator" in ops["lrn"]["why"]
    assert re.search(r"nearest is \w+, \d+ operators alike: at ", ops["add"]["why"])
    code, out, _ = run("explain", "net.onnx", "--threads", "1")
    assert code == 0
    assert "basic_block matches" in out
    code, _, err = run("explain", "net.bf")
    assert code == 2
    assert "compiled already" in err


def test_patterns_of_a_file_come_before_the_built_in_ones(run):
    code, out, _ = run("inspect", "net.onnx", "--patterns", "patterns.py", "--fuse", "always", "--json")
    kinds = [step["kind"] for step in json.loads(out)["steps"]]
    assert code == 0
    assert "two_convs" in kinds
    assert "basic_block" not in kinds


def test_run_gives_the_same_for_model_and_artifact(run, tmp_path):
    code, out, _ = run("run", "net.bf", "--input", "input=x.npy", "-o", tmp_path / "a.npz")
    assert code == 0
    assert out.startswith("output float32[1, 10]: ")
    code, out, _ = run(
        "run", "net.onnx", "--input", "input=x.npy", "-o", tmp_path / "b.npz", "--threads", "1", "--json"
    )
    assert json.loads(out)["outputs"]["output"]["shape"] == [1, 10]
    with np.load(tmp_path / "a.npz") as a, np.load(tmp_path / "b.npz") as b:
        np.testing.assert_array_equal(a["output"], b["output"])
    assert {path.name for path in tmp_path.iterdir()} == {"a.npz", "b.npz"}


def test_an_artifact_may_be_a_folder(run, folder, tmp_path):
    with zipfile.ZipFile(folder / "net.bf") as archive:
        archive.extractall(tmp_path)
    assert run("inspect", tmp_path, "--json") == run("inspect", "net.bf", "--json")
    assert run("run", tmp_path, "--json") == run("run", "net.bf", "--json")


def test_run_without_inputs_takes_seeded_ones(run):
    first, second = (run("run", "net.bf", "--json")[1] for _ in range(2))
    assert first == second


def test_verify_compares_outputs_and_blocks(run):
    code, out, _ = run("verify", "net.onnx", "--per-block", "--json", "--fuse", "always", "--threads", "1")
    document = json.loads(out)
    assert code == 0
    assert document["passed"] is True
    assert [check["block"] for check in document["checks"]] == [*(f"basic_block_{i}" for i in range(8)), ""]
    code, out, _ = run("verify", "net.onnx", "--artifact", "net.bf", "--seed", "3")
    assert code == 0
    assert "unoptimised: passed" in out


def test_verify_prints_what_it_found_also_when_that_is_wrong(run, monkeypatch):
    def wrong(model, **options):
        found = verify(model, **options)
        check = found.checks[0]
        broken = type(found)(**{**found.__dict__, "checks": (wronged(check),)})
        raise VerificationError(f"net: {broken.worst}", broken)

    def wronged(check):
        comparison = type(check.comparison)(**{**check.comparison.__dict__, "max_rel": 0.5})
        return type(check)(**{**check.__dict__, "comparison": comparison})

    monkeypatch.setattr("blockfuse.verification.verify.verify", wrong)
    code, out, err = run("verify", "net.onnx", "--artifact", "net.bf", "--json")
    assert code == 3
    assert json.loads(out)["passed"] is False
    assert is_one_line(err)
    assert "worst at" in err


def test_an_artifact_of_another_model_is_told_from_a_wrong_one(run, folder, tmp_path):
    onnx.save(resnet18(size=32, width=0.25, classes=10, seed=1), tmp_path / "other.onnx")
    code, out, err = run("verify", tmp_path / "other.onnx", "--artifact", folder / "net.bf")
    assert code == 3  # the same architecture with other weights
    assert "FAILED" in out
    assert is_one_line(err)


def test_bench_measures_both_sides(run):
    code, out, _ = run("bench", "net.bf", "--model", "net.onnx", "--seconds", "0.02", "--json")
    document = json.loads(out)
    assert code == 0
    assert document["threads"] == 1
    assert document["baseline"]["name"] == "onnxruntime"
    assert document["ratio"] == document["ours"]["minimum"] / document["baseline"]["minimum"]
    code, out, _ = run("bench", "net.bf", "--seconds", "0", "--json")
    assert (code, json.loads(out)["baseline"]) == (0, None)
    code, out, _ = run("bench", "net.onnx", "--seconds", "0", "--baseline", "onnxruntime")
    assert code == 0
    assert "blockfuse / onnxruntime: " in out


def test_one_artifact_runs_any_batch(run, tmp_path):
    code, out, err = run("compile", "batches.onnx", "-o", tmp_path / "a.bf", "--batch", "2", "--json")
    assert (code, json.loads(out)["report"]["planned_batch"]) == (0, 2), err
    for batch in (1, 3):
        code, out, _ = run("run", tmp_path / "a.bf", "--batch", batch, "--json")
        assert (code, json.loads(out)["outputs"]["output"]["shape"]) == (0, [batch, 10])
    code, out, _ = run("inspect", tmp_path / "a.bf")
    assert "any batch, planned for 2" in out
    assert "input float32[N, 3, 32, 32] -> output float32[N, 10]" in out
    code, out, _ = run("verify", "batches.onnx", "--artifact", tmp_path / "a.bf", "--json")
    assert (code, [check["batch"] for check in json.loads(out)["checks"]]) == (0, [2, 4])
    more = ("--model", "batches.onnx", "--batch", "3", "--seconds", "0", "--json")
    assert run("bench", tmp_path / "a.bf", *more)[0] == 0
    code, _, err = run("run", tmp_path / "a.bf", "--batch", "999999")
    assert (code, err.count("\n")) == (2, 1)
    assert "batch must be 1 to " in err


def test_patterns_are_listed_and_explained(run):
    code, out, _ = run("patterns", "--patterns", "patterns.py", "--json")
    listed = json.loads(out)["patterns"]
    assert code == 0
    assert [one["name"] for one in listed] == ["two_convs", *(one.name for one in blockfuse.patterns.all())]
    assert listed[0]["doc"] == "A convolution, an activation and a convolution."
    code, out, _ = run("patterns", "inverted_residual", "--explain", "open.onnx", "--shape", "input=1x3x32x32")
    assert code == 0
    assert out.startswith("inverted_residual in resnet18: 0 matches")
    assert "the pattern wants" in out
    code, out, _ = run("patterns", "basic_block", "--explain", "net.onnx", "--json")
    assert len([one for one in json.loads(out)["explanations"][0]["candidates"] if not one["reason"]]) == 8


def test_doctor_finds_the_cpu_target(run, monkeypatch):
    code, out, _ = run("doctor", "--json")
    document = json.loads(out)
    assert code == 0
    assert document["ok"] is True
    states = {finding["name"]: finding["state"] for finding in (*document["findings"], *document["targets"])}
    assert states["target cpu"] == states["TVM"] == states["tvm-ffi"] == "ok"
    monkeypatch.setattr("blockfuse.tools.facts.version", lambda _package: "0.28.0")
    code, out, _ = run("doctor")
    assert code == 1
    assert "0.28.0, needed is 0.27.0.post1" in out


def test_demo_shows_one_table(run, monkeypatch):
    from blockfuse.tools import demo  # noqa: PLC0415

    show = demo.show
    monkeypatch.setattr(demo, "show", lambda progress, **given: show(progress, **given, size=32, threads=1))
    code, out, err = run("demo", "--seconds", "0")
    lines = out.splitlines()
    assert code == 0
    assert [line.split()[0] for line in lines[:3]] == ["network", "resnet18", "mobilenet_v2"]
    assert "17 of 17" in lines[2]
    assert "demo: [5/6] timing MobileNetV2" in err


def test_help_and_version(run):
    code, out, _ = run("--help")
    assert code == 0
    for command in ("compile", "inspect", "explain", "run", "verify", "bench", "patterns", "cache", "doctor", "demo"):
        assert f"    {command} " in out
        assert run(command, "--help")[0] == 0
    assert run("--version")[1].startswith("blockfuse 0.")


# ---- what goes wrong -------------------------------------------------------------------------------------------------
WRONG = [
    # usage: 2
    (2, "required: COMMAND", []),
    (2, "invalid choice: 'compil'", ["compil"]),
    (2, "required: -o/--output", ["compile", "net.onnx"]),
    (2, "unrecognized arguments: --speed", ["inspect", "net.onnx", "--speed"]),
    (2, "'input' is not like input=1x3x224x224", ["inspect", "net.onnx", "--shape", "input"]),
    (2, "'input=1x0x4x4' is not like", ["inspect", "net.onnx", "--shape", "input=1x0x4x4"]),
    (2, "--shape is given twice", ["inspect", "net.onnx", "--shape", "a=1", "--shape", "a=2"]),
    (2, "the model's inputs are input", ["inspect", "net.onnx", "--shape", "y=1x3x32x32"]),
    (2, "invalid choice: 'often'", ["inspect", "net.onnx", "--fuse", "often"]),
    (2, "'0' is not a positive number", ["inspect", "net.onnx", "--threads", "0"]),
    (2, "not allowed with argument", ["inspect", "net.onnx", "-v", "-q"]),
    (2, "there is no folder", ["compile", "net.onnx", "-o", "nowhere/a.bf"]),
    (2, "it is a folder", ["compile", "net.onnx", "-o", "."]),
    (2, "dtype 'float16' is not available", ["compile", "net.onnx", "-o", "a.bf", "--dtype", "float16"]),
    (2, "cannot write dumps", ["compile", "net.onnx", "-o", "a.bf", "--dump", "net.onnx"]),
    (2, "there is no such file", ["inspect", "net.onnx", "--patterns", "nowhere.py"]),
    (2, "it defines no pattern", ["inspect", "net.onnx", "--patterns", "none.py"]),
    (2, "net.bf is compiled already; give the ONNX model", ["verify", "net.bf"]),
    (2, "net.bf is compiled already", ["inspect", "net.bf", "--fuse", "never"]),
    (2, "net.bf is compiled already", ["run", "net.bf", "--target", "cpu"]),
    (2, "'x.npy' is not like input=image.npy", ["run", "net.bf", "--input", "x.npy"]),
    (2, "the network has no such input; it has input", ["run", "net.bf", "--input", "y=x.npy"]),
    (2, "--input is given twice", ["run", "net.bf", "--input", "input=x.npy", "--input", "input=x.npy"]),
    (2, "cannot read nowhere.npy: No such file", ["run", "net.bf", "--input", "input=nowhere.npy"]),
    (2, "cannot read garbage.npy", ["run", "net.bf", "--input", "input=garbage.npy"]),
    (2, "cannot read none.py: it is not a .npy file", ["run", "net.bf", "--input", "input=none.py"]),
    (2, "cannot read empty.npy: it is not a .npy file", ["run", "net.bf", "--input", "input=empty.npy"]),
    (2, "x.npz is an archive", ["run", "net.bf", "--input", "input=x.npz"]),
    (2, "there is no folder", ["run", "net.bf", "-o", "nowhere/out.npz"]),
    (2, "leave out --artifact or --per-block", ["verify", "net.onnx", "--artifact", "net.bf", "--per-block"]),
    (2, "needs --model", ["bench", "net.bf", "--baseline", "onnxruntime"]),
    (2, "--model goes with an artifact", ["bench", "net.onnx", "--model", "net.onnx"]),
    (2, "'soon' is not a number of seconds", ["bench", "net.bf", "--seconds", "soon"]),
    (2, "'nan' is not a number of seconds", ["demo", "--seconds", "nan"]),
    (
        2,
        "there is no pattern 'resnet'; known are ghost_bottleneck, fire_module",
        ["patterns", "resnet"],
    ),
    (2, "--shape goes with --explain", ["patterns", "--shape", "a=1"]),
    (2, "batch is for models whose batch is open", ["run", "net.onnx", "--batch", "2", "-q"]),
    (2, "the batch of resnet18 is fixed", ["run", "net.bf", "--batch", "2"]),
    (2, "--batch says how to compile a model", ["inspect", "net.bf", "--batch", "2"]),
    (2, "--threads says how to compile a model", ["inspect", "net.bf", "--threads", "2"]),
    (2, "--threads says how to compile a model", ["kernels", "net.bf", "--threads", "2"]),
    (2, "batch is for models whose batch is open", ["reduce", "net.onnx", "--batch", "2", "-q"]),
    # failed: 1
    (1, "nowhere.onnx: the file cannot be opened", ["inspect", "nowhere.onnx"]),
    (1, "not an ONNX model", ["compile", "garbage.onnx", "-o", "a.bf", "-q"]),
    (1, "give its shape, as in --shape input=1x3x224x32", ["inspect", "open.onnx"]),
    (1, "garbage.bf", ["run", "garbage.bf"]),
    (1, "cut.bf", ["inspect", "cut.bf"]),
    (1, "cannot read nowhere.bf: No such file", ["bench", "nowhere.bf"]),
    (1, "raises.py fails with ZeroDivisionError", ["patterns", "--patterns", "raises.py"]),
    (1, "syntax.py fails with SyntaxError", ["patterns", "--patterns", "syntax.py"]),
    (1, "expected shape [1, 3, 32, 32], got [1, 3, 8, 8]", ["run", "net.bf", "--input", "input=small.npy"]),
    # no target: 5
    (5, "sm_20 is too old: kernels use mma.sync", ["compile", "net.onnx", "-o", "a.bf", "--target", "sm_20"]),
    (5, "unknown target 'tpu'", ["inspect", "net.onnx", "--target", "tpu"]),
]


@pytest.mark.parametrize(("code", "message", "words"), WRONG, ids=[" ".join(words) or "-" for _, _, words in WRONG])
def test_what_is_wrong_gives_a_code_and_one_line(run, code, message, words):
    found, out, err = run(*words)
    errors = "".join(line + "\n" for line in err.splitlines() if not line.startswith("compiling "))
    assert found == code
    assert not out
    assert is_one_line(errors)
    assert message in errors


def test_a_bug_is_one_line_and_with_v_a_traceback(run, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr("blockfuse.runtime.artifact.load", broken)
    code, out, err = run("inspect", "net.bf")
    assert (code, out) == (1, "")
    assert err == "blockfuse: error: unexpected RuntimeError: first line second line (-v shows where)\n"
    code, _, err = run("inspect", "net.bf", "-v")
    assert code == 1
    assert "Traceback" in err
    assert "second line" in err


def test_an_output_that_exists_survives_a_failure(run, tmp_path):
    (tmp_path / "a.bf").write_text("precious")
    assert run("compile", "garbage.onnx", "-o", tmp_path / "a.bf")[0] == 1
    assert run("run", "net.bf", "--input", "input=small.npy", "-o", tmp_path / "a.bf")[0] == 1
    assert [path.read_text() for path in tmp_path.iterdir()] == ["precious"]


def test_user_code_runs_only_when_it_is_named(run, monkeypatch):
    executed = []
    monkeypatch.setattr("runpy.run_path", lambda path: executed.append(path) or {})
    assert run("patterns")[0] == run("inspect", "net.onnx")[0] == 0
    assert not executed
    run("patterns", "--patterns", "patterns.py")
    assert executed == ["patterns.py"]


# ---- processes -------------------------------------------------------------------------------------------------------
def test_interruption_is_quiet(folder):
    listened = signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs are started with it ignored
    # An import that is interrupted leaves its file to the collector, which a ResourceWarning would tell.
    child = process(folder, "bench", "net.bf", "--seconds", "60", warnings="ignore::ResourceWarning")
    signal.signal(signal.SIGINT, listened)
    assert child.stderr.readline().startswith("measuring")
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    # Python ends by the signal itself if code in a string was interrupted, as some modules run while they are imported;
    # a shell says 130 to both.
    assert child.returncode in (130, -signal.SIGINT)
    assert (out, err) == ("", "")


@pytest.mark.parametrize("words", [["patterns", "-v"], ["--help"], ["inspect", "net.bf", "--json"]])
def test_a_reader_that_leaves_is_no_error(folder, words):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "blockfuse", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""}
    done = subprocess.run(command, cwd=folder, env=environment, stdout=writer, stderr=-1, check=False, timeout=60)
    os.close(writer)
    assert done.stderr == b""
    assert done.returncode == 141


@pytest.mark.parametrize("environment", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_messages_without_a_terminal_are_plain(folder, environment):
    child = process(folder, "inspect", "net.onnx", "--fuse", "never", environment={"FORCE_COLOR": "", **environment})
    out, err = child.communicate(timeout=120)
    assert child.returncode == 0
    assert "\x1b" not in out + err


def test_a_terminal_gets_a_bar_that_vanishes_and_no_color_is_respected(folder):
    """The output of a command on a terminal of its own."""
    import pty  # noqa: PLC0415 - Unix only

    for no_color, colors in ({"NO_COLOR": "1"}, False), ({}, True):
        main, side = pty.openpty()
        command = [sys.executable, "-m", "blockfuse", "run", "net.onnx", "--threads", "1"]
        environment = {k: v for k, v in os.environ.items() if k != "NO_COLOR"} | {
            "TERM": "xterm",
            "PYTHONPATH": str(ROOT),
        }
        child = subprocess.Popen(command, cwd=folder, env=environment | no_color, stdout=-1, stderr=side)
        os.close(side)
        shown = b""
        while True:
            try:
                part = os.read(main, 4096)
            except OSError:
                break
            if not part:
                break
            shown += part
        out, _ = child.communicate(timeout=60)
        os.close(main)
        assert child.returncode == 0
        assert b"\x1b" not in out
        assert b"generating code" in shown
        assert (b"\x1b[38;5" in shown or b"\x1b[3" in shown or b"\x1b[9" in shown) == colors


def test_cache_says_where_it_is_and_what_it_holds(run, monkeypatch, tmp_path):
    monkeypatch.setenv("BLOCKFUSE_CACHE_DIR", str(tmp_path))
    (tmp_path / ("0" * 64)).write_bytes(bytes(3 << 19))
    assert run("cache")[:2] == (0, f"{tmp_path}: 1 files, 1.5 of 512 MiB\n")
    code, out, _ = run("cache", "--clear", "--json")
    assert (code, json.loads(out)["files"]) == (0, 0)
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv("BLOCKFUSE_CACHE_DIR", "")
    assert run("cache")[1] == "there is no cache: BLOCKFUSE_CACHE_DIR is empty\n"
