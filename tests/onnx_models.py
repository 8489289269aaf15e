"""Small ONNX models for tests, and how to run them with ONNX Runtime."""

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper


def node(kind, inputs, outputs, name="", **attrs):
    """A node; ``inputs`` and ``outputs`` are names separated by blanks, ``-`` stands for an omitted one."""
    split = [["" if part == "-" else part for part in names.split()] for names in (inputs, outputs)]
    return helper.make_node(kind, *split, name or f"{kind}_{split[1][0]}", **attrs)


def model(nodes, shape=(1, 4, 8, 8), constants=None, opset=17, inputs=None, outputs=("y",), dtype=np.float32, **graph):
    """A model from ``x`` of a shape to ``y``."""
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    if inputs is None:
        inputs = [helper.make_tensor_value_info("x", element, shape)]
    constants = {name: np.asarray(value) for name, value in (constants or {}).items()}
    body = helper.make_graph(
        nodes,
        "small",
        inputs,
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
        **graph,
    )
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", opset)], ir_version=8 if opset < 20 else 10)


def floats(*shape, seed=0, dtype=np.float32):
    """Seeded normal numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def run(proto, feeds):
    """The outputs of a model in ONNX Runtime, by name, computed as the model is written."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(_typed(proto).SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip([value.name for value in session.get_outputs()], session.run(None, feeds), strict=True))


def feeds_of(graph, seed=1):
    """Seeded values of a graph's inputs."""
    return {name: floats(*graph.tensor(name).shape, seed=seed, dtype=graph.tensor(name).dtype) for name in graph.inputs}


def _typed(proto):
    """The model with the types of its outputs, which ONNX Runtime wants."""
    if all(value.HasField("type") for value in proto.graph.output):
        return proto
    inferred = onnx.shape_inference.infer_shapes(proto)
    for value in inferred.graph.output:
        if not value.HasField("type"):
            value.CopyFrom(helper.make_tensor_value_info(value.name, TensorProto.FLOAT, None))
    return inferred
