"""Whole networks at reduced size on the GPU, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest

import blockfuse as bf
from blockfuse.frontend import zoo
from blockfuse.verification.verify import seeded_inputs, verify

SIZE, WIDTH = 64, 0.25
FUSE = ("auto", "always", "never")


def compiled(name: str, fuse: str, *, cuda_graph: bool = False):
    model = getattr(zoo, name)(batch=2, size=SIZE, width=WIDTH)
    return model, bf.compile(model, target="cuda", dtype="float16", fuse=fuse, cuda_graph=cuda_graph)


@pytest.mark.parametrize("fuse", FUSE)
@pytest.mark.parametrize("name", zoo.__all__)
def test_every_network_and_policy(name, fuse):
    model, executable = compiled(name, fuse)
    assert verify(model, executable=executable, dtype="float16").first_wrong is None


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_a_recorded_graph_gives_the_same_bits(name):
    _, plain = compiled(name, "always")
    _, recorded = compiled(name, "always", cuda_graph=True)
    for seed in range(3):
        inputs = seeded_inputs(plain.inputs, seed)
        expected, actual = plain.run(inputs), recorded.run(inputs)
        assert all(np.array_equal(actual[key], expected[key]) for key in expected)
