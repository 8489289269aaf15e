"""The networks that come with onnx: old operator sets, weights apart, against ONNX Runtime."""

import os

import numpy as np
import pytest

import blockfuse as bf
from blockfuse.frontend import canonicalize, read
from blockfuse.verification.compare import compare, tolerance
from tests.light_models import NAMES, light_model
from tests.onnx_models import run

ALL = bool(os.environ.get("BLOCKFUSE_ALL_NODES"))
"""Whether all networks are compiled; ``make nodes`` does that, CI has time for two."""

COMPILED = NAMES if ALL else ("shufflenet", "squeezenet")
READ = NAMES if ALL else ("inception_v1", "inception_v2", "resnet50", "shufflenet", "squeezenet")

DEPTH = 20_000
"""Terms on the longest way through the deepest of them."""


@pytest.mark.parametrize("name", READ)
def test_it_is_read(name):
    graph = canonicalize(read(light_model(name)))
    kinds = {op.kind for op in graph.ops()}
    assert not kinds & {"Sum", "Dropout", "Unsqueeze", "Squeeze", "BatchNormalization"} or name == "densenet121"


@pytest.mark.parametrize("fuse", ["auto", "always"])
@pytest.mark.parametrize("name", COMPILED)
def test_logits(name, fuse):
    model = light_model(name)
    executable = bf.compile(model, threads=1, fuse=fuse)
    (port,) = executable.inputs
    image = {port.name: np.random.default_rng(1).standard_normal(port.shape).astype(np.float32)}
    (expected,) = run(model, image).values()
    (actual,) = executable.run(image).values()
    assert expected.std() > 0.05
    assert compare(actual, expected, tolerance(DEPTH, "float32")).passed
