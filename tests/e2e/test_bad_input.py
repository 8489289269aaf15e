"""Bad files and bad calls as a user meets them: one clear line, the right exit code, nothing left behind.

One row each: what is wrong, the exit code, a part of the message, the words of the command. Files are made by the
functions of :data:`FILES`; models are compiled, artifacts run.
"""

import json
import os
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import blockfuse as bf
from blockfuse import cli
from blockfuse.frontend import zoo
from tests.onnx_models import floats, model, node

WEIGHTS = {"w": floats(6, 4, 3, 3), "b": floats(6)}
RELU = [node("Relu", "x", "y", "relu")]
CODES = {"failed": 1, "usage": 2, "no target": 5}


def conv(inputs="x w", weights=None, shape=(1, 4, 8, 8), **attrs):
    return model([node("Conv", inputs, "y", "conv", **attrs)], shape, weights or WEIGHTS)


def op(kind, inputs="x", constants=None, shape=(1, 4, 8, 8), opset=17, **attrs):
    return model([node(kind, inputs, "y", "op", **attrs)], shape, constants, opset)


SCALES = {"s": np.float32([1, 1, 2, 2])}


def transposed(**attrs):
    return op("ConvTranspose", "x w", {"w": floats(4, 3, 3, 3)}, **attrs)


def quantized(scale, zero, **attrs):
    nodes = [node("QuantizeLinear", "x s z", "q", "op", **attrs), node("DequantizeLinear", "q s z", "y", **attrs)]
    return model(nodes, constants={"s": scale, "z": zero})


def typed(element, shape=(1, 4, 8, 8), **options):
    inputs = [helper.make_tensor_value_info("x", element, shape)]
    return model(RELU, inputs=inputs, **options)


def changed(proto, change):
    change(proto)
    return proto


def cycle():
    return model([node("Add", "x b", "a", "first"), node("Relu", "a", "b", "second"), node("Abs", "b", "y")])


def external(location, **where):
    """A model whose weight lies in another file."""

    def change(proto):
        tensor = proto.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location, **where}.items():
            tensor.external_data.add(key=key, value=str(value))

    return changed(conv(), change)


def domain(name):
    proto = model([helper.make_node("Fused", ["x"], ["y"], "fused", domain=name)])
    proto.opset_import.append(helper.make_opsetid(name, 1))
    return proto


def branch():
    body = helper.make_graph([node("Relu", "x", "z")], "body", [], [helper.make_tensor_value_info("z", 1, None)])
    return model([node("If", "c", "y", "op", then_branch=body, else_branch=body)], constants={"c": np.array(True)})


def sparse():
    proto = model(RELU)
    values = numpy_helper.from_array(np.ones(1, np.float32), "s")
    proto.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, numpy_helper.from_array(np.array([0])), [4])
    )
    return proto


def many_nodes():
    return model([node("Relu", f"v{i}" if i else "x", f"v{i + 1}") for i in range(100_001)], outputs=("v100001",))


def large_constants():
    """Three constants of a few bytes, each of which is allowed."""
    nodes = [node("ConstantOfShape", "s", f"c{i}") for i in range(3)]
    nodes += [node("ReduceSum", f"c{i}", f"r{i}") for i in range(3)]
    return model([*nodes, node("Sum", "x r0 r1 r2", "y")], (1,), {"s": [2**25]})


SMALL = zoo.resnet18(size=32, width=0.125).SerializeToString()

