"""Kernels of every family of blocks at awkward sizes, emulated; every pair of choices occurs together.

CI runs these, with half of the MBConvs; ``make emulate`` runs them with all, with ``PRODUCT=1`` every combination,
which takes hours, and with ``SLICE=3/16`` the third of 16 parts of it.
"""

from __future__ import annotations

import itertools
import os

import pytest

from tests.cuda_kernels import run
from tests.emulated.covering import AXES, FAMILIES, SOME, Case, covering_set, product, sliced

CASES = covering_set(200, families=tuple(FAMILIES) if os.environ.get("BLOCKFUSE_EMULATE_ALL") else SOME)
CHOSEN = product() if os.environ.get("BLOCKFUSE_EMULATE_PRODUCT") else CASES
SLICE = os.environ.get("BLOCKFUSE_EMULATE_SLICE", "")


def test_every_pair_occurs():
    pairs = set().union(*(case.pairs for case in CASES))
    axes = [{getattr(case, axis) for case in CASES} for axis in AXES]
    sizes = [len(axis) for axis in axes]
    assert len(pairs) == sum(a * b for i, a in enumerate(sizes) for b in sizes[:i])


def test_every_pair_of_an_mbconvs_choices_is_left():
    left = [[*name.removesuffix("_add").split("_"), name.endswith("_add")] for name in SOME if "mbconv" in name[:6]]
    chosen = [(r, (stride, added), e) for r, stride, e, added in left]
    for a, b in itertools.combinations(range(3), 2):
        assert len({(one[a], one[b]) for one in chosen}) == len({o[a] for o in chosen}) * len({o[b] for o in chosen})
    assert [len({one[axis] for one in chosen}) for axis in range(3)] == [2, 3, 3]


def test_slices_together_are_everything():
    parts = [sliced(CASES, f"{number}/7") for number in range(1, 8)]
    assert sorted(str(case) for part in parts for case in part) == sorted(map(str, CASES))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert sliced(CASES, "") == CASES
    with pytest.raises(ValueError, match="slice 8/7: k/n"):
        sliced(CASES, "8/7")


@pytest.mark.parametrize("case", sliced(CHOSEN, SLICE), ids=str)
def test_family(case: Case):
    result = run(case.built())
    assert not result.findings
    assert result.error <= 1
