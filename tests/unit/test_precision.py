"""Models of half precision become the same network in float32; their interface stays."""

import ml_dtypes
import numpy as np
import onnx
import pytest

import blockfuse as bf
from blockfuse.build.border import computed_in, narrowed
from blockfuse.build.network import Call, Network
from blockfuse.dtypes import narrowed_bits, numpy_type, widened_values
from blockfuse.errors import UnsupportedModelError, UsageError
from blockfuse.frontend import canonicalize, own_dtype, read
from blockfuse.frontend.canonical import check_canonical
from blockfuse.frontend.precision import is_half, widened
from blockfuse.graph import Op, Tensor
from blockfuse.runtime.library import Port
from blockfuse.verification.compare import compare, tolerance
from tests.half_models import in_half
from tests.onnx_models import floats, model, node, run

TYPES = [np.float16, ml_dtypes.bfloat16]


def small(**options):
    """A residual block with a branch that leaves the network, too."""
    weights = {"v": floats(6, 4, 3, 3, seed=1) / 6, "w": floats(4, 6, 1, 1, seed=2) / 3}
    nodes = [
        node("Conv", "x v", "a", pads=[1, 1, 1, 1]),
        node("Relu", "a", "b"),
        node("Conv", "b w", "c"),
        node("Add", "c x", "y"),
        node("GlobalAveragePool", "b", "z"),
    ]
    return model(nodes, (2, 4, 7, 9), weights, outputs=("y", "z"), **options)


def halved(dtype, *, interface=True):
    opset = 17 if dtype is np.float16 else 22  # the first with convolutions in bfloat16
    return in_half(onnx.shape_inference.infer_shapes(small(opset=opset)), dtype, interface=interface)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("interface", [True, False])
def test_everything_inside_becomes_float32(dtype, interface):
    graph = read(halved(dtype, interface=interface))
    name = np.dtype(dtype).name
    assert own_dtype(graph) == name
    assert is_half(graph)
    wide = canonicalize(graph)
    check_canonical(wide)
    assert not is_half(wide)
    ports = {*wide.inputs, *wide.outputs}
    found = {tensor.dtype for tensor in wide.tensors if tensor.name not in ports}
    assert found == {"float32"}
    assert {wide.tensor(port).dtype for port in ports} == {name if interface else "float32"}
    assert sum(op.kind == "Cast" for op in wide.ops()) == (3 if interface else 0)
    assert wide.inputs == ("x",)
    assert wide.outputs == ("y", "z")
    again = canonicalize(wide)
    assert [str(op) for op in again.ops()] == [str(op) for op in wide.ops()]


def test_what_a_model_computes_in():
    assert own_dtype(read(small())) == "float32"
    mixed = model(
        [node("Relu", "x", "a"), node("Cast", "a", "b", to=onnx.TensorProto.FLOAT), node("Exp", "b", "y")],
        dtype=np.float16,
    )
    assert own_dtype(read(mixed)) == "float32"


def test_a_port_between_other_ops_keeps_its_type():
    """An output that is also read, and an input that is cast by the model."""
    nodes = [node("Relu", "x", "y"), node("Exp", "y", "a"), node("Cast", "a", "z", to=onnx.TensorProto.FLOAT)]
    wide = widened(read(model(nodes, dtype=np.float16, outputs=("y", "z"))))
    wide.check()
    assert {name: wide.tensor(name).dtype for name in ("x", "y", "z")} == {
        "x": "float16",
        "y": "float16",
        "z": "float32",
    }
    assert wide.producer("y").kind == "Cast"
    (reader,) = [op for op in wide.ops() if op.kind == "Exp"]
    assert wide.tensor(reader.inputs[0]).dtype == "float32"


