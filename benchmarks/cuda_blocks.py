"""What the GPU planner makes of the blocks of networks: kernels, tiles, engines, predicted times, gains of cuts.

    python -m benchmarks.cuda_blocks                                every distinct block of the five networks
    python -m benchmarks.cuda_blocks mobilenet_v2 --batch 1         one network, another batch
    python -m benchmarks.cuda_blocks --singles                      layers that are kernels by themselves, too
    python -m benchmarks.cuda_blocks --bytes                        bytes of memory, fused and unfused, per network

Nothing is compiled and nothing is measured: times are predictions, used to compare plans. ``recomputed`` is operations
done over operations of the model; a tile ``14x7 of 2 / 8`` is of 2 images, and 8 CTAs share its channels; ``why`` names
the gain of every cut. Bytes are those of every tensor that a kernel reads or writes, once; ``python -m
benchmarks.cuda_bytes`` ties what kernels move in emulation to the plans.
"""

from __future__ import annotations

import argparse
from functools import cache

from benchmarks.heading import heading
from blockfuse import frontend
from blockfuse.frontend import zoo
from blockfuse.frontend.partition import partition
from blockfuse.frontend.patterns import all as built_in
from blockfuse.frontend.reading import read
from blockfuse.frontend.squares import squared_inputs
from blockfuse.graph import Graph
from blockfuse.plan.cuda import CudaPlan
from blockfuse.plan.decide import Decision, FuseMode, Kernel
from blockfuse.plan.device import Device, device_of
from blockfuse.plan.fold import fold
from blockfuse.plan.stack import over_stacks
from blockfuse.report import table
from blockfuse.steps import PlannedSteps, plan_steps, segment_cost
from blockfuse.target import parse_target

NETWORKS = ("mobilenet_v2", "convfirstnet", "resnet50", "convnext_tiny", "efficientnet_b0")


@cache
def graph_of(network: str, batch: int) -> Graph:
    """A network of the zoo, in canonical form."""
    return frontend.canonicalize(read(getattr(zoo, network)(batch=batch)))


def planned(network: str, batch: int, device: Device, fuse: FuseMode = "auto", dtype: str = "float16") -> PlannedSteps:
    """Every step of a network with the kernels it runs."""
    graph = squared_inputs(graph_of(network, batch), dtype)
    cost = None if fuse == "never" else segment_cost(graph, device, dtype)
    return plan_steps(partition(graph, built_in(), cost=cost), device, fuse, dtype)


def decisions(steps: PlannedSteps, *, singles: bool) -> list[Decision]:
    """The distinct decisions, in order; those for single layers only if asked for."""
    found: dict[object, Decision] = {}
    for step in steps.steps:
        if isinstance(step, Decision) and (singles or step.block.pattern):
            found.setdefault(step.block, step)
    return list(found.values())


def rows(step: Decision) -> list[tuple[str, ...]]:
    """One row for the block, and one per kernel if it has several."""
    head = (step.block.name, str(step.block.inputs[0]), str(step.block.output))
    if len(step.kernels) == 1:
        return [(*head, "1", *_plan(step.kernels[0]), "")]
    return [
        (*head, str(len(step.kernels)), "", "", "", "", f"{step.seconds * 1e6:.1f}", "", "", step.why),
        *((f"  {kernel.block.name}", "", "", "", *_plan(kernel), "") for kernel in step.kernels),
    ]


HEAD = ("block", "in", "out", "kernels", "tile", "warps", "engine", "CTAs", "us", "bound", "recomputed", "why")


def _plan(kernel: Kernel) -> tuple[str, ...]:
    plan, cost = kernel.plan, kernel.cost
    if not isinstance(plan, CudaPlan):
        return ("",) * 7
    stack = over_stacks(fold(kernel.block), plan.images)
    out = stack.shapes[-1]
    ctas = stack.block.batch * -(-out.height // plan.tile_p) * -(-out.width // plan.tile_q) * plan.split
    tile = f"{plan.tile_p}x{plan.tile_q}"
    tile += f" of {plan.images}" * (plan.images > 1) + f" / {plan.split}" * (plan.split > 1)
    time = f"{cost.seconds * 1e6:.1f}"
    return (tile, str(plan.warps), str(plan.engine), str(ctas), time, cost.bound, f"{cost.recompute:.2f}")


def traffic(network: str, batch: int, device: Device) -> tuple[str, ...]:
    """Kernels and bytes of memory of a network, fused and with a kernel for every layer."""
    fused, unfused = (planned(network, batch, device, fuse).kernels for fuse in ("auto", "never"))
    moved, apart = (sum(kernel.cost.global_bytes for kernel in kernels) / 1e6 for kernels in (fused, unfused))
    ratio = f"{apart / moved:.2f}"
    return (network, str(len(fused)), str(len(unfused)), f"{moved:.0f}", f"{apart:.0f}", ratio)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=NETWORKS, help="networks of the zoo")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--arch", default="sm_90a")
    parser.add_argument("--singles", action="store_true", help="also layers that are kernels by themselves")
    parser.add_argument("--bytes", action="store_true", help="only the bytes of memory, fused and unfused")
    options = parser.parse_args()
    device = device_of(parse_target(options.arch))
    print(heading("cuda_blocks"))
    if options.bytes:
        head = ("network", "kernels fused", "unfused", "MB fused", "MB unfused", "ratio")
        print("\n".join(table([head, *(traffic(network, options.batch, device) for network in options.networks)])))
        return
    for network in options.networks:
        steps = planned(network, options.batch, device)
        body = [row for step in decisions(steps, singles=options.singles) for row in rows(step)]
        print(f"\n{network}, batch {options.batch}, {options.arch}\n")
        print("\n".join(table([HEAD, *body])))


if __name__ == "__main__":
    main()
