"""Small networks with kernels made by hand, and what they compute."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from tvm import tirx
from tvm.tirx import BufferLoad, BufferStore, For, ForKind, PrimFunc, Var

from blockfuse.build.network import Call, Network
from blockfuse.graph import Op, Tensor
from blockfuse.runtime.library import Port

N, C, H, W = 2, 8, 5, 6
IMAGE = (N, C, H, W)
KERNEL_IMAGE = (N, H, W, C)


def scale_kernel(shape=KERNEL_IMAGE, *, reads_nchw=False, alignment=4):
    """y[n, h, w, c] = x * weight[c] + bias[c] with threads over the second axis."""
    n, h, w, c = (Var(name, "int32") for name in "nhwc")
    read = (shape[0], shape[3], shape[1], shape[2]) if reads_nchw else shape
    x = tirx.decl_buffer(read, "float32", "x", data_alignment=alignment)
    weight, bias = (tirx.decl_buffer((shape[3],), "float32", name) for name in ("weight", "bias"))
    y = tirx.decl_buffer(shape, "float32", "y", data_alignment=alignment)
    value = BufferLoad(x, [n, c, h, w] if reads_nchw else [n, h, w, c])
    body = BufferStore(y, value * BufferLoad(weight, [c]) + BufferLoad(bias, [c]), [n, h, w, c])
    for variable, extent in ((c, shape[3]), (w, shape[2])):
        body = For(variable, 0, extent, ForKind.SERIAL, body)
    body = For(h, 0, shape[1], ForKind.PARALLEL, body)
    return PrimFunc([x, weight, bias, y], For(n, 0, shape[0], ForKind.SERIAL, body))


def negate_kernel(shape=KERNEL_IMAGE):
    """y = -x, a kernel of one tensor without constants."""
    axes = [Var(name, "int32") for name in "nhwc"]
    x, y = (tirx.decl_buffer(shape, "float32", name, data_alignment=4) for name in "xy")
    body = BufferStore(y, BufferLoad(x, axes) * tirx.const(-1.0, "float32"), axes)
    for variable, extent in zip(reversed(axes), reversed(shape), strict=True):
        body = For(variable, 0, extent, ForKind.SERIAL, body)
    return PrimFunc([x, y], body)


def mean_kernel(shape=KERNEL_IMAGE):
    """y[n, 0, 0, c] = mean of x over h and w: a kernel with one tensor and no constant."""
    n, h, w, c = (Var(name, "int32") for name in "nhwc")
    x = tirx.decl_buffer(shape, "float32", "x", data_alignment=4)
    y = tirx.decl_buffer((shape[0], 1, 1, shape[3]), "float32", "y", data_alignment=4)
    place = [n, 0, 0, c]
    share = BufferLoad(x, [n, h, w, c]) * tirx.const(1.0 / (shape[1] * shape[2]), "float32")
    total = BufferStore(y, BufferLoad(y, place) + share, place)
    for variable, extent in ((w, shape[2]), (h, shape[1])):
        total = For(variable, 0, extent, ForKind.SERIAL, total)
    body = tirx.SeqStmt([BufferStore(y, tirx.const(0.0, "float32"), place), total])
    for variable, extent in ((c, shape[3]), (n, shape[0])):
        body = For(variable, 0, extent, ForKind.SERIAL, body)
    return PrimFunc([x, y], body)


def tensors(**shapes):
    return {name: Tensor(name, tuple(shape), "float32") for name, shape in shapes.items()}


def weights(seed, channels=C):
    rng = np.random.default_rng(seed)
    return tuple(rng.standard_normal(channels).astype(np.float32) for _ in range(2))


def scaled(x, constants):
    weight, bias = (part[:, None, None] for part in constants)
    return x * weight + bias


def softmax(x, axis):
    exponent = np.exp(x - x.max(axis, keepdims=True))
    return exponent / exponent.sum(axis, keepdims=True)


def close(actual, expected, depth=H * W + 8):
    """Equal but for the rounding of that many float32 operations."""
    allowed = depth * np.finfo(np.float32).eps * max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=allowed)


def image_input(seed=0, shape=IMAGE):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def classifier():
    """The stem, two calls of one kernel with different weights, a mean, and Softmax on N, C."""
    parts = [weights(seed) for seed in range(3)]
    network = Network(
        "classifier",
        (Port("image", IMAGE),),
        (Port("probability", (N, C)), Port("features", (N, C, 1, 1))),
        (
            Call("stem", ("image",), parts[0], "a", KERNEL_IMAGE, nchw_inputs=(0,)),
            Call("scale", ("a",), parts[1], "b", KERNEL_IMAGE),
            Call("scale", ("b",), parts[2], "c", KERNEL_IMAGE),
            Call("mean", ("c",), (), "features", (N, 1, 1, C)),
            Op("Flatten", "flatten", ("features",), ("flat",), {"axis": 1}),
            Op("Softmax", "softmax", ("flat",), ("probability",), {"axis": 1}),
        ),
        tensors(image=IMAGE, a=IMAGE, b=IMAGE, c=IMAGE, features=(N, C, 1, 1), flat=(N, C), probability=(N, C)),
    )
    functions = {"stem": scale_kernel(reads_nchw=True), "scale": scale_kernel(), "mean": mean_kernel()}

    def reference(image):
        for part in parts:
            image = scaled(image, part)
        features = image.mean((2, 3), keepdims=True)
        return {"features": features, "probability": softmax(features.reshape(N, C), 1)}

    return network, functions, reference


def single_op(op, *inputs, constants=None, output=IMAGE, before=False, dtype="float32"):
    """A network of one op; with ``before`` kernels precede it, so that its images have their channels last."""
    constants = constants or {}
    shapes = {f"x{i}": shape for i, shape in enumerate(inputs)}
    named = tensors(**shapes)
    named.update({name: Tensor(name, output, dtype) for name in op.outputs})
    named.update({name: Tensor(name, value.shape, value.dtype.name, value) for name, value in constants.items()})
    steps = [op]
    if before:
        ones = (np.ones(inputs[0][1], np.float32), np.zeros(inputs[0][1], np.float32))
        for name, (n, c, h, w) in list(shapes.items()):
            call = Call(f"copy_{name}", (f"in_{name}",), ones, name, (n, h, w, c), nchw_inputs=(0,))
            steps.insert(0, call)
            named[f"in_{name}"] = Tensor(f"in_{name}", (n, c, h, w), "float32")
    ports = tuple(Port(f"in_{name}" if before else name, shape) for name, shape in shapes.items())
    outputs = tuple(Port(name, output, dtype) for name in op.outputs)
    kernels = [step for step in steps if isinstance(step, Call)]
    functions = {call.kernel: scale_kernel(call.output_shape, reads_nchw=True) for call in kernels}
    return Network("single", ports, outputs, tuple(steps), named), functions


def side_by_side(networks):
    """One network of several by name, and their functions, every name with the network's before it."""
    ports, outputs, steps, named, functions = [], [], [], {}, {}
    for key, (network, own) in networks.items():
        prefix = f"{key}/"
        ports += [replace(port, name=prefix + port.name) for port in network.inputs]
        outputs += [replace(port, name=prefix + port.name) for port in network.outputs]
        steps += [_renamed(step, prefix) for step in network.steps]
        named.update({prefix + name: replace(each, name=prefix + name) for name, each in network.tensors.items()})
        functions.update({prefix + name: function for name, function in own.items()})
    return Network("together", tuple(ports), tuple(outputs), tuple(steps), named), functions


def _renamed(step, prefix):
    inputs = tuple(name and prefix + name for name in step.inputs)
    if isinstance(step, Call):
        return replace(step, kernel=prefix + step.kernel, inputs=inputs, output=prefix + step.output)
    return replace(step, name=prefix + step.name, inputs=inputs, outputs=tuple(prefix + name for name in step.outputs))
