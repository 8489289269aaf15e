"""Kernels of this repository beside the prototypes they grew from: same blocks, same tiles, same emulator's counts.

    python -m benchmarks.cuda_prototypes                 every case, on mma.sync for sm_90
    python -m benchmarks.cuda_prototypes bottleneck      cases whose name contains a word

A cell is our figure, the prototype's, and the ratio of the two. The prototypes' figures are those of a generator that
composed kernels as this one does, and that was as good as kernels written by hand. Per CTA: products and ldmatrix that
are executed; all loads of fragments: ldmatrix, and those of weights, 16 bytes per lane; cycles of shared memory
(wavefronts and asynchronous bytes / 128) and of the last-level cache (32-byte sectors * 32 / 28), which are counts, not
measurements. Registers, spilled bytes and instructions as they stand in the code are those of nvcc.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace

from benchmarks.cuda_kernels_static import Case, measure
from benchmarks.gpu_export import nvcc_release
from benchmarks.heading import heading
from blockfuse.block import Block
from blockfuse.machine import Engine
from blockfuse.report import table
from blockfuse.stages import Activation, Function
from blockfuse.tools.resources import ctas_on
from tests.emulated.nvcc import find_nvcc
from tests.residual_blocks import bottleneck, convnext, mbconv

_BATCH = 64  # images that plans are made for; one is emulated
FIGURES = {
    "registers": "registers sm_90",
    "spilled": "spilled bytes sm_90",
    "shared bytes": "shared bytes",
    "instructions": "instructions sm_90",
    "mma": "mma, or as many",
    "ldmatrix": "ldmatrix",
    "fragment loads": "fragment loads",
    "shared-memory cycles": "shared cycles",
    "L2 cycles": "L2 cycles",
}
"""What is compared, and what :mod:`benchmarks.cuda_kernels_static` calls it."""


@dataclass(frozen=True)
class Prototype:
    """A case and the prototype's figures, in the order of :data:`FIGURES`."""

    case: Case
    figures: tuple[int, ...]


def _with_silu(block: Block) -> Block:
    silu = Function("silu")
    stages = tuple(replace(s, function=silu) if isinstance(s, Activation) else s for s in block.stages)
    return replace(block, stages=stages)


PROTOTYPES = [
    Prototype(
        Case("MBConv 28x28 48-240-48, 7x14", mbconv(28, 28, 48, 240), (7, 14), 4),
        (160, 0, 54784, 1920, 1440, 240, 780, 7627, 5625),
    ),
    Prototype(
        Case("MBConv 56x56 32-144-32 silu, 8x14", _with_silu(mbconv(56, 56, 32, 144)), (8, 14), 4),
        (157, 0, 49920, 1992, 612, 123, 339, 4278, 2777),
    ),
    Prototype(
        Case("bottleneck 56x56 256-64, 8x14", bottleneck(56, 56, 256, 64), (8, 14), 8),
        (100, 0, 94720, 1232, 4192, 1048, 2136, 12304, 20846),
    ),
    Prototype(
        Case("bottleneck 56x56 256-64, 14x14", bottleneck(56, 56, 256, 64), (14, 14), 8),
        (130, 0, 150016, 1488, 7456, 1864, 2952, 17440, 28123),
    ),
    Prototype(
        Case("bottleneck 28x28 512-128, 14x14", bottleneck(28, 28, 512, 128), (14, 14), 8),
        (212, 0, 172544, 2304, 29824, 4560, 8912, 49088, 73000),
    ),
    Prototype(
        Case("bottleneck 14x14 1024-256, 7x14", bottleneck(14, 14, 1024, 256), (7, 14), 8),
        (249, 0, 159744, 2616, 65024, 6752, 24160, 123616, 192549),
    ),
    Prototype(
        Case("ConvNeXt 56x56 96, 8x8", convnext(56, 56, 96), (8, 8), 4),
        (125, 0, 91008, 1488, 2304, 24, 1176, 9408, 15077),
    ),
]


def row(one: Prototype) -> tuple[str, ...]:
    """One case: ours, theirs and the ratio, figure by figure."""
    ours = measure(replace(one.case, batch=_BATCH), Engine.MMA)
    cells = []
    for name, theirs in zip(FIGURES.values(), one.figures, strict=True):
        found = ours.get(name)
        ratio = f" = {found / theirs:.2f}" if isinstance(found, int) and theirs else ""
        cells.append(f"{found if isinstance(found, int) else '-'} / {theirs}{ratio}")
    registers, _, shared_bytes, *_ = one.figures
    known = [ours.get(FIGURES[name]) for name in ("registers", "shared bytes")]
    own = _ctas(one.case, *known) if all(isinstance(figure, int) for figure in known) else "-"
    return (one.case.name, f"{own} / {_ctas(one.case, registers, shared_bytes)}", *cells)


def _ctas(case: Case, registers: int, shared_bytes: int) -> int:
    """CTAs that an SM of an H200 holds at once."""
    return ctas_on("sm_90", 32 * (case.warps or 1), registers, shared_bytes)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="cases whose name contains one of these; all by default")
    words = parser.parse_args().words
    chosen = [one for one in PROTOTYPES if not words or any(word in one.case.name for word in words)]
    print(heading("cuda_prototypes", nvcc=nvcc_release() if find_nvcc() else None))
    print("\n".join(table([("kernel", "CTAs per SM", *FIGURES), *map(row, chosen)])))


if __name__ == "__main__":
    main()
