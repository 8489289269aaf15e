"""The forms of random models: each is drawn, and is a model that ONNX Runtime runs."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from tests.fuzz.forms import FORMS, in_form
from tests.fuzz.whole_graphs import LAST_OPSETS, random_model
from tests.onnx_models import run

SEEDS = range(11_000_000, 11_000_030)


def form_of(model: onnx.ModelProto) -> str:
    dimension = model.graph.input[0].type.tensor_type
    if dimension.elem_type == TensorProto.FLOAT16:
        return "half"
    if dimension.shape.dim[0].dim_param:
        return "any batch"
    return "quantized" if any(node.op_type == "QuantizeLinear" for node in model.graph.node) else "as it is"


def test_every_form_is_drawn():
    forms = Counter(form_of(in_form(random_model(seed), seed)) for seed in SEEDS)
    assert len(forms) == len(FORMS)
    assert all(count > 1 for count in forms.values())


def test_the_newest_opsets_are_drawn():
    opsets = {random_model(seed).opset_import[0].version for seed in range(11_000_000, 11_000_150)}
    assert opsets.issuperset(LAST_OPSETS)


@pytest.mark.parametrize("seed", [seed for seed in SEEDS if seed % 3 == 0])
def test_onnxruntime_runs_it(seed):
    model = in_form(random_model(seed), seed)
    port = model.graph.input[0].type.tensor_type
    shape = [dim.dim_value or 3 for dim in port.shape.dim]
    dtype = np.float16 if port.elem_type == TensorProto.FLOAT16 else np.float32
    x = np.random.default_rng(seed).standard_normal(shape).astype(dtype)
    results = run(model, {"x": x})
    assert all(name in results for name in (value.name for value in model.graph.output))
