"""Images of a stack: how many rows lie between them, and which blocks have none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from blockfuse.plan.fold import Folded, fold
from blockfuse.plan.infeasible import Impossible
from blockfuse.plan.stack import stacked
from blockfuse.stages import Conv, Window
from tests.residual_blocks import anti_aliased, basic, bottleneck, gated_project, global_pool, mbconv, single


@pytest.mark.parametrize(
    ("block", "periods"),
    [
        (single(7, 7, 16, Conv("pointwise", (0,), 16, Window()), 4), [7, 7]),
        (basic(7, 7, 16, batch=4), [8, 8, 8]),
        (basic(8, 8, 16, 32, stride=2, batch=4), [10, 5, 5]),
        (mbconv(7, 7, 16, 96, r=5, batch=4), [9, 9, 9, 9]),
        (bottleneck(9, 9, 16, 16, 32, stride=2, batch=4), [10, 10, 5, 5]),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_rows_between_images_are_those_that_windows_need(block, periods):
    found = stacked(fold(block), 3)
    assert isinstance(found, Folded)
    assert [stack.period for stack in found.stacks] == periods
    assert found.block.batch == 2
    assert [shape.height for shape in found.shapes] == [
        2 * stack.period + shape.height for stack, shape in zip(found.stacks, fold(block).shapes, strict=True)
    ]


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (global_pool(7, 7, 16), "counts the pixels of one image"),
        (anti_aliased(7, 7, 16, "edge"), "frames one image"),
        (gated_project(7, 7, 16, 16), "has a factor per image"),
        (replace(basic(7, 7, 16), any_batch=True), "the number of images is not known"),
    ],
)
def test_what_depends_on_one_image_is_refused(block, reason):
    found = stacked(fold(block), 2)
    assert isinstance(found, Impossible)
    assert reason in found.reason
