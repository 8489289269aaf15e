"""Whole networks against ONNX Runtime: outputs and the result of every block."""

import numpy as np
import pytest

import blockfuse as bf
from blockfuse.frontend.zoo import mobilenet_v2, resnet18
from blockfuse.target import available_cores

NETWORKS = {"resnet18": resnet18, "mobilenet_v2": mobilenet_v2}
BLOCKS = {"resnet18": 8, "mobilenet_v2": 17}

# Every value of every choice occurs with both networks; all combinations would take four times as long.
CASES = [
    ("auto", 1, 64, 1),
    ("auto", 3, 57, 2),
    ("always", 1, 57, 2),
    ("always", 3, 64, 1),
    ("never", 1, 64, 2),
    ("never", 3, 57, 1),
]


def network(name, batch, size):
    return NETWORKS[name](batch=batch, size=size, width=0.25, classes=10)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("fuse", "batch", "size", "threads"), CASES)
def test_outputs_and_every_block_are_right(name, fuse, batch, size, threads):
    model = network(name, batch, size)
    executable = bf.compile(model, fuse=fuse, threads=threads, taps=True)
    found = bf.verify(model, executable=executable, per_block=True)
    assert found.passed
    assert len(found.blocks) == len(executable.report().blocks) == BLOCKS[name]
    assert found.max_rel <= found.outputs[0].comparison.allowed < 1e-4
    assert (found.fuse, found.threads) == (fuse, min(threads, available_cores()))
    fused = [block.is_fused for block in executable.report().blocks]
    assert all(fused) if fuse == "always" else True
    assert not any(fused) if fuse == "never" else any(fused)


@pytest.mark.parametrize("name", NETWORKS)
def test_taps_change_nothing_but_the_outputs(name):
    model = network(name, 1, 57)
    plain, tapped = (bf.compile(model, threads=1, fuse="always", taps=taps) for taps in (False, True))
    x = np.random.default_rng(3).standard_normal((1, 3, 57, 57), np.float32)
    logits = plain(x)
    assert logits.shape == (1, 10)
    outputs = tapped(x)
    assert len(outputs) == 1 + BLOCKS[name]
    np.testing.assert_array_equal(outputs["output"], logits)


def test_a_saved_network_is_right_with_another_number_of_threads(tmp_path):
    model = network("resnet18", 1, 57)
    bf.compile(model, threads=2).save(tmp_path / "net.bf")
    for threads in (1, 2, 3):
        assert bf.verify(model, executable=bf.load(tmp_path / "net.bf", threads)).passed
