"""Weights made from a seed: the same everywhere, like the real ones in what matters."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest

from blockfuse.build.code import pack
from blockfuse.runtime.library import Library
from blockfuse.runtime.seeded import Recipe, make_weights, recipe_of
from blockfuse.target import CPU_CLASSES

RECORDED = "ffaf531b98e94e38"


def library():
    """Constants that are kept (small, integer), and others with zeros in them."""
    rng = np.random.default_rng(0)
    padded = np.zeros((50, 64), np.float32)
    padded[:, :40] = rng.normal(0.5, 2.0, (50, 40))
    arrays = [
        rng.standard_normal(7).astype(np.float32),
        padded,
        np.arange(3000, dtype=np.int64),
        rng.standard_normal((3, 1001)).astype(np.float16),
        np.zeros(2000, np.float32),
    ]
    constants, weights = pack(arrays)
    return Library("n", CPU_CLASSES["cpu:generic"], (), (), constants, 0, b"", weights), arrays


def made(recipe, net):
    weights = make_weights(recipe, net.constants, net.weights.nbytes)
    parts = [weights[one.offset : one.offset + one.nbytes] for one in net.constants]
    return weights, [part.view(one.dtype).reshape(one.shape) for part, one in zip(parts, net.constants, strict=True)]


def test_what_is_kept_and_what_is_made():
    net, arrays = library()
    _, new = made(recipe_of(net), net)
    for index in (0, 2, 4):
        np.testing.assert_array_equal(new[index], arrays[index])
    for index in (1, 3):
        assert not np.array_equal(new[index], arrays[index])
        np.testing.assert_array_equal(new[index] == 0, arrays[index] == 0)
        used, original = new[index][arrays[index] != 0], arrays[index][arrays[index] != 0]
        assert abs(used.mean() - original.mean()) < 0.1 * original.std()
        assert 0.9 < used.std() / original.std() < 1.1


def test_the_same_everywhere():
    """The hash was recorded once; another numpy or processor that gives another cannot use packed recipes."""
    net, _ = library()
    recipe = Recipe(3, ((0.25, 2.0),) * 2, b"", b"\xff" * (400 + 376))
    constants = [net.constants[1], net.constants[3]]
    weights = make_weights(recipe, constants, net.weights.nbytes)
    assert hashlib.sha256(weights.data).hexdigest()[:16] == RECORDED


def test_seed_and_scale_change_the_values():
    net, _ = library()
    one, other, narrow = (made(recipe_of(net, **options), net)[1][1] for options in ({}, {"seed": 1}, {"scale": 0.25}))
    assert not np.array_equal(one, other)
    assert 0.2 < narrow[narrow != 0].std() / one[one != 0].std() < 0.3


def test_a_recipe_is_text():
    recipe = recipe_of(library()[0])
    assert Recipe.from_json(recipe.to_json()) == recipe


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "null", '{"seed": 0, "spreads": [[1]], "kept": "", "nonzero": ""}', "[" * 100_000]
)
def test_other_text_is_no_recipe(text):
    with pytest.raises(ValueError, match=r"."):
        Recipe.from_json(text)


def test_a_recipe_for_other_constants():
    net, _ = library()
    recipe = recipe_of(net)
    for wrong in (
        replace(recipe, spreads=recipe.spreads[1:]),
        replace(recipe, kept=b"0"),
        replace(recipe, nonzero=b""),
    ):
        with pytest.raises(ValueError, match=r"."):
            made(wrong, net)
    assert json.loads(recipe.to_json())["seed"] == 0
