"""What every planned kernel of networks does, counted in emulation on a sample of its CTAs: no GPU is needed.

    python -m benchmarks.cuda_counts                                 five networks, batch 32, sm_80 and sm_90a
    python -m benchmarks.cuda_counts resnet50 --arch sm_90a          one network, one architecture
    python -m benchmarks.cuda_counts -o counts.json                  written after every kernel; run again to resume,
                                                                     or to count what has another source by now
    python -m benchmarks.cuda_counts -o counts.json --summary        what the file holds, by network

Along every parallel loop the first, the last and one CTA between them stand for all: corners, edges, the inside. What
each of them counts, times how many there are like it, is the whole grid's. A kernel with many of such classes has the
heaviest ones run, and the others count as the nearest. One stack of images is run, which all others are like, and the
result of the CTAs that ran is compared with the float64 reference.

``counted_bytes`` are those of the 32-byte sectors that a CTA touches, each once; ``asked`` adds what it asks for again,
such as an input that arrives a second time. What a GPU moves lies between the two, and so should what is predicted.

``ldmatrix per mma`` is of products on mma.sync. ``wavefronts over ideal`` are passes through the shared-memory banks
over those without a conflict. A kernel is GEMM-heavy if products on tensor cores would take longer than half of what
shared memory, or the last-level cache, would (cycles of a model, not measured: mma / 0.62, or / 0.96 with wgmma;
wavefronts and asynchronous bytes / 128; 32-byte sectors * 32 / 28). ``blockfuse kernels FILE.bf --counts counts.json``
shows the bytes.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import version
from itertools import islice, product
from math import prod
from pathlib import Path
from typing import Any

from benchmarks.cuda_blocks import NETWORKS, planned
from blockfuse.block import Block
from blockfuse.machine import Engine, Loop, LoopKind, Program
from blockfuse.plan.cuda import CudaPlan
from blockfuse.plan.device import device_of
from blockfuse.report import table
from blockfuse.schedules.cuda import cuda_source, lower
from blockfuse.steps import write_programs
from blockfuse.target import parse_target
from tests.cuda_kernels import Run, built_as, rounded_weights, run
from tests.emulated.emulator import Counters

ARCHS = ("sm_90a", "sm_80")
BATCH = 32
_MOST_CTAS = 8
_AHEAD = 4  # kernels planned while others are counted
_SECTOR = 32  # bytes
_FLOP_SHARE = {Engine.MMA: 0.62, Engine.WGMMA: 0.96}  # of the tensor peak
_MMA_BYTES = 64  # of weights that wgmma reads for the work of one mma
_BANK_BYTES, _L2_BYTES = 128, 28  # per cycle and SM

Row = dict[str, Any]
Trips = tuple[int, ...]
Key = tuple[str, str, str, str]


@dataclass(frozen=True)
class Task:
    """A kernel to count: where it occurs, its block, plan and source, and the bytes predicted for its grid."""

    network: str
    arch: str
    kernel: str
    block: Block
    plan: CudaPlan
    grid: int
    predicted: int
    source: str

    @property
    def key(self) -> Key:
        """What tells it from others, and from what it was before."""
        return (self.network, self.arch, self.kernel, self.source)


def tasks(networks: list[str], archs: list[str], batch: int) -> Iterator[Task]:
    """Every distinct kernel."""
    for arch in archs:
        for network in networks:
            steps = planned(network, batch, device_of(parse_target(arch)))
            written = write_programs(steps)
            kernels = dict(zip(written.names, steps.kernels, strict=True))
            for name, kernel in kernels.items():
                if isinstance(kernel.plan, CudaPlan):
                    program = written.by_name[name]
                    grid = prod(loop.count for loop in parallel(program))
                    number = sha256(cuda_source(lower(program), arch).encode()).hexdigest()[:16]
                    yield Task(network, arch, name, kernel.block, kernel.plan, grid, kernel.cost.cache_bytes, number)


def parallel(program: Program) -> list[Loop]:
    """The loops that make the grid, outermost first."""
    return [node for node in program.walk() if isinstance(node, Loop) and node.kind.is_parallel]


# ---- which CTAs ------------------------------------------------------------------------------------------------------
def sample(loops: list[Loop], most: int = _MOST_CTAS) -> dict[int, int]:
    """Numbers of CTAs to run, with how many CTAs of the grid each stands for."""
    axes = [_classes(loop.count, loop.kind) for loop in loops]
    every = {trips: prod(axis[trip] for axis, trip in zip(axes, trips, strict=True)) for trips in product(*axes)}
    chosen = sorted(every, key=lambda trips: -every[trips])[:most]
    weights = dict.fromkeys(chosen, 0)
    for trips, weight in every.items():
        weights[min(chosen, key=lambda other: sum(a != b for a, b in zip(trips, other, strict=True)))] += weight
    return {_number(trips, loops): weight for trips, weight in weights.items()}


def _classes(count: int, kind: LoopKind) -> dict[int, int]:
    """Trips that stand for all of a loop, with how many they stand for; shares of channels differ in the last alone."""
    if kind is LoopKind.CHANNEL_SPLIT and count > 1:
        return {0: count - 1, count - 1: 1}
    return dict.fromkeys(range(count), 1) if count <= 2 else {0: 1, 1: count - 2, count - 1: 1}


def _number(trips: Trips, loops: list[Loop]) -> int:
    number = 0
    for trip, loop in zip(trips, loops, strict=True):
        number = number * loop.count + trip
    return number


# ---- one kernel ------------------------------------------------------------------------------------------------------
def measure(task: Task, most: int = _MOST_CTAS) -> Row:
    """Emulate a sample of a kernel's CTAs and count."""
    small = rounded_weights(replace(task.block, batch=min(task.plan.images, task.block.batch)))
    built = built_as(small, task.plan)
    weights = sample(parallel(built.program), most)
    found = run(built, count=True, ctas=tuple(weights))
    share = prod(loop.count for loop in parallel(built.program))
    total = _weighted(found.by_cta, {cta: weight * task.grid / share for cta, weight in weights.items()})
    names = {"network": task.network, "arch": task.arch, "kernel": task.kernel}
    head = {**names, "source": task.source, "plan": str(task.plan)}
    return {**head, "grid": task.grid, "sampled": len(weights), **_figures(task, found, total)}


