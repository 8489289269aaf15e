"""Concatenated and split images that share memory, in whole networks, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest

import blockfuse as bf
from blockfuse.frontend import to_onnx
from tests.concat_networks import c2f, dense_block, random_graph
from tests.small_graphs import random_inputs, run_with_onnxruntime

EPSILON = float(np.finfo(np.float32).eps)
FUSE = ("auto", "always", "never")


def check(graph, fuse, threads, *, taps=False):
    """Compile, run twice, compare; returns the report."""
    model = to_onnx(graph)
    executable = bf.compile(model, fuse=fuse, threads=threads, taps=taps)
    for seed in range(2):
        inputs = random_inputs(graph, seed)
        expected = run_with_onnxruntime(model, inputs)
        actual = executable.run(inputs)
        for name, array in expected.items():
            scale = max(1.0, float(np.abs(array).max()))
            np.testing.assert_allclose(actual[name], array, rtol=0, atol=4096 * EPSILON * scale)
    return executable.report()


@pytest.mark.parametrize("seed", range(16))
def test_random_networks(seed):
    check(random_graph(seed), FUSE[seed % 3], 1 + seed % 2, taps=seed % 4 == 0)


@pytest.mark.parametrize("nested", [True, False], ids=["as Keras writes it", "as PyTorch writes it"])
@pytest.mark.parametrize("seed", range(3))
def test_dense_blocks_copy_nothing(seed, nested):
    report = check(dense_block(seed, nested=nested), FUSE[seed], 2)
    notes = [step.note for step in report.steps if step.kind == "Concat"]
    assert notes == ["side by side in memory: nothing is copied"] * 4


@pytest.mark.parametrize("seed", range(3))
def test_c2f_copies_nothing(seed):
    report = check(c2f(seed), FUSE[seed], 2)
    notes = [step.note for step in report.steps if step.kind in {"Concat", "Slice"}]
    assert notes == ["side by side in memory: nothing is copied"] * 3
