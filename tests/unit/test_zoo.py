"""The zoo: the architectures as published, repeatable weights, activations of one size over depth."""

import numpy as np
import onnx
import pytest

from blockfuse.errors import UsageError
from blockfuse.frontend import read, with_outputs, zoo
from tests.onnx_models import feeds_of, run

BUILDERS = [zoo.resnet18, zoo.mobilenet_v2]


def parameters(build):
    proto = build()
    return sum(int(np.prod(tensor.dims)) for tensor in proto.graph.initializer if len(tensor.dims))


@pytest.mark.parametrize(
    ("build", "count", "norms"),
    [(zoo.resnet18, 11_689_512, 4_800), (zoo.mobilenet_v2, 3_504_872, 17_056)],
)
def test_parameters_are_those_of_torchvision(build, count, norms):
    """Torchvision counts two numbers per normalised channel where a folded convolution has one bias."""
    assert parameters(build) == count - norms


@pytest.mark.parametrize(
    ("build", "convs", "additions", "depthwise"), [(zoo.resnet18, 20, 8, 0), (zoo.mobilenet_v2, 52, 10, 17)]
)
def test_layers(build, convs, additions, depthwise):
    graph = read(build())
    kinds = [op.kind for op in graph.ops()]
    assert (kinds.count("Conv"), kinds.count("Add")) == (convs, additions)
    assert sum(op.attrs.get("group", 1) > 1 for op in graph.ops()) == depthwise
    last = next(op for op in reversed(graph.ops()) if op.kind == "GlobalAveragePool")
    assert graph.tensor(last.inputs[0]).shape[2:] == (7, 7)


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
    proto = build(size=64, width=width, classes=10)
    graph = read(proto)
    results = run(with_outputs(proto, [op.output for op in graph.ops()]), feeds_of(graph))
    deviations = {name: float(value.std()) for name, value in results.items()}
    assert min(deviations.values()) > 0.2
    assert max(deviations.values()) < 6


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("bad", [{"batch": 0}, {"size": 0}, {"width": 0}, {"width": -1}, {"classes": 0}])
def test_impossible_sizes(build, bad):
    with pytest.raises(UsageError) as caught:
        build(**bad)
    assert "\n" not in str(caught.value)
