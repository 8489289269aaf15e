"""The kernels that ``tests/emulated`` emulates, collected by running those tests with a recorder for an emulator."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Collection
from pathlib import Path

import pytest

from tests.cuda_kernels import INSTEAD, Built, Run
from tests.emulated.emulator import Counters

EMULATED = Path(__file__).parents[1] / "emulated"
_NOT_KERNELS = ("mutations", "nvcc")  # broken on purpose; compiled only


CHOSEN: tuple[str, ...] = (
    "kernels_small_and_ragged_basic_11x9x24",
    "kernels_small_and_ragged_mbconv_7x7x20",
    "kernels_small_and_ragged_max_pool_13x11x20",
    "kernels_groups_of_any_width_20_30_5",
    "kernels_families_convnext_9x10x24",
    "kernels_families_squeeze_excite_7x7x40",
    "kernels_inputs_that_arrive_with_the_weights_basic_9x7x64",
    "kernels_several_images_in_a_cta_pointwise_2_7_mma",
    "kernels_bfloat16_9",
    "kernels_float32_resnext_7x9x40",
    "partial_every_reduction_of_every_type_float16_mean",
    "partial_a_pool_of_sums_alone_and_with_the_gate_48_3",
    "wgmma_small_and_ragged_stem_9x11x3",
    "wgmma_small_and_ragged_dense_12x12x64",
    "wgmma_small_and_ragged_mbconv_7x7x20",
    "wgmma_small_and_ragged_convnext_9x10x24",
    "wgmma_bfloat16_7",
)
"""Every instruction of CUDA kernels, with every engine and type: what a sanitizer, which is slow, looks at."""


def collected(keyword: str = "", limit: int | None = None, names: Collection[str] = ()) -> dict[str, Built]:
    """Every kernel that a test would emulate, by a name made of the test's and its file's.

    Args:
        keyword: As for ``pytest -k``.
        limit: How many at most.
        names: Of cases; no others are collected.
    """
    recorder = _Recorder(limit, names)
    files = sorted(str(path) for path in EMULATED.glob("test_cuda_*.py") if not path.stem.endswith(_NOT_KERNELS))
    INSTEAD.append(recorder.run)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            pytest.main(["-p", "no:cacheprovider", "-k", keyword, *files], plugins=[recorder])
    finally:
        INSTEAD.remove(recorder.run)
    return recorder.found


def _name_of(test: str) -> str:
    """The name of a test's first case: ``kernels_bfloat16_9`` of ``.../test_cuda_kernels.py::test_bfloat16[9]``."""
    file, _, function = test.rpartition("::")
    words = (Path(file).stem.removeprefix("test_cuda_"), function.removeprefix("test_"))
    return re.sub(r"\W+", "_", "_".join(words)).strip("_")


class _Recorder:
    """Notes what is to be run, and says that it was right."""

    def __init__(self, limit: int | None, names: Collection[str]) -> None:
        self.found: dict[str, Built] = {}
        self._limit, self._names = limit, names

    def run(self, built: Built, source: str | None) -> Run:
        name = _name_of(os.environ.get("PYTEST_CURRENT_TEST", "").removesuffix(" (call)"))
        if source is None:
            count = sum(known == name or known.startswith(f"{name}__") for known in self.found)
            self.found[f"{name}__{count + 1}" if count else name] = built
        return Run(0.0, (), Counters())

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        if self._names:
            tests = {re.sub(r"__\d+$", "", name) for name in self._names}
            items[:] = [item for item in items if _name_of(item.nodeid) in tests]

    def pytest_runtest_teardown(self, item: pytest.Item) -> None:
        if self._limit is not None and len(self.found) >= self._limit:
            item.session.shouldstop = "enough cases"
