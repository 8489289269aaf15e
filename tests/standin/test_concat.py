"""Concatenated images that share memory, on the stand-in device."""

import blockfuse as bf
from blockfuse.frontend import to_onnx
from tests.concat_networks import dense_block
from tests.standin.test_networks import OnStandIn


def test_dense_block(compile_to):
    model = to_onnx(dense_block(1, nested=False, step=8))
    device = OnStandIn(*compile_to(model, cuda_graph=True, taps=True))
    assert [step.note for step in device.report().steps if step.kind == "Concat"] == [
        "side by side in memory: nothing is copied"
    ] * 4
    assert bf.verify(model, executable=device).passed
    assert not device.result.findings
