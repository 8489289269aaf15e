"""Channel shuffles, with and without the split that follows."""

import numpy as np
import pytest

from tests.canonical_models import canonical, only
from tests.onnx_models import model, node


def shuffle(groups, channels, batch=2):
    """Nodes that shuffle ``x`` of 5x6 pixels, and their constants."""
    constants = {
        "apart": np.array([batch, groups, channels // groups, 5, 6], np.int64),
        "together": np.array([batch, channels, 5, 6], np.int64),
    }
    nodes = [
        node("Reshape", "x apart", "a"),
        node("Transpose", "a", "b", perm=[0, 2, 1, 3, 4]),
        node("Reshape", "b together", "y"),
    ]
    return nodes, constants


@pytest.mark.parametrize(("groups", "channels"), [(2, 8), (3, 12), (4, 8), (5, 5), (1, 4)])
def test_shuffle(groups, channels):
    nodes, constants = shuffle(groups, channels)
    one = 1 in (groups, channels // groups)
    graph = canonical(model(nodes, (2, channels, 5, 6), constants), "Identity" if one else "Gather")
    assert one or only(graph).attrs == {"axis": 1}


@pytest.mark.parametrize("sizes", [(4, 4), (1, 7), (2, 3, 3)])
def test_shuffle_and_split(sizes):
    nodes, constants = shuffle(2, 8)
    names = [f"y{i}" for i in range(len(sizes))]
    nodes[-1] = node("Reshape", "b together", "c")
    nodes.append(node("Split", "c sizes", " ".join(names), axis=1))
    constants["sizes"] = np.array(sizes, np.int64)
    canonical(model(nodes, (2, 8, 5, 6), constants, outputs=names), *["Gather"] * len(sizes))


@pytest.mark.parametrize("steps", [(), (2,)])
def test_shuffle_and_slices(steps):
    nodes, constants = shuffle(2, 8)
    nodes[-1] = node("Reshape", "b together", "c")
    nodes += [node("Slice", f"c s{i} e{i} axis{' step' * len(steps)}", f"y{i}") for i in range(2)]
    bounds = {"s0": [0], "e0": [3], "s1": [-5], "e1": [2**31], "axis": [-3], "step": list(steps)}
    constants |= {name: np.array(value, np.int64) for name, value in bounds.items() if value}
    canonical(model(nodes, (2, 8, 5, 6), constants, outputs=("y0", "y1")), "Gather", "Gather")


def test_other_transpositions_stay():
    nodes, constants = shuffle(2, 8)
    nodes[1] = node("Transpose", "a", "b", perm=[0, 1, 2, 4, 3])
    canonical(model(nodes, (2, 8, 5, 6), constants), "Reshape", "Transpose", "Reshape")
