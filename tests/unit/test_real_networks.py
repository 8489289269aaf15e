"""Networks as torchvision and timm export them: which blocks are found, in every form they are exported in."""

from __future__ import annotations

from collections import Counter

import pytest

from blockfuse.block import Block
from blockfuse.frontend import canonicalize, patterns, read
from blockfuse.frontend.partition import partition
from blockfuse.plan.decide import Kernel, best
from blockfuse.plan.device import cpu_device
from blockfuse.target import parse_target
from tests import weightless

EFFICIENTNET_V2 = {"fused_inverted_residual": 10, "inverted_residual": 30}

BLOCKS = {
    "timm.convnext_tiny": {"convnext_block": 18},
    "timm.efficientnet_b0": {"inverted_residual": 16},
    "timm.efficientnetv2_rw_s": EFFICIENTNET_V2,
    "timm.mnasnet_100": {"inverted_residual": 17},
    "timm.mobilenetv2_100": {"inverted_residual": 17},
    "timm.mobilenetv3_large_100": {"inverted_residual": 15},
    "timm.regnety_004": {"grouped_bottleneck": 16},
    "timm.resnet50": {"bottleneck": 16},
    "timm.seresnet50": {"bottleneck": 16},
    "tv.convnext_tiny": {"convnext_block": 18},
    "tv.densenet121": {"dense_layer": 58},
    "tv.efficientnet_b0": {"inverted_residual": 16},
    "tv.efficientnet_v2_s": EFFICIENTNET_V2,
    "tv.googlenet": {"inception_branch": 27},
    "tv.mnasnet1_0": {"inverted_residual": 17},
    "tv.mobilenet_v2": {"inverted_residual": 17},
    "tv.mobilenet_v3_large": {"inverted_residual": 15},
    "tv.regnet_x_400mf": {"grouped_bottleneck": 22},
    "tv.regnet_y_400mf": {"grouped_bottleneck": 16},
    "tv.resnet18": {"basic_block": 8},
    "tv.resnet50": {"bottleneck": 16},
    "tv.shufflenet_v2_x1_0": {"shuffle_unit": 19},
    "tv.squeezenet1_1": {"fire_module": 8},
    "tv.vgg16": {"repvgg_chain": 5},
}
"""Every residual block; the layers of DenseNet, the branches of ShuffleNet V2 and Inception, the chains of VGG."""

FORMS = tuple(
    f"{exporter}.{opset}.{batch}"
    for exporter, opsets in (("dynamo", ("op18", "op20")), ("legacy", ("op17", "op20")))
    for opset in opsets
    for batch in ("b1", "bdyn")
)

GATED = ("tv.efficientnet_b0", "tv.mobilenet_v3_large", "tv.regnet_y_400mf", "timm.seresnet50")

ALONE = {"Concat", "Flatten", "Gather"}
"""What may stay outside of kernels."""


def test_every_network_is_there():
    assert weightless.names() == sorted(f"{name}.{form}" for name in BLOCKS for form in FORMS)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", BLOCKS)
def test_blocks(name, form):
    graph = read(weightless.load(f"{name}.{form}", seed=None))
    assert (graph.batch is not None) == form.endswith("bdyn")
    result = partition(canonicalize(graph), patterns.all())
    assert Counter(found.pattern for found in result.found) == BLOCKS[name]
    assert {step.kind for step in result.steps if not isinstance(step, Block)} <= ALONE


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize(
    "name", ["tv.efficientnet_b0", "tv.mobilenet_v3_large", "tv.regnet_y_400mf", "timm.seresnet50"]
)
def test_every_gated_block_can_be_one_kernel(name, threads):
    graph = read(weightless.load(f"{name}.dynamo.op18.b1", seed=None))
    found = partition(canonicalize(graph), patterns.all())
    device = cpu_device(parse_target("cpu:avx512", threads))
    blocks = [step for step in found.steps if isinstance(step, Block) and step.pattern]
    assert len(blocks) == sum(BLOCKS[name].values())
    for block in blocks:
        kernel = best(block, device)
        assert isinstance(kernel, Kernel), f"{block.name}: {kernel}"
        assert (kernel.plan.tasks > 1) == (threads > 1)
