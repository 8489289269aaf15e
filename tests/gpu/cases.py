"""The kernels that ``tests/emulated`` emulates, collected by running those tests with a recorder for an emulator."""

from __future__ import annotations

import contextlib
import io
import os
import re
from pathlib import Path

import pytest

import tests.cuda_kernels
from tests.cuda_kernels import Built, Run
from tests.emulated.emulator import Counters

EMULATED = Path(__file__).parents[1] / "emulated"
_NOT_KERNELS = ("mutations", "nvcc")  # broken on purpose; compiled only


def collected(keyword: str = "", limit: int | None = None) -> dict[str, Built]:
    """Every kernel that a test would emulate, by a name made of the test's.

    Args:
        keyword: As for ``pytest -k``.
        limit: How many at most.
    """
    recorder = _Recorder(limit)
    files = sorted(str(path) for path in EMULATED.glob("test_cuda_*.py") if not path.stem.endswith(_NOT_KERNELS))
    emulate, tests.cuda_kernels.run = tests.cuda_kernels.run, recorder.run
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            pytest.main(["-p", "no:cacheprovider", "-k", keyword, *files], plugins=[recorder])
    finally:
        tests.cuda_kernels.run = emulate
    return recorder.found


class _Recorder:
    """Notes what is to be run, and says that it was right."""

    def __init__(self, limit: int | None) -> None:
        self.found: dict[str, Built] = {}
        self._limit = limit

    def run(self, built: Built, source: str | None = None, **_: object) -> Run:
        test = os.environ.get("PYTEST_CURRENT_TEST", "").split("::")[-1].removesuffix(" (call)")
        name = re.sub(r"\W+", "_", test.removeprefix("test_")).strip("_")
        if source is None:
            count = sum(known == name or known.startswith(f"{name}__") for known in self.found)
            self.found[f"{name}__{count + 1}" if count else name] = built
        return Run(0.0, (), Counters())

    def pytest_runtest_teardown(self, item: pytest.Item) -> None:
        if self._limit is not None and len(self.found) >= self._limit:
            item.session.shouldstop = "enough cases"
