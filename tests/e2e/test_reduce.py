"""``blockfuse reduce``: models that fail in other processes, in every way, and what it leaves behind."""

import json

import numpy as np
import onnx
import pytest

from blockfuse import cli
from blockfuse.frontend import zoo
from tests.onnx_models import floats, model, node

CASE = """
import os, time
import blockfuse as bf
from blockfuse.frontend import reading

@bf.pattern
def two_convs(op, x, w1, b1, w2, b2):
    '''Two convolutions.'''
    return op.Conv(op.Conv(x, w1, b1), w2, b2)

def broken(model, shape=None, read=getattr(reading.read, "right", reading.read)):
    graph = read(model, shape)
    if any(op.kind == "Softplus" for op in graph.ops()):
        print("about to fail", flush=True)
        {what}
    return graph

broken.right = getattr(reading.read, "right", reading.read)
reading.read = broken
"""


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def command(*words):
        code = cli.main(["reduce", *map(str, words)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


def network():
    """Convolutions around a Softplus."""
    nodes = [node("Conv", "x w", "c0", pads=[1] * 4)]
    for index in range(3):
        nodes += [node("Relu", f"c{index}", f"r{index}"), node("Conv", f"r{index} w", f"c{index + 1}", pads=[1] * 4)]
    return model([*nodes, node("Softplus", "c3", "s"), node("Abs", "s", "y")], constants={"w": floats(4, 4, 3, 3)})


def is_one_line(error):
    return error.splitlines()[-1].startswith("blockfuse: error: ") and "Traceback" not in error


def test_a_model_that_is_refused(run, tmp_path):
    proto = zoo.resnet18(size=32, width=0.125)
    strided = next(one for one in proto.graph.node if one.name == "layer2.0.conv1")
    next(one for one in strided.attribute if one.name == "strides").ints[:] = [0, 1]
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    onnx.save(proto, "net.onnx")
    code, out, err = run("net.onnx", "--fuse", "never", "--batch", 3)
    assert code == 0
    assert out.startswith(f"2 of {len(proto.graph.node)} nodes fail alike, found in ")
    again = "blockfuse compile net_reduced.onnx -o net_reduced.bf --fuse never --batch 3"
    assert out.splitlines()[-1] == f"to see it again: {again}"
    assert "wrote net_reduced.onnx" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.onnx", "net_reduced.onnx"]
    assert cli.main(again.split()[1:]) == 1


@pytest.mark.parametrize(
    ("what", "kind"),
    [("os.abort()", "crash"), ("raise TypeError('a\\nb')", "TypeError"), ("time.sleep(60)", "hang")],
)
def test_crashes_bugs_and_hangs(run, monkeypatch, what, kind):
    monkeypatch.setattr("blockfuse.cli.trial.SHORTEST", 2.0)
    monkeypatch.setattr("blockfuse.cli.trial.FIRST", 5.0)
    onnx.save(network(), "net.onnx")
    with open("patterns.py", "w", encoding="utf-8") as file:  # noqa: PTH123
        file.write(CASE.replace("{what}", what))
    seconds = 10 if kind == "hang" else 60
    code, out, err = run("net.onnx", "--patterns", "patterns.py", "--json", "--time-limit", seconds, "-o", "small.onnx")
    document = json.loads(out)
    assert (code, document["failure"]["kind"]) == (0, kind), err
    assert document["command"] == "blockfuse compile small.onnx -o small.bf --patterns patterns.py"
    left = [one.op_type for one in onnx.load("small.onnx").graph.node]
    assert "Softplus" in left
    assert len(left) < 9
    assert left == ["Softplus"] or not document["complete"]


def test_a_wrong_result(run, tmp_path):
    """With a compiler whose Softplus is off by one."""
    onnx.save(network(), "net.onnx")
    patched = CASE.replace("{what}", "pass") + (
        "from blockfuse.verification import verify as module\n"
        "right = getattr(module.compare, 'right', module.compare)\n"
        "def compare(actual, expected, allowed):\n"
        "    return right(actual + 1, expected, allowed)\n"
        "compare.right = right\n"
        "module.compare = compare\n"
    )
    (tmp_path / "patterns.py").write_text(patched)
    code, out, _ = run("net.onnx", "--check", "verify", "--patterns", "patterns.py", "-o", "small.onnx")
    assert code == 0
    assert "VerificationError" in out
    assert len(onnx.load("small.onnx").graph.node) == 1


def test_a_shape_is_written_into_the_model(run):
    proto = network()
    for axis in (2, 3):
        proto.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = "S"
    onnx.save(proto, "net.onnx")
    code, out, _ = run("net.onnx", "--json")
    assert (code, json.loads(out)["failure"]["kind"]) == (0, "UnsupportedModelError")  # sizes are open
    code, _, err = run("net.onnx", "--shape", "x=1x4x8x8", "-o", "other.onnx")
    assert code == 1
    assert "compiles without failure, so there is nothing to reduce" in err


@pytest.mark.parametrize(
    ("code", "message", "words"),
    [
        (1, "none.onnx: the file cannot be opened", ["none.onnx"]),
        (1, "bad.onnx: this is not an ONNX model", ["bad.onnx"]),
        (1, "compiles without failure", ["good.onnx"]),
        (1, "is verified without failure", ["good.onnx", "--check", "verify"]),
        (2, "it would replace what is read from good.onnx", ["good.onnx", "-o", "good.onnx"]),
        (2, "there is no folder", ["good.onnx", "-o", "nowhere/a.onnx"]),
        (2, "invalid choice: 'run'", ["good.onnx", "--check", "run"]),
        (2, "is not a number of seconds", ["good.onnx", "--time-limit", "long"]),
        (2, "'z'", ["good.onnx", "--shape", "z=1x3x8x8"]),
        (2, "there is no such file", ["good.onnx", "--patterns", "none.py"]),
        (2, "dtype 'int8'", ["good.onnx", "--dtype", "int8"]),
        (5, "unknown target 'tpu'", ["good.onnx", "--target", "tpu"]),
    ],
)
def test_what_cannot_be_reduced(run, tmp_path, code, message, words):
    onnx.save(model([node("Relu", "x", "y")]), "good.onnx")
    (tmp_path / "bad.onnx").write_bytes(np.random.default_rng(0).bytes(100))
    found, out, err = run(*words)
    assert (found, out) == (code, "")
    assert is_one_line(err)
    assert message in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.onnx", "good.onnx"]
