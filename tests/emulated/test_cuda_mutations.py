"""Honesty of programs and of the emulator: whatever is taken away must be missed.

The two programs have the sentences of a ResNet basic block and of an MBConv, at sizes that compile quickly.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest

from blockfuse.block import Block
from blockfuse.errors import InternalError
from blockfuse.machine import Loop, Node, Pixels, Program, Step
from blockfuse.program.interpret import interpret
from blockfuse.schedules.cuda import cuda_source, lower
from tests.cuda_kernels import Built, build, error, inputs_of, run
from tests.emulated.emulator.mutations import Mutation, without_each_barrier, without_each_wait
from tests.residual_blocks import basic, mbconv

CASES: dict[str, tuple[Block, tuple[int, int]]] = {
    "basic": (basic(7, 6, 32), (4, 4)),
    "mbconv": (mbconv(7, 6, 16, 128), (4, 4)),
}
INSTRUCTIONS = {"basic": 9, "mbconv": 10}

_KERNELS: dict[str, Built] = {}


def kernel(name: str) -> Built:
    """The kernel of a case, built once."""
    if name not in _KERNELS:
        _KERNELS[name] = build(*CASES[name], 4)
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
    result = run(replace(built, program=shorter, source=cuda_source(lower(shorter))))
    assert not result.is_clean, f"the kernel does not miss {text}"
    assert not is_right(built.block, shorter), f"the interpreter does not miss {text}"


def is_right(block: Block, program: Program) -> bool:
    """Whether the interpreter computes the block from a program."""
    inputs = inputs_of(block)
    try:
        return error(block, inputs, interpret(program, inputs, block.parameters)) <= 1
    except InternalError:
        return False


def mutants(name: str) -> list[Mutation]:
    source = kernel(name).source
    return [*without_each_barrier(source), *without_each_wait(source)]


@pytest.mark.parametrize("name", CASES)
def test_every_barrier_and_wait_is_needed(name):
    built = kernel(name)
    silent = [mutant.description for mutant in mutants(name) if not run(built, mutant.source).findings]
    assert not silent
