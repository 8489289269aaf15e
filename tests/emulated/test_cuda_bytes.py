"""The bytes that plans are compared by are those that kernels move."""

import pytest

from benchmarks.cuda_bytes import moved
from benchmarks.cuda_kernels_static import Case
from tests.residual_blocks import basic, mbconv

CASES = [
    Case("basic", basic(17, 14, 32, 64, stride=2, batch=2), (3, 7), 4),
    Case("mbconv", mbconv(14, 19, 24, 144, r=5), (7, 7), 4),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_counted_bytes_are_the_predicted_ones(case):
    found = moved(case)
    assert found.counted == pytest.approx(found.predicted, rel=0.1)
    assert found.once < found.counted