# ---- model files: what is wrong, the file, the code, a part of the message -------------------------------------------
MODELS = [
    ("empty", b"", "failed", "the file is empty"),
    ("random bytes", np.random.default_rng(0).bytes(5000), "failed", "not an ONNX model"),
    ("text", b"version https://git-lfs.github.com/spec/v1\n", "failed", "not an ONNX model"),
    ("one byte", b"\x08", "failed", "not an ONNX model"),
    ("truncated", SMALL[: len(SMALL) // 2], "failed", "truncated"),
    ("cut at the end", SMALL[:-1], "failed", "truncated"),
    ("something before it", b"\xff" + SMALL, "failed", "not an ONNX model"),
    ("no graph", onnx.ModelProto(ir_version=8), "failed", "there is no graph"),
    ("no nodes", model([]), "failed", "'y' is computed by no node"),
    ("no outputs", changed(model(RELU), lambda m: m.graph.output.pop()), "failed", "no outputs"),
    ("no inputs", model([node("Relu", "w", "y")], constants=WEIGHTS, inputs=[]), "failed", "no inputs"),
    ("cycle", cycle(), "failed", "cycle of 2 nodes"),
    ("missing initializer", model([node("Conv", "x w", "y", "conv")]), "failed", "saved without its weights"),
    ("missing result", model(RELU, outputs=("z",)), "failed", "'z' is computed by no node"),
    ("two results of one name", model([*RELU, node("Abs", "x", "y")]), "failed", "'y' is computed twice"),
    ("two inputs of one name", changed(model(RELU), lambda m: m.graph.input.append(m.graph.input[0])),
     "failed", "two"),
    ("two weights of one name", changed(conv(), lambda m: m.graph.initializer.append(m.graph.initializer[0])),
     "failed", "'w'"),
    ("name that is no text", model(RELU).SerializeToString().replace(b"relu", b"\xff" * 4), "failed", "not text"),
    ("data in no file", external("none.data"), "failed", "external data cannot be loaded"),
    ("data outside the folder", external("../secret"), "failed", "external data cannot be loaded"),
    ("data at an absolute path", external("/etc/passwd"), "failed", "external data cannot be loaded"),
    ("data beyond its file", external("x.npy", offset=10**9), "failed", "external data cannot be loaded"),
    ("data of negative length", external("x.npy", length=-5), "failed", "external data cannot be loaded"),
    ("data in a folder", external("."), "failed", "external data cannot be loaded"),
    ("short data", changed(conv(), lambda m: setattr(m.graph.initializer[0], "raw_data", b"123")), "failed", "fit"),
    ("weight with a negative dimension", changed(conv(), lambda m: m.graph.initializer[0].dims.append(-1)), "failed",
     "below 0"),
    ("sparse weights", sparse(), "failed", "sparse"),
    ("unknown operator", op("Foo"), "failed", "has no operator Foo"),
    ("operator of a later opset", op("Gelu"), "failed", "has no operator Gelu"),
    ("unknown domain", domain("com.microsoft"), "failed", "com.microsoft"),
    ("training domain", domain("ai.onnx.preview.training"), "failed", "not standard ONNX operators"),
    ("control flow", branch(), "failed", "control flow is not supported"),
    ("unknown attribute", op("Relu", slope=1), "failed", "'slope'"),
    ("attribute of a wrong type", conv(group="two"), "failed", "'group' of a wrong type"),
    ("too few inputs", op("Add"), "failed", "Add 'op' lacks the input 'B'"),
    ("too many inputs", op("Relu", "x x"), "failed", "op"),
    ("opset 1", model(RELU, opset=1), "failed", "opset 1, and opsets 7 to 25 are read"),
    ("opset 999", model(RELU, opset=999), "failed", "opset 999"),
    ("no opset", changed(model(RELU), lambda m: m.opset_import.pop()), "failed", "opset_import is missing"),
    ("float64", typed(TensorProto.DOUBLE), "failed", "float64"),
    ("text as input", typed(TensorProto.STRING), "failed", "not a tensor of numbers"),
    ("complex numbers", typed(TensorProto.COMPLEX64), "failed", "complex64"),
    ("open image size", typed(1, (1, 3, "H", "W")), "failed", "--shape x=1x3x224x224"),
    ("no shape at all", typed(1, None), "failed", "--shape x=1x3x224x224"),
    ("zero dimension", typed(1, (1, 0, 8, 8)), "failed", "below 1"),
    ("negative dimension", typed(1, (1, -3, 8, 8)), "failed", "below 1"),
    ("nine dimensions", typed(1, (1,) * 9), "failed", "at most 8 dimensions"),
    ("more elements than 32 bits", typed(1, (1, 2**11, 2**11, 2**11)), "failed", "elements are supported"),
    ("too many nodes", many_nodes, "failed", "at most 100000"),
    ("huge result", op("Tile", "x r", {"r": np.array([1, 1, 10**5, 10**5])}), "failed", "elements are supported"),
    ("huge constant", model([node("ConstantOfShape", "s", "c"), node("Add", "x c", "y")], (1,), {"s": [2**28]}),
     "failed", "too large"),
    ("many large constants from a small file", large_constants(), "failed", "constants have"),
    ("filter of other channels", conv(weights={"w": floats(6, 3, 3, 3)}), "failed", "needs 3 input channels"),
    ("filter of another rank", conv(weights={"w": floats(6, 4, 3)}), "failed", "conv"),
    ("filter larger than the image", conv(shape=(1, 4, 2, 8)), "failed", "too small"),
    ("dilated filter larger than the image", conv(shape=(1, 4, 3, 8), dilations=[2, 1], strides=[3, 1]), "failed",
     "a window of 5 does not fit 3 rows"),
    ("kernel_shape that is not the filter's", conv(kernel_shape=[5, 5], pads=[2] * 4), "failed", "kernel_shape 5x5"),
    ("bias of another length", conv("x w b", {**WEIGHTS, "b": floats(5)}), "failed", "the bias 5 does not fit"),
    ("groups that do not divide", conv(group=3), "failed", "do not divide into 3 groups"),
    ("no groups", conv(group=0), "failed", "do not divide into 0 groups"),
    ("a million pads", conv(pads=[10**6] * 4), "failed", "elements are supported"),
    ("pads beyond 64 bits", conv(pads=[2**62] * 4), "failed", "overflow"),
    ("negative pads", conv(pads=[-1, 0, 0, 0]), "failed", "pads"),
    ("pads for another rank", conv(pads=[1, 1]), "failed", "pads"),
    ("no stride", conv(strides=[0, 1]), "failed", "strides"),
    ("negative dilation", conv(dilations=[-1, 1]), "failed", "dilations"),
    ("window of a hundred million pixels", op("MaxPool", kernel_shape=[10**4] * 2, pads=[10**4 - 1] * 4), "failed",
     "the window 10000x10000 is too large"),
    ("window beyond 32 bits", op("MaxPool", kernel_shape=[2**40] * 2), "failed", "op"),
    ("LRN of a trillion channels", op("LRN", size=2**40), "failed", "size 1099511627776"),
    ("split in a trillion parts", op("Split", opset=18, num_outputs=2**40), "failed", "num_outputs says"),
    ("reflection beyond the image", op("Pad", "x p", {"p": [0, 0, 99, 0, 0, 0, 0, 0]}, mode="reflect"), "failed",
     "too few elements"),
    ("gemm transposed thrice", op("Gemm", "x w", {"w": floats(5, 8)}, (1, 8), transB=3), "failed", "transB is 3"),
    ("gather along no axis", op("Gather", "x i", {"i": np.array(0)}, axis=1 << 62), "failed",
     "lies outside the 4 axes"),
    ("index outside its axis", op("Gather", "x i", {"i": np.array(4)}, axis=1), "failed", "index 4 lies outside"),
    ("axes that are no order", op("Transpose", perm=[0, 1, 2]), "failed", "is no order of 4 axes"),
    ("matrices that do not fit", op("Gemm", "x w", {"w": floats(3, 5)}, (2, 4)), "failed", "Gemm 'op'"),
    ("shapes that do not broadcast", op("Add", "x c", {"c": floats(3)}), "failed", "Incompatible dimensions"),
    ("reshape to another size", op("Reshape", "x s", {"s": [7, -1]}), "failed", "op"),
    ("shape that depends on data", op("NonZero"), "failed", "depends on the data"),
    ("output_shape smaller than the image", transposed(strides=[2, 2], output_shape=[2, 2]), "failed", "smaller than"),
    ("output_padding of a stride", transposed(strides=[2, 3], output_padding=[1, 3]), "failed", "not smaller"),
    ("scale that is 0", quantized(np.float32(0), np.int8(0)), "failed", "is 0 or not a finite number"),
    ("scale that is no number", quantized(np.float32(np.nan), np.int8(0)), "failed", "is 0 or not a finite number"),
    ("scales of another length", quantized(np.ones(5, np.float32), np.zeros(5, np.int8), axis=1), "failed",
     "a scale of shape 5 does not fit axis 1 of 1x4x8x8"),
    ("axes named twice", op("ReduceMean", axes=[2, 3, -1]), "failed", "axes [2, 3, -1] name one twice"),
    ("slope of other channels", op("PRelu", "x s", {"s": floats(5)}), "failed", "a slope 5 does not fit 1x4x8x8"),
    ("layer norm of another size", op("LayerNormalization", "x s", {"s": floats(7)}), "failed", "8 elements are"),
    ("layer norm of no axis", op("LayerNormalization", "x s", {"s": floats(8)}, axis=9), "failed", "axis 9 lies"),
    ("norm of no axis", op("LpNormalization", axis=9), "failed", "axis 9 lies outside the 4 axes"),
    ("norm of the third power", op("LpNormalization", p=3), "failed", "p 3 does not lie between 1 and 2"),
    ("norm of power 0 over windows", op("LpPool", kernel_shape=[2, 2], p=0), "failed", "p 0 does not lie"),
    ("unknown kind of padding", op("Pad", "x p", {"p": [0] * 7 + [1]}, mode="foo"), "failed", "mode 'foo' is unknown"),
    ("unknown kind of resizing", op("Resize", "x - s", SCALES, mode="foo"), "failed", "mode 'foo' is unknown"),
    ("unknown coordinates", op("Resize", "x - s", SCALES, coordinate_transformation_mode="foo"), "failed", "known are"),
    ("unknown rounding", op("Resize", "x - s", SCALES, nearest_mode="foo"), "failed", "nearest_mode 'foo' is unknown"),
    ("unknown order of pixels", op("DepthToSpace", blocksize=2, mode="FOO"), "failed", "known are DCR, CRD"),
    ("unknown gelu", op("Gelu", opset=20, approximate="foo"), "failed", "approximate 'foo' is unknown"),
    ("two ways of padding", conv(auto_pad="SAME_UPPER", pads=[1] * 4), "failed", "has both auto_pad SAME_UPPER"),
    ("pads as wide as a window", op("MaxPool", kernel_shape=[2, 3], pads=[0, 3, 0, 0]), "failed", "not smaller"),
    ("padded mean of nothing", op("AveragePool", kernel_shape=[2, 2], pads=[0, 0, 2, 0]), "failed", "not smaller"),
    ("bound that is a vector", op("Clip", "x a", {"a": floats(8)}), "failed", "the bound 'a' has shape 8"),
    ("instances of no image", op("InstanceNormalization", "x s s", {"s": floats(4)}, (2, 4)), "failed", "no images"),
    ("training mode", model([node("BatchNormalization", "x s s s s", "y m v", training_mode=1)],
     constants={"s": np.ones(4, np.float32)}), "failed", "is in training mode; export the model for inference"),
    ("output of another type", changed(model(RELU), lambda m: m.graph.output[0].CopyFrom(
        helper.make_tensor_value_info("y", TensorProto.INT64, None))), "failed", "declared as int64"),
    *((f"scale of {scale}", op("Resize", "x - s", {"s": np.float32([1, 1, scale, 1])}), "failed", f"{scale}")
      for scale in (np.nan, np.inf, 0.0, -1.0)),
    ("negative part", model([node("Split", "x s", "y z", "op", axis=1)], constants={"s": [-3, 7]}), "failed",
     "check 's': [-3, 7]"),
    ("pads that take all away", op("Pad", "x p", {"p": [0, 0, -5, 0, 0, 0, -5, 0]}), "failed", "check 'p': [0, 0, -5"),
    ("normalization of other channels", op("BatchNormalization", "x a a a a", {"a": floats(5)}), "failed", "op"),
]  # fmt: skip

# ---- other files and calls: what is wrong, the words, the code, a part of the message --------------------------------
CALLS = [
    ("no file", ["compile", "none.onnx", "-o", "a.bf"], "failed", "No such file"),
    ("folder", ["compile", ".", "-o", "a.bf"], "failed", "not a file"),
    ("file without permission to be one", ["compile", "/dev/null", "-o", "a.bf"], "failed", "not a file"),
    ("artifact as model", ["compile", "net.bf", "-o", "a.bf"], "usage", "compiled already; give the ONNX model"),
    ("unknown target", ["compile", "net.onnx", "-o", "a.bf", "--target", "tpu"], "no target", "unknown target 'tpu'"),
    ("unknown CPU", ["compile", "net.onnx", "-o", "a.bf", "--target", "cpu:sse9"], "no target", "sse9"),
    ("unknown GPU", ["compile", "net.onnx", "-o", "a.bf", "--target", "sm_1"], "no target", "sm_1"),
    ("unknown type", ["compile", "net.onnx", "-o", "a.bf", "--dtype", "int3"], "usage", "int3"),
    ("shape of no input", ["compile", "net.onnx", "-o", "a.bf", "--shape", "z=1"], "usage", "the model's inputs are"),
    ("shape of another rank", ["compile", "net.onnx", "-o", "a.bf", "--shape", "input=1x3"], "usage", "not 4"),
    ("shape that is none", ["compile", "net.onnx", "-o", "a.bf", "--shape", "input=axb"], "usage", "is not like"),
    ("shape of a thousand million", ["compile", "net.onnx", "-o", "a.bf", "--shape", "input=999999999x3x32x32"],
     "failed", "elements are supported"),
    ("shape of other channels", ["compile", "net.onnx", "-o", "a.bf", "--shape", "input=1x4x32x32"], "failed", "conv1"),
    ("negative number of threads", ["compile", "net.onnx", "-o", "a.bf", "--threads", "-1"], "usage", "-1"),
    ("output in no folder", ["compile", "net.onnx", "-o", "none/a.bf"], "usage", "there is no folder"),
    ("model as artifact", ["run", "model.bf"], "failed", "model.bf"),
    ("empty artifact", ["run", "empty.bf"], "failed", "empty.bf"),
    ("truncated artifact", ["run", "cut.bf"], "failed", "cut.bf"),
    ("artifact of random bytes", ["run", "random.bf"], "failed", "random.bf"),
    ("archive of something else", ["run", "other.bf"], "failed", "other.bf"),
    ("artifact of a later version", ["run", "later.bf"], "failed", "later.bf"),
    ("artifact for another machine", ["run", "machine.bf"], "failed", "this machine lacks telepathy"),
    ("damaged library", ["run", "library.bf"], "failed", "library.bf"),
    ("damaged weights", ["run", "weights.bf"], "failed", "weights.bf"),
    ("artifact without its weights", ["run", "lost.bf"], "failed", "lost.bf"),
    ("input of another name", ["run", "net.bf", "--input", "z=x.npy"], "usage", "no such input; it has input"),
    ("input of another rank", ["run", "net.bf", "--input", "input=rank.npy"], "failed", "expected shape"),
    ("input of another size", ["run", "net.bf", "--input", "input=size.npy"], "failed", "expected shape"),
    ("input of another type", ["run", "net.bf", "--input", "input=type.npy"], "failed", "float64"),
    ("input of text", ["run", "net.bf", "--input", "input=text.npy"], "failed", "input"),
    ("input of objects", ["run", "net.bf", "--input", "input=object.npy"], "usage", "object.npy"),
    ("input that is no array", ["run", "net.bf", "--input", "input=net.onnx"], "usage", "net.onnx"),
    ("input without a file", ["run", "net.bf", "--input", "input=none.npy"], "usage", "No such file"),
    ("verify against another model", ["verify", "tiny.onnx", "--artifact", "net.bf"], "usage", "inputs are x"),
    ("pack what is no artifact", ["pack", "net.onnx", "packed"], "failed", "net.onnx"),
    ("bench what is not there", ["bench", "none.bf"], "failed", "No such file"),
    ("kernels of what is no artifact", ["kernels", "random.bf"], "failed", "random.bf"),
    ("reduce what is no model", ["reduce", "random.bf"], "failed", "not an ONNX model"),
    ("model as output", ["compile", "net.onnx", "-o", "net.onnx"], "usage", "replace what is read from net.onnx"),
    ("model as output by another path", ["compile", "net.onnx", "-o", "../bad/net.onnx"], "usage", "would replace"),
    ("model as output by a link", ["compile", "net.onnx", "-o", "link.onnx"], "usage", "would replace"),
    ("data of the model as output", ["compile", "large.onnx", "-o", "large.data"], "usage", "read from large.onnx"),
    ("patterns as output", ["compile", "net.onnx", "-o", "own.py", "--patterns", "own.py"], "usage", "from own.py"),
    ("network as output of a run", ["run", "net.bf", "-o", "net.bf"], "usage", "would replace"),
    ("input as output of a run", ["run", "net.bf", "--input", "input=x.npy", "-o", "x.npy"], "usage", "from x.npy"),
    ("model as output of reduce", ["reduce", "net.onnx", "-o", "./net.onnx"], "usage", "would replace"),
    ("pipe as model", ["compile", "pipe.onnx", "-o", "a.bf"], "failed", "not a file"),
    ("pipe as artifact", ["run", "pipe.bf"], "failed", "not a file"),
    ("pipe as input", ["run", "net.bf", "--input", "input=pipe.bf"], "usage", "not a file"),
    ("pipe to reduce", ["reduce", "pipe.onnx"], "failed", "not a file"),
    ("archive as model", ["compile", "arrays.npz", "-o", "a.bf"], "failed", "a zip archive"),
    ("archive to inspect", ["inspect", "arrays.npz"], "failed", "a zip archive"),
    ("negative seed", ["verify", "tiny.onnx", "--seed", "-1"], "usage", "'-1' is not a whole number"),
]  # fmt: skip


def rewritten(source: Path, target: Path, change) -> None:
    """An artifact with members changed: ``change`` gets and returns a name's bytes; None leaves it out."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            data = change(name, old.read(name))
            if data is not None:
                new.writestr(name, data)


def with_manifest(**fields):
    return lambda name, data: json.dumps({**json.loads(data), **fields}).encode() if name == "manifest.json" else data


def for_another_machine(name, data):
    if name != "manifest.json":
        return data
    manifest = json.loads(data)
    manifest["variants"][0]["target"]["features"] = ["telepathy"]
    return json.dumps(manifest).encode()


def flipped(part):
    return lambda name, data: bytes([data[0] ^ 1]) + data[1:] if part in name else data


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a good model and artifact, and all that the calls name."""
    path = tmp_path_factory.mktemp("base") / "bad"
    path.mkdir()
    onnx.save(zoo.resnet18(size=32, width=0.125, classes=5), path / "net.onnx")
    onnx.save(model(RELU), path / "tiny.onnx")
    assert cli.main(["compile", str(path / "net.onnx"), "-o", str(path / "net.bf"), "-q", "--threads", "1"]) == 0
    whole = (path / "net.bf").read_bytes()
    for name, data in {
        "model": SMALL,
        "empty": b"",
        "cut": whole[: len(whole) // 2],
        "random": np.random.default_rng(0).bytes(1000),
    }.items():
        (path / f"{name}.bf").write_bytes(data)
    with zipfile.ZipFile(path / "other.bf", "w") as archive:
        archive.writestr("a.txt", "something else")
    rewritten(path / "net.bf", path / "later.bf", with_manifest(schema=999))
    rewritten(path / "net.bf", path / "machine.bf", for_another_machine)
    rewritten(path / "net.bf", path / "library.bf", flipped(".so"))
    rewritten(path / "net.bf", path / "weights.bf", flipped("weights"))
    rewritten(path / "net.bf", path / "lost.bf", lambda name, data: None if "weights" in name else data)
    arrays = {
        "x": np.zeros((1, 3, 32, 32), np.float32),
        "rank": np.zeros((3, 32, 32), np.float32),
        "size": np.zeros((1, 3, 8, 8), np.float32),
        "type": np.zeros((1, 3, 32, 32)),
        "text": np.full((1, 3, 32, 32), "a"),
    }
    for name, array in arrays.items():
        np.save(path / f"{name}.npy", array)
    np.save(path / "object.npy", np.array([{}]), allow_pickle=True)
    np.savez(path / "arrays.npz", **arrays)
    onnx.save(conv(), path / "large.onnx", save_as_external_data=True, location="large.data", size_threshold=0)
    (path / "own.py").write_text("import blockfuse as bf\n\none = bf.pattern(lambda op, x: op.Relu(x))\n")
    (path / "link.onnx").symlink_to("net.onnx")
    for name in ("pipe.onnx", "pipe.bf"):
        os.mkfifo(path / name)
    return path


@pytest.fixture
def complaint(folder, monkeypatch, capsys):
    """The one line that a command complains in; the folder is as it was."""
    monkeypatch.chdir(folder)

    def command(code, *words):
        before = {path: path.stat().st_size for path in folder.rglob("*")}
        found = cli.main(list(words))
        captured = capsys.readouterr()
        lines = [line for line in captured.err.splitlines() if not line.startswith(("compiling ", "reducing "))]
        assert {path: path.stat().st_size for path in folder.rglob("*")} == before
        assert found == CODES[code], captured.err
        assert not captured.out
        assert len(lines) == 1, captured.err
        assert lines[0].startswith("blockfuse: error: ")
        assert len(lines[0]) < 400
        for word in ("Traceback", "unexpected", "InternalError"):
            assert word not in lines[0]
        return lines[0]

    return command


@pytest.mark.parametrize(("made", "code", "part"), [row[1:] for row in MODELS], ids=[row[0] for row in MODELS])
def test_bad_model(complaint, folder, made, code, part):
    made = made() if callable(made) else made
    path = folder / "bad.onnx"
    path.write_bytes(made if isinstance(made, bytes) else made.SerializeToString())
    try:
        line = complaint(code, "compile", "bad.onnx", "-o", "bad.bf")
    finally:
        path.unlink()
    assert "bad.onnx" in line or "graph 'small'" in line
    assert part in line


@pytest.mark.parametrize(("words", "code", "part"), [row[1:] for row in CALLS], ids=[row[0] for row in CALLS])
def test_bad_call(complaint, words, code, part):
    assert part in complaint(code, *words)


TINY = model(RELU)

# ---- calls of the Python interface: what is wrong, the call, a part of the message -----------------------------------
ARGUMENTS = [
    ("no model", lambda: bf.compile(None), "not NoneType"),
    ("model as bytes", lambda: bf.compile(TINY.SerializeToString()), "not bytes"),
    ("graph as model", lambda: bf.compile(TINY.graph), "not GraphProto"),
    ("threads as text", lambda: bf.compile(TINY, threads="two"), "threads must be a whole number, not 'two'"),
    ("half a thread", lambda: bf.compile(TINY, threads=0.5), "threads must be a whole number, not 0.5"),
    ("no threads", lambda: bf.compile(TINY, threads=0), "threads must be at least 1, not 0"),
    ("batch as text", lambda: bf.compile(TINY, batch="3"), "batch must be a whole number, not '3'"),
    ("shape of fractions", lambda: bf.compile(TINY, shape={"x": (1.5, 4, 8, 8)}), "shape of 'x' must be a whole"),
    ("shape of nothing", lambda: bf.compile(TINY, shape={"x": (0, 4, 8, 8)}), "shape of 'x' must be at least 1"),
    ("progress that is no function", lambda: bf.compile(TINY, progress=3), "progress must be a function"),
    ("dump that is no path", lambda: bf.compile(TINY, dump=3), "dump must be a path, not int"),
    ("no artifact", lambda: bf.load(None), "must be a path, not NoneType"),
    ("no model to explain", lambda: bf.explain(None, bf.patterns.basic_block), "not NoneType"),
    ("no model to verify", lambda: bf.verify(None), "not NoneType"),
    ("verify with a negative seed", lambda: bf.verify(TINY, seed=-1), "seed must be at least 0, not -1"),
    ("verify what is no executable", lambda: bf.verify(TINY, executable="net.bf"), "not str"),
]


@pytest.mark.parametrize(("call", "part"), [row[1:] for row in ARGUMENTS], ids=[row[0] for row in ARGUMENTS])
def test_bad_argument(call, part):
    with pytest.raises(bf.UsageError) as caught:
        call()
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_executable_checks_its_arguments():
    executable = bf.compile(TINY, threads=1)
    for call in (lambda: executable.save(None), lambda: executable.inputs_for("3")):
        with pytest.raises(bf.UsageError):
            call()


def test_names_do_nothing_to_a_terminal(tmp_path, capsys):
    """What a file's names hold is written out, in errors and in results."""
    wild = "\x1b[2J\x07"
    proto = changed(model([node("Relu", "x", "y", f"relu{wild}")]), lambda m: setattr(m.graph, "name", f"g{wild}"))
    onnx.save(proto, tmp_path / "good.onnx")
    proto.graph.input[0].type.tensor_type.shape.dim[2].dim_param = f"H{wild}"
    onnx.save(proto, tmp_path / "bad.onnx")
    assert cli.main(["inspect", str(tmp_path / "good.onnx"), "-v"]) == 0
    assert cli.main(["inspect", str(tmp_path / "bad.onnx")]) == CODES["failed"]
    captured = capsys.readouterr()
    for text in (captured.out, captured.err):
        assert r"\x1b[2J\x07" in text
        assert all(one.isprintable() or one == "\n" for one in text)


def test_data_beside_a_model_in_memory_is_asked_for(tmp_path):
    """A constant in a node may lie in another file as an initializer may."""
    onnx.save(conv(), tmp_path / "a.onnx", save_as_external_data=True, location="a.data", size_threshold=0)
    proto = onnx.load(tmp_path / "a.onnx", load_external_data=False)
    constant = helper.make_node("Constant", [], ["w"], value=next(t for t in proto.graph.initializer if t.name == "w"))
    del proto.graph.initializer[:]
    proto.graph.node.insert(0, constant)
    with pytest.raises(bf.ModelError, match="data of 'w' lies in another file"):
        bf.compile(proto)


def test_there_are_enough_of_them():
    assert len({row[0] for row in (*MODELS, *CALLS)}) == len(MODELS) + len(CALLS) >= 100
