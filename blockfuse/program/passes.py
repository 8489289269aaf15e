"""Passes over the nodes of a CUDA program: number its steps, place its tiles, put in its barriers.

What a step does at run time, and with it what these passes rely on::

    step n:  wait until item n is in its slot (n mod depth);  barrier
             start copying item n + depth - 1 into the slot that step n - 1 has left
             body
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from blockfuse.integers import round_up
from blockfuse.machine import Instruction, Loop, Node, Pixels, Ring, Step, Sync, Tile, reads, written
from blockfuse.machine.affine import Affine, var

ALIGNMENT = 64  # elements; keeps every tile and slot on a 128-byte line


# ---- number ----------------------------------------------------------------------------------------------------------


def number(nodes: Sequence[Node], first: Affine | None = None) -> int:
    """Give every step its position in execution order, an expression of the loop variables around it.

    Returns:
        How many steps one run of the nodes executes.
    """
    first = first or Affine()
    count = 0
    for node in nodes:
        if isinstance(node, Step):
            node.number = first + count
            count += 1
        elif isinstance(node, Loop):
            per_trip = step_count(node.body)
            trips = 1 if node.kind.is_parallel else node.count
            number(node.body, first + count + (var(node.var) * per_trip if trips > 1 else 0))
            count += per_trip * trips
    return count


def step_count(nodes: Sequence[Node]) -> int:
    """Steps that one run of the nodes executes."""
    total = 0
    for node in nodes:
        if isinstance(node, Step):
            total += 1
        elif isinstance(node, Loop):
            total += step_count(node.body) * (1 if node.kind.is_parallel else node.count)
    return total


# ---- arena -----------------------------------------------------------------------------------------------------------


def arena(nodes: Sequence[Node], ring: Ring | None) -> int:
    """Give every tile, and the ring, its place in shared memory; what is not alive together may share bytes.

    Args:
        nodes: What one CTA executes.
        ring: The slots of the weight stream.

    Returns:
        Elements needed.
    """
    lives = _lives(nodes, ring)
    placed: list[_Life] = []
    for life in sorted(lives, key=lambda life: (life.first - life.last, -life.size)):
        life.place(_first_fit(life, placed))
        placed.append(life)
    return max((life.offset + life.size for life in lives), default=0)


@dataclass
class _Life:
    """When something in shared memory is in use: positions of its first and last access."""

    owner: Tile | Ring
    size: int
    first: int
    last: int
    alignment: int = 1
    offset: int = -1

    def overlaps(self, other: _Life) -> bool:
        return self.first <= other.last and other.first <= self.last

    def place(self, offset: int) -> None:
        self.offset = self.owner.offset = offset


def _first_fit(life: _Life, placed: Sequence[_Life]) -> int:
    offset = 0
    for other in sorted((o for o in placed if o.overlaps(life)), key=lambda o: o.offset):
        if offset + life.size <= other.offset:
            break
        offset = max(offset, round_up(other.offset + other.size, life.alignment))
    return offset


@dataclass(frozen=True)
class _Access:
    position: int
    writes: bool


class _Timeline:
    """Accesses of every tile by position, and the positions each loop spans."""

    def __init__(self) -> None:
        self.accesses: dict[Tile, list[_Access]] = {}
        self.loops: list[range] = []
        self.steps: list[int] = []
        self.position = 0

    def visit(self, nodes: Sequence[Node]) -> None:
        for node in nodes:
            self.position += 1
            start = self.position
            if isinstance(node, Loop | Pixels | Step):
                if isinstance(node, Step):
                    self.steps.append(start)
                self.visit(node.body)
                if isinstance(node, Step):
                    self.steps.append(self.position)
                if isinstance(node, Loop | Pixels):
                    self.loops.append(range(start, self.position + 1))
            else:
                self._instruction(node)

    def _instruction(self, instruction: Instruction) -> None:
        for tile in reads(instruction):
            self.accesses.setdefault(tile, []).append(_Access(self.position, writes=False))
        for tile in written(instruction):
            self.accesses.setdefault(tile, []).append(_Access(self.position, writes=True))


def _lives(nodes: Sequence[Node], ring: Ring | None) -> list[_Life]:
    """Live ranges. What a loop's first access in it reads lives through the loop; so does what is used outside too."""
    timeline = _Timeline()
    timeline.visit(nodes)
    lives = []
    for tile, accesses in timeline.accesses.items():
        if not tile.is_placed:
            continue
        life = _Life(
            tile, round_up(tile.size, ALIGNMENT), min(a.position for a in accesses), max(a.position for a in accesses)
        )
        for loop in sorted(timeline.loops, key=len):
            inside = [a for a in accesses if a.position in loop]
            if inside and (len(inside) < len(accesses) or not inside[0].writes):
                life.first, life.last = min(life.first, loop.start), max(life.last, loop[-1])
        lives.append(life)
    if ring is not None and timeline.steps:
        last = timeline.steps[-1]
        for loop in timeline.loops:
            if any(step in loop for step in timeline.steps):
                last = max(last, loop[-1])
        slots = min(ring.depth, step_count(nodes))  # fewer steps leave the others empty
        lives.append(_Life(ring, slots * ring.slot, 0, last, ring.alignment))  # items arrive before anything runs
    return lives