def _weighted(by_cta: Mapping[int, Counters], weights: Mapping[int, float]) -> dict[str, float]:
    """Counters of the grid."""
    names = [field.name for field in fields(Counters)]
    return {name: sum(getattr(by_cta[cta], name) * weight for cta, weight in weights.items()) for name in names}


def _figures(task: Task, found: Run, c: Mapping[str, float]) -> Row:
    engine = task.plan.engine
    products = c["mma"] + c["wgmma_shared_bytes"] / _MMA_BYTES
    kinds = ("ldmatrix", "shared_load", "shared_store")
    waves = sum(c[f"{kind}_wavefronts"] for kind in kinds)
    ideal = sum(c[f"{kind}_ideal"] for kind in kinds)
    counted = round(_SECTOR * c["block_sectors"])
    cycles = {
        "tensor": products / _FLOP_SHARE[engine] / task.grid,
        "shared": (waves + (c["async_copy_bytes"] + c["wgmma_shared_bytes"]) / _BANK_BYTES) / task.grid,
        "L2": (c["global_load_sectors"] + c["global_store_sectors"]) * _SECTOR / _L2_BYTES / task.grid,
    }
    conflicts = {kind: _ratio(c[f"{kind}_wavefronts"], c[f"{kind}_ideal"]) for kind in kinds}
    return {
        "engine": str(engine),
        "mma per CTA": round(products / task.grid),
        "ldmatrix per mma": _ratio(c["ldmatrix"], c["mma"]) if c["mma"] and engine is Engine.MMA else None,
        "wavefronts over ideal": _ratio(waves, ideal),
        **{f"{kind} over ideal": ratio for kind, ratio in conflicts.items()},
        "predicted_bytes": task.predicted,
        "counted_bytes": counted,
        "counted over predicted": _ratio(counted, task.predicted),
        "asked over predicted": _ratio(
            _SECTOR * (c["global_load_sectors"] + c["global_store_sectors"]), task.predicted
        ),
        **{f"{name} cycles": round(value) for name, value in cycles.items()},
        "GEMM-heavy": cycles["tensor"] > max(cycles["shared"], cycles["L2"]) / 2,
        "error of allowed": round(found.error, 3),
        "findings": [f"{one.kind}: {one.first}" for one in found.findings],
    }


def _ratio(a: float, b: float) -> float:
    return round(a / b, 3) if b else 1.0


# ---- results ---------------------------------------------------------------------------------------------------------
HEAD = ("network", "arch", "kernels", "ldmatrix/mma worst", "mean", "wavefronts worst", "mean", "bytes least", "most")


