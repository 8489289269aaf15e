"""The segment chain: fuse what nobody has named, where a cost says that it pays.

The graph is cut at the operators that every path from the inputs to the outputs crosses (the post-dominators of its
entry). Between two cuts nothing but the first one's result comes in and nothing but the second one's goes out, so any
run of consecutive pieces may become one block. Dynamic programming chooses the runs::

    best[j] = min over i < j of best[i] + min(cost(pieces i..j as one block),
                                              cost(pieces i..j with every convolution by itself),
                                              cost(the branches of pieces i..j, each divided like this))
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import networkx as nx

from blockfuse.block import Block
from blockfuse.frontend.drafts import is_view
from blockfuse.frontend.partition.blocks import NoBlock, block_of
from blockfuse.frontend.partition.singles import singles
from blockfuse.stages import Border, Conv, Depthwise, Grouped, Norm, Pool

if TYPE_CHECKING:
    from blockfuse.graph import Graph, Op

Cost: TypeAlias = Callable[[Block], float | None]

_ENTRY, _EXIT = "(entry)", "(exit)"


@dataclass(frozen=True, order=True)
class _Price:
    """Compared in this order; fewer steps break a tie."""

    without_plan: int = 0
    seconds: float = 0.0
    steps: int = 0

    def __add__(self, other: _Price) -> _Price:
        return _Price(self.without_plan + other.without_plan, self.seconds + other.seconds, self.steps + other.steps)


@dataclass(frozen=True)
class _Choice:
    price: _Price
    start: int
    blocks: tuple[Block, ...]


def segments(graph: Graph, ops: Sequence[Op], taken: Sequence[Block], cost: Cost, max_stages: int) -> list[Block]:
    """Divide the operators no pattern took into the cheapest blocks along the chain.

    Args:
        graph: A canonical graph.
        ops: The operators to place, producers before consumers.
        taken: Blocks that are settled.
        cost: Predicted time of a block in seconds, or None where there is no plan for it.
        max_stages: Most stages in a block.

    Returns:
        The blocks; operators in none of them run by themselves.
    """
    price = _Pricing(graph, cost, max_stages)
    blocks: list[Block] = []
    for run in _runs(graph, ops, taken):
        blocks += _cheapest(run, price, max_stages)
    return blocks


def _cheapest(pieces: Sequence[Sequence[Op]], price: _Pricing, max_stages: int) -> tuple[Block, ...]:
    """Dynamic programming over consecutive pieces.

    Runs that cannot be one block are tried only as far as elementwise operators may join what comes before them.
    """
    best = [_Choice(_Price(), 0, ())]
    works, stageless = [list(map(test, pieces)) for test in (price.works, price.is_stageless)]
    for end in range(1, len(pieces) + 1):
        choices = []
        for start in range(end - 1, -1, -1):
            if sum(len(piece) for piece in pieces[start + 1 : end]) > max_stages:
                break  # a block of a convolution in the first piece cannot reach this far
            if any(stageless[start:end]) and any(works[start + 1 : end]):
                break
            ops = [op for piece in pieces[start:end] for op in piece]
            ways = price.ways(ops, apart=sum(works[start:end]) <= 1)
            choices += [_Choice(best[start].price + own, start, blocks) for own, blocks in ways]
        best.append(min(choices, key=lambda choice: choice.price))
    blocks: list[Block] = []
    end = len(pieces)
    while end:
        blocks = [*best[end].blocks, *blocks]
        end = best[end].start
    return tuple(blocks)


class _Pricing:
    """Prices of ways to run some operators; equal blocks are priced once."""

    def __init__(self, graph: Graph, cost: Cost, max_stages: int) -> None:
        self.graph = graph
        self.cost = cost
        self.max_stages = max_stages
        self.known: dict[Block, float | None] = {}
        self.made: dict[str, Block | NoBlock] = {}  # by op name, of that op alone

    def works(self, ops: Sequence[Op]) -> bool:
        """Whether any of the operators needs a sweep of its own."""
        return any(isinstance(block, Block) and _has_work(block) for block in map(self._alone, ops))

    def is_stageless(self, ops: Sequence[Op]) -> bool:
        """Whether any of the operators can be in no block."""
        return any(not isinstance(self._alone(op), Block) and not is_view(self.graph, op) for op in ops)

    def _alone(self, op: Op) -> Block | NoBlock:
        if op.name not in self.made:
            self.made[op.name] = block_of(self.graph, [op])
        return self.made[op.name]

    def ways(self, ops: Sequence[Op], *, apart: bool) -> Iterator[tuple[_Price, tuple[Block, ...]]]:
        """As one block, if there is a plan for it; if asked, every convolution by itself, and branch by branch."""
        whole = block_of(self.graph, ops) if len(ops) <= self.max_stages else None
        if isinstance(whole, Block) and _has_work(whole) and self.seconds(whole) is not None:
            yield self.price(ops, (whole,)), (whole,)
        if not apart:
            return
        each = tuple(singles(self.graph, ops, self.max_stages))
        yield self.price(ops, each), each
        branches = self._branch_by_branch(ops)
        if branches:
            yield self.price(ops, branches), branches

    def _branch_by_branch(self, ops: Sequence[Op]) -> tuple[Block, ...]:
        """The branches between two cuts, each divided by itself, and what joins them; nothing where there are none."""
        runs = [run for run in _branches(self.graph, ops) if len(run) < len(ops)]
        branches = [run for run in runs if sum(self.works([op]) for op in run) > 1]
        inside = {op.name for run in branches for op in run}
        rest = [op for op in ops if op.name not in inside]
        blocks = [block for run in branches for block in _cheapest([[op] for op in run], self, self.max_stages)]
        return (*blocks, *singles(self.graph, rest, self.max_stages)) if branches else ()

    def price(self, ops: Sequence[Op], blocks: tuple[Block, ...]) -> _Price:
        """Of the blocks and the elementwise operators left alone; what has no stage costs the same anyway."""
        inside = {name for block in blocks for name in block.ops}
        alone = [op for op in ops if op.name not in inside]
        seconds = [self.seconds(block) for block in (*blocks, *map(self._alone, alone)) if isinstance(block, Block)]
        known = [value for value in seconds if value is not None]
        return _Price(len(seconds) - len(known), math.fsum(known), len(blocks) + len(alone))

    def seconds(self, block: Block) -> float | None:
        if block not in self.known:
            self.known[block] = self.cost(block)
        return self.known[block]


def _has_work(block: Block) -> bool:
    return any(isinstance(stage, Border | Conv | Depthwise | Grouped | Norm | Pool) for stage in block.stages)


def _branches(graph: Graph, ops: Sequence[Op]) -> list[list[Op]]:
    """Runs of operators in which each is the only reader of the one before, and reads nothing else computed."""
    free = {op.name for op in ops}
    runs: dict[str, list[Op]] = {}  # by the last operator so far
    for op in ops:
        computed = [name for name in op.inputs if name and not graph.tensor(name).is_constant]
        before = graph.producer(computed[0]) if len(computed) == 1 else None
        run = runs.pop(before.name) if before and before.name in free and _is_only_reader(graph, before) else []
        runs[op.name] = [*run, op]
    return list(runs.values())


def _is_only_reader(graph: Graph, op: Op) -> bool:
    """Whether a single operator, and not the caller, reads what an operator makes."""
    return len(op.outputs) == 1 and len(graph.consumers(op.output)) == 1 and not graph.is_output(op.output)


# ---- the chain -------------------------------------------------------------------------------------------------------
def _runs(graph: Graph, ops: Sequence[Op], taken: Sequence[Block]) -> Iterator[list[list[Op]]]:
    """Pieces between two cuts, in runs that no settled block interrupts."""
    free = {op.name for op in ops}
    run: list[list[Op]] = []
    for piece in _pieces(graph, taken):
        rest = [op for op in piece if op.name in free]
        if len(rest) == len(piece):
            run.append(rest)
            continue
        yield run
        yield [rest] if rest else []
        run = []
    yield run


def _pieces(graph: Graph, taken: Sequence[Block]) -> list[list[Op]]:
    """All operators, divided at the chain; each piece ends with its cut, except the last where there are branches."""
    names = {name: block.ops[-1] for block in taken for name in block.ops}
    parent = _post_dominators(graph, names)
    chain = [_EXIT]
    node = parent[_ENTRY]
    while node != _EXIT:
        chain.append(node)
        node = parent[node]
    pieces: dict[str, list[Op]] = {node: [] for node in (*chain[1:], _EXIT)}
    for op in graph.ops():
        node = names.get(op.name, op.name)
        while node not in pieces:
            node = parent[node]
        pieces[node].append(op)
    return [piece for piece in pieces.values() if piece]


def _post_dominators(graph: Graph, names: Mapping[str, str]) -> dict[str, str]:
    """For every node the first one that all ways from it to the outputs cross; a settled block is one node."""
    network: nx.DiGraph[str] = nx.DiGraph()  # against the flow of data: dominators here are post-dominators there
    for op in graph.ops():
        node = names.get(op.name, op.name)
        reads_input = any(name in graph.inputs for name in op.inputs)
        if reads_input or not any(graph.producer(name) for name in op.inputs if name):
            network.add_edge(node, _ENTRY)
        for tensor in op.outputs:
            readers = [names.get(reader.name, reader.name) for reader in graph.consumers(tensor)]
            network.add_edges_from((reader, node) for reader in readers if reader != node)
            if not readers:
                network.add_edge(_EXIT, node)
    return nx.immediate_dominators(network, _EXIT)