@pytest.mark.parametrize("interface", [True, False])
def test_cpus_compute_in_float32(interface):
    proto = halved(np.float16, interface=interface)
    feeds = {"x": floats(2, 4, 7, 9, dtype=np.float16 if interface else np.float32)}
    executable = bf.compile(proto, fuse="always")
    assert executable.report().dtype == "float32"
    expected = run(small(), {"x": feeds["x"].astype(np.float32)})
    for name, array in executable.run(feeds).items():
        assert array.dtype == (np.float16 if interface else np.float32)
        assert compare(array, expected[name], tolerance(36, "float16", 2)).passed
    assert bf.verify(proto).passed


def test_an_interface_in_bfloat16():
    executable = bf.compile(halved(ml_dtypes.bfloat16))
    x = floats(2, 4, 7, 9).astype(ml_dtypes.bfloat16)
    expected = run(small(), {"x": x.astype(np.float32)})
    for name, array in executable.run({"x": x}).items():
        assert array.dtype == ml_dtypes.bfloat16
        assert compare(array, expected[name], tolerance(36, "bfloat16", 2)).passed


def test_types_that_a_target_lacks():
    with pytest.raises(UsageError, match=r"^dtype 'float16' is not available; target cpu:\w+ computes in float32$"):
        bf.compile(halved(np.float16), dtype="float16")
    with pytest.raises(UnsupportedModelError, match="of type float64"):
        bf.compile(model([node("Relu", "x", "y")], dtype=np.float64))


# ---- the border of a GPU's network -----------------------------------------------------------------------------------
def network(source, target):
    """A Cast, an op, and a Cast, as a model of half precision has them; nothing but the op for float32."""
    tensors = [Tensor("x", (2, 4, 3, 5), source), Tensor("y", (2, 4, 3, 5), target)]
    tensors += [Tensor("a", (2, 4, 3, 5), "float32"), Tensor("b", (2, 4, 3, 5), "float32")]
    first, last = "x" if source == "float32" else "a", "y" if target == "float32" else "b"
    steps = [Op("Cast", "in", ("x",), ("a",))] if first == "a" else []
    steps += [Op("Relu", "relu", (first,), (last,))]
    steps += [Op("Cast", "out", ("b",), ("y",))] if last == "b" else []
    ports = Port("x", (2, 4, 3, 5), source), Port("y", (2, 4, 3, 5), target)
    return Network("n", ports[:1], ports[1:], tuple(steps), {tensor.name: tensor for tensor in tensors})


@pytest.mark.parametrize("source", ["float32", "float16"])
@pytest.mark.parametrize("target", ["float32", "bfloat16"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_one_kernel_converts_each_input_and_output(source, target, dtype):
    inner, casts = computed_in(network(source, target), dtype)
    inner.check()
    enter, relu, leave = inner.steps
    assert isinstance(enter, Call)
    assert isinstance(leave, Call)
    first, last = casts[enter.kernel], casts[leave.kernel]
    assert (first.source, first.target, first.transposed) == (source, dtype, True)
    assert (last.source, last.target, last.transposed) == (dtype, target, False)
    assert {inner.tensors[name].dtype for name in (*relu.inputs, *relu.outputs)} == {dtype}
    assert {inner.tensors[name].dtype for name in "xy"} == {source, target}


def test_numbers_too_large_for_a_type():
    for dtype, limit in (("float16", 65504.0), ("bfloat16", 3.38e38)):
        narrowed(np.array([limit, -np.inf]), dtype, "w")
        with pytest.raises(UnsupportedModelError, match=rf"^w holds .*, and {dtype} ends at"):
            narrowed(np.array([1.0, -1.1 * limit]), dtype, "w")


def test_bfloat16_without_the_package_for_it():
    """Weights of that type are made from seeds where numpy does not know it."""
    values = floats(4001) * 10.0 ** np.random.default_rng(3).integers(-38, 38, 4001).astype(np.float32)
    raw = narrowed_bits(values, "bfloat16")
    np.testing.assert_array_equal(raw.reshape(-1).view(numpy_type("bfloat16")), values.astype(ml_dtypes.bfloat16))
    wide = widened_values(raw.reshape(-1), "bfloat16")
    np.testing.assert_array_equal(wide, values.astype(ml_dtypes.bfloat16).astype(np.float32))
