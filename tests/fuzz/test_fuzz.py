"""A few cases of every fuzzer; ``make fuzz`` runs many."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.fuzz import blocks, crashing, harness
from tests.fuzz.harness import FAILED, GOOD, REFUSED, Case, fuzzer_of, run_fuzzer

FIRST = 10_000_000
"""Seeds of these cases; long runs use smaller ones."""


@pytest.mark.parametrize(("kind", "count"), [("blocks", 12), ("networks", 4), ("graphs", 8), ("files", 250)])
def test_random_cases(kind, count):
    summary = run_fuzzer(fuzzer_of(kind), range(FIRST, FIRST + count))
    assert len(summary.cases) == count
    assert not summary.failures, str(summary)
    assert sum(case.verdict == GOOD for case in summary.cases) >= count // 10, str(summary)


# ---- the harness itself ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("batch", [1, 4])
def test_a_crash_and_a_hang_are_seen_and_the_others_run(batch):
    summary = run_fuzzer(replace(crashing.FUZZER, batch=batch), range(9))
    verdicts = {case.seed: case.verdict for case in summary.cases}
    assert verdicts == dict.fromkeys(range(9), GOOD) | {3: FAILED, 5: FAILED, 6: FAILED, 7: REFUSED}
    assert sorted(case.seed for case in summary.cases) == list(range(9))
    found = {case.seed: case.text for case in summary.failures}
    assert "ended with -6" in found[3]
    assert "Timeout" in found[5]
    assert "IndexError" in found[6]


def test_a_wrong_kernel_becomes_a_script_that_shows_it(monkeypatch, tmp_path):
    """With an addition that is twice what it should be in the reference."""
    from blockfuse.stages import Add  # noqa: PLC0415

    seed = next(seed for seed in range(99) if any(isinstance(s, Add) for s in blocks.random_case(seed).block.stages))
    monkeypatch.setattr(Add, "reference", lambda _self, inputs, _parameters: 2 * (inputs[0] + inputs[1]))
    (case,) = blocks.run([seed])
    assert case.verdict == FAILED
    assert "times the error allowed" in case.text
    path = Path(blocks.save(seed, tmp_path).split()[1])
    with pytest.raises(AssertionError, match="times the error allowed"):
        exec(compile(path.read_text(), str(path), "exec"), {})  # noqa: S102 - what the fuzzer wrote
    monkeypatch.undo()
    exec(compile(path.read_text(), str(path), "exec"), {})  # noqa: S102


def test_a_summary_says_how_many_of_what():
    summary = harness.Summary([Case(0, GOOD), Case(1, REFUSED, "no"), Case(2, FAILED, "bad", 2.0)])
    assert str(summary).splitlines() == [
        "3 cases: 1 good, 1 refused, 1 failed; the slowest took 2.0 s",
        "       1 no",
        "  seed 2: bad",
    ]
