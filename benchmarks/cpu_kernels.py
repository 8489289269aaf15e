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
from onnx import TensorProto, helper, numpy_helper

from blockfuse.block import Block, reference
from blockfuse.plan.choose_cpu import Candidate, plan_cpu
from blockfuse.plan.device import cpu_device
from blockfuse.plan.fold import fold
from blockfuse.program.cpu import program_cpu
from blockfuse.schedules.cpu import lower, pack
from blockfuse.stages import Activation, Add, Conv, Depthwise, Function, ImageShape, Pool, Stage, Window
from blockfuse.target import Target, parse_target

SAMPLE = 0.3e-3
"""Seconds that one reading of the clock covers at least."""

RELU, RELU6 = Function("relu"), Function("clip", 0.0, 6.0)


# ---- cases -----------------------------------------------------------------------------------------------------------


def same(size: int, stride: int = 1) -> Window:
    """A square window with the padding that keeps the size at stride 1."""
    pad = size // 2
    return Window(size, size, stride, stride, 1, 1, pad, pad, pad, pad)


def conv(height: int, channels: int, out: int, size: int = 1, stride: int = 1, function: Function = RELU) -> Block:
    """A convolution and an activation."""
    stages = (Conv("conv", (0,), out, same(size, stride)), Activation("act", (1,), function))
    return Block((ImageShape(height, height, channels),), stages)


def depthwise(height: int, channels: int, size: int = 3, stride: int = 1) -> Block:
    """A depthwise convolution and an activation."""
    stages = (Depthwise("dw", (0,), same(size, stride)), Activation("act", (1,), RELU6))
    return Block((ImageShape(height, height, channels),), stages)


def pool(height: int, channels: int, reduction: Any, window: Window) -> Block:
    """A pooling."""
    return Block((ImageShape(height, height, channels),), (Pool("pool", (0,), reduction, window),))


def basic(height: int, channels: int, out: int, stride: int = 1) -> Block:
    """ResNet's basic block, with a projection where the shape changes."""
    stages: list[Stage] = [
        Conv("conv1", (0,), out, same(3, stride)),
        Activation("relu1", (1,), RELU),
        Conv("conv2", (2,), out, same(3)),
    ]
    shortcut = 0
    if stride > 1 or out != channels:
        stages.append(Conv("shortcut", (0,), out, Window(stride_h=stride, stride_w=stride)))
        shortcut = len(stages)
    stages.append(Add("add", (3, shortcut)))
    stages.append(Activation("relu2", (len(stages),), RELU))
    return Block((ImageShape(height, height, channels),), tuple(stages))


def mbconv(height: int, channels: int, hidden: int, out: int, stride: int = 1) -> Block:
    """MobileNetV2's inverted residual."""
    stages: list[Stage] = [
        Conv("expand", (0,), hidden, Window()),
        Activation("act1", (1,), RELU6),
        Depthwise("dw", (2,), same(3, stride)),
        Activation("act2", (3,), RELU6),
        Conv("project", (4,), out, Window()),
    ]
    if stride == 1 and channels == out:
        stages.append(Add("add", (5, 0)))
    return Block((ImageShape(height, height, channels),), tuple(stages))


