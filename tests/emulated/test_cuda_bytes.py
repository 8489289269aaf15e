"""The bytes that plans are compared by are those that kernels move."""

import pytest

from benchmarks.cuda_bytes import moved
from benchmarks.cuda_counts import parallel, sample
from benchmarks.cuda_kernels_static import Case
from tests.cuda_kernels import build, run
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


def test_a_sample_of_ctas_stands_for_the_grid():
    built = build(mbconv(14, 17, 24, 48, batch=3), (3, 4), 4)
    loops = parallel(built.program)
    assert sum(sample(loops).values()) == sum(sample(loops, 3).values()) == 75
    assert len(sample(loops)) == 8
    weights = sample(loops, 99)
    assert sorted(weights) == sorted({25 * n + 5 * h + w for n in (0, 1, 2) for h in (0, 1, 4) for w in (0, 1, 4)})
    whole = run(built, count=True).counters
    part = run(built, count=True, ctas=tuple(weights))
    assert part.error <= 1
    for name in ("block_sectors", "mma", "ldmatrix_wavefronts", "shared_load_ideal"):
        found = sum(getattr(part.by_cta[cta], name) * weight for cta, weight in weights.items())
        assert found == pytest.approx(getattr(whole, name), rel=0.01)
