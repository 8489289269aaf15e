"""ONNX's own node tests: every one passes, or is in the ledger of those that are refused."""

import os
from itertools import islice

import pytest

from tests.backend_nodes import GROUP, KINDS, Library, difference, nodes, read_ledger

EVERY = 1 if os.environ.get("BLOCKFUSE_ALL_NODES") else 4
"""Of the tests that are not refused, every how many-th is run; ``make nodes`` runs all."""


@pytest.fixture(scope="module")
def known():
    """All tests by name, and what refuses them."""
    library = Library()
    tests = {node.name: node for node in nodes()}
    return tests, {name: library.add(node) for name, node in tests.items()}, library.graphs


def test_the_ledger_lists_what_is_refused(known):
    _, messages, _ = known
    refused = {name for name, message in messages.items() if message}
    ledger = set(read_ledger())
    assert refused - ledger == set(), "refused, and not in the ledger"
    assert ledger - refused == set(), "in the ledger, and no longer refused: python -m tests.backend_nodes"


def test_every_refusal_is_one_line(known):
    assert not [message for message in known[1].values() if "\n" in message]


def test_every_kind_has_a_test_that_runs(known):
    tests, messages, _ = known
    running = {tests[name].kind for name, message in messages.items() if not message}
    folded = {"Constant", "ConstantOfShape", "Shape", "Size"}
    only_in_float64, without_tests = "ReduceLogSumExp", "GlobalLpPool"
    assert KINDS - running == {*folded, only_in_float64, without_tests}


def test_outputs(known):
    tests, _, graphs = known
    chosen = iter(list(graphs.items())[::EVERY])
    while group := dict(islice(chosen, GROUP)):
        library = Library()
        library.graphs = group
        results = library.run({name: tests[name].inputs for name in group})
        wrong = {name: difference(outputs, tests[name]) for name, outputs in results.items()}
        assert not {name: text for name, text in wrong.items() if text}
