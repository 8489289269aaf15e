"""Powers with a constant exponent."""

import numpy as np
import pytest

from tests.canonical_models import canonical
from tests.onnx_models import model, node


@pytest.mark.parametrize(
    ("exponent", "kind"),
    [(2.0, "Mul"), ([2.0], "Mul"), (0.5, "Sqrt"), (1.0, "Identity"), (3.0, "Pow"), ([[2.0], [2.0]], "Pow")],
)
def test_power(exponent, kind):
    exponent = np.array(exponent, np.float32)
    nodes = [node("Abs", "x", "a"), node("Pow", "a e", "y")]
    kinds = ["Abs"] if kind == "Identity" else ["Abs", kind]
    canonical(model(nodes, (1, 2, 2, 3), {"e": exponent}), *kinds)


def test_a_power_that_broadcasts_stays():
    canonical(model([node("Pow", "x e", "y")], (1, 2, 1, 3), {"e": np.full((1, 1, 4, 1), 2, np.float32)}), "Pow")
