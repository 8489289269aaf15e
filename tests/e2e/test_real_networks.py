"""Networks as torchvision and timm export them, with seeded weights, against ONNX Runtime: one executable per file."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

import blockfuse as bf
from tests import weightless

# Small ones of several families, from both exporters.
CASES = [
    ("tv.shufflenet_v2_x1_0.legacy.op17.bdyn", "always"),
    ("tv.mobilenet_v3_large.legacy.op17.b1", "always"),
    ("tv.squeezenet1_1.dynamo.op20.bdyn", "auto"),
    ("timm.regnety_004.dynamo.op18.b1", "always"),
]
TOLERANCE = 1e-4
"""Of the largest logit; the errors of both sides add up over fifty layers."""


@pytest.mark.parametrize(("name", "fuse"), CASES)
def test_logits(name, fuse):
    model = weightless.load(name)
    executable = bf.compile(model, fuse=fuse, threads=2)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (source,) = session.get_inputs()
    for batch in (1, 3) if "bdyn" in name else (1,):
        x = np.random.default_rng(batch).standard_normal((batch, 3, 224, 224), np.float32)
        (expected,) = session.run(None, {source.name: x})
        np.testing.assert_allclose(executable(x), expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())
