"""Models whose batch is open, in the forms that exporters write what depends on it."""

import numpy as np
import onnx

from tests.onnx_models import floats, model, node


def conv(source, target, name, **attrs):
    """A 3x3 convolution that keeps the size."""
    return node("Conv", f"{source} {name}", target, kernel_shape=[3, 3], pads=[1, 1, 1, 1], **attrs)


def flatten_by_shape():
    """What ``x.view(x.size(0), -1)`` becomes, and a dimension that is computed by multiplying."""
    nodes = [
        conv("x", "a", "w"),
        node("Shape", "a", "s"),
        node("Gather", "s zero", "n", axis=0),
        node("Unsqueeze", "n axes", "n1"),
        node("Concat", "n1 rest", "target", axis=0),
        node("Reshape", "a target", "flat"),
        node("MatMul", "flat m", "y"),
    ]
    constants = {"w": floats(6, 4, 3, 3), "zero": np.int64(0), "axes": np.array([0]), "rest": np.array([-1])}
    return model(nodes, ("N", 4, 5, 7), constants | {"m": floats(6 * 35, 3)})


def shuffle_by_shape():
    """A channel shuffle whose targets hold the batch, once computed and once as -1."""
    nodes = [
        node("Shape", "x", "s"),
        node("Slice", "s zero one", "n"),
        node("Concat", "n groups", "split", axis=0),
        node("Reshape", "x split", "a"),
        node("Transpose", "a", "b", perm=[0, 2, 1, 3, 4]),
        node("Reshape", "b whole", "c"),
        node("Conv", "c w", "y", kernel_shape=[1, 1]),
    ]
    constants = {"zero": np.array([0]), "one": np.array([1]), "groups": np.array([2, 3, 5, 5])}
    return model(nodes, (None, 6, 5, 5), constants | {"whole": np.array([-1, 6, 5, 5]), "w": floats(4, 6, 1, 1)})


def expanded():
    """A gate that is expanded to its image, as the older exporter writes it."""
    nodes = [
        node("GlobalAveragePool", "x", "p"),
        node("Sigmoid", "p", "g"),
        node("Shape", "x", "s"),
        node("Equal", "s minus", "same"),
        node("Where", "same ones s", "target"),
        node("Expand", "g target", "e"),
        node("Mul", "x e", "z"),
        conv("z", "y", "w"),
    ]
    constants = {"minus": np.full(4, -1), "ones": np.ones(4, np.int64), "w": floats(4, 4, 3, 3)}
    return model(nodes, ("batch", 4, 6, 6), constants)


def strided_view():
    """All elements in their own order, as the newer exporter writes ``as_strided``."""
    nodes = [
        node("GlobalAveragePool", "x", "p"),
        node("Reshape", "p row", "flat"),
        node("Shape", "x", "s"),
        node("Gather", "s zero", "n", axis=0),
        node("Range", "zero n one", "count"),
        node("Mul", "count width", "starts"),
        node("Unsqueeze", "starts last", "column"),
        node("Add", "column offsets", "indices"),
        node("Gather", "flat indices", "v"),
        node("MatMul", "v m", "y"),
    ]
    constants = {"row": np.array([-1]), "zero": np.int64(0), "one": np.int64(1), "width": np.int64(4)}
    constants |= {"last": np.array([1]), "offsets": np.arange(4), "m": floats(4, 3)}
    return model(nodes, ("N", 4, 3, 3), constants)


def single_ops():
    """Operators without a kernel of ours, in both layouts."""
    nodes = [
        conv("x", "a", "w"),
        node("MaxPool", "a", "b", kernel_shape=[2, 2], strides=[2, 2]),
        node("Concat", "b b", "c", axis=1),
        node("Slice", "c one three axis", "d"),
        node("Pad", "d pads", "e", mode="reflect"),
        node("Softmax", "e", "f", axis=1),
        node("Resize", "f - scales", "g", mode="linear"),
        node("ReduceMean", "g", "h", axes=[2], keepdims=0),
        node("Transpose", "h", "i", perm=[0, 2, 1]),
        node("MatMul", "i m", "y"),
    ]
    constants = {"w": floats(4, 4, 3, 3), "one": np.array([1]), "three": np.array([7]), "axis": np.array([1])}
    constants |= {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "m": floats(6, 3)}
    return model(nodes, ("N", 4, 8, 8), constants | {"scales": np.array([1, 1, 2, 2], np.float32)})


def resized_like():
    """An image resized to another's height and width, by sizes that hold the batch."""
    nodes = [
        node("Conv", "x w", "a", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Shape", "a", "small"),
        node("Slice", "small zero two", "front"),
        node("Shape", "x", "large"),
        node("Slice", "large two four", "size"),
        node("Concat", "front size", "sizes", axis=0),
        node("Resize", "a - - sizes", "b", mode="linear"),
        conv("b", "y", "w"),
    ]
    constants = {"w": floats(4, 4, 3, 3), "zero": np.array([0]), "two": np.array([2]), "four": np.array([4])}
    return model(nodes, ("N", 4, 7, 9), constants)


def quantized():
    """A convolution between QuantizeLinear and DequantizeLinear, with an int8 filter."""
    nodes = [
        node("QuantizeLinear", "x scale zero", "q"),
        node("DequantizeLinear", "q scale zero", "d"),
        node("DequantizeLinear", "w scales zeros", "filter", axis=0),
        node("Conv", "d filter", "y", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    ]
    constants = {"scale": np.float32(0.05), "zero": np.int8(0), "zeros": np.zeros(4, np.int8)}
    constants |= {"w": (30 * floats(4, 4, 3, 3)).astype(np.int8), "scales": np.full(4, 0.01, np.float32)}
    return model(nodes, ("N", 4, 6, 6), constants, opset=19)


FORMS = [flatten_by_shape, shuffle_by_shape, expanded, strided_view, single_ops, resized_like, quantized]


def two_inputs():
    """Two inputs, one of which is an output too."""
    shapes = {"x": ("N", 4, 6, 6), "z": ("M", 4, 6, 6)}
    inputs = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    nodes = [conv("x", "a", "w"), node("Add", "a z", "y"), node("Identity", "z", "same")]
    return model(nodes, constants={"w": floats(4, 4, 3, 3)}, inputs=inputs, outputs=("y", "same"))
