"""Which step of a program runs a given number of steps later: what a stream of weights copies next.

The answer crosses the ends of loops. Where it depends on a loop variable it is a :class:`Branch`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from blockfuse.machine import Loop, Node, Step
from blockfuse.machine.affine import Affine
from blockfuse.program.passes import step_count


@dataclass(frozen=True)
class Frame:
    """A place in a list of nodes.

    Attributes:
        nodes: The list.
        position: Index of the node that we are at or in; -1 before the first.
        loop: The loop whose body the list is; None for the outermost list.
        trip: Which trip of the loop: its variable plus a constant, or a constant.
    """

    nodes: Sequence[Node]
    position: int
    loop: Loop | None = None
    trip: Affine = field(default_factory=Affine)


@dataclass(frozen=True)
class Upcoming:
    """A step that will run, with the trip of every loop around it."""

    step: Step
    trips: Mapping[str, Affine]


@dataclass(frozen=True)
class Branch:
    """``within`` if ``trip < count``, else ``beyond``."""

    trip: Affine
    count: int
    within: Ahead
    beyond: Ahead


Ahead: TypeAlias = Upcoming | Branch | None


def ahead(path: Sequence[Frame], distance: int) -> Ahead:
    """The step that runs ``distance`` steps after a place, across the ends of loops; None where the program has ended.

    Args:
        path: From the outermost list of nodes to the one the place is in.
        distance: At least 1.
    """
    return _search(tuple(path[:-1]), path[-1], distance - 1)


def _search(outer: tuple[Frame, ...], here: Frame, skip: int) -> Ahead:
    """The step that comes after ``skip`` others behind a place."""
    for position in range(here.position + 1, len(here.nodes)):
        node = here.nodes[position]
        if isinstance(node, Step):
            if skip == 0:
                frames = (*outer, here)
                return Upcoming(node, {f.loop.var: f.trip for f in frames if f.loop is not None})
            skip -= 1
        elif isinstance(node, Loop) and step_count(node.body):
            at = Frame(here.nodes, position, here.loop, here.trip)
            return _search((*outer, at), Frame(node.body, -1, node), skip)
    return _after(outer, here, skip)


def _after(outer: tuple[Frame, ...], here: Frame, skip: int) -> Ahead:
    """The search goes on behind the end of a loop's body: in its next trip, or behind the loop."""
    if here.loop is None:
        return None
    trip = here.trip + 1
    if trip.is_constant and trip.const >= here.loop.count:
        return _search(outer[:-1], outer[-1], skip)
    again = _search(outer, Frame(here.nodes, -1, here.loop, trip), skip)
    if trip.is_constant:
        return again
    return Branch(trip, here.loop.count, again, _search(outer[:-1], outer[-1], skip))