CASES: dict[str, Callable[[], Block]] = {
    "stem 7x7/2 224 3-64": lambda: conv(224, 3, 64, 7, 2),
    "stem 3x3/2 224 3-32": lambda: conv(224, 3, 32, 3, 2, RELU6),
    "maxpool 112 64": lambda: pool(112, 64, "max", same(3, 2)),
    "mean 7 512": lambda: pool(7, 512, "mean", Window(7, 7)),
    "fc 512-1000": lambda: conv(1, 512, 1000),
    "1x1 64 56 64": lambda: conv(56, 64, 64),
    "1x1 24 56 144": lambda: conv(56, 24, 144, function=RELU6),
    "1x1 144 56 24": lambda: conv(56, 144, 24, function=RELU6),
    "1x1 96 14 576": lambda: conv(14, 96, 576, function=RELU6),
    "1x1 160 7 960": lambda: conv(7, 160, 960, function=RELU6),
    "1x1 960 7 160": lambda: conv(7, 960, 160, function=RELU6),
    "1x1 320 7 1280": lambda: conv(7, 320, 1280, function=RELU6),
    "1x1/2 64 56 128": lambda: conv(56, 64, 128, 1, 2),
    "3x3 64 56 64": lambda: conv(56, 64, 64, 3),
    "3x3 128 28 128": lambda: conv(28, 128, 128, 3),
    "3x3 256 14 256": lambda: conv(14, 256, 256, 3),
    "3x3 512 7 512": lambda: conv(7, 512, 512, 3),
    "3x3/2 64 56 128": lambda: conv(56, 64, 128, 3, 2),
    "3x3/2 256 14 512": lambda: conv(14, 256, 512, 3, 2),
    "dw 32 112": lambda: depthwise(112, 32),
    "dw 144 56": lambda: depthwise(56, 144),
    "dw/2 144 56": lambda: depthwise(56, 144, 3, 2),
    "dw 192 28": lambda: depthwise(28, 192),
    "dw 576 14": lambda: depthwise(14, 576),
    "dw 960 7": lambda: depthwise(7, 960),
    "dw5 672 14": lambda: depthwise(14, 672, 5),
    "basic 56 64": lambda: basic(56, 64, 64),
    "basic/2 56 64-128": lambda: basic(56, 64, 128, 2),
    "basic 28 128": lambda: basic(28, 128, 128),
    "basic 14 256": lambda: basic(14, 256, 256),
    "basic 7 512": lambda: basic(7, 512, 512),
    "mbconv/2 112 16-96-24": lambda: mbconv(112, 16, 96, 24, 2),
    "mbconv 56 24-144-24": lambda: mbconv(56, 24, 144, 24),
    "mbconv 28 32-192-32": lambda: mbconv(28, 32, 192, 32),
    "mbconv 14 96-576-96": lambda: mbconv(14, 96, 576, 96),
    "mbconv 7 160-960-160": lambda: mbconv(7, 160, 960, 160),
}


# ---- ONNX Runtime ----------------------------------------------------------------------------------------------------


def onnx_session(block: Block) -> onnxruntime.InferenceSession:
    """The block as an ONNX model, on one thread."""
    constants: dict[str, Any] = {f"p{n}_{key}": data for (n, key), data in block.parameters.items()}
    if any(isinstance(stage, Activation) and stage.function == RELU6 for stage in block.stages):
        constants |= {"low": np.float32(RELU6.low), "high": np.float32(RELU6.high)}
    last = len(block.inputs) + len(block.stages) - 1
    nodes = [_node(block, n) for n in range(len(block.stages))]
    graph = helper.make_graph(
        nodes,
        "block",
        [
            helper.make_tensor_value_info(f"v{i}", TensorProto.FLOAT, [1, s.channels, s.height, s.width])
            for i, s in enumerate(block.inputs)
        ],
        [helper.make_tensor_value_info(f"v{last}", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _node(block: Block, n: int) -> Any:
    stage = block.stages[n]
    inputs, outputs = [f"v{i}" for i in stage.inputs], [f"v{n + len(block.inputs)}"]
    match stage:
        case Conv() | Depthwise():
            groups = block.input_shapes(n)[0].channels if isinstance(stage, Depthwise) else 1
            weights = [f"p{n}_weight", f"p{n}_bias"]
            return helper.make_node("Conv", inputs + weights, outputs, group=groups, **_geometry(stage.window))
        case Pool():
            kind = "MaxPool" if stage.reduction == "max" else "AveragePool"
            return helper.make_node(kind, inputs, outputs, **_geometry(stage.window))
        case Activation() if stage.function.kind == "clip":
            return helper.make_node("Clip", [*inputs, "low", "high"], outputs)
        case Activation():
            return helper.make_node("Relu", inputs, outputs)
        case _:
            return helper.make_node("Add", inputs, outputs)


def _geometry(window: Window) -> dict[str, list[int]]:
    return {
        "kernel_shape": [window.r, window.s],
        "strides": [window.stride_h, window.stride_w],
        "pads": [window.pad_top, window.pad_left, window.pad_bottom, window.pad_right],
    }


def onnx_runner(block: Block, inputs: list[np.ndarray[Any, Any]]) -> Callable[[], object]:
    """A call of ONNX Runtime with inputs and output bound, so that nothing is allocated or copied around it."""
    session = onnx_session(block)
    binding = session.io_binding()
    for i, x in enumerate(inputs):
        planar = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
        binding.bind_ortvalue_input(f"v{i}", onnxruntime.OrtValue.ortvalue_from_numpy(planar))
    shape = block.output
    y = np.zeros((1, shape.channels, shape.height, shape.width), np.float32)
    binding.bind_ortvalue_output(session.get_outputs()[0].name, onnxruntime.OrtValue.ortvalue_from_numpy(y))
    return lambda: session.run_with_iobinding(binding)


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
