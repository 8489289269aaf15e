"""Compiles networks for the stand-in device."""

from pathlib import Path

import pytest

import blockfuse
from tests.standin import TOOLKIT


@pytest.fixture
def compile_to(tmp_path, monkeypatch):
    """A function that compiles a model for the stand-in device and returns the executable and its container."""
    monkeypatch.setenv("CUDA_HOME", str(TOOLKIT))
    monkeypatch.setenv("BLOCKFUSE_CACHE_DIR", "")

    def compile_model(model, target="sm_90", **options) -> tuple[blockfuse.Executable, Path]:
        executable = blockfuse.compile(model, target=target, dtype="float16", **options)
        path = tmp_path / f"network{len(list(tmp_path.iterdir()))}.bf"
        executable.save(path)
        return executable, path

    return compile_model
