"""What is compiled again comes from the cache: the same bytes, right for other weights, and made anew if damaged."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import blockfuse as bf
from blockfuse.plan import book
from tests.onnx_models import floats, model, node

ROOT = Path(__file__).parents[2]
OPTIONS = {"target": "cpu:generic", "threads": 2, "fuse": "always"}


def net(seed=0, batch=2):
    """A residual block, operators with constants and layouts of their own, a strided convolution, a layer."""
    constants = {
        "w1": floats(24, 5, 3, 3, seed=seed) / 7,
        "b1": floats(24, seed=seed + 1),
        "w2": floats(5, 24, 1, 1, seed=seed + 2) / 5,
        "w3": floats(7, 5, 3, 3, seed=seed + 3) / 7,
        "w4": floats(7, 3, seed=seed + 4),
        "sizes": np.array([1, 1, 1.5, 2], np.float32),
    }
    nodes = [
        node("Conv", "x w1 b1", "a", "one", pads=[1] * 4),
        node("Relu", "a", "b"),
        node("Conv", "b w2", "c", "two"),
        node("Add", "c x", "d"),
        node("Resize", "d - sizes", "e", mode="linear"),
        node("Conv", "e w3", "f", "three", strides=[2, 2], pads=[1, 0, 0, 1]),
        node("GlobalAveragePool", "f", "g"),
        node("Flatten", "g", "h"),
        node("MatMul", "h w4", "y"),
    ]
    given = [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [batch, 5, 13, 11])]
    return model(nodes, constants=constants, inputs=given, outputs=("y", "e"))


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """The folder of an empty cache; plans that this process knows are forgotten."""
    book.chosen.cache_clear()
    monkeypatch.setenv("BLOCKFUSE_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def nothing_is_made(monkeypatch):
    """A function after whose call planning, lowering and building fail the test."""

    def forbid():
        book.chosen.cache_clear()
        monkeypatch.setattr("blockfuse.plan.book.choose", lambda *_: pytest.fail("planned"))
        monkeypatch.setattr("blockfuse.build.backend._lower_cpu", lambda *_: pytest.fail("lowered"))
        monkeypatch.setattr("blockfuse.build.build.compiled", lambda *_, **__: pytest.fail("built"))

    return forbid


def saved(executable, path):
    executable.save(path)
    return path.read_bytes()


@pytest.mark.parametrize("batch", [2, "N"])
def test_the_container_is_the_same_with_and_without_the_cache(batch, cache, tmp_path, monkeypatch):
    """The second time in a process of its own, which does not load TVM."""
    onnx.save(net(batch=batch), tmp_path / "net.onnx")
    first = saved(bf.compile(tmp_path / "net.onnx", **OPTIONS), tmp_path / "first.bf")
    assert len(list(cache.iterdir())) == 2
    script = (
        "import sys, blockfuse as bf\n"
        f"bf.compile({str(tmp_path / 'net.onnx')!r}, **{OPTIONS}).save({str(tmp_path / 'second.bf')!r})\n"
        "assert not {'tvm', 'tvm_ffi'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT, timeout=300)
    assert (tmp_path / "second.bf").read_bytes() == first
    monkeypatch.setenv("BLOCKFUSE_CACHE_DIR", "")
    third = saved(bf.compile(tmp_path / "net.onnx", **OPTIONS), tmp_path / "third.bf")
    assert third == first or batch == "N"  # TVM computes the sizes of an open batch in the order of their addresses
    assert bf.verify(tmp_path / "net.onnx", executable=bf.load(tmp_path / "second.bf")).passed


@pytest.mark.usefixtures("cache")
def test_other_weights_are_packed_for_the_same_code(nothing_is_made):
    first = bf.compile(net(), **OPTIONS)
    nothing_is_made()
    other = bf.compile(net(seed=9), **OPTIONS)
    assert other._library.code == first._library.code
    assert not np.array_equal(other._library.weights, first._library.weights)
    assert bf.verify(net(seed=9), executable=other).passed


def hashed(data):
    """A file of the cache with that content."""
    return hashlib.sha256(data).digest() + data


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        lambda _: b"",
        lambda data: hashed(data[32:][:60]),
        lambda _: hashed(b"{}"),
    ],
    ids=["half", "bit", "empty", "part", "other"],
)
def test_damaged_files_are_made_anew(damage, cache, tmp_path, nothing_is_made):
    first = saved(bf.compile(net(), **OPTIONS), tmp_path / "first.bf")
    contents = {path: path.read_bytes() for path in cache.iterdir()}
    for path, data in contents.items():
        path.write_bytes(damage(data))
    assert saved(bf.compile(net(), **OPTIONS), tmp_path / "second.bf") == first
    assert {path: path.read_bytes() for path in cache.iterdir()} == contents
    nothing_is_made()
    assert saved(bf.compile(net(), **OPTIONS), tmp_path / "third.bf") == first


def test_what_is_asked_for_is_made_whatever_the_cache_has(cache, tmp_path):
    bf.compile(net(), **OPTIONS)
    kept = bf.compile(net(), **OPTIONS, keep_sources=True, dump=tmp_path / "dump")
    assert any(name.endswith(".tir") for name in kept._library.sources)
    assert list((tmp_path / "dump" / "6_lower").iterdir())
    assert bf.compile(net(), **OPTIONS, stop_after="lower")
    assert len(list(cache.iterdir())) == 2


def test_other_cuts_and_outputs_are_other_code(cache):
    bf.compile(net(), **OPTIONS)
    for change in ({"fuse": "never"}, {"threads": 1}, {"taps": True}):
        before = len(list(cache.iterdir()))
        executable = bf.compile(net(), **{**OPTIONS, **change})
        assert len(list(cache.iterdir())) > before, change
        assert bf.verify(net(), executable=executable).passed, change
