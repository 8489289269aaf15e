"""A Python with PyTorch, which is not a dependency: this one, or the one that BLOCKFUSE_TORCH_PYTHON names."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
VARIABLE = "BLOCKFUSE_TORCH_PYTHON"


def find() -> str | None:
    named = os.environ.get(VARIABLE)
    if named:
        return named
    return sys.executable if importlib.util.find_spec("torch") else None


needs_torch = pytest.mark.skipif(
    find() is None, reason=f"PyTorch is not installed; {VARIABLE} may name a Python with it"
)


def run(*words: object) -> str:
    """What a script printed; it runs in the root of the repository."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [find() or "", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
