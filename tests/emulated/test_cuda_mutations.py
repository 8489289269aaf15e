"""Honesty of programs and of the emulator: whatever is taken away must be missed.

The programs have the sentences of a ResNet basic block, of an MBConv, of a ConvNeXt block (operands in registers), of a
ResNeXt block whose input arrives with the weights, of a product, of a result that is pooled, and of the gate made of
that, at sizes that compile quickly.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest

from blockfuse.block import Block
from blockfuse.errors import InternalError
from blockfuse.machine import Loop, Node, Pixels, Program, Step
from blockfuse.plan.cuda_rules import Limits, apply_rules
from blockfuse.plan.fold import fold
from blockfuse.program.interpret import interpret_all
from blockfuse.schedules.cuda import cuda_source, lower
from tests.cuda_kernels import Built, build, built_as, error, inputs_of, parts_error, rounded_weights, run
from tests.emulated.emulator.mutations import Mutation, without_each_barrier, without_each_wait
from tests.residual_blocks import (
    basic,
    convnext,
    gated_project,
    hidden_image,
    mbconv,
    on_sums,
    resnext,
    squeezed_project,
)

CASES: dict[str, tuple[Block, tuple[int, int]]] = {
    "basic": (basic(7, 6, 32), (4, 4)),
    "mbconv": (mbconv(7, 6, 16, 128), (4, 4)),
    "convnext": (convnext(7, 6, 32), (4, 4)),
    "resnext": (resnext(7, 6, 64, 32, 8), (4, 4)),
    "gated_project": (gated_project(5, 6, 32, 16), (4, 4)),
    "pooled": (replace(hidden_image(7, 6, 16, 32), pooled="mean"), (4, 4)),
    "on_sums": (on_sums(squeezed_project(7, 6, 32, 8, 16), (4, 4)), (4, 4)),
}
INSTRUCTIONS = {
    "basic": 9,
    "mbconv": 10,
    "convnext": 14,
    "resnext": 9,
    "gated_project": 8,
    "pooled": 8,
    "on_sums": 15,
}
STREAMED = Limits(2, 20480, 32, 0)

_KERNELS: dict[str, Built] = {}


def kernel(name: str) -> Built:
    """The kernel of a case, built once."""
    if name not in _KERNELS:
        block, tile = CASES[name]
        if name == "resnext":
            block = rounded_weights(block)
            _KERNELS[name] = built_as(block, apply_rules(fold(block), *tile, 4, STREAMED))
        else:
            _KERNELS[name] = build(block, tile, 4)
    return _KERNELS[name]


def places(nodes: list[Node]) -> list[tuple[list[Node], int]]:
    """Every instruction, as the list it is in and its position there."""
    found = []
    for position, node in enumerate(nodes):
        if isinstance(node, Loop | Pixels | Step):
            found += places(node.body)
        else:
            found.append((nodes, position))
    return found


def without(program: Program, index: int) -> tuple[Program, str]:
    """A copy of a program without one instruction, and that instruction's text."""
    shorter = copy.deepcopy(program)
    nodes, position = places(shorter.body)[index]
    return shorter, str(nodes.pop(position))


def test_programs_have_the_instructions_that_are_deleted():
    assert {name: len(places(kernel(name).program.body)) for name in CASES} == INSTRUCTIONS


@pytest.mark.parametrize(("name", "index"), [(name, i) for name, n in INSTRUCTIONS.items() for i in range(n)])
def test_every_instruction_is_needed(name, index):
    built = kernel(name)
    shorter, text = without(built.program, index)
    assert not is_clean(built, shorter), f"the kernel does not miss {text}"
    assert not is_right(built, shorter), f"the interpreter does not miss {text}"


def is_clean(built: Built, program: Program) -> bool:
    """Whether another program in place of a kernel's gives a kernel, and a right one."""
    try:
        source = cuda_source(lower(program))
    except InternalError:
        return False
    return run(replace(built, program=program, source=source)).is_clean


def is_right(built: Built, program: Program) -> bool:
    """Whether the interpreter computes the block from a program."""
    block = built.block
    inputs = inputs_of(block)
    try:
        image, *parts = interpret_all(program, inputs, block.parameters)
    except InternalError:
        return False
    return error(block, inputs, image) <= 1 and all(parts_error(built, inputs, each) <= 1 for each in parts)


def mutants(name: str) -> list[Mutation]:
    source = kernel(name).source
    return [*without_each_barrier(source), *without_each_wait(source)]


# The wait for the only item of gated_project is superfluous: MAP has waited for everything that was under way.
@pytest.mark.parametrize("name", [name for name in CASES if name != "gated_project"])
def test_every_barrier_and_wait_is_needed(name):
    built = kernel(name)
    silent = [mutant.description for mutant in mutants(name) if not run(built, mutant.source).findings]
    assert not silent
