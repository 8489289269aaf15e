"""Numbering, look-ahead, arena and barriers on small programs written by hand."""

from __future__ import annotations

import itertools

import pytest

from blockfuse.integers import round_up
from blockfuse.machine import (
    Accumulators,
    Depthwise,
    Epilogue,
    Item,
    Level,
    Load,
    Loop,
    LoopKind,
    Pixels,
    Region,
    Ring,
    Step,
    Store,
    Sync,
    Tile,
    WeightSlice,
    Zero,
    global_tile,
)
from blockfuse.machine.affine import Affine, span, var
from blockfuse.program.ahead import Branch, Frame, Upcoming, ahead
from blockfuse.program.passes import ALIGNMENT, arena, barriers, number
from blockfuse.stages import ImageShape, Window

IMAGE = ImageShape(4, 4, 16)
REGION = Region(span(0, 4), span(0, 4), span(0, 16))


def tile(name: str, channels: int = 16) -> Tile:
    return Tile(name, Level.LOCAL, IMAGE, 4, 4, channels, channels)


def step(name: str, *body) -> Step:
    return Step(Item(name, (), 0, Affine(), 64), list(body))


def loop(name: str, count: int, *body) -> Loop:
    return Loop(name, count, LoopKind.CHUNK, list(body))


def depthwise(source: Tile, target: Tile) -> Depthwise:
    weights = WeightSlice((0, "weight"), span(0, 1), span(0, 1), span(0, 16))
    return Depthwise(source, target, weights, Window(), REGION, ())


def execution(nodes, env=None):
    """Every step in order, with the trips of the loops around it."""
    for node in nodes:
        if isinstance(node, Step):
            yield node, dict(env or {})
        elif isinstance(node, Loop):
            for trip in range(node.count):
                yield from execution(node.body, {**(env or {}), node.var: trip})


