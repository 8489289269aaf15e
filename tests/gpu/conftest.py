"""Tests here need an NVIDIA GPU; without one they are skipped, and say why."""

from __future__ import annotations

from pathlib import Path

import pytest

from blockfuse.errors import TargetError
from blockfuse.gpu import Gpu, this_gpu

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mine = [item for item in items if HERE in item.path.parents]
    reason = missing() if mine else ""
    for item in mine:
        item.add_marker(pytest.mark.gpu)
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))


def missing() -> str:
    """Why there is no GPU; empty if there is one."""
    try:
        this_gpu()
    except TargetError as error:
        return str(error)
    return ""


@pytest.fixture(scope="session")
def gpu() -> Gpu:
    return this_gpu()
