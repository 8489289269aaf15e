"""Registers, spills and shared memory of the kernels planned for the blocks of networks, as nvcc reports them.

    python -m benchmarks.cuda_kernels_planned              every block, batch 32, mma.sync, sm_90
    python -m benchmarks.cuda_kernels_planned convnext     blocks whose name contains a word

Needs nvcc, and no GPU. ``live`` is the planner's own count of registers; ``CTAs`` is the grid at batch 32.
"""

from __future__ import annotations

import argparse

from blockfuse.block import Block
from blockfuse.machine import Engine
from blockfuse.program.registers import live_registers
from blockfuse.report import table
from tests.cuda_kernels import build, grid
from tests.emulated.nvcc import compile_cubin
from tests.residual_blocks import bottleneck, convfirst, convnext, fused_mbconv, mbconv, resnext

ARCH = "sm_90"
BATCH = 32

BLOCKS: dict[str, Block] = {
    "mobilenet_v2 112x112 16-96-24 /2": mbconv(112, 112, 16, 96, 24, stride=2, batch=BATCH),
    "mobilenet_v2 56x56 24-144-24": mbconv(56, 56, 24, 144, batch=BATCH),
    "mobilenet_v2 56x56 24-144-32 /2": mbconv(56, 56, 24, 144, 32, stride=2, batch=BATCH),
    "mobilenet_v2 28x28 32-192-32": mbconv(28, 28, 32, 192, batch=BATCH),
    "mobilenet_v2 28x28 32-192-64 /2": mbconv(28, 28, 32, 192, 64, stride=2, batch=BATCH),
    "mobilenet_v2 14x14 64-384-64": mbconv(14, 14, 64, 384, batch=BATCH),
    "mobilenet_v2 14x14 64-384-96": mbconv(14, 14, 64, 384, 96, batch=BATCH),
    "mobilenet_v2 14x14 96-576-96": mbconv(14, 14, 96, 576, batch=BATCH),
    "mobilenet_v2 14x14 96-576-160 /2": mbconv(14, 14, 96, 576, 160, stride=2, batch=BATCH),
    "mobilenet_v2 7x7 160-960-160": mbconv(7, 7, 160, 960, batch=BATCH),
    "mobilenet_v2 7x7 160-960-320": mbconv(7, 7, 160, 960, 320, batch=BATCH),
    "resnet50 56x56 64-64-256": bottleneck(56, 56, 64, 64, 256, batch=BATCH),
    "resnet50 56x56 256-64-256": bottleneck(56, 56, 256, 64, batch=BATCH),
    "resnet50 56x56 256-128-512 /2": bottleneck(56, 56, 256, 128, 512, stride=2, batch=BATCH),
    "resnet50 28x28 512-128-512": bottleneck(28, 28, 512, 128, batch=BATCH),
    "convnext_tiny 56x56x96": convnext(56, 56, 96, batch=BATCH),
    "convnext_tiny 28x28x192": convnext(28, 28, 192, batch=BATCH),
    "convfirst 128x128x32": convfirst(128, 128, 32, batch=BATCH),
    "convfirst 64x64x64": convfirst(64, 64, 64, batch=BATCH),
    "convfirst 32x32x96": convfirst(32, 32, 96, batch=BATCH),
    "resnext50 56x56 256-128 groups of 4": resnext(56, 56, 256, 128, 4, batch=BATCH),
    "fused_mbconv 56x56 48-192-48": fused_mbconv(56, 56, 48, 192, batch=BATCH),
}


def measure(name: str, block: Block) -> tuple[str, ...]:
    """One row."""
    built = build(block, engine=Engine.MMA)
    shared = 2 * built.program.arena
    found = compile_cubin(built.source, ARCH, dynamic_shared_bytes=shared)
    spilled = found.spill_load_bytes + found.spill_store_bytes
    homes = ", ".join(str(home) for home in built.plan.homes)
    tile = f"{built.plan.tile_p}x{built.plan.tile_q}"
    figures = (built.plan.warps, built.plan.depth, grid(built.program), found.registers, live_registers(built.program))
    return (name, tile, *map(str, figures), str(spilled), str(shared), homes)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="blocks whose name contains one of these; all by default")
    options = parser.parse_args()
    head = ("block", "tile", "warps", "slots", "CTAs", "registers", "live", "spilled", "shared bytes", "values")
    chosen = {n: b for n, b in BLOCKS.items() if not options.words or any(word in n for word in options.words)}
    print("\n".join(table([head, *(measure(name, block) for name, block in chosen.items())])))


if __name__ == "__main__":
    main()
