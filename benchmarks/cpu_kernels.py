"""Speed of single CPU kernels next to ONNX Runtime on the same subgraph, in one process, on one thread.

    python benchmarks/cpu_kernels.py                 every case
    python benchmarks/cpu_kernels.py 3x3 mbconv      cases whose name contains one of these

Candidates take turns and the least CPU time of each counts, because other jobs on the machine can only add to it.
GFLOP/s are nominal: products with padding count, though they are not computed. A subgraph alone makes ONNX Runtime
reorder its input and output, which it would not have to do inside a network.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import tvm
from cpu_cases import CASES
from onnx_blocks import onnx_runner

from blockfuse.block import Block, reference
from blockfuse.plan.choose_cpu import Candidate, plan_cpu
from blockfuse.plan.device import cpu_device
from blockfuse.plan.fold import fold
from blockfuse.program.cpu import program_cpu
from blockfuse.schedules.cpu import lower, pack
from blockfuse.target import Target, parse_target

SAMPLE = 0.3e-3
"""Seconds that one reading of the clock covers at least."""

# ---- our kernels -----------------------------------------------------------------------------------------------------


def kernel_runner(
    block: Block, inputs: list[np.ndarray[Any, Any]], target: Target
) -> tuple[Candidate, Callable[[], object]]:
    """The kernel of the planner's first choice, checked, and a call of it."""
    folded = fold(block)
    candidates = plan_cpu(folded, cpu_device(target))
    if not isinstance(candidates, list):
        raise SystemExit(f"{block.name}: {candidates}")
    program = program_cpu(folded, candidates[0].plan, "kernel")
    module = tvm.IRModule({"kernel": lower(program)})
    compiled = tvm.compile(module, target={"kind": "llvm", "mcpu": target.mcpu}, tir_pipeline="tirx")
    kernel = compiled["kernel"]
    shape = block.output
    y = tvm.runtime.tensor(np.full((1, shape.height, shape.width, shape.channels), np.nan, np.float32))
    arguments = [*map(tvm.runtime.tensor, inputs), tvm.runtime.tensor(pack(program, block.parameters)), y]
    kernel(*arguments)
    expected = reference(block, inputs)[-1]
    error = float(np.abs(y.numpy() - expected).max() / np.abs(expected).max())
    if not error < 1e-5:
        raise SystemExit(f"{block.name}: wrong by {error:.1e}")
    return candidates[0], lambda: kernel(*arguments)


# ---- measurement -----------------------------------------------------------------------------------------------------


def measure(calls: list[Callable[[], object]], rounds: int, budget: float) -> list[float]:
    """Least CPU seconds of each call; in every round each one runs for about ``budget`` seconds.

    CPU time of this thread leaves out what other jobs take, which on a loaded machine is most of the time.
    """
    best = [float("inf")] * len(calls)
    for _ in range(rounds):
        for i, call in enumerate(calls):
            call()
            repeats = 1 + int(SAMPLE / max(_seconds(call, 1), 1e-7))
            end = time.perf_counter() + budget
            while time.perf_counter() < end:
                best[i] = min(best[i], _seconds(call, repeats))
    return best


def _seconds(call: Callable[[], object], repeats: int) -> float:
    start = time.thread_time()
    for _ in range(repeats):
        call()
    return (time.thread_time() - start) / repeats


def processor() -> str:
    """What the operating system calls the processor."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    names = {name.strip(): value.strip() for name, value in fields.items()}
    return f"{names.get('model name')} family {names.get('cpu family')} model {names.get('model')}"


def main() -> None:
    """Measure the cases that the command line names."""
    parser = argparse.ArgumentParser(description="CPU kernels next to ONNX Runtime, on one thread")
    parser.add_argument("names", nargs="*", help="parts of case names; all cases without any")
    parser.add_argument("--target", default="cpu", help="cpu, cpu:avx512, cpu:avx2 or cpu:generic")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--budget", type=float, default=0.03, help="seconds per case and round")
    options = parser.parse_args()
    os.environ["TVM_NUM_THREADS"] = "1"
    target = parse_target(options.target, threads=1)
    print(f"# {time.strftime('%Y-%m-%d')}, {processor()}, one thread, {target}")
    print(f"# tvm {tvm.__version__}, onnxruntime {onnxruntime.__version__}; least CPU time of each")
    print(f"{'case':<24} {'ms':>8} {'GF/s':>6} {'ORT ms':>8} {'ORT/ours':>8}  plan")
    for name, make in CASES.items():
        if options.names and not any(part in name for part in options.names):
            continue
        block = make().with_random_parameters(0)
        rng = np.random.default_rng(1)
        shapes = [(1, s.height, s.width, s.channels) for s in block.inputs]
        inputs = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
        candidate, ours = kernel_runner(block, inputs, target)
        mine, theirs = measure([ours, onnx_runner(block, inputs)], options.rounds, options.budget)
        rate = block.operations / mine / 1e9
        line = f"{name:<24} {mine * 1e3:8.4f} {rate:6.0f} {theirs * 1e3:8.4f} {theirs / mine:8.2f}  {candidate.plan}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
