"""Random blocks: compiled CPU kernels against the float64 reference, several kernels in one compilation.

Half of the plans are any that can be written down, half are those that the planner would try.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from blockfuse.block import Block
from blockfuse.machine import Program
from blockfuse.plan.choose_cpu import plan_cpu
from blockfuse.plan.cpu import CpuPlan, UnitTiling
from blockfuse.plan.device import device_of
from blockfuse.plan.fold import fold
from blockfuse.plan.infeasible import Infeasible
from blockfuse.plan.phases import by_rows
from blockfuse.program.cpu import program_cpu
from blockfuse.stages import Stage
from blockfuse.target import parse_target
from tests.cpu_kernels import call, compile_programs, error, random_inputs
from tests.fuzz.harness import FAILED, Case, Fuzzer, judged
from tests.random_blocks import CPU_KINDS, KINDS, WIDE, Ranges, random_block


@dataclass(frozen=True)
class KernelCase:
    """A block, and how its kernel is made.

    Attributes:
        block: With parameters.
        plan: Of its kernel.
        planar: For each input, whether it lies as N, C, H, W.
    """

    block: Block
    plan: CpuPlan
    planar: tuple[bool, ...]

    def program(self, name: str) -> Program:
        """The tile program."""
        return program_cpu(fold(self.block), self.plan, name, self.planar)


def random_case(seed: int) -> KernelCase:
    """The same case for the same seed."""
    rng = np.random.default_rng((1, seed))
    kinds = CPU_KINDS if rng.random() < 0.7 else KINDS
    ranges = WIDE if rng.random() < 0.7 else Ranges()
    block = random_block(rng, kinds=kinds, ranges=ranges)
    planar = tuple(bool(rng.random() < 0.2) for _ in block.inputs)
    return KernelCase(block, _plan(rng, block, planar), planar)


def _plan(rng: np.random.Generator, block: Block, planar: tuple[bool, ...]) -> CpuPlan:
    device = device_of(parse_target("cpu", threads=int(rng.integers(1, 4))))
    candidates = plan_cpu(fold(block), device, planar) if rng.random() < 0.5 else []
    if isinstance(candidates, Infeasible) or not candidates:
        return any_plan(rng, block)
    return candidates[int(rng.integers(len(candidates)))].plan


def any_plan(rng: np.random.Generator, block: Block) -> CpuPlan:
    """Any plan in rows: bands and steps that need not divide, tiles that need not fit."""
    units = tuple(
        UnitTiling(
            pixels=int(rng.integers(1, 15)),
            vectors=int(rng.integers(1, 4)) if unit.kind in {"contract", "grouped"} else 1,
            prefetch=bool(rng.random() < 0.3),
            filter_rows=bool(rng.random() < 0.3),
        )
        for unit in by_rows(fold(block)).units
    )
    tasks = int(rng.integers(1, min(4, max(shape.height for shape in block.shapes)) + 1))
    return CpuPlan("rows", tasks, int(rng.integers(1, 5)), units, lanes=int(rng.choice((4, 8, 16))))


def run(seeds: Sequence[int]) -> Iterator[Case]:
    """Compile the kernels of all seeds together, and compare one by one."""
    cases: dict[int, tuple[KernelCase, Program]] = {}
    started = time.perf_counter()
    for seed in seeds:
        try:
            case = random_case(seed)
            cases[seed] = case, case.program(f"case_{seed}")
        except Exception as problem:  # noqa: BLE001 - whatever it is, the case has failed
            yield Case(seed, FAILED, f"{type(problem).__name__}: {problem}")
    kernels = compile_programs([program for _, program in cases.values()]) if cases else {}
    shared = (time.perf_counter() - started) / len(seeds)
    for seed, (case, program) in cases.items():
        kernel = kernels[program.name]
        found = judged(lambda seed, c=case, k=kernel, p=program: compare(c, k, p, seed), seed)
        yield replace(found, seconds=found.seconds + shared)


def compare(case: KernelCase, kernel, program: Program, seed: int) -> str:
    """Run a kernel on arrays at an odd address; an AssertionError if it is wrong."""
    inputs = random_inputs(case.block, seed)
    actual = call(kernel, program, inputs, case.block.parameters, seed % 16)
    found = error(case.block, inputs, actual)
    assert found <= 1, f"{found:.1f} times the error allowed: {case.plan}; {case.block}"
    return ""


# ---- a failed case as a file -----------------------------------------------------------------------------------------
def is_wrong(case: KernelCase, seed: int) -> bool:
    """Whether it fails, in any way."""
    try:
        program = case.program("smaller")
        compare(case, compile_programs([program])["smaller"], program, seed)
    except Exception:  # noqa: BLE001 - any failure is one
        return True
    return False


def smaller(case: KernelCase) -> Iterator[KernelCase]:
    """Cases with a stage less, one image, one task."""
    block = case.block
    if block.batch > 1:
        yield replace(case, block=replace(block, batch=1))
    if case.plan.tasks > 1 and case.plan.mode == "rows":
        yield replace(case, plan=replace(case.plan, tasks=1))
    for stages in range(1, len(block.stages)):
        cut = _first(block, stages)
        if cut is not None:
            yield KernelCase(cut, replace(case.plan, units=_units(case.plan, cut)), case.planar[: len(cut.inputs)])


def _first(block: Block, stages: int) -> Block | None:
    """The block up to a stage, if nothing before that is left unread."""
    kept: tuple[Stage, ...] = block.stages[:stages]
    parameters = {key: value for key, value in block.parameters.items() if key[0] < stages}
    cut = replace(block, stages=kept, parameters=parameters)
    read = {value for stage in kept for value in stage.inputs}
    return cut if read >= set(range(len(block.inputs) + stages - 1)) else None


def _units(plan: CpuPlan, block: Block) -> tuple[UnitTiling, ...]:
    count = len(by_rows(fold(block)).units)
    return (*plan.units, *[UnitTiling(1, 1)] * count)[:count]


def save(seed: int, folder: Path) -> str:
    """A Python file with the smallest part of the block that still fails."""
    case = random_case(seed)
    shrinks = True
    while shrinks:
        shrinks = False
        for candidate in smaller(case):
            if is_wrong(candidate, seed):
                case, shrinks = candidate, True
                break
    path = folder / f"block_{seed}.py"
    path.write_text(script(case, seed))
    return f"python {path}  # in the repository"


def script(case: KernelCase, seed: int) -> str:
    """Python that makes a case again and compares it; its parameters are drawn anew."""
    block = case.block
    stages = "".join(f"        {stage!r},\n" for stage in block.stages)
    return (
        f'"""{block}\n\n{case.plan}\n"""\n\n'
        "from blockfuse.block import Block\nfrom blockfuse.plan.cpu import CpuPlan, UnitTiling\n"
        "from blockfuse.stages import *  # noqa: F403\n"
        "from tests.cpu_kernels import compile_programs\nfrom tests.fuzz.blocks import KernelCase, compare\n\n"
        f"block = Block(\n    {block.inputs!r},\n    (\n{stages}    ),\n    batch={block.batch},\n)\n"
        f"case = KernelCase(block.with_random_parameters({seed}), {case.plan!r}, {case.planar!r})\n"
        f'program = case.program("case")\ncompare(case, compile_programs([program])["case"], program, {seed})\n'
    )


FUZZER = Fuzzer("blocks", run, save, seconds=60, gigabytes=16, batch=8)
