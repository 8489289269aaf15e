"""The key of a network's code: another one for anything that code depends on, the same one for other weights alone."""

import dataclasses
import enum
from types import SimpleNamespace

import numpy as np
import pytest

import blockfuse as bf
from blockfuse.build import code
from blockfuse.build.assemble import assemble, with_weights
from blockfuse.build.backend import backend_of
from blockfuse.build.code import Code, Weights, key_of_code, library_of, pack
from blockfuse.build.network import Call
from blockfuse.errors import InternalError
from blockfuse.runtime.library import Layout
from blockfuse.target import parse_target
from tests.onnx_models import floats, model, node

CPU = {"target": "cpu:avx512", "threads": 2}
GPU = {"target": "sm_90a", "dtype": "float16"}


@pytest.fixture(autouse=True)
def without_compilers(monkeypatch):
    """There is one of another version for a test that wants it; none is run."""
    compiler = SimpleNamespace(version="1")
    monkeypatch.setattr(code, "find_compiler", lambda: compiler)
    monkeypatch.setattr("blockfuse.compiler.find_compiler", lambda: compiler)
    return compiler


def net(seed=0, hidden=24, shape=(2, 5, 13, 11), alpha=0.1, columns=(0, 2, 5, 6)):
    """A block with a residual, an operator with a constant, and a strided convolution with asymmetric padding."""
    constants = {
        "w1": floats(hidden, 5, 3, 3, seed=seed) / 7,
        "b1": floats(hidden, seed=seed + 1),
        "w2": floats(5, hidden, 1, 1, seed=seed + 2) / 5,
        "w3": floats(7, 5, 3, 3, seed=seed + 3) / 7,
        "columns": np.array(columns),
    }
    nodes = [
        node("Conv", "x w1 b1", "a", "one", pads=[1] * 4),
        node("LeakyRelu", "a", "b", alpha=alpha),
        node("Conv", "b w2", "c", "two"),
        node("Add", "c x", "d"),
        node("Gather", "d columns", "e", axis=3),
        node("Conv", "e w3", "y", "three", strides=[2, 2], pads=[1, 0, 0, 1]),
    ]
    return model(nodes, shape, constants)


def parts(proto=None, change=None, *, cuda_graph=False, taps=False, **options):
    """What a key is made of."""
    options = {**CPU, **options}
    programs = bf.compile(proto or net(), stop_after="program", **options)
    if change:
        change(programs.by_name)
    target = parse_target(options["target"], options.get("threads"))
    backend = backend_of(target, programs.planned.dtype)
    network, casts = backend.border(assemble(programs.planned.parts, programs, taps=taps))
    return {
        "network": network,
        "programs": programs.by_name,
        "casts": casts,
        "target": target,
        "cuda_graph": cuda_graph,
    }


def key(*arguments, **options):
    return key_of_code(**parts(*arguments, **options))


def a_taller_tile(by_name):
    tile = next(iter(by_name.values())).tiles[0]
    tile.rows += 1


def without_an_instruction(by_name):
    next(iter(by_name.values())).body[0].body.pop()


OTHERS = {
    "threads": {"threads": 3},
    "instructions": {"target": "cpu:avx2"},
    "cuts": {"fuse": "never"},
    "further outputs": {"taps": True, "fuse": "always"},
    "filters": {"proto": net(hidden=32)},
    "size": {"proto": net(shape=(2, 5, 13, 12))},
    "images": {"proto": net(shape=(1, 5, 13, 11))},
    "activation": {"proto": net(alpha=0.2)},
    "constant of an operator": {"proto": net(columns=(0, 2, 5, 7))},
    "tile": {"change": a_taller_tile},
    "instruction": {"change": without_an_instruction},
}


def test_everything_that_code_depends_on_makes_another_key():
    keys = {"": key(), **{name: key(**options) for name, options in OTHERS.items()}}
    assert len(set(keys.values())) == len(keys), keys


def test_so_it_does_on_gpus(without_compilers):
    options = [{}, {"dtype": "bfloat16"}, {"dtype": "float32"}, {"target": "sm_80"}, {"cuda_graph": True}]
    keys = [key(**{**GPU, **one}) for one in options]
    without_compilers.version = "2"
    keys.append(key(**GPU))
    assert len(set(keys)) == len(keys)


def test_sources_versions_and_linker_make_another_key(monkeypatch, tmp_path):
    given, keys = parts(), []

    def note():
        keys.append(key_of_code(**given))

    monkeypatch.setattr(code, "version_of", lambda _: "1")
    note()
    with monkeypatch.context() as patch:
        patch.setattr(code, "own_sources", lambda: "others")
        note()
    for package in ("apache-tvm", "apache-tvm-ffi", "onnx"):
        with monkeypatch.context() as patch:
            patch.setattr(code, "version_of", lambda name, other=package: "0" if name == other else "1")
            note()
    linker = tmp_path / "g++"
    monkeypatch.setenv("CXX", str(linker))
    note()
    for text in ("old", "newer"):
        linker.write_text(text)
        note()
    assert len(set(keys)) == len(keys)


