"""Models whose batch is open."""

import onnx


def open_batch(model: onnx.ModelProto, name: str = "N") -> onnx.ModelProto:
    """The same model with a name, or nothing, for the first dimension of every input and output."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.value_info[:]
    for value in (*result.graph.input, *result.graph.output):
        first = value.type.tensor_type.shape.dim[0]
        first.Clear()
        if name:
            first.dim_param = name
    return result
