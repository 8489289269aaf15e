"""Compiled blocks inside which channels lie side by side, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest

import blockfuse as bf
from blockfuse.frontend import to_onnx
from blockfuse.runtime.executable import Executable
from blockfuse.verification.verify import reference_session, seeded_inputs
from tests.joined_blocks import CASES, mixer, mlp
from tests.open_batch import open_batch

EPSILON = float(np.finfo(np.float32).eps)


def assert_right(executable: Executable, model, batches=(None,)):
    """Outputs equal the reference; for every batch where that is open."""
    session = reference_session(model, 1, optimised=False)
    names = [output.name for output in session.get_outputs()]
    for batch in batches:
        inputs = seeded_inputs(executable.inputs_for(batch) if batch else executable.inputs, batch or 0)
        expected = dict(zip(names, session.run(names, inputs), strict=True))
        actual = executable.run(inputs)
        for name, array in expected.items():
            scale = max(1.0, float(np.abs(array).max()))
            np.testing.assert_allclose(actual[name], array, rtol=0, atol=1024 * EPSILON * scale)


@pytest.mark.parametrize(("number", "case"), list(enumerate(CASES)))
def test_one_kernel(number, case):
    pattern, make = CASES[case]
    model = to_onnx(make())
    executable = bf.compile(model, fuse="always", threads=1 + number % 3)
    (block,) = (step for step in executable.report().steps if step.kind == pattern)
    assert len(block.kernels) == 1
    assert_right(executable, model)


@pytest.mark.parametrize(("pattern", "make"), [("pool_mixer", mixer), ("mlp_block", lambda: mlp(normalized=True))])
def test_what_is_made_of_two_images(pattern, make):
    model = to_onnx(make())
    executable = bf.compile(model, fuse="always", threads=2)
    assert [step.kind for step in executable.report().steps].count(pattern) == 1
    assert_right(executable, model)


@pytest.mark.parametrize("case", ["ghost, stride 2, gated", "res2net", "rexnet", "inception next"])
@pytest.mark.parametrize("fuse", ["auto", "never"])
def test_as_many_kernels_as_pay(case, fuse):
    model = to_onnx(CASES[case][1]())
    assert_right(bf.compile(model, fuse=fuse, threads=2), model)


@pytest.mark.parametrize("case", ["ghost, gated", "fire", "mixed"])
def test_any_batch(case):
    model = open_batch(to_onnx(CASES[case][1]()))
    assert_right(bf.compile(model, fuse="always", threads=2), model, (1, 3, 2))