def test_networks_hold_the_constants_of_operators_alone():
    """Weights of kernels are in blocks; here they would be narrowed to the type of a GPU's kernels for nothing."""
    constants = [one for one in parts(**GPU)["network"].tensors.values() if one.is_constant]
    assert [one.shape for one in constants] == [(4,)]


def test_weights_alone_make_no_other_key():
    assert key(net(seed=5)) == key()
    assert key(net(seed=5), **GPU) == key(**GPU)
    given = parts()
    programs = bf.compile(net(), stop_after="program", **CPU)
    packed = with_weights(given["network"], programs, backend_of(given["target"], "float32").pack)
    assert key_of_code(**{**given, "network": packed}) == key()


def leaves(value, found):
    """Every number and word below, with the dataclass and the field it is in."""
    if isinstance(value, dict):
        value = [part for item in value.items() for part in item]
    if isinstance(value, list | tuple | frozenset):
        for part in value:
            leaves(part, found)
    if dataclasses.is_dataclass(value) and id(value) not in found:
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        found[id(value)] = value, [name for name, part in fields.items() if isinstance(part, str | int | float)]
        for part in fields.values():
            leaves(part, found)


def other(value):
    if isinstance(value, enum.Enum):
        return next(one for one in type(value) if one is not value)
    return not value if isinstance(value, bool) else value + ("x" if isinstance(value, str) else 1)


@pytest.mark.parametrize("options", [CPU, GPU], ids=["cpu", "gpu"])
def test_any_number_or_word_of_programs_network_and_target_counts(options):
    given, found = parts(**options), {}
    leaves([given["programs"], given["target"], given["casts"], given["network"].steps, given["network"].inputs], found)
    places = [(owner, name) for owner, names in found.values() for name in names]
    assert len(places) > 200
    rng, first = np.random.default_rng(1), key_of_code(**given)
    for index in rng.permutation(len(places))[:120]:
        owner, name = places[index]
        value = getattr(owner, name)
        object.__setattr__(owner, name, other(value))
        assert key_of_code(**given) != first, (owner, name)
        object.__setattr__(owner, name, value)
    assert key_of_code(**given) == first


# ---- code as a file --------------------------------------------------------------------------------------------------
CODE = Code(
    b"\x7fELF library",
    (
        Weights(0, 0, (2, 3)),
        np.arange(3, dtype=np.float16),
        np.zeros((0, 2), np.int64),
        np.array(7, np.uint8),
        Weights(1, 1, (4,)),
    ),
    (64, 1),
    (Layout.NHWC, Layout.PLAIN),
    3,
)


def test_code_comes_back():
    back = Code.from_bytes(CODE.to_bytes())
    assert (back.library, back.alignments, back.layouts, back.layout_changes) == (
        CODE.library,
        CODE.alignments,
        CODE.layouts,
        CODE.layout_changes,
    )
    for one, wanted in zip(back.constants, CODE.constants, strict=True):
        if isinstance(wanted, Weights):
            assert one == wanted
        else:
            assert (one.dtype, one.shape) == (wanted.dtype, wanted.shape)
            np.testing.assert_array_equal(one, wanted)


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"",
        lambda data: data[:5],
        lambda data: data[:40],
        lambda data: data[: data.index(b"\x7fELF") - 4],
        lambda data: b"\xff" * 8 + data[8:],
        lambda data: data.replace(b'"layout_changes"', b'"layout_chances"'),
        lambda data: data.replace(b'"nhwc"', b'"nwhc"'),
        lambda data: data.replace(b'"float16"', b'"float99"'),
        lambda data: data.replace(b'"shape": [3]', b'"shape": "3"'),
    ],
)
def test_other_files_are_no_code(damage):
    with pytest.raises(ValueError, match=r"."):
        Code.from_bytes(damage(CODE.to_bytes()))


def test_weights_go_where_the_code_takes_them():
    given = parts()
    programs = bf.compile(net(), stop_after="program", **CPU)
    network = with_weights(given["network"], programs, backend_of(given["target"], "float32").pack)
    calls = [step for step in network.steps if isinstance(step, Call)]
    order = [(len(calls) - 1, 0), (0, 0)]
    taken = tuple(Weights(*place, calls[place[0]].constants[place[1]].shape) for place in order)
    one = dataclasses.replace(
        CODE, constants=(taken[0], np.arange(5), taken[1]), alignments=(8,), layouts=(Layout.NHWC,)
    )
    library = library_of(network, given["target"], one)
    wanted = pack([calls[-1].constants[0], np.arange(5), calls[0].constants[0]])
    assert library.constants == wanted[0]
    np.testing.assert_array_equal(library.weights, wanted[1])
    assert (library.code, library.layout_changes) == (CODE.library, 3)
    assert (library.inputs[0].alignment, library.outputs[0].layout) == (8, Layout.NHWC)
    wrong = dataclasses.replace(one, constants=(Weights(0, 0, (3,)),))
    with pytest.raises(InternalError, match="its call gives"):
        library_of(network, given["target"], wrong)
