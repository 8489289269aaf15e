"""Writes whole networks at reduced size, with inputs and expected results, for a GPU machine without the compiler.

    python -m tests.gpu.export_networks OUT [--networks NAME ...] [--fuse always never] [--target sm_90a]

``tests/gpu/run_networks.py OUT`` runs and checks them. OUT has the running part of blockfuse too.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import blockfuse as bf
from benchmarks.gpu_export import write_runtime
from blockfuse.frontend import zoo
from blockfuse.target import parse_target
from blockfuse.verification.compare import tolerance
from blockfuse.verification.depth import path_depths
from blockfuse.verification.verify import reference_session, seeded_inputs


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Export reduced networks to check on a GPU.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--networks", nargs="+", default=list(zoo.__all__), choices=zoo.__all__)
    parser.add_argument("--fuse", nargs="+", default=["always", "never"], choices=["auto", "always", "never"])
    parser.add_argument("--target", default="sm_90a")
    parser.add_argument("--dtype", default="float16")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--wheel", action="append", type=Path, default=[], help="apache-tvm-ffi for another Python")
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    write_runtime(options.folder / "python", options.wheel, cuda=parse_target(options.target).kind == "cuda")
    rows = [row for name in options.networks for row in export(name, options)]
    (options.folder / "networks.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(f"{len(rows)} networks in {options.folder}\n")


def export(name: str, options: argparse.Namespace) -> list[dict[str, object]]:
    """One network under every policy, launched one by one and as a recorded graph."""
    model = getattr(zoo, name)(batch=options.batch, size=options.size, width=options.width)
    graph = bf.compile(model, stop_after="canonicalize")
    terms, ops = max(path_depths(graph)[output] for output in graph.outputs)
    allowed = tolerance(max(1, terms), options.dtype, max(1, ops))
    rows: list[dict[str, object]] = []
    for fuse in options.fuse:
        for recorded in (False, True) if parse_target(options.target).kind == "cuda" else (False,):
            label = f"{name}_{fuse}{'_graph' if recorded else ''}"
            built = bf.compile(model, options.target, options.dtype, fuse=fuse, cuda_graph=recorded)
            built.save(options.folder / f"{label}.bf")
            rows.append({"name": label, "data": f"{name}.npz", "allowed": allowed})
    inputs = seeded_inputs(built.inputs)
    session = reference_session(model, 0, optimised=False)
    outputs = dict(zip(graph.outputs, session.run(list(graph.outputs), dict(inputs)), strict=True))
    arrays = {f"input {key}": array for key, array in inputs.items()} | {f"output {k}": a for k, a in outputs.items()}
    np.savez(options.folder / f"{name}.npz", **arrays)
    return rows


if __name__ == "__main__":
    main()
