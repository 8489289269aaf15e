"""What the fuzzers found, each as a small case."""

import numpy as np
import pytest
from onnx import helper

import blockfuse
from blockfuse.block import Block
from blockfuse.errors import ModelError
from blockfuse.plan.cpu import CpuPlan, UnitTiling
from blockfuse.schedules.cpu.window import rows_inside
from blockfuse.stages import Activation, Conv, Function, ImageShape, Norm, Window
from tests.cpu_kernels import call, compile_programs, error, random_inputs
from tests.fuzz.blocks import KernelCase, compare
from tests.onnx_models import floats, model, node


@pytest.mark.parametrize("height", range(1, 8))
@pytest.mark.parametrize("dilation", [2, 3])
def test_dilated_windows_on_images_of_few_rows(height, dilation):
    """TVM's simplifier reads beyond the image: it takes ``row // -2`` for ``(1 - row) // 2``."""
    window = Window(3, 1, dilation_h=dilation, pad_top=dilation, pad_bottom=dilation)
    block = Block((ImageShape(height, 5, 3),), (Conv("conv", (0,), 7, window),), batch=2).with_random_parameters(1)
    case = KernelCase(block, CpuPlan("rows", 1, 3, (UnitTiling(3, 1),), lanes=4), (False,))
    program = case.program("dilated")
    compare(case, compile_programs([program])["dilated"], program, 1)


@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_filter_rows_inside_the_image(dilation):
    for height, pad, stride in [(1, 0, 1), (2, 2, 1), (5, 4, 2), (9, 3, 3), (4, 7, 1)]:
        window = Window(5, 1, stride, 1, dilation, 1, pad, 0, pad + 1, 0)
        image = ImageShape(height, 1, 1)
        for row in range(window.output_size(height, 1)[0]):
            low, high = rows_inside(window, image, row, 0, 5)
            inside = [r for r in range(5) if 0 <= row * stride + r * dilation - pad < height]
            assert list(range(low, high)) == inside


def test_a_constant_added_to_a_vector():
    proto = model([node("Reshape", "x s", "v"), node("Add", "v c", "y")], (1, 2, 3, 4), {"s": [-1], "c": floats(1)})
    assert blockfuse.compile(proto, stop_after="canonicalize").op_count == 2


def test_a_value_that_is_expanded_and_added_to_itself():
    nodes = [node("Expand", "x s", "e"), node("Add", "e e", "y")]
    proto = model(nodes, (1, 2, 3, 4), {"s": [5, 1, 1, 1]})
    x = floats(1, 2, 3, 4)
    actual = blockfuse.compile(proto, threads=1).run({"x": x})["y"]
    np.testing.assert_array_equal(actual, np.broadcast_to(2 * x, (5, 2, 3, 4)))


@pytest.mark.parametrize("shape", [(2, 5), (2, 5, 7)])
def test_the_mean_of_what_is_no_image(shape):
    blockfuse.compile(model([node("GlobalAveragePool", "x", "y")], shape), stop_after="plan", fuse="always")


def calling(body, value):
    """A model of one function."""
    proto = model([helper.make_node("f", ["x"], ["y"], domain="local")], constants={"i": np.array(value)})
    imports = [*proto.opset_import, helper.make_opsetid("local", 1)]
    del proto.opset_import[:]
    proto.opset_import.extend(imports)
    proto.functions.append(helper.make_function("local", "f", ["a"], ["b"], body, imports))
    return proto


@pytest.mark.parametrize(
    ("proto", "part"),
    [
        (model([node("Transpose", "x", "y", perm=[0, 1, 2])]), "perm (0, 1, 2) is no order of 4 axes"),
        (model([node("Conv", "x w", "y", kernel_shape=[1, 1])], constants={"w": floats(4)}), "filter 4"),
        (model([node("InstanceNormalization", "x - s", "y")], constants={"s": floats(4)}), "lacks the input 'scale'"),
        (model([node("Abs", "c", "y")], constants={"c": floats(3)}), "'y' is a constant"),
        (calling([helper.make_node("Concat", ["a"], ["b"], axis=9)], 0), "Concat"),
    ],
)
def test_what_shape_inference_lets_through_or_raises(proto, part):
    with pytest.raises(ModelError) as caught:
        blockfuse.compile(proto, stop_after="partition")
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_constant_of_more_axes_than_an_image():
    """The result is no image, so that the image before it is not wanted with its channels last."""
    proto = model([node("Mul", "x x", "m"), node("Mul", "m c", "y")], (1, 4, 5, 3), {"c": floats(1, 1, 1, 1, 1)})
    x = floats(1, 4, 5, 3)
    actual = blockfuse.compile(proto, threads=1).run({"x": x})["y"]
    np.testing.assert_allclose(actual, (x * x)[None] * floats(1, 1, 1, 1, 1), rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kernel_shape": [5]}, "kernel_shape"),
        ({"dilations": [1]}, "dilations"),
        ({"pads": [0, 0]}, "pads"),
        ({"strides": [0, 1]}, "strides"),
        ({"strides": [2]}, "strides"),
        ({"strides": 2}, "strides"),
        ({"kernel_shape": None}, "kernel_shape"),
    ],
)
def test_a_rounded_pool_whose_window_does_not_fit(change, message):
    attrs = {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1} | change
    attrs = {key: value for key, value in attrs.items() if value is not None}
    proto = model([node("MaxPool", "x", "y", **attrs)], (1, 3, 6, 7), opset=13)
    with pytest.raises(ModelError, match=message):
        blockfuse.compile(proto, stop_after="canonicalize")


def test_scales_that_are_no_list():
    proto = model([node("Resize", "x - s", "y", mode="linear")], (1, 6, 1, 1), {"s": np.ones((4, 1), np.float32)})
    with pytest.raises(ModelError, match="'s' has shape 4x1, and must be a list"):
        blockfuse.compile(proto, stop_after="canonicalize")


@pytest.mark.parametrize("seed", [900154, 900155])
def test_what_two_nearly_equal_channels_are_normalized_to(seed):
    """Float32 cannot be near: the small error of mish is divided by a deviation that is next to nothing."""
    stages = (Activation("mish", (0,), Function("mish")), Norm("norm", (1,), 1e-6))
    block = Block((ImageShape(32, 17, 2),), stages, batch=2).with_random_parameters(seed)
    case = KernelCase(block, CpuPlan("rows", 1, 1, (UnitTiling(7, 1), UnitTiling(7, 1)), lanes=16), (False,))
    program = case.program("magnified")
    kernel = compile_programs([program])["magnified"]
    compare(case, kernel, program, seed)
    inputs = random_inputs(block, seed)
    actual = call(kernel, program, inputs, block.parameters)
    assert error(block, inputs, actual + 1e-2) > 1
