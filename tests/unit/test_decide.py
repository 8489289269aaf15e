"""What becomes one kernel: cuts keep the meaning of a block, and the policies do what they say."""

from dataclasses import replace

import numpy as np
import pytest

from blockfuse.block import Block, reference
from blockfuse.plan.cut import into_units, is_closed, part
from blockfuse.plan.decide import decide
from blockfuse.plan.device import cpu_device
from blockfuse.plan.fold import fold
from blockfuse.stages import Activation, Add, Conv, ImageShape
from blockfuse.target import parse_target
from tests.random_blocks import random_block
from tests.residual_blocks import RELU, basic, mbconv, same

ONE, TWO = (cpu_device(parse_target("cpu:avx512", threads)) for threads in (1, 2))


def run_parts(block: Block, parts: tuple[Block, ...], inputs: list[np.ndarray]) -> np.ndarray:
    """The parts one after the other in float64, passing values by their names."""
    known = dict(zip(block.tensors[:-1], inputs, strict=True))
    for step in parts:
        known[step.tensors[-1]] = reference(step, [known[name] for name in step.tensors[:-1]])[-1]
    return known[block.tensors[-1]]


def named(block: Block) -> Block:
    names = (*(f"in{i}" for i in range(len(block.inputs))), "out")
    return replace(block, tensors=names, name="block")


def inner_residual() -> Block:
    """The second convolution adds what the first one made."""
    stages = (
        Conv("conv1", (0,), 8, same(3)),
        Activation("relu", (1,), RELU),
        Conv("conv2", (2,), 8, same(3)),
        Activation("relu2", (3,), RELU),
        Conv("conv3", (4,), 8, same(3)),
        Add("add", (5, 2)),
    )
    return Block((ImageShape(6, 6, 8),), stages)


@pytest.mark.parametrize("seed", range(30))
def test_units_of_random_blocks_compute_the_block(seed: int):
    rng = np.random.default_rng(seed)
    block = named(random_block(rng))
    inputs = [rng.standard_normal((block.batch, s.height, s.width, s.channels)) for s in block.inputs]
    wanted = reference(block, inputs)[-1]
    got = run_parts(block, into_units(fold(block)), inputs)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-9 * np.abs(wanted).max() + 1e-12)


@pytest.mark.parametrize("seed", range(15))
@pytest.mark.parametrize("fuse", ["auto", "always", "never"])
def test_decisions_compute_the_block(seed: int, fuse: str):
    rng = np.random.default_rng(1000 + seed)
    block = named(random_block(rng))
    inputs = [rng.standard_normal((block.batch, s.height, s.width, s.channels)) for s in block.inputs]
    decision = decide(block, TWO, fuse)
    wanted = reference(block, inputs)[-1]
    got = run_parts(block, tuple(kernel.block for kernel in decision.kernels), inputs)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-9 * np.abs(wanted).max() + 1e-12)


def test_a_group_whose_inside_is_read_elsewhere_is_not_closed():
    """In a basic block the shortcut reads the input, so every group is closed; adding an inner value opens one."""
    folded = fold(basic(8, 8, 16))
    assert all(is_closed(folded, group) for group in ([0], [1], [0, 1]))
    folded = fold(inner_residual())
    assert not is_closed(folded, [0, 1])
    assert is_closed(folded, [0])


def test_policies():
    block = named(mbconv(28, 28, 32, 192))
    assert len(decide(block, ONE, "never").kernels) == len(fold(block).units)
    assert decide(block, ONE, "always").is_fused
    assert decide(block, ONE, "auto").is_fused
    assert decide(block, ONE, "auto").saved_bytes == 2 * 2 * 28 * 28 * (192 + 192)
    assert decide(block, ONE, "never").saved_bytes == 0


def test_auto_leaves_apart_what_loses():
    """Weights that outgrow a core's cache and are streamed once per step make the fused block slower."""
    block = named(basic(7, 7, 512))
    decision = decide(block, TWO, "auto")
    assert len(decision.kernels) == 2
    assert "one kernel" in decision.why
    assert "2 kernels" in decision.why


def test_equal_blocks_are_planned_alike_and_keep_their_own_data():
    a, b = named(basic(8, 8, 16).with_random_parameters(0)), named(basic(8, 8, 16).with_random_parameters(1))
    first, second = decide(a, ONE, "always").kernels[0], decide(b, ONE, "always").kernels[0]
    assert first.plan is second.plan
    assert second.block.parameters is b.parameters


def test_parts_name_what_they_read():
    block = named(mbconv(8, 8, 16, 48))
    folded = fold(block)
    tail = part(folded, [1, 2])
    assert tail.tensors[-1] == "out"
    assert "in0" in tail.tensors
    assert part(folded, [0]).tensors[-1] == tail.tensors[0]
