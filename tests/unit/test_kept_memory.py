"""How much memory is kept for batches that are over."""

import numpy as np
import pytest

from blockfuse.runtime import kept_memory
from blockfuse.runtime.kept_memory import KeptMemory


@pytest.fixture
def memory(monkeypatch):
    """A KeptMemory, and a list that grows when memory is given back."""
    given_back = []
    monkeypatch.setattr(kept_memory.tvm_ffi, "get_global_func", lambda name: lambda: given_back.append(name))
    return KeptMemory(), given_back


def test_a_few_batches_in_turns_keep_their_memory(memory):
    kept, given_back = memory
    for batch in (1, 3, 8, 1, 8, 3, 1, 16) * 3:
        kept.prepare(batch)
    assert not given_back


def test_what_is_kept_is_bounded(memory):
    """The memory of batches since it was last given back is that of three times the largest at most."""
    kept, given_back = memory
    rng = np.random.default_rng(0)
    since: set[int] = set()
    for _ in range(500):
        batch, before = int(rng.integers(1, 65)), len(given_back)
        kept.prepare(batch)
        since = {batch} if len(given_back) > before else since | {batch}
        assert sum(since) <= 3 * max(since)
    assert set(given_back) == {"vm.builtin.memory_manager.clear"}
