"""Kernels of every family of blocks at awkward sizes, emulated; every pair of choices occurs together.

CI runs these; ``make emulate`` with ``PRODUCT=1`` runs every combination, which takes hours.
"""

from __future__ import annotations

import os

import pytest

from tests.cuda_kernels import run
from tests.emulated.covering import AXES, Case, covering_set, product

CASES = covering_set(200)
CHOSEN = product() if os.environ.get("BLOCKFUSE_EMULATE_PRODUCT") else CASES


def test_every_pair_occurs():
    pairs = set().union(*(case.pairs for case in CASES))
    axes = [{getattr(case, axis) for case in CASES} for axis in AXES]
    sizes = [len(axis) for axis in axes]
    assert len(pairs) == sum(a * b for i, a in enumerate(sizes) for b in sizes[:i])


@pytest.mark.parametrize("case", CHOSEN, ids=str)
def test_family(case: Case):
    result = run(case.built())
    assert not result.findings
    assert result.error <= 1
