"""Whole networks for GPUs on the stand-in device of ``tests/standin``, against ONNX Runtime.

    python -m benchmarks.cuda_networks [--networks resnet50 mobilenet_v2] [--batches 1 3] [--dtypes float16]

Each network is compiled at reduced width and size, with recorded launches and without, runs three calls in a process of
its own through TVM's CUDA runtime, and every kernel of every call is emulated. A row says how large the largest error
of the outputs is, what rounding explains, how many kernels were launched, and what the emulator found. The rows go to
``benchmarks/results/cuda_networks.json``, which is complete after each; rows of other cases in it stay.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import blockfuse as bf
from blockfuse.frontend import zoo
from blockfuse.report import table
from blockfuse.tools.facts import machine_facts
from tests.standin import TOOLKIT, OnStandIn

RESULTS = Path(__file__).parent / "results" / "cuda_networks.json"
NETWORKS = ["resnet50", "mobilenet_v2", "efficientnet_b0", "convnext_tiny", "convfirstnet"]
KEYS = ("network", "dtype", "batch", "graph")
HEAD = (*KEYS, "max error", "allowed", "launches", "graph launches", "findings")

Row = dict[str, Any]


def main() -> None:
    """Run all cases, print a table, write the results."""
    parser = argparse.ArgumentParser(description="Networks for GPUs on the stand-in device.")
    parser.add_argument("--networks", nargs="+", default=NETWORKS, choices=zoo.__all__)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 3])
    parser.add_argument("--dtypes", nargs="+", default=["float16"])
    parser.add_argument("--target", default="sm_80,sm_90a")
    parser.add_argument("--size", type=int, default=48)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    os.environ["CUDA_HOME"], os.environ["BLOCKFUSE_CACHE_DIR"] = str(TOOLKIT), ""
    known = json.loads(options.output.read_text(encoding="utf-8"))["results"] if options.output.exists() else []
    rows = {tuple(one[key] for key in KEYS): one for one in known}
    for case in product(options.networks, options.dtypes, options.batches, (False, True)):
        rows[case] = row(*case, options.target, options.size)
        record = {"command": "python -m benchmarks.cuda_networks", "results": list(rows.values())}
        options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print("\n".join(table([HEAD, *map(cells, rows.values())])))


def row(network: str, dtype: str, batch: int, graph: bool, target: str, size: int) -> Row:
    """The figures of one case."""
    model = getattr(zoo, network)(batch=batch, size=size, width=0.25, classes=10)
    executable = bf.compile(model, target=target, dtype=dtype, cuda_graph=graph)
    with tempfile.TemporaryDirectory() as folder:
        container = Path(folder) / "net.bf"
        executable.save(container)
        device = OnStandIn(executable, container)
        found = bf.verify(model, executable=device)  # type: ignore[arg-type] # what it asks for
    worst, run = found.worst.comparison, device.result
    return {
        **dict(zip(KEYS, (network, dtype, batch, graph), strict=True)),
        "target": target,
        "size": size,
        "max error": worst.max_rel,
        "allowed": worst.allowed,
        "launches": len(run.launches),
        "graph launches": run.graph_launches,
        "findings": sorted(set(run.findings)),
        "facts": machine_facts(),
    }


def cells(one: Row) -> tuple[str, ...]:
    """A row as text."""
    numbers = (f"{one['max error']:.1e}", f"{one['allowed']:.1e}", str(one["launches"]), str(one["graph launches"]))
    return (*(str(one[key]) for key in KEYS), *numbers, str(len(one["findings"])))


if __name__ == "__main__":
    main()
