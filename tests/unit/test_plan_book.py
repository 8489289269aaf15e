"""Plans from the book are those that would be found, and what is wrong in it is as if it was not there."""

import json
from dataclasses import replace

import numpy as np
import pytest

from blockfuse.kernel_cache import KernelCache
from blockfuse.plan import book
from blockfuse.plan.book import Book, chosen, open_book
from blockfuse.plan.choose import Choice
from blockfuse.plan.decide import best
from blockfuse.plan.device import cpu_device, gpu_device
from blockfuse.plan.infeasible import Infeasible
from blockfuse.target import parse_target
from tests.random_blocks import ALL_KINDS, random_block
from tests.residual_blocks import basic, mbconv

CPU, GPU = cpu_device(parse_target("cpu:avx512", 2)), gpu_device("sm_90a")
DEVICES = {
    "avx512": CPU,
    "avx2": cpu_device(parse_target("cpu:avx2", 1)),
    "sm_80": gpu_device("sm_80"),
    "sm_90a": GPU,
}


def drawn(seed, device):
    """A random block without its data, in a type of the device."""
    rng = np.random.default_rng(seed)
    dtype = str(rng.choice(["float16", "bfloat16"])) if device.kind == "cuda" else "float32"
    block = random_block(rng, dtype=dtype, kinds=ALL_KINDS)
    return replace(block, parameters={}, tensors=(), batch=int(rng.integers(1, 4)))


@pytest.fixture
def no_search(monkeypatch):
    """A function after whose call looking for a plan fails the test."""

    def forbid():
        chosen.cache_clear()
        monkeypatch.setattr(book, "choose", lambda *_: pytest.fail("a plan was looked for"))

    yield forbid
    chosen.cache_clear()


@pytest.mark.parametrize("name", DEVICES)
def test_a_book_holds_what_was_found(name, no_search):
    device, first = DEVICES[name], Book(DEVICES[name])
    blocks = [drawn(seed, device) for seed in range(4)]
    found = [first.find(block, (False,) * len(block.inputs)) for block in blocks]
    assert first.is_new
    no_search()
    second = Book(device, first.written())
    assert [second.find(block, (False,) * len(block.inputs)) for block in blocks] == found
    assert not second.is_new


def test_what_cannot_be_is_in_the_book_too(no_search):
    small = replace(GPU, local_bytes=2048)
    block = replace(basic(14, 14, 64), dtype="float16")
    first = Book(small)
    found = first.find(block, (False,))
    assert isinstance(found, Infeasible)
    no_search()
    assert Book(small, first.written()).find(block, (False,)) == found


def changed(entries, value):
    """A book whose only entry is another value."""
    return dict.fromkeys(entries, value)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text, _: text[: len(text) // 2],
        lambda *_: b"\xff\xfe",
        lambda *_: b"[1, 2]",
        lambda text, _: json.dumps(changed(json.loads(text), None)),
        lambda text, _: json.dumps(changed(json.loads(text), ["CpuPlan"])),
        lambda text, _: json.dumps(changed(json.loads(text), ["Block", {}])),
        lambda text, _: json.dumps(changed(json.loads(text), ["CpuPlan", {"mode": "rows"}])),
        lambda text, other: json.dumps(changed(json.loads(text), next(iter(json.loads(other).values())))),
        lambda text, _: text.replace(b'"rows": ', b'"rows": 0.'),
        lambda text, _: text.replace(b'"mode": "rows"', b'"mode": "all"'),
    ],
)
def test_damaged_books_are_written_anew(damage):
    block, flags = mbconv(14, 14, 24, 72, r=5), (False,)
    known, other = Book(CPU), Book(CPU)
    wanted = known.find(block, flags)
    other.find(drawn(3, CPU), (False,) * len(drawn(3, CPU).inputs))
    text = damage(known.written(), other.written())
    damaged = Book(CPU, text if isinstance(text, bytes) else text.encode())
    assert damaged.find(block, flags) == wanted
    assert damaged.is_new
    assert damaged.written() == known.written()


def test_only_what_plans_depend_on_tells_blocks_apart():
    block = mbconv(9, 7, 16, 48)
    flags = (False,)
    same = replace(block, name="another", pattern="other", ops=("x",))
    others = [
        (replace(block, batch=2), flags),
        (replace(block, batch=1, any_batch=True), flags),
        (replace(block, dtype="bfloat16"), flags),
        (mbconv(9, 8, 16, 48), flags),
        (mbconv(9, 7, 16, 64), flags),
        (mbconv(9, 7, 16, 48, r=5), flags),
        (mbconv(9, 7, 16, 48, stride=2), flags),
        (block, (True,)),
    ]
    for one, planar in [(same, flags), *others]:
        found = Book(CPU)
        found.find(block, flags)
        found.find(one, planar)
        assert len(json.loads(found.written())) == (1 if one is same else 2), one


def test_books_are_kept_by_device_network_and_sources(tmp_path, monkeypatch, no_search):
    cache, block = KernelCache(tmp_path), mbconv(9, 7, 16, 48)
    block = replace(block, tensors=("in", "out"))

    def planned(device=CPU, network="net"):
        with open_book(cache, device, network):
            return best(block, device)

    first = planned()
    planned(DEVICES["avx2"])
    planned(network="other")
    with monkeypatch.context() as patch:
        patch.setattr(book, "own_sources", lambda: "other sources")
        planned()
    assert len(list(tmp_path.iterdir())) == 4
    no_search()
    assert planned() == first
    assert len(list(tmp_path.iterdir())) == 4


def test_an_open_book_is_for_its_device_alone(tmp_path):
    cache, block = KernelCache(tmp_path), replace(mbconv(9, 7, 16, 48), tensors=("in", "out"))
    with open_book(cache, CPU, "net"):
        found = best(replace(block, dtype="float16"), GPU)
    assert found.plan == chosen(replace(block, dtype="float16", tensors=(), parameters={}), GPU, (False,)).plan
    assert not list(tmp_path.iterdir())


def test_predictions_are_made_anew():
    """A plan of the book has the cost that today's figures give it."""
    block, flags = mbconv(14, 14, 24, 72), (False,)
    text = Book(CPU)
    found = text.find(block, flags)
    assert isinstance(found, Choice)
    faster = replace(CPU, launch_seconds=CPU.launch_seconds / 2)
    again = Book(faster, text.written()).find(block, flags)
    assert again.plan == found.plan
    assert again.cost.seconds < found.cost.seconds
