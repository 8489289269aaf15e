"""Reading ONNX: what comes out, and one clear line for everything that cannot be read."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from blockfuse.errors import ModelError, UnsupportedModelError, UsageError
from blockfuse.frontend import read, to_onnx, zoo
from blockfuse.frontend.checks import check_ops
from blockfuse.frontend.load import MAX_NODES
from blockfuse.graph import Graph, Op, Tensor
from tests.onnx_models import feeds_of, floats, model, node, run

RELU = [node("Relu", "x", "y", "relu")]
WEIGHTS = {"w": floats(6, 4, 3, 3), "b": floats(6)}


def conv(inputs="x w", **attrs):
    return [node("Conv", inputs, "y", "conv", **attrs)]


def value_info(name="x", shape=(1, 4, 8, 8), element=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, element, shape)


def ops(proto, **options):
    return [op.kind for op in read(proto, **options).ops()]


def test_the_file_names_what_the_exporter_did_not(tmp_path):
    proto = model(RELU)
    proto.graph.name = "main_graph"
    onnx.save(proto, tmp_path / "net.onnx")
    assert (read(tmp_path / "net.onnx").name, read(proto).name) == ("net", "main_graph")


# ---- what is read ----------------------------------------------------------------------------------------------------
def test_a_file_and_a_model_read_alike(tmp_path):
    proto = zoo.resnet18(size=32, width=0.25, classes=5)
    path = tmp_path / "net.onnx"
    onnx.save(proto, path)
    graph = read(path)
    assert str(graph) == str(read(str(path))) == str(read(proto))
    assert graph.inputs == ("input",)
    assert graph.tensor("output").shape == (1, 5)
    assert graph.tensor("layer1.0.conv1.weight").value.shape == (16, 16, 3, 3)
    assert graph.op("conv1").attrs["strides"] == (2, 2)
    assert graph.op("conv1").origin == ("conv1",)


def test_the_model_is_not_changed():
    proto = model(conv(), constants=WEIGHTS)
    before = proto.SerializeToString()
    read(proto, {"x": (2, 4, 9, 9)})
    assert proto.SerializeToString() == before


def test_missing_names_are_made_up_and_equal_names_told_apart():
    nodes = [helper.make_node("Relu", ["x"], ["a"]), node("Abs", "a", "b", "same"), node("Neg", "b", "y", "same")]
    assert [op.name for op in read(model(nodes)).ops()] == ["Relu_a", "same", "same_2"]


def test_nodes_in_any_order():
    nodes = [node("Relu", "b", "y"), node("Abs", "a", "b"), node("Neg", "x", "a")]
    assert ops(model(nodes)) == ["Neg", "Abs", "Relu"]


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 17, 18, 20, 22, 25])
def test_opsets(opset):
    assert ops(model([*conv("x w b")], constants=WEIGHTS, opset=opset)) == ["Conv"]


@pytest.mark.parametrize(
    ("attrs", "expected"),
    [
        ({"value": numpy_helper.from_array(np.array([1.5, 2], np.float32))}, [1.5, 2]),
        ({"value_float": 1.5}, 1.5),
        ({"value_floats": [1.5, 2.5]}, [1.5, 2.5]),
    ],
)
def test_constant_nodes(attrs, expected):
    graph = read(model([node("Constant", "", "c", **attrs), node("Add", "x c", "y")], shape=(3, 2)))
    np.testing.assert_array_equal(graph.constant("c"), np.array(expected, np.float32))


@pytest.mark.parametrize("attrs", [{"value_int": 2}, {"value_ints": [2]}])
def test_integer_constant_nodes(attrs):
    graph = read(model([node("Constant", "", "c", **attrs), node("Gather", "x c", "y", axis=1)]))
    assert graph.constant("c").dtype == np.int64
    assert graph.constant("c").reshape(-1).tolist() == [2]


def test_text_constants_are_refused_only_where_they_are_read():
    text = node("Constant", "", "t", value_strings=["a", "b"])
    assert ops(model([text, *RELU])) == ["Relu"]


def test_constant_of_shape_identity_chains_and_arithmetic_are_folded():
    nodes = [
        node("ConstantOfShape", "s", "c", value=numpy_helper.from_array(np.array([0.5], np.float32))),
        node("Identity", "c", "d"),
        node("Identity", "d", "e"),
        node("Mul", "e two", "w"),
        *conv(),
    ]
    graph = read(model(nodes, constants={"s": np.array([6, 4, 3, 3]), "two": np.float32(2)}))
    assert [op.kind for op in graph.ops()] == ["Conv"]
    assert graph.constant("w").shape == (6, 4, 3, 3)
    assert (graph.constant("w") == 1).all()


def test_shape_subgraphs_are_folded():
    nodes = [
        node("Shape", "x", "s"),
        node("Gather", "s zero", "n", axis=0),
        node("Unsqueeze", "n axes", "n1"),
        node("Concat", "n1 rest", "target", axis=0),
        node("Reshape", "x target", "r"),
        node("Shape", "r", "s2"),
        node("Slice", "s2 axes one", "s3"),
        node("Concat", "s3 rest", "target2", axis=0),
        node("Reshape", "r target2", "y"),
    ]
    constants = {"zero": np.array(0), "axes": np.array([0]), "rest": np.array([-1]), "one": np.array([1])}
    graph = read(model(nodes, shape=(3, 4, 8, 8), constants=constants))
    assert [op.kind for op in graph.ops()] == ["Reshape", "Reshape"]
    assert graph.tensor("y").shape == (3, 256)


def test_unread_nodes_are_dropped():
    assert ops(model([*RELU, node("Abs", "x", "unread")])) == ["Relu"]


def test_initializers_that_are_inputs_are_constants():
    inputs = [value_info(), value_info("w", (6, 4, 3, 3))]
    proto = model(conv(), constants={"w": WEIGHTS["w"]}, inputs=inputs)
    proto.ir_version = 3
    assert read(proto).inputs == ("x",)


def test_shapes_come_from_inference_alone():
    stale = [helper.make_tensor_value_info("a", TensorProto.FLOAT, (1, 6, 99, 99))]
    nodes = [node("Conv", "x w", "a"), node("Relu", "a", "y")]
    graph = read(model(nodes, constants=WEIGHTS, value_info=stale), {"x": (2, 4, 10, 12)})
    assert graph.tensor("a").shape == graph.tensor("y").shape == (2, 6, 8, 10)


def test_symbolic_dimensions_take_the_given_shape():
    proto = model(conv(), constants=WEIGHTS, inputs=[value_info(shape=("N", 4, "H", None))])
    assert read(proto, {"x": (2, 4, 5, 6)}).tensor("y").shape == (2, 6, 3, 4)


def test_defaults_are_those_of_the_opset():
    assert read(model([node("HardSigmoid", "x", "y")])).op("HardSigmoid_y").attrs["beta"] == pytest.approx(0.5)
    assert read(model([node("Softmax", "x", "y")], shape=(2, 3), opset=11)).op("Softmax_y").attrs["axis"] == 1
    assert read(model([node("Softmax", "x", "y")], shape=(2, 3), opset=13)).op("Softmax_y").attrs["axis"] == -1


def test_omitted_optional_inputs_stay_omitted():
    graph = read(model([node("Clip", "x - high", "y", "clip")], constants={"high": np.float32(6)}))
    assert graph.op("clip").inputs == ("x", "", "high")


def function(name, nodes, opset=17):
    return helper.make_function("local", name, ["a"], ["b"], nodes, [*imports(opset)])


def imports(opset=17):
    return [helper.make_opsetid("", opset), helper.make_opsetid("local", 1)]


def with_functions(functions, called="f", opset=17):
    proto = model([node("Identity", "x", "i"), helper.make_node(called, ["i"], ["y"], "call", domain="local")])
    proto.functions.extend(functions)
    del proto.opset_import[:]
    proto.opset_import.extend(imports(opset))
    return proto


def call(name, inputs, outputs):
    return helper.make_node(name, [inputs], [outputs], domain="local")


def test_functions_are_inlined():
    inner = function("g", [node("Sigmoid", "a", "s"), node("Mul", "a s", "b")])
    outer = function("f", [call("g", "a", "t"), node("Relu", "t", "b")])
    proto = with_functions([outer, inner])
    graph = read(proto)
    assert [op.kind for op in graph.ops()] == ["Identity", "Sigmoid", "Mul", "Relu"]
    assert read(with_functions([function("f", [node("Relu", "a", "b")], opset=14)])).op_count == 2


def test_external_data_is_read_from_beside_the_model(tmp_path):
    proto = model(conv(), constants=WEIGHTS)
    path = tmp_path / "net.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="net.data", size_threshold=0)
    np.testing.assert_array_equal(read(path).constant("w"), WEIGHTS["w"])


def test_a_constant_output_needs_no_op():
    graph = read(model([*RELU, node("Identity", "c", "z")], constants={"c": floats(3)}, outputs=("y", "z")))
    np.testing.assert_array_equal(graph.constant("z"), floats(3))


def test_float16_stays_float16():
    assert read(model(RELU, dtype=np.float16)).tensor("y").dtype == "float16"


def test_folding_agrees_with_onnx_runtime():
    nodes = [node("Transpose", "w", "t", perm=[1, 0]), node("Mul", "t t", "u"), node("MatMul", "x u", "y")]
    proto = model(nodes, shape=(2, 4), constants={"w": floats(3, 4)})
    graph = read(proto)
    feeds = feeds_of(graph)
    expected = run(proto, feeds)["y"]
    eps = np.finfo(np.float32).eps
    np.testing.assert_allclose(feeds["x"] @ graph.constant("u"), expected, atol=8 * eps * abs(expected).max(), rtol=0)


def test_standardized_weights_are_folded():
    """NF-ResNets normalize their weights with a BatchNormalization in training mode."""
    norm = node("BatchNormalization", "w s t m v", "u m2 v2", training_mode=1, epsilon=1e-5)
    constants = {"w": floats(1, 6, 36), "s": abs(floats(6)) + 0.5, "t": floats(6), "m": floats(6), "v": abs(floats(6))}
    nodes = [norm, node("Reshape", "u shape", "k"), node("Conv", "x k", "y")]
    proto = model(nodes, constants=constants | {"shape": np.array([6, 4, 3, 3], np.int64)})
    graph = read(proto)
    assert [op.kind for op in graph.ops()] == ["Conv"]
    expected, actual = run(proto, feeds_of(graph))["y"], run(to_onnx(graph), feeds_of(graph))["y"]
    np.testing.assert_allclose(actual, expected, atol=64 * np.finfo(np.float32).eps * abs(expected).max(), rtol=0)


def test_importing_the_package_does_not_import_onnx():
    code = "import sys, blockfuse.frontend; sys.exit('onnx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- bad files -------------------------------------------------------------------------------------------------------
def fails(source, error, *parts, **options):
    """Reading raises exactly this error, whose message is one short line with these parts in it."""
    with pytest.raises(ModelError if error is not UsageError else UsageError) as caught:
        read(source, **options)
    message = str(caught.value)
    assert type(caught.value) is error, message
    assert "\n" not in message
    assert "Traceback" not in message
    folder = str(source.parent) if isinstance(source, Path) else ""
    assert len(message) - len(folder) * message.count(folder) < 190
    for part in parts:
        assert part in message, message


def test_missing_file(tmp_path):
    fails(tmp_path / "none.onnx", ModelError, "none.onnx", "No such file")


def test_folder(tmp_path):
    fails(tmp_path, ModelError, str(tmp_path), "not a file")


def test_impossible_path():
    fails("a\0b", ModelError, "cannot be opened")


def test_empty_file(tmp_path):
    path = tmp_path / "empty.onnx"
    path.write_bytes(b"")
    fails(path, ModelError, "empty.onnx", "the file is empty")


@pytest.mark.parametrize("seed", range(5))
def test_random_bytes(tmp_path, seed):
    path = tmp_path / "random.onnx"
    path.write_bytes(np.random.default_rng(seed).bytes(1000))
    fails(path, ModelError, "random.onnx", "not an ONNX model")


def test_text_file(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    fails(path, ModelError, "model.onnx", "not an ONNX model")


@pytest.mark.parametrize("part", [0.01, 0.1, 0.5, 0.9, 0.999])
def test_truncated_file(tmp_path, part):
    data = zoo.resnet18(size=32, width=0.125).SerializeToString()
    path = tmp_path / "cut.onnx"
    path.write_bytes(data[: int(len(data) * part)])
    fails(path, ModelError, "cut.onnx")


@pytest.mark.parametrize("name", [b"name_of_x", b"name_of_graph", b"name_of_node", b"Softplus"])
def test_names_that_are_not_text(tmp_path, name):
    inputs = [value_info("name_of_x")]
    proto = model([node("Softplus", "name_of_x", "y", "name_of_node")], inputs=inputs)
    proto.graph.name = "name_of_graph"
    path = tmp_path / "damaged.onnx"
    path.write_bytes(proto.SerializeToString().replace(name, b"\xff" * len(name)))
    fails(path, ModelError, "damaged.onnx", "not text")


def test_too_large_file(tmp_path, monkeypatch):
    path = tmp_path / "large.onnx"
    onnx.save(model(RELU), path)
    monkeypatch.setattr("blockfuse.frontend.load.MAX_FILE_BYTES", 10)
    fails(path, UnsupportedModelError, "large.onnx", "at most 10 are read", "external data")


def test_a_file_that_vanishes_while_it_is_read(tmp_path, monkeypatch):
    path = tmp_path / "gone.onnx"
    onnx.save(model(RELU), path)

    def load(*_, **__):
        path.unlink()
        return path.read_bytes()

    monkeypatch.setattr(onnx, "load", load)
    fails(path, ModelError, "gone.onnx", "cannot be read", "No such file")


def test_missing_external_data(tmp_path):
    path = tmp_path / "net.onnx"
    onnx.save(model(conv(), constants=WEIGHTS), path, save_as_external_data=True, location="w.data", size_threshold=0)
    (tmp_path / "w.data").unlink()
    fails(path, ModelError, "net.onnx", "external data", "w.data")


def test_external_data_outside_the_folder(tmp_path):
    (tmp_path / "secret").write_bytes(bytes(1000))
    folder = tmp_path / "model"
    folder.mkdir()
    path = folder / "net.onnx"
    onnx.save(model(conv(), constants=WEIGHTS), path, save_as_external_data=True, location="w.data", size_threshold=0)
    path.write_bytes(path.read_bytes().replace(b"w.data", b"../secret"[-6:]))
    fails(path, ModelError, "net.onnx", "external data")
    proto = onnx.load(path, load_external_data=False)
    for entry in proto.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = "../secret"
    path.write_bytes(proto.SerializeToString())
    fails(path, ModelError, "net.onnx", "external data")


def test_external_data_that_is_not_loaded(tmp_path):
    path = tmp_path / "net.onnx"
    onnx.save(model(conv(), constants=WEIGHTS), path, save_as_external_data=True, location="w.data", size_threshold=0)
    fails(onnx.load(path, load_external_data=False), ModelError, "'w'", "not loaded")


# ---- bad models ------------------------------------------------------------------------------------------------------
def without_outputs():
    proto = model(RELU)
    del proto.graph.output[:]
    return proto


def without_opset():
    proto = model(RELU)
    del proto.opset_import[:]
    return proto


def with_domain(domain):
    proto = model([helper.make_node("FusedConv", ["x", "w"], ["y"], "fused", domain=domain)], constants=WEIGHTS)
    proto.opset_import.append(helper.make_opsetid(domain, 1))
    return proto


def with_initializer(**fields):
    proto = model(conv(), constants=WEIGHTS)
    for key, value in fields.items():
        if key == "dims":
            proto.graph.initializer[0].dims[:] = value
        else:
            setattr(proto.graph.initializer[0], key, value)
    return proto


def with_subgraph():
    body = helper.make_graph([node("Relu", "x", "z")], "body", [], [value_info("z")])
    constants = {"c": np.array(True)}
    return model([node("If", "c", "y", "branch", then_branch=body, else_branch=body)], constants=constants)


def with_sparse():
    proto = model(RELU)
    values = numpy_helper.from_array(np.ones(1, np.float32), "sparse")
    proto.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, numpy_helper.from_array(np.array([0])), [4])
    )
    return proto


def called_with(*inputs_and_function):
    *inputs, local = inputs_and_function
    proto = with_functions([local])
    proto.graph.node[1].input[:] = inputs
    return proto


def sparse_constant():
    values = numpy_helper.from_array(np.ones(1, np.float32), "sparse")
    sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(np.array([0])), [4])
    return model([node("Constant", "", "c", "few", sparse_value=sparse), node("Add", "x c", "y")], shape=(4,))


def nested_functions():
    """Ten functions that each call the next ten times."""
    functions = [function(f"f{i}", [call(f"f{i + 1}", "a", f"t{j}") for j in range(10)]) for i in range(10)]
    return with_functions([*functions, function("f10", [node("Relu", "a", "b")])], called="f0")


def relu_in(element, shape=(1, 4)):
    return model(RELU, inputs=[value_info(element=element, shape=shape)])


def repeated_attribute():
    proto = model(conv(group=1), constants=WEIGHTS)
    proto.graph.node[0].attribute.append(proto.graph.node[0].attribute[0])
    return proto


CYCLE = [node("Add", "x c", "a", "first"), node("Relu", "a", "b", "second"), node("Abs", "b", "c", "third")]
SCALES = {name: floats(4) for name in ("s", "t", "m", "v")}
NORM = node("BatchNormalization", "x s t m v", "y", "norm")
REDUCED = {**SCALES, "m": floats(5)}

BAD_MODELS = {
    "no graph": (onnx.ModelProto(), ModelError, "no graph"),
    "no nodes": (model([]), ModelError, "'y'", "computed by no node"),
    "no outputs": (without_outputs(), ModelError, "no outputs"),
    "no inputs": (model([node("Relu", "w", "y")], constants=WEIGHTS, inputs=[]), ModelError, "no inputs"),
    "no opset": (without_opset(), ModelError, "opset_import"),
    "old opset": (model(RELU, opset=6), UnsupportedModelError, "opset 6", "7 to 25"),
    "new opset": (model(RELU, opset=26), UnsupportedModelError, "opset 26", "7 to 25"),
    "zero opset": (model(RELU, opset=0), UnsupportedModelError, "opset 0"),
    "unknown domain": (with_domain("com.microsoft"), UnsupportedModelError, "FusedConv 'fused'", "'com.microsoft'"),
    "unknown operator": (model([node("Foo", "x", "y", "foo")]), UnsupportedModelError, "Foo 'foo'", "opset 17"),
    "later operator": (model([node("Gelu", "x", "y", "g")]), UnsupportedModelError, "Gelu 'g'", "opset 17"),
    "deprecated operator": (
        model([node("Upsample", "x s", "y", "up")], constants={"s": np.ones(4, np.float32)}, opset=11),
        UnsupportedModelError,
        "Upsample 'up'",
        "deprecated",
    ),
    "unknown attribute": (model([node("Relu", "x", "y", "r", slope=1)]), ModelError, "Relu 'r'", "'slope'"),
    "attribute of a wrong type": (
        model(conv(group="two"), constants=WEIGHTS),
        ModelError,
        "Conv 'conv'",
        "'group' of a wrong type",
    ),
    "attribute twice": (repeated_attribute(), ModelError, "Conv 'conv'", "'group' twice"),
    "attribute that is not text": (
        model(conv(auto_pad=b"\xff\xfe"), constants=WEIGHTS),
        ModelError,
        "Conv 'conv'",
        "damaged attribute 'auto_pad'",
    ),
    "result that is no tensor": (
        model([node("SequenceConstruct", "x", "list", "pack"), node("ConcatFromSequence", "list", "y", axis=0)]),
        UnsupportedModelError,
        "SequenceConstruct 'pack'",
    ),
    "text result": (
        model([node("Cast", "x", "y", "print", to=TensorProto.STRING)]),
        UnsupportedModelError,
        "Cast 'print'",
        "not a tensor of numbers",
    ),
    "missing attribute": (model([node("Concat", "x x", "y", "c")]), ModelError, "Concat 'c'", "lacks", "'axis'"),
    "control flow": (with_subgraph(), UnsupportedModelError, "If 'branch'", "control flow"),
    "sparse": (with_sparse(), UnsupportedModelError, "sparse"),
    "sparse constant": (sparse_constant(), UnsupportedModelError, "Constant 'few'", "sparse"),
    "missing tensor": (model(conv()), ModelError, "Conv 'conv'", "'w'"),
    "missing output": (model(RELU, outputs=("z",)), ModelError, "'z'", "computed by no node"),
    "cycle": (model([*CYCLE, *RELU]), ModelError, "cycle of 3 nodes"),
    "own result": (model([node("Add", "x y", "y", "own")]), ModelError, "Add 'own'", "cycle of 1 nodes"),
    "two producers": (model([*RELU, node("Abs", "x", "y", "abs")]), ModelError, "'y'", "Relu 'relu'", "Abs 'abs'"),
    "overwritten input": (model([node("Relu", "x", "x", "r")], outputs=("x",)), ModelError, "Relu 'r'", "'x'"),
    "equal inputs": (model(RELU, inputs=[value_info(), value_info()]), ModelError, "two", "inputs", "'x'"),
    "equal outputs": (model(RELU, outputs=("y", "y")), ModelError, "two", "outputs", "'y'"),
    "equal initializers": (
        with_initializer(name="b"),
        ModelError,
        "two",
        "initializers",
        "'b'",
    ),
    "nameless initializer": (with_initializer(name=""), ModelError, "initializer has no name"),
    "short data": (with_initializer(raw_data=b"123"), ModelError, "initializer 'w'", "does not fit"),
    "initializer of high rank": (with_initializer(dims=[1] * 9), UnsupportedModelError, "initializer 'w'", "9 dim"),
    "negative initializer": (with_initializer(dims=[-1, 4]), ModelError, "initializer 'w'", "below 0"),
    "line break in a name": (model([node("Fo\no", "x", "y", "a\nb")]), UnsupportedModelError, "Fo o"),
    "unknown type": (with_initializer(data_type=99), ModelError, "initializer 'w'", "does not fit"),
    "zero dimension": (model(RELU, shape=(1, 0, 8, 8)), ModelError, "'x'", "below 1"),
    "negative dimension": (model(RELU, shape=(1, -3, 8, 8)), ModelError, "'x'", "below 1"),
    "symbolic batch and width": (
        model(RELU, shape=("N", 3, 32, "W")),
        UnsupportedModelError,
        "'x'",
        "N, W",
        "--shape x=1x3x32x224",
    ),
    "symbolic image": (model(RELU, shape=(1, 3, "H", None)), UnsupportedModelError, "H, ?", "--shape x=1x3x224x224"),
    "no shape": (model(RELU, shape=None), UnsupportedModelError, "'x' has no shape", "--shape x=1x3x224x224"),
    "high rank": (model(RELU, shape=(1,) * 9), UnsupportedModelError, "'x'", "dimensions"),
    "huge input": (model(RELU, shape=(2**16, 2**16)), UnsupportedModelError, "'x'", "elements"),
    "huge result": (
        model([node("MatMul", "x w", "y", "mm")], shape=(2**20, 1), constants={"w": floats(1, 2**12)}),
        UnsupportedModelError,
        "MatMul 'mm'",
        "elements",
    ),
    "huge constant": (
        model([node("ConstantOfShape", "s", "c", "fill"), node("Add", "x c", "y")], (1,), {"s": np.array([2**30])}),
        UnsupportedModelError,
        "fill",
    ),
    "text input": (relu_in(TensorProto.STRING), UnsupportedModelError, "'x'", "not a tensor of numbers"),
    "integer relu": (relu_in(TensorProto.BOOL), ModelError, "relu"),
    "too many inputs": (model([node("Relu", "x x", "y", "r")]), ModelError, "Relu 'r'"),
    "shapes that do not broadcast": (
        model([node("Add", "x c", "y", "add")], constants={"c": floats(3)}),
        ModelError,
        "Add 'add'",
        "Incompatible dimensions",
    ),
    "shapes that do not fit at a nameless node": (
        model([helper.make_node("Add", ["x", "c"], ["y"])], constants={"c": floats(3)}),
        ModelError,
        "Add 'y'",
    ),
    "impossible reshape": (
        model([node("Reshape", "x s", "y", "view")], constants={"s": np.array([7, -1])}),
        ModelError,
        "Reshape 'view'",
    ),
    "constant that cannot be computed": (
        model(
            [node("Gather", "c i", "g", "pick"), node("Add", "x g", "y")],
            constants={"c": floats(3), "i": np.array(5)},
        ),
        ModelError,
        "Gather 'pick'",
        "cannot be computed",
    ),
    "shape from data": (model([node("NonZero", "x", "y", "nz")]), UnsupportedModelError, "NonZero 'nz'", "depends"),
    "filter of another depth": (
        model(conv(), constants={"w": floats(6, 3, 3, 3)}),
        ModelError,
        "Conv 'conv'",
        "needs 3 input channels",
    ),
    "filter of another rank": (
        model(conv(), constants={"w": floats(6, 4, 3)}),
        ModelError,
        "Conv 'conv'",
        "spatial dimensions",
    ),
    "groups that do not divide": (
        model(conv(group=3), constants=WEIGHTS),
        ModelError,
        "Conv 'conv'",
        "divide into 3 groups",
    ),
    "filters that do not divide": (
        model(conv(group=4), constants={"w": floats(6, 1, 3, 3)}),
        ModelError,
        "Conv 'conv'",
        "divide into 4 groups",
    ),
    "no groups": (model(conv(group=0), constants=WEIGHTS), ModelError, "Conv 'conv'", "divide into 0 groups"),
    "filter size": (
        model(conv(kernel_shape=[5, 5], pads=[2] * 4), constants=WEIGHTS),
        ModelError,
        "Conv 'conv'",
        "kernel_shape 5x5",
    ),
    "bias size": (model(conv("x w b"), constants={**WEIGHTS, "b": floats(5)}), ModelError, "Conv 'conv'", "bias 5"),
    "zero stride": (model(conv(strides=[0, 1]), constants=WEIGHTS), ModelError, "Conv 'conv'", "strides"),
    "zero dilation": (model(conv(dilations=[0, 1]), constants=WEIGHTS), ModelError, "Conv 'conv'", "dilations"),
    "pads of another rank": (model(conv(pads=[1, 1]), constants=WEIGHTS), ModelError, "Conv 'conv'", "pads"),
    "negative pads": (model(conv(pads=[-1, 0, 0, 0]), constants=WEIGHTS), ModelError, "Conv 'conv'", "pads"),
    "unknown auto_pad": (model(conv(auto_pad="HALF"), constants=WEIGHTS), ModelError, "Conv 'conv'", "HALF"),
    "image smaller than the filter": (
        model(conv(), shape=(1, 4, 2, 8), constants=WEIGHTS),
        ModelError,
        "Conv 'conv'",
        "too small",
    ),
    "pool without a window": (model([node("MaxPool", "x", "y", "pool")]), ModelError, "MaxPool 'pool'", "kernel_shape"),
    "pool with stride zero": (
        model([node("MaxPool", "x", "y", "pool", kernel_shape=[2, 2], strides=[0, 0])]),
        ModelError,
        "MaxPool 'pool'",
    ),
    "norm of another width": (model([NORM], constants=REDUCED), ModelError, "'norm'"),
    "old norm": (
        model([node("BatchNormalization", "x s t m v", "y", "norm", spatial=0)], constants=SCALES, opset=7),
        UnsupportedModelError,
        "'norm'",
        "spatial=0",
    ),
    "too many nodes": (nested_functions(), UnsupportedModelError, "nodes", str(MAX_NODES)),
    "recursive function": (with_functions([function("f", [call("f", "a", "b")])]), ModelError, "'f' calls itself"),
    "function called with too much": (
        called_with("i", "i", function("f", [node("Relu", "a", "b")])),
        ModelError,
        "cannot be inlined",
    ),
    "missing function": (with_functions([], called="g"), UnsupportedModelError, "g 'call'", "'local'"),
}


@pytest.mark.parametrize("name", BAD_MODELS)
def test_bad_models(name):
    proto, error, *parts = BAD_MODELS[name]
    fails(proto, error, *parts)


def one_op(kind, constants, **attrs):
    shapes = {"x": (1, 4, 8, 8), **constants, "y": (1, 4, 8, 8)}
    tensors = [Tensor(name, shape, "float32") for name, shape in shapes.items()]
    return Graph("g", ["x"], ["y"], tensors, [Op(kind, "op", ("x", *constants), ("y",), attrs)])


@pytest.mark.parametrize(
    ("graph", "part"),
    [
        (one_op("MaxPool", {}, kernel_shape=(2,)), "kernel_shape has 1 entries and needs 2"),
        (one_op("MaxPool", {}, kernel_shape=(2, 2), pads=(0, 0)), "pads has 2 entries and needs 4"),
        (one_op("AveragePool", {}, kernel_shape=(0, 2)), "kernel_shape has an entry below 1"),
        (one_op("AveragePool", {}, kernel_shape=(2, 2), pads=(0, -1, 0, 0)), "pads has an entry below 0"),
        (one_op("BatchNormalization", {"s": (5,)}), "'s' has shape 5"),
    ],
)
def test_what_some_versions_of_shape_inference_let_through(graph, part):
    with pytest.raises(ModelError, match=part):
        check_ops(graph)


@pytest.mark.parametrize(
    ("shape", "part"),
    [({"z": (1, 3)}, "'z'"), ({"x": (1, 3)}, "2 dimensions, not 4"), ({"x": (0, 4, 8, 8)}, "below 1")],
)
def test_bad_shapes_are_usage_errors(shape, part):
    fails(model(RELU), UsageError, part, shape=shape)


def test_a_given_shape_that_does_not_fit_the_filter():
    fails(model(conv(), constants=WEIGHTS), ModelError, "Conv 'conv'", shape={"x": (1, 5, 8, 8)})


@pytest.mark.parametrize("target", [[1, 12], [1, -1]])
def test_reshape_follows_a_batch_given_in_place_of_the_exported_one(target: list[int]):
    """Exporters write the batch size into constants; a constant that something else shares stays as it is."""
    nodes = [node("Reshape", "x t", "y"), node("Reshape", "w t", "z"), node("Add", "y z", "s")]
    constants = {"t": np.array(target), "w": np.ones((1, 3, 2, 2), np.float32)}
    proto = model(nodes, (1, 3, 2, 2), constants, outputs=("s",))
    assert read(proto, {"x": (5, 3, 2, 2)}).tensor("s").shape == (5, 12)
    assert read(proto).tensor("s").shape == (1, 12)
