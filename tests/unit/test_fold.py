"""What joins which unit, what becomes a unit of its own, and which rows of a value a gate needs."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from blockfuse.block import Block, accumulation_depth, reference
from blockfuse.machine import Map, MultiplyBy, Region, Residual, global_tile, reads
from blockfuse.machine.affine import span
from blockfuse.plan.choose_cpu import plan_cpu
from blockfuse.plan.cpu_tiling import unit_tiling
from blockfuse.plan.cut import into_units, is_closed, part
from blockfuse.plan.device import cpu_device
from blockfuse.plan.fold import AddBias, AddValue, Folded, MultiplyValue, ScaleChannels, fold, unfoldable
from blockfuse.plan.row_span import RowSpan, spans_under
from blockfuse.stages import Activation, Add, Conv, Function, ImageShape, Multiply, Pool, Stage, Window
from blockfuse.target import parse_target
from tests.gated_blocks import convnext, pre_activation, squeeze_excite, two_groupings
from tests.random_blocks import ALL_KINDS, random_block

RELU = Function("relu")
ONE, TWO = (cpu_device(parse_target("cpu:avx512", threads)) for threads in (1, 2))


def kinds(block: Block) -> list[str]:
    return [unit.kind for unit in fold(block).units]


def test_norm_is_a_unit_and_layer_scale_joins_the_projection():
    folded = fold(convnext())
    assert kinds(convnext()) == ["depthwise", "norm", "contract", "contract"]
    assert folded.units[1].epilogue == (ScaleChannels(1),)
    assert folded.units[3].epilogue == (AddBias((4,)), ScaleChannels(5), AddValue(0))


def test_a_gate_is_a_unit_that_reads_the_image_and_the_gate():
    folded = fold(squeeze_excite())
    assert kinds(squeeze_excite()) == ["contract", "depthwise", "pool", "contract", "contract", "map", "contract"]
    gate = folded.units[5]
    assert gate.terms[0].source == folded.value(1)
    assert gate.epilogue == (MultiplyValue(folded.value(4)),)
    assert gate.reads == (folded.value(1), folded.value(4))


def test_what_follows_no_unit_becomes_one():
    assert kinds(pre_activation()) == ["map", "contract", "contract"]
    assert [str(step) for step in fold(pre_activation()).units[0].epilogue] == ["scale", "relu"]


def test_grouped_units_count_the_products_of_one_group():
    folded = fold(two_groupings())
    assert kinds(two_groupings()) == ["grouped", "grouped"]
    assert [folded.depth(index) for index in range(2)] == [4 * 9, 12 * 9]
    assert folded.operations(1) == two_groupings().stages[2].operations((folded.shapes[1],))


def test_a_value_and_itself():
    block = Block((ImageShape(3, 4, 5),), (Add("double", (0, 0)), Multiply("square", (1, 1))))
    assert kinds(block) == ["map", "map"]


def test_a_product_joins_the_value_made_last():
    shape = ImageShape(3, 4, 5)
    stages = (Conv("a", (0,), 5, Window()), Conv("b", (0,), 5, Window()), Multiply("product", (2, 1)))
    folded = fold(Block((shape,), stages))
    assert folded.units[1].epilogue == (AddBias((1,)), MultiplyValue(1))


def test_an_unknown_stage_is_named():
    class Shuffle(Activation):
        pass

    class Strange(Stage):
        output_shape = Activation.output_shape
        reference = Activation.reference

    block = Block((ImageShape(1, 1, 1),), (Strange("strange", (0,)),))
    assert unfoldable(block) == "stage kind Strange has no folding rule"
    assert not unfoldable(Block((ImageShape(1, 1, 1),), (Shuffle("fine", (0,), RELU),)))


def run_parts(block: Block, parts: Sequence[Block], inputs: list[np.ndarray]) -> np.ndarray:
    """The parts one after the other in float64, passing values by their names."""
    known = dict(zip(block.tensors[:-1], inputs, strict=True))
    for each in parts:
        each.check()
        known[each.tensors[-1]] = reference(each, [known[name] for name in each.tensors[:-1]])[-1]
    return known["out"]


@pytest.mark.parametrize("seed", range(60))
def test_parts_compute_the_block(seed: int):
    """Each unit by itself, and all that lies before and behind every place where the block can be cut."""
    rng = np.random.default_rng(seed)
    block = random_block(rng, kinds=ALL_KINDS)
    block = replace(block, tensors=(*(f"in{i}" for i in range(len(block.inputs))), "out"))
    folded = fold(block)
    inputs = [rng.standard_normal((block.batch, s.height, s.width, s.channels)) for s in block.inputs]
    wanted = reference(block, inputs)[-1]
    count = len(folded.units)
    halves = [(range(at), range(at, count)) for at in range(1, count)]
    cuts = [[part(folded, half) for half in pair] for pair in halves if is_closed(folded, pair[0])]
    for parts in (into_units(folded), *cuts):
        got = run_parts(block, parts, inputs)
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-9 * np.abs(wanted).max() + 1e-12)


@pytest.mark.parametrize(("channels", "pixels"), [(1024, 7), (2048, 7), (1008, 14)])
def test_pixels_one_page_apart_are_few(channels: int, pixels: int):
    block = Block((ImageShape(14, 14, channels),), (Conv("conv", (0,), 64, Window()),))
    assert unit_tiling(fold(block), 0, ONE).pixels == pixels


# ---- barriers --------------------------------------------------------------------------------------------------------


def spans_of_all(folded: Folded) -> dict[int, RowSpan]:
    """The rows of every value under some rows of the result."""
    return spans_under(folded, range(len(folded.units)), {len(folded.shapes) - 1})


def test_every_row_lies_under_a_gate():
    folded = fold(squeeze_excite())
    spans = spans_of_all(folded)
    assert [spans[folded.value(index)].is_every_row for index in range(7)] == [True] * 5 + [False] * 2
    assert not any(span.is_every_row for span in spans_of_all(fold(convnext())).values())


def test_what_lies_behind_a_pool_is_made_in_bands():
    """The pool of an input, scale, project and add."""
    stages = (
        Pool("pool", (0,), "mean", Window(7, 5)),
        Conv("fc", (2,), 8, Window()),
        Multiply("gate", (0, 3)),
        Conv("project", (4,), 8, Window()),
        Add("add", (5, 1)),
    )
    block = Block((ImageShape(7, 5, 8), ImageShape(7, 5, 8)), stages)
    found = plan_cpu(fold(block), TWO)
    assert isinstance(found, list)
    assert 2 in {candidate.plan.tasks for candidate in found}


def test_values_are_renumbered_where_a_unit_is_merged():
    """The shortcut joins the sum of the second convolution, and what is multiplied by moves up one place."""
    stages = (
        Conv("shortcut", (0,), 8, Window()),
        Conv("conv", (0,), 8, Window()),
        Add("add", (1, 2)),
        Activation("relu", (3,), RELU),
        Pool("pool", (4,), "mean", Window(3, 4)),
        Multiply("gate", (4, 5)),
    )
    folded = fold(Block((ImageShape(3, 4, 8),), stages))
    assert [unit.kind for unit in folded.units] == ["contract", "pool", "map"]
    assert folded.units[2].epilogue == (MultiplyValue(2),)


def test_depth_of_groups_and_norms():
    stages = two_groupings().stages
    assert accumulation_depth(replace(two_groupings(), stages=stages[:1])) == 4 * 9
    assert accumulation_depth(replace(convnext(), stages=convnext().stages[:2])) == 49 + 20


def test_gates_are_read():
    shape = ImageShape(2, 2, 4)
    x, gate, y = global_tile("x", shape), global_tile("gate", ImageShape(1, 1, 4)), global_tile("y", shape)
    whole = Region(span(0, 2), span(0, 2), span(0, 4))
    assert reads(Map(x, y, whole, (MultiplyBy(gate), Residual(x)))) == (x, gate, x)
