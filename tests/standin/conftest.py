"""Compiles networks for the stand-in device."""

import itertools
from pathlib import Path

import pytest

import blockfuse
from tests.standin import TOOLKIT


@pytest.fixture(scope="module")
def compile_to(tmp_path_factory):
    """A function that compiles a model for the stand-in device and returns the executable and its container."""
    folder, numbers = tmp_path_factory.mktemp("containers"), itertools.count()

    def compile_model(model, target="sm_90", dtype="float16", **options) -> tuple[blockfuse.Executable, Path]:
        executable = blockfuse.compile(model, target=target, dtype=dtype, **options)
        path = folder / f"{next(numbers)}.bf"
        executable.save(path)
        return executable, path

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_HOME", str(TOOLKIT))
        patch.setenv("BLOCKFUSE_CACHE_DIR", "")
        yield compile_model
