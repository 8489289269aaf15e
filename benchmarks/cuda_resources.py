"""What nvcc says of every CUDA kernel of networks: registers, stack, spills; and the shared memory they are given.

    python -m benchmarks.cuda_resources                          five networks, sm_80 and sm_90a, batch 1 and 32
    python -m benchmarks.cuda_resources resnet50 --batch 32      one network, one batch
    python -m benchmarks.cuda_resources --all                    one row per kernel, too
    python -m benchmarks.cuda_resources -o resources.json        written after every kernel; run again to resume

Needs nvcc, and no GPU. A kernel is ``clean`` if ptxas reports no stack, no spills and no wgmma that it had to run one
by one, and no static shared memory beside what the plan asks for. ``live`` is the planner's own count of registers.
A file keeps what was found of every source, so that only kernels that changed are compiled again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any, TypeAlias

from benchmarks.cuda_blocks import NETWORKS, planned
from benchmarks.gpu_export import nvcc_release
from blockfuse.machine import Program
from blockfuse.plan.device import device_of
from blockfuse.program.registers import live_registers
from blockfuse.report import table
from blockfuse.schedules.cuda import cuda_source, lower
from blockfuse.steps import write_programs
from blockfuse.target import parse_target
from blockfuse.tools.facts import machine_facts
from tests.emulated.nvcc import CubinStats, compile_cubin

ARCHS = ("sm_80", "sm_90a")
_HALF = 2  # bytes


@dataclass(frozen=True)
class Row:
    """One kernel of one network."""

    network: str
    batch: int
    arch: str
    kernel: str
    live: int
    source: str
    stats: CubinStats

    @property
    def key(self) -> tuple[str, int, str, str, str]:
        """What tells it from others, and from what it was before."""
        return (self.network, self.batch, self.arch, self.kernel, self.source)

    @property
    def is_clean(self) -> bool:
        """Whether nothing is kept outside registers, and nothing is shared beside the plan's arena."""
        found = self.stats
        spilled = found.stack_bytes + found.spill_load_bytes + found.spill_store_bytes
        return not spilled and not found.static_shared_bytes and not found.remarks


Known: TypeAlias = dict[tuple[str, int, str, str, str], Row]
"""Kernels that were compiled before."""


def programs(networks: list[str], batches: list[int], archs: list[str]) -> Iterator[tuple[str, int, str, Program]]:
    """Every distinct kernel of every network."""
    for network in networks:
        for batch in batches:
            for arch in archs:
                steps = planned(network, batch, device_of(parse_target(arch)))
                for program in write_programs(steps).by_name.values():
                    yield network, batch, arch, program


def measure(network: str, batch: int, arch: str, program: Program, known: Known) -> Row:
    """Compile one kernel, unless that was done before."""
    source = cuda_source(lower(program), arch)
    number = sha256(source.encode()).hexdigest()[:16]
    found = known.get((network, batch, arch, program.name, number))
    if found:
        return found
    stats = compile_cubin(source, arch, dynamic_shared_bytes=_HALF * program.arena)
    return Row(network, batch, arch, program.name, live_registers(program), number, stats)


def read(path: Path | None) -> Known:
    """What a file holds."""
    if path is None or not path.exists():
        return {}
    rows = [_row(row) for row in json.loads(path.read_text(encoding="utf-8"))["rows"]]
    return {row.key: row for row in rows}


def _row(row: dict[str, Any]) -> Row:
    stats = row.pop("stats")
    return Row(**row, stats=CubinStats(**{**stats, "remarks": tuple(stats["remarks"])}))


def write(path: Path, rows: list[Row]) -> None:
    """Where, when and with what, then one line per kernel."""
    head = {"command": "python -m benchmarks.cuda_resources", "arguments": sys.argv[1:], **machine_facts()}
    text = json.dumps({**head, "nvcc": nvcc_release()})[:-1]
    lines = ",\n".join(json.dumps(asdict(replace(row, stats=replace(row.stats, sass=None)))) for row in rows)
    path.write_text(f'{text}, "rows": [\n{lines}\n]}}\n', encoding="utf-8")


def summary(rows: list[Row]) -> list[tuple[str, ...]]:
    """One line per network, batch and architecture."""
    groups: dict[tuple[str, int, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.network, row.batch, row.arch), []).append(row)
    lines: list[tuple[str, ...]] = [("network", "batch", "arch", "kernels", "clean", "most registers", "over live")]
    for (network, batch, arch), group in groups.items():
        most = max(row.stats.registers for row in group)
        over = max(row.stats.registers - row.live for row in group)
        clean = sum(row.is_clean for row in group)
        lines.append((network, str(batch), arch, str(len(group)), str(clean), str(most), str(over)))
    return lines


def details(rows: list[Row]) -> list[tuple[str, ...]]:
    """One line per kernel."""
    head = ("network", "batch", "arch", "kernel", "registers", "live", "stack", "spilled", "shared", "remarks")
    return [
        head,
        *(
            (
                *(row.network, str(row.batch), row.arch, row.kernel, str(row.stats.registers), str(row.live)),
                str(row.stats.stack_bytes),
                str(row.stats.spill_load_bytes + row.stats.spill_store_bytes),
                str(row.stats.shared_bytes),
                "; ".join(row.stats.remarks),
            )
            for row in rows
        ),
    ]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--arch", nargs="+", default=list(ARCHS))
    parser.add_argument("--all", action="store_true", help="one row per kernel, too")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path, help="JSON; what it holds already is not compiled again")
    options = parser.parse_args()
    known, rows = read(options.output), list[Row]()
    asked = set(product(options.networks, options.batch, options.arch))
    others = [row for row in known.values() if (row.network, row.batch, row.arch) not in asked]
    with ProcessPoolExecutor(options.jobs) as pool:
        found = programs(options.networks, options.batch, options.arch)
        for job in [pool.submit(measure, *one, known) for one in found]:
            rows.append(job.result())
            if options.output:
                write(options.output, [*others, *rows])
    print("\n".join(table(summary(rows))))
    shown = rows if options.all else [row for row in rows if not row.is_clean]
    if shown:
        print("\n" + "\n".join(table(details(shown))))


if __name__ == "__main__":
    main()