# ---- barriers --------------------------------------------------------------------------------------------------------


def barriers(nodes: list[Node], ring: Ring | None) -> int:
    """Insert SYNC before instructions that touch bytes which another thread may have touched since the last barrier.

    Steps begin with a barrier. Loop bodies are walked twice, for hazards carried into the next trip; pieces of a
    ``pixels`` loop touch rows of their own.

    Returns:
        The number of barriers inserted.
    """
    return _Barriers(ring).run(nodes)


@dataclass(frozen=True)
class _Touch:
    """Elements ``[low, high)`` of the arena, whether they were written, and, in the ring, by which step's reads."""

    low: int
    high: int
    writes: bool = False
    step: Affine | None = None

    def conflicts(self, other: _Touch) -> bool:
        return (self.writes or other.writes) and self.low < other.high and other.low < self.high

    def behind(self, loop: Loop, ring: Ring | None) -> _Touch:
        """The same, seen from behind a loop: of a step in it, only the last one is not behind a barrier."""
        if self.step is None or ring is None:
            return self
        return _slot_reads(self.step.with_value(loop.var, loop.count - 1), ring)


def _slot_reads(step: Affine, ring: Ring) -> _Touch:
    """The slot that a step reads; all of them as long as the step's number is not known."""
    if not step.is_constant:
        return _Touch(ring.offset, ring.offset + ring.depth * ring.slot, step=step)
    low = ring.offset + step.const % ring.depth * ring.slot
    return _Touch(low, low + ring.slot)


class _Barriers:
    """The walk: what has been touched since the last barrier."""

    def __init__(self, ring: Ring | None) -> None:
        self.ring = ring
        self.since: list[_Touch] = []
        self.inserted = 0

    def run(self, nodes: list[Node]) -> int:
        self._walk(nodes, None)
        return self.inserted

    def _walk(self, nodes: list[Node], step: Step | None) -> None:
        for node in list(nodes):
            match node:
                case Step():
                    self.since = []
                    self._walk(node.body, node)
                case Loop():
                    for _ in range(1 if node.kind.is_parallel else 2):
                        self._walk(node.body, step)
                    self.since = [touch.behind(node, self.ring) for touch in self.since]
                case Pixels():
                    self._walk(node.body, step)
                case Sync():
                    self.since = []
                case _:
                    self._instruction(node, nodes, step)

    def _instruction(self, instruction: Instruction, nodes: list[Node], step: Step | None) -> None:
        touches = self._touches(instruction, step)
        if any(touch.conflicts(earlier) for touch in touches for earlier in self.since):
            nodes.insert(nodes.index(instruction), Sync())
            self.inserted += 1
            self.since = []
        self.since += touches

    def _touches(self, instruction: Instruction, step: Step | None) -> list[_Touch]:
        local = [(tile, False) for tile in reads(instruction)] + [(tile, True) for tile in written(instruction)]
        touches = [_Touch(t.offset, t.offset + t.size, writes) for t, writes in local if t.is_placed]
        from_slot = hasattr(instruction, "weights") or any(tile.streamed for tile in reads(instruction))
        if step is not None and self.ring is not None and from_slot:
            touches.append(_slot_reads(step.number, self.ring))
        return touches
