"""The zoo: the architectures as published, repeatable weights, activations of one size over depth."""

import numpy as np
import onnx
import pytest

from blockfuse.errors import UsageError
from blockfuse.frontend import canonicalize, read, with_outputs, zoo
from tests.onnx_models import feeds_of, run

BUILDERS = [getattr(zoo, name) for name in zoo.__all__]


def parameters(build):
    proto = build()
    return sum(int(np.prod(tensor.dims)) for tensor in proto.graph.initializer if len(tensor.dims))


@pytest.mark.parametrize(
    ("build", "count", "norms"),
    [
        (zoo.resnet18, 11_689_512, 4_800),
        (zoo.resnet50, 25_557_032, 26_560),
        (zoo.mobilenet_v2, 3_504_872, 17_056),
        (zoo.efficientnet_b0, 5_288_548, 21_008),
        (zoo.convnext_tiny, 28_589_128, 0),
    ],
)
def test_parameters_are_those_of_torchvision(build, count, norms):
    """Torchvision counts two numbers per normalised channel where a folded convolution has one bias."""
    assert parameters(build) == count - norms


@pytest.mark.parametrize(
    ("build", "convs", "additions", "grouped"),
    [
        (zoo.resnet18, 20, 8, 0),
        (zoo.resnet50, 53, 16, 0),
        (zoo.mobilenet_v2, 52, 10, 17),
        (zoo.efficientnet_b0, 81, 9, 16),
        (zoo.convnext_tiny, 58, 18, 18),
        (zoo.convfirstnet, 52, 13, 17),
    ],
)
def test_layers(build, convs, additions, grouped):
    graph = canonicalize(read(build()))
    kinds = [op.kind for op in graph.ops()]
    assert (kinds.count("Conv"), kinds.count("Add")) == (convs, additions)
    assert sum(op.attrs.get("group", 1) > 1 for op in graph.ops()) == grouped
    last = next(op for op in reversed(graph.ops()) if op.kind == "GlobalAveragePool")
    size = graph.tensor("input").shape[2]
    assert graph.tensor(last.inputs[0]).shape[2:] == (size // 32, size // 32)


@pytest.mark.parametrize("build", BUILDERS)
def test_the_seed_decides(build):
    small = {"size": 32, "width": 0.125, "classes": 3}
    first = build(**small).SerializeToString(deterministic=True)
    assert build(**small).SerializeToString(deterministic=True) == first
    assert build(**small, seed=1).SerializeToString(deterministic=True) != first


@pytest.mark.parametrize("build", BUILDERS)
def test_models_are_valid_and_sized_as_asked(build):
    proto = build(batch=3, size=40, width=0.5, classes=11)
    onnx.checker.check_model(proto, full_check=True)
    graph = read(proto)
    assert (graph.inputs, graph.outputs) == (("input",), ("output",))
    assert graph.tensor("input").shape == (3, 3, 40, 40)
    assert graph.tensor("output").shape == (3, 11)


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("width", [0.25, 1.0])
def test_activations_keep_their_size(build, width):
    """The gates of squeeze-excite aside, which are pixels, and what activations are written out as."""
    proto = build(size=64, width=width, classes=10)
    graph = read(proto)
    layers = [op.output for op in graph.ops() if op.kind in {"Add", "Clip", "Conv", "LayerNormalization", "Relu"}]
    images = [name for name in layers if graph.tensor(name).shape[2:] != (1, 1)]
    results = run(with_outputs(proto, images), feeds_of(graph))
    deviations = {name: float(value.std()) for name, value in results.items()}
    assert min(deviations.values()) > 0.2
    assert max(deviations.values()) < 6


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("bad", [{"batch": 0}, {"size": 0}, {"width": 0}, {"width": -1}, {"classes": 0}])
def test_impossible_sizes(build, bad):
    with pytest.raises(UsageError) as caught:
        build(**bad)
    assert "\n" not in str(caught.value)