def summary(rows: list[Row]) -> list[tuple[str, ...]]:
    """One line per network and architecture: GEMM-heavy kernels on mma.sync, wavefronts of all, bytes of all."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["network"], row["arch"]), []).append(row)
    lines: list[tuple[str, ...]] = [HEAD]
    for (network, arch), group in groups.items():
        heavy = [row["ldmatrix per mma"] for row in group if row["GEMM-heavy"] and row["engine"] == str(Engine.MMA)]
        waves = [row["wavefronts over ideal"] for row in group]
        moved = [row["counted over predicted"] for row in group]
        lines.append((network, arch, str(len(group)), *_worst(heavy), *_worst(waves), str(min(moved)), str(max(moved))))
    return lines


def _worst(values: list[float]) -> tuple[str, str]:
    return (str(max(values)), f"{sum(values) / len(values):.2f}") if values else ("-", "-")


def offenders(rows: list[Row]) -> list[tuple[str, ...]]:
    """Kernels beyond a bound: what was found, and which figure it is."""
    lines: list[tuple[str, ...]] = [("network", "arch", "kernel", "engine", "what")]
    for row in rows:
        heavy = row["GEMM-heavy"] and row["engine"] == str(Engine.MMA)
        what = [f"ldmatrix per mma {row['ldmatrix per mma']}"] if heavy and row["ldmatrix per mma"] > 0.4 else []
        what += [f"wavefronts {row['wavefronts over ideal']}"] if row["wavefronts over ideal"] > 1.3 else []
        moved, asked = row["counted over predicted"], row["asked over predicted"]
        what += [f"bytes {moved} to {asked} of predicted"] if moved > 1.1 or asked < 0.9 else []
        what += [f"error {row['error of allowed']} of allowed"] if not row["error of allowed"] <= 1 else []
        what += row["findings"]
        lines += [(row["network"], row["arch"], row["kernel"][:60], row["engine"], "; ".join(what))] if what else []
    return lines


def write(path: Path, rows: list[Row], batch: int) -> None:
    """The results with what they depend on."""
    names = ("apache-tvm", "numpy")
    versions = {"python": platform.python_version(), **{name: version(name) for name in names}}
    head = {"command": "python -m benchmarks.cuda_counts", "batch": batch, "date": f"{datetime.now(UTC):%Y-%m-%d}"}
    lines = ",\n".join(json.dumps(row) for row in rows)
    text = json.dumps({**head, "versions": versions})[:-1]
    path.write_text(f'{text}, "rows": [\n{lines}\n]}}\n', encoding="utf-8")


def _count(options: argparse.Namespace, known: list[Row]) -> list[Row]:
    """Rows of all kernels as they are now, of which only those that are not known are counted.

    They are counted, and written, while later kernels are still planned. Rows of what is not asked for stay.
    """
    asked = set(product(options.networks, options.arch))
    rows = [row for row in known if (row["network"], row["arch"]) not in asked]
    old = {_key(row): row for row in known}
    found = _unknown(tasks(options.networks, options.arch, options.batch), old, rows)
    with ProcessPoolExecutor(options.jobs) as pool:
        waiting: set[Future[Row]] = set()
        while waiting := waiting | {pool.submit(measure, task, options.ctas) for task in islice(found, _AHEAD)}:
            ready, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            rows += [job.result() for job in ready]
            if options.output:
                write(options.output, rows, options.batch)
    if options.output:
        write(options.output, rows, options.batch)
    return rows


def _unknown(found: Iterator[Task], old: Mapping[Key, Row], rows: list[Row]) -> Iterator[Task]:
    """The kernels that are not known; rows of the others are added."""
    for task in found:
        if task.key in old:
            rows.append(old[task.key])
        else:
            yield task


def _key(row: Row) -> Key:
    return (row["network"], row["arch"], row["kernel"], row.get("source", ""))


def main() -> None:
    """Count what is not counted yet, and print a summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--arch", nargs="+", default=list(ARCHS))
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--ctas", type=int, default=_MOST_CTAS, help="most CTAs of a kernel that are run")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path, help="JSON; what it holds already is not counted again")
    parser.add_argument("--summary", action="store_true", help="only say what the file holds")
    options = parser.parse_args()
    is_known = options.output and options.output.exists()
    rows: list[Row] = json.loads(options.output.read_text())["rows"] if is_known else []
    if not options.summary:
        rows = _count(options, rows)
    print("\n".join(table(summary(rows))), "\n\n" + "\n".join(table(offenders(rows))))


if __name__ == "__main__":
    main()
