"""The stream of weights: a step waits for its item and starts copying a later one.

::

    prologue:  copy items 0 .. depth-2, one group of copies each
    step n:    wait until at most depth-2 groups are under way; fence for wgmma, if it reads them; barrier
               copy item n + depth - 1 into the slot that step n - 1 has left; close the group
               slot = n mod depth
"""

from __future__ import annotations

from collections.abc import Sequence

from blockfuse.errors import InternalError
from blockfuse.machine import Engine, Gemm, Node, Ring, Step, walk
from blockfuse.program.ahead import Ahead, Branch, Frame, Upcoming, ahead
from blockfuse.schedules.cuda.emitter import address
from blockfuse.schedules.cuda.kernel import Kernel, shifted
from blockfuse.schedules.cuda.load import copy
from blockfuse.schedules.emit import Index, index, load

COMMIT = "cp.async.commit_group"
WAIT = "cp.async.wait_group"
COPY = "cp.async.cg.shared.global"
PROXY_FENCE = "fence.proxy.async.shared::cta"
"""What the thread has written to shared memory, copies that it has waited for included, becomes visible to wgmma."""
_BYTES = 16


def prologue(kernel: Kernel, nodes: Sequence[Node]) -> None:
    """Close the group of the copies that LOADs have started, then start the first items."""
    ring = _ring(kernel)
    if kernel.copies_pending:
        kernel.emit.ptx(COMMIT)
    for distance in range(1, ring.depth):
        _fetch_ahead(kernel, ahead([Frame(nodes, -1)], distance))
        kernel.emit.ptx(COMMIT)


def begin(kernel: Kernel, step: Step, path: Sequence[Frame]) -> None:
    """What happens before the body of a step."""
    ring, emit = _ring(kernel), kernel.emit
    emit.ptx(WAIT, ring.depth - 2)
    if any(isinstance(node, Gemm) and kernel.tiling(node.acc).engine is Engine.WGMMA for node in walk(step.body)):
        emit.ptx(PROXY_FENCE)
    emit.barrier()
    kernel.copies_pending = False
    _fetch_ahead(kernel, ahead(path, ring.depth - 1))
    emit.ptx(COMMIT)
    number = kernel.at(step.number)
    slot = number % ring.depth * (ring.slot // kernel.vector) + ring.offset // kernel.vector
    if not isinstance(slot, int):
        variable = kernel.registers("slot", 1, "int32")
        emit.store(variable, 0, slot)
        slot = load(variable, 0)
    kernel.enter(step, slot)


def wait_for_copies(kernel: Kernel) -> None:
    """Wait for everything that LOADs have started."""
    if kernel.copies_pending:
        kernel.emit.ptx(COMMIT)
        kernel.emit.ptx(WAIT, 0)
        kernel.copies_pending = False


def _ring(kernel: Kernel) -> Ring:
    if kernel.program.ring is None:
        raise InternalError(f"program {kernel.program.name} has steps and no ring")
    return kernel.program.ring


def _fetch_ahead(kernel: Kernel, upcoming: Ahead) -> None:
    match upcoming:
        case Upcoming():
            _fetch(kernel, upcoming)
        case Branch():
            condition = kernel.at(upcoming.trip) < upcoming.count
            kernel.emit.branch(
                condition,
                lambda: _fetch_ahead(kernel, upcoming.within),
                lambda: _fetch_ahead(kernel, upcoming.beyond),
            )


def _fetch(kernel: Kernel, upcoming: Upcoming) -> None:
    """Copy one item into its slot, and the pixels that come with it behind it."""
    ring, item = _ring(kernel), upcoming.step.item
    env = shifted(kernel.env, upcoming.trips)
    target = index(upcoming.step.number, env) % ring.depth * ring.slot + ring.offset
    if item.size:
        _copy_weights(kernel, index(item.index, env) * item.size + item.base, target, item.size // kernel.vector)
    if item.pixels is not None:
        here, kernel.env = kernel.env, env
        copy(kernel, item.pixels, target + item.size, "rolled")
        kernel.env = here


def _copy_weights(kernel: Kernel, source: Index, target: Index, vectors: int) -> None:
    """Copy part of the packed weights, 16 bytes per thread and trip."""
    emit = kernel.emit
    with emit.loop(-(-vectors // kernel.threads), "i", "rolled") as i:  # unrolled, addresses would crowd sums out
        vector = i * kernel.threads + emit.thread
        with emit.when(vectors % kernel.threads == 0 or vector < vectors):
            to = address(kernel.shared, target + vector * kernel.vector)
            emit.ptx(COPY, to, address(kernel.weights, source + vector * kernel.vector), _BYTES)
