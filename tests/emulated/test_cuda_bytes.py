"""The bytes that plans are compared by are those that kernels move."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.cuda_bytes import moved
from benchmarks.cuda_counts import parallel, sample
from benchmarks.cuda_kernels_static import Case
from blockfuse.block import Block
from blockfuse.stages import Add, Conv, Depthwise, Grouped, ImageShape, Multiply, Pool, Window
from tests.cuda_kernels import build, run
from tests.random_blocks import random_block
from tests.residual_blocks import basic, gate_of, hidden_image, mbconv, on_sums, same, single, squeezed_project

TYPES = ("float16", "float32")
NARROW = Depthwise("depthwise", (0,), same(3))
PARTS = Window(3, 3, 2, 2)  # of a pool whose result may not fill its last tiles


def with_another(stage: Add | Multiply, other: ImageShape, batch: int) -> Block:
    """A pointwise convolution of 64 channels at 13x9, and another input, which no CTA needs before it stores."""
    channels = other.channels
    stages = (Conv("conv", (0,), channels, Window()), stage)
    block = Block((ImageShape(13, 9, 64), other), stages, batch, "float16", stage.name).with_random_parameters(1)
    block.check()
    return block


CASES = [
    Case("basic", basic(17, 14, 32, 64, stride=2, batch=2), (3, 7), 4),
    Case("mbconv", mbconv(14, 19, 24, 144, r=5), (7, 7), 4),
    Case("ragged", mbconv(17, 23, 24, 96), (7, 9), 4),
    Case("float32", replace(mbconv(14, 19, 24, 144, r=5), dtype="float32"), (7, 7), 4),
    Case("depthwise", single(28, 28, 64, Depthwise("depthwise", (0,), same(5)), 1), (7, 7), 4),
    Case("shares", single(13, 14, 64, Depthwise("depthwise", (0,), same(5)), 2), None, None),
    Case("grouped", single(15, 17, 128, Grouped("grouped", (0,), 128, 16, same(3)), 2), None, None),
    Case("wide groups", single(9, 11, 256, Grouped("grouped", (0,), 256, 2, same(3)), 2), None, None),
    Case("pooled", replace(hidden_image(17, 23, 24, 96, 2), pooled="mean"), (7, 9), 4),
    Case("pooled in small tiles", replace(single(16, 18, 64, NARROW, 2), pooled="mean"), (2, 2), 4),
    Case("on sums", on_sums(squeezed_project(21, 22, 96, 8, 24, 2), (5, 5)), (7, 11), 4),
    Case("gate of sums", on_sums(gate_of(40, 40, 192, 16, 2), (4, 4)), None, None),
    Case("pool over the end", single(29, 29, 64, Pool("pool", (0,), "mean", PARTS)), (4, 4), 4),
    Case("ragged pool", single(29, 26, 32, Pool("pool", (0,), "mean", PARTS), 2), (4, 4), 4),
    Case("window over the end", single(15, 11, 64, Depthwise("depthwise", (0,), same(7)), 2), (7, 7), 4),
    Case("shared residual", with_another(Add("add", (2, 1)), ImageShape(13, 9, 512), 2), None, None),
    Case("shared gate", with_another(Multiply("gate", (2, 1)), ImageShape(1, 1, 512), 1), None, None),
    *(
        Case(f"random {n}", random_block(np.random.default_rng(n), dtype=TYPES[n % 2]), None, None)
        for n in range(8, 14)
    ),
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
