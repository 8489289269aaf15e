"""Mutated model files: each is compiled as far as its blocks, or refused in one line."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from blockfuse.compiler import compile as compile_model
from blockfuse.errors import BlockfuseError
from tests.fuzz.harness import Case, Fuzzer, checked_refusal, judged, reduced
from tests.fuzz.mutate import mutated_file


def run(seeds: Sequence[int]) -> Iterator[Case]:
    """Read mutated files."""
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            yield judged(lambda seed: _read(Path(folder) / "model.onnx", mutated_file(seed)), seed)


def _read(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    try:
        compile_model(path, stop_after="partition")
    except BlockfuseError as error:
        return checked_refusal(error).partition(":")[0]
    return ""


def save(seed: int, folder: Path) -> str:
    """The file, and a smaller one where it is still a model."""
    path = folder / f"file_{seed}.onnx"
    path.write_bytes(mutated_file(seed))
    return f"blockfuse inspect {reduced(path, [])}"


FUZZER = Fuzzer("files", run, save, seconds=20, gigabytes=4)
