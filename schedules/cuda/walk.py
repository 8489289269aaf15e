"""Walks a program and hands every instruction to its file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from blockfuse.errors import InternalError
from blockfuse.machine import (
    Depthwise,
    Epilogue,
    Gemm,
    Grouped,
    Instruction,
    Load,
    Loop,
    Map,
    Node,
    Normalize,
    Pixels,
    Program,
    Reduce,
    Step,
    Store,
    Sync,
    Zero,
    walk,
)
from blockfuse.machine.affine import Affine, var
from blockfuse.program.ahead import Frame
from blockfuse.program.check import is_direct, task
from blockfuse.schedules.cuda import (
    depthwise,
    direct,
    epilogue,
    gemm,
    grouped,
    load,
    maps,
    norm,
    reduce,
    store,
    stream,
    sync,
    zero,
)
from blockfuse.schedules.cuda.kernel import Kernel, Piece
from blockfuse.schedules.cuda.warps import pieces

_LOWERING: Mapping[type[Instruction], Callable[[Kernel, Any], None]] = MappingProxyType(
    {
        Load: load.lower,
        Zero: zero.lower,
        Gemm: gemm.lower,
        Epilogue: epilogue.lower,
        Depthwise: depthwise.lower,
        Grouped: grouped.lower,
        Normalize: norm.lower,
        Map: maps.lower,
        Reduce: reduce.lower,
        Store: store.lower,
        Sync: sync.lower,
    }
)


def lower(program: Program) -> Any:
    """A program as one TensorIR function for CUDA.

    Its parameters are the block's inputs ``input_0``, ``input_1``, ... [N, H, W, C], ``packed_vectors`` and
    ``packed_weights`` as :func:`blockfuse.schedules.cuda.pack` makes them (each only if it is read), and ``result``
    [N, P, Q, K]. The names are in alphabetical order, which is the order of the CUDA kernel's parameters.

    Every instruction of the program stands above its code as a comment, after the name of the step it is in.

    Raises:
        InternalError: The program has an instruction that this target does not know.
    """
    kernel = Kernel(program)
    nodes = task(program)
    loads = next((i for i, node in enumerate(nodes) if not isinstance(node, Load)), len(nodes))
    for node in nodes[:loads]:
        _instruction(kernel, node)
    if program.ring is not None:
        stream.prologue(kernel, nodes)
    _run(kernel, nodes, loads, ())
    return kernel.emit.function(program.name)


def _run(kernel: Kernel, nodes: Sequence[Node], start: int, outer: tuple[Frame, ...], loop: Loop | None = None) -> None:
    """Emit nodes from ``start`` on; ``outer`` and ``loop`` say where the list of nodes is."""
    for position in range(start, len(nodes)):
        node = nodes[position]
        path = (*outer, Frame(nodes, position, loop, var(loop.var) if loop else Affine()))
        match node:
            case Loop():
                with kernel.emit.loop(node.count, node.var) as trip:
                    kernel.env[node.var] = trip
                    _run(kernel, node.body, 0, path, node)
                del kernel.env[node.var]
            case Step():
                kernel.place = f"step {node.item.name}: "
                kernel.emit.note(f"{kernel.place}{node.item} arrive")
                stream.begin(kernel, node, path)
                _run(kernel, node.body, 0, path)
                kernel.place = ""
            case Pixels():
                _pieces(kernel, node)
            case _:
                _instruction(kernel, node)


def _pieces(kernel: Kernel, node: Pixels) -> None:
    """The pieces of a region: every warp's next few m16 tiles per trip; unrolled where sums of all are in registers."""
    sums = dict.fromkeys(inner.acc for inner in walk(node.body) if isinstance(inner, Gemm | Epilogue))
    begun = {inner.target for inner in node.body if isinstance(inner, Zero | Epilogue)}
    first = next(iter(sums))
    count = pieces(node, kernel.tiling(first))
    kind = "serial" if begun >= set(sums) else "unrolled"
    with kernel.emit.loop(count, f"piece_{first.name}", kind) as number:
        kernel.piece = Piece(number, node.pixels, count, frozenset(begun))
        for inner in node.body:
            _instruction(kernel, inner)
    kernel.piece = None


def _instruction(kernel: Kernel, node: Node) -> None:
    if is_direct(node):
        direct.lower(kernel, node)
        return
    lowering = _LOWERING.get(type(node))  # type: ignore[arg-type]
    if lowering is None:
        raise InternalError(f"program {kernel.program.name}: {node} has no CUDA lowering")
    kernel.emit.note(f"{kernel.place}{' '.join(str(node).split())}")
    lowering(kernel, node)