PROGRAMS = {
    "straight": lambda: [step("a"), step("b"), step("c")],
    "loop": lambda: [step("a"), loop("i", 3, step("b"), step("c")), step("d")],
    "nested": lambda: [loop("i", 2, step("a"), loop("j", 3, step("b")), step("c")), loop("k", 2, step("d"))],
    "loop in front": lambda: [loop("i", 4, loop("j", 2, step("a"))), step("b")],
    "empty loop": lambda: [step("a"), loop("i", 3, Sync()), step("b")],
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_steps_are_numbered_in_execution_order(name):
    nodes = PROGRAMS[name]()
    total = number(nodes)
    numbers = [node.number.at(env) for node, env in execution(nodes)]
    assert numbers == list(range(total))


def paths(nodes, outer=(), owner=None):
    """The path of frames to every step."""
    for position, node in enumerate(nodes):
        trip = var(owner.var) if owner else Affine()
        here = (*outer, Frame(nodes, position, owner, trip))
        if isinstance(node, Step):
            yield node, here
        elif isinstance(node, Loop):
            yield from paths(node.body, here, node)


def resolve(found, env):
    while isinstance(found, Branch):
        found = found.within if found.trip.at(env) < found.count else found.beyond
    return None if found is None else (found.step, {v: trip.at(env) for v, trip in found.trips.items()})


@pytest.mark.parametrize("distance", [1, 2, 3, 5])
@pytest.mark.parametrize("name", PROGRAMS)
def test_ahead_is_the_step_that_runs_later(name, distance):
    nodes = PROGRAMS[name]()
    order = list(execution(nodes))
    path_of = dict(paths(nodes))
    for position, (node, env) in enumerate(order):
        expected = order[position + distance] if position + distance < len(order) else None
        assert resolve(ahead(path_of[node], distance), env) == expected


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_prologue_finds_the_first_steps(name):
    nodes = PROGRAMS[name]()
    for position, expected in enumerate(execution(nodes)):
        found = ahead([Frame(nodes, -1)], position + 1)
        assert isinstance(found, Upcoming)
        assert resolve(found, {}) == expected


def overlaps(a: Tile, b: Tile) -> bool:
    return a.offset < b.offset + b.size and b.offset < a.offset + a.size


def test_tiles_that_live_together_do_not_share_bytes_and_others_do():
    a, b, c = tile("a"), tile("b"), tile("c")
    nodes = [Load(global_tile("x", IMAGE), a, REGION), depthwise(a, b), depthwise(b, c), Store(c, c, REGION)]
    size = arena(nodes, None)
    assert not overlaps(a, b)
    assert not overlaps(b, c)
    assert overlaps(a, c)
    assert size == 2 * round_up(a.size, ALIGNMENT)


def test_what_a_loop_reads_from_outside_lives_through_it():
    a, b, c = tile("a"), tile("b"), tile("c")
    nodes = [Load(global_tile("x", IMAGE), a, REGION), loop("i", 2, depthwise(a, b), depthwise(b, c))]
    arena(nodes, None)
    assert not overlaps(a, c)


def test_what_pieces_read_lives_through_all_of_them():
    a, b = tile("a"), tile("b")
    acc = Accumulators("acc", REGION)
    body = [Zero(acc), depthwise(a, tile("unused")), Epilogue(acc, b, ())]
    nodes = [Load(global_tile("x", IMAGE), a, REGION), Pixels(REGION, 1, 0, body)]
    arena(nodes, None)
    assert not overlaps(a, b)


def test_the_ring_lives_from_the_start_to_the_last_step():
    a, b = tile("a"), tile("b")
    ring = Ring(2, 128)
    nodes = [
        Load(global_tile("x", IMAGE), a, REGION),
        step("s", depthwise(a, b)),
        step("t", depthwise(a, b)),
        Store(b, global_tile("y", IMAGE), REGION),
    ]
    arena(nodes, ring)
    spans = [(ring.offset, ring.offset + 256), (a.offset, a.offset + a.size), (b.offset, b.offset + b.size)]
    ordered = sorted(spans)
    assert all(low[1] <= high[0] for low, high in itertools.pairwise(ordered))


def test_fewer_steps_than_slots_leave_slots_out():
    a, b = tile("a"), tile("b")
    sizes = [arena([step(name, depthwise(a, b)) for name in names], Ring(3, 128)) for names in ("s", "st", "stuv")]
    assert [size - sizes[0] for size in sizes] == [0, 128, 256]


def syncs(nodes) -> int:
    return sum(isinstance(node, Sync) for node in nodes)


def test_a_barrier_stands_between_a_write_and_a_read():
    a, b = tile("a"), tile("b")
    a.offset, b.offset = 0, 1024
    nodes = [Load(global_tile("x", IMAGE), a, REGION), depthwise(a, b)]
    assert barriers(nodes, None) == 1
    assert isinstance(nodes[1], Sync)


def test_reads_need_no_barrier_between_them():
    a, b, c = tile("a"), tile("b"), tile("c")
    a.offset, b.offset, c.offset = 0, 1024, 2048
    nodes = [depthwise(a, b), depthwise(a, c)]
    assert barriers(nodes, None) == 0


def test_a_step_is_a_barrier():
    a, b = tile("a"), tile("b")
    a.offset, b.offset = 0, 1024
    nodes = [Load(global_tile("x", IMAGE), a, REGION), step("s", depthwise(a, b))]
    assert barriers(nodes, Ring(2, 64, 4096)) == 0


def test_hazards_carried_to_the_next_trip_get_a_barrier():
    a, b = tile("a"), tile("b")
    a.offset, b.offset = 0, 1024
    y = global_tile("y", IMAGE)
    nodes = [loop("i", 2, depthwise(a, b), Sync(), Store(b, y, REGION))]
    assert barriers(nodes, None) == 1
    assert syncs(nodes[0].body) == 2


def test_overwriting_the_slots_of_a_step_needs_a_barrier():
    a, b = tile("a"), tile("b")
    acc = Accumulators("acc", REGION)
    a.offset, b.offset = 4096, 0
    nodes = [step("s", depthwise(a, tile("c"))), Epilogue(acc, b, ())]
    nodes[0].body[0].target.offset = 8192
    assert barriers(nodes, Ring(2, 64, 0)) == 1
