"""Models of half precision made from models of float32."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def in_half(proto, dtype=np.float16, *, interface=True):
    """The model with its weights, and all that is computed, in a type of half precision.

    Args:
        proto: A model that casts nothing.
        dtype: The type.
        interface: Whether inputs and outputs have the type too; else they stay float32, with Casts next to them.
    """
    half = onnx.ModelProto()
    half.CopyFrom(proto)
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    for tensor in half.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32:
            tensor.CopyFrom(numpy_helper.from_array(array.astype(dtype), tensor.name))
    ports = [*half.graph.input, *half.graph.output]
    for value in (*half.graph.value_info, *(ports if interface else ())):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = element
    if not interface:
        _cast_ports(half.graph, element)
    return half


def _cast_ports(graph, element):
    inputs, outputs = {value.name for value in graph.input}, {value.name for value in graph.output}
    for node in graph.node:
        node.input[:] = [f"{name}_half" if name in {*inputs, *outputs} else name for name in node.input]
        node.output[:] = [f"{name}_half" if name in outputs else name for name in node.output]
    casts = [helper.make_node("Cast", [name], [f"{name}_half"], to=element) for name in sorted(inputs)]
    nodes = [*casts, *graph.node]
    nodes += [helper.make_node("Cast", [f"{name}_half"], [name], to=TensorProto.FLOAT) for name in sorted(outputs)]
    del graph.node[:]
    graph.node.extend(nodes)
