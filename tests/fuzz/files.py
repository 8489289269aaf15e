"""Mutated model files: each is compiled as far as its blocks, or refused in one line; a share of them is run, too."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from blockfuse.compiler import compile as compile_model
from blockfuse.errors import BlockfuseError
from blockfuse.graph import Graph
from blockfuse.verification.verify import seeded_inputs
from tests.fuzz.harness import Case, Fuzzer, checked_refusal, judged, reduced
from tests.fuzz.mutate import mutated_file

_SHARE = 20
"""One file of so many is run."""

_MOST_ELEMENTS, _MOST_TAPS = 2**21, 2**10


def run(seeds: Sequence[int]) -> Iterator[Case]:
    """Read mutated files."""
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            yield judged(
                lambda seed: _read(Path(folder) / "model.onnx", mutated_file(seed), runs=seed % _SHARE == 0), seed
            )


def _read(path: Path, data: bytes, *, runs: bool) -> str:
    path.write_bytes(data)
    try:
        parts = compile_model(path, stop_after="partition")
        if runs and _is_small(parts.graph):
            executable = compile_model(path, threads=1)
            executable.run(seeded_inputs(executable.inputs))
    except BlockfuseError as error:
        return checked_refusal(error).partition(":")[0]
    return ""


def _is_small(graph: Graph) -> bool:
    """Whether a network is compiled and run in seconds, whatever a mutation made of its sizes."""
    windows = sum(math.prod(op.attrs.get("kernel_shape", ())) for op in graph.ops())
    return sum(math.prod(tensor.shape) for tensor in graph.tensors) < _MOST_ELEMENTS and windows < _MOST_TAPS


def save(seed: int, folder: Path) -> str:
    """The file, and a smaller one where it is still a model."""
    path = folder / f"file_{seed}.onnx"
    path.write_bytes(mutated_file(seed))
    return f"blockfuse inspect {reduced(path, [])}"


FUZZER = Fuzzer("files", run, save, seconds=60, gigabytes=8)
