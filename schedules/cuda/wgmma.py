"""GEMM with wgmma: four warps together multiply m64 tiles of pixels by up to 256 output channels.

Pixels are in registers, as for mma.sync; weights are read from the slot of the stream through descriptors. Products run
while the next pixels are loaded: each of the last S steps has registers of its own for its pixels::

    for tap:                                       row gather: a tap only shifts the addresses
      for k16:
        wait until at most S - 1 groups of products are under way       those that read a[k mod S] are done
        for j in mb:  a[k mod S, j] = ldmatrix(source pixels of m16 tile j, 16 channels)
        fence
        for j in mb:  acc[j] += a[k mod S, j] * weights[k16]            per 256 output channels
        close the group
    wait for all groups

Where there are no more than S steps, or the pixels are in registers already, all products are one group.

Of the m64 tile, warp w of the four has rows 16 w to 16 w + 15, with sums and pixels in its registers as for m16n8k16,
so EPILOGUE, CHAIN and HOLD do not know which engine made the sums. m16 tiles that do not exist repeat pixels that do;
their sums are never stored. They are not left out: the compiler runs products one by one where any is under a
condition. The order of products, and what the asynchronous proxy sees of shared memory, are the
hardware's; emulation checks the rules that this file keeps, not that the rules are enough.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.script import tirx as T  # noqa: N812 - its name in TVM

from blockfuse.machine import Gemm, Level
from blockfuse.program.check import WGMMA_STEPS
from blockfuse.schedules.cuda import chain
from blockfuse.schedules.cuda.emitter import address
from blockfuse.schedules.cuda.kernel import Kernel
from blockfuse.schedules.cuda.mma import A_WORDS, LOAD_MATRICES, SUMS, K, N
from blockfuse.schedules.cuda.packing_wgmma import descriptor_bits, offset_of, slab_width
from blockfuse.schedules.cuda.pixels import corner, row_offsets
from blockfuse.schedules.cuda.warps import WarpShare, share
from blockfuse.schedules.emit import Buffer, Expr, Index, load

_TYPES = {"float16": "f16", "bfloat16": "bf16"}
_WIDEST = 256  # output channels of one instruction
_UNROLL = 12  # k16 steps
_FENCE = "wgmma.fence.sync.aligned"
_COMMIT = "wgmma.commit_group.sync.aligned"
_WAIT = "wgmma.wait_group.sync.aligned"
_SETTLE = "blockfuse_settle"
_SETTLE_SOURCE = f"""__forceinline__ __device__ void {_SETTLE}(float& sum) {{
  asm volatile("" : "+f"(sum) :: "memory");
}}
__forceinline__ __device__ void {_SETTLE}(unsigned int& pixels) {{
  asm volatile("" : "+r"(pixels) :: "memory");
}}
"""
"""Keeps the compiler from moving uses of a register over what comes before, and its making over what comes after."""


@dataclass(frozen=True)
class _Product:
    """What the products of one GEMM have in common.

    Attributes:
        mine: The calling warp's part of the sums.
        depth: k16 steps per tap.
        width: Input channels of a slab of weights.
        outputs: Output channels of a slab.
        parts: Instructions side by side; each makes an equal share of this warp's output channels.
        weights: Descriptor of the first tap's weights for this warp's output channels.
        fresh: Whether the first product overwrites the sums.
    """

    mine: WarpShare
    depth: int
    width: int
    outputs: int
    parts: int
    weights: Expr
    fresh: bool

    @property
    def channels(self) -> int:
        """Output channels of one instruction."""
        return self.mine.ni * N // self.parts

    def offset(self, k: int) -> int:
        """Where the weights of a k16 step begin, from those of the tap, in the units of descriptors."""
        return offset_of(k * K, self.width, self.outputs)

    def at(self, tap: Index, k: Index) -> Expr:
        """Descriptor of the weights of a tap from a k16 step on that begins a slab."""
        per_step = K * self.outputs * 2 // 16
        offset = (tap * self.depth + k) * per_step
        return _moved(self.weights, offset) if isinstance(offset, int) else self.weights + tirx.Cast("uint64", offset)


def lower(kernel: Kernel, node: Gemm) -> None:
    """Emit the loops over taps and input channels."""
    product = _product(kernel, node)
    if node.source.level is Level.REGISTER:
        _from_registers(kernel, node, product)
    else:
        _from_shared(kernel, node, product)
    kernel.emit.ptx(_WAIT, 0)
    sums = kernel.sums(node.acc)
    with kernel.emit.loop(product.mine.mb * product.mine.ni * SUMS, "i", "unrolled") as i:
        place = product.mine.first * product.mine.ni * SUMS + i
        settle(kernel, load(sums, place))


def settle(kernel: Kernel, register: Expr) -> None:
    """Have a register hold its value here: the compiler knows neither what is made of it later nor from what."""
    kernel.emit.evaluate(T.cuda.func_call(_SETTLE, register, source_code=_SETTLE_SOURCE))


def _product(kernel: Kernel, node: Gemm) -> _Product:
    mine, depth = share(kernel, node.acc), node.weights.inputs.size.const
    outputs, width = node.weights.outputs.size.const, slab_width(depth)
    parts = next(p for p in range(1, mine.ni + 1) if mine.ni % p == 0 and mine.ni * N // p <= _WIDEST)
    first = kernel.weight_offset(node.weights, kernel.vector) + mine.col * (mine.ni * N * width)
    start = T.cuda.cvta_generic_to_shared(address(kernel.shared, first))
    high, low = divmod(descriptor_bits(width), 1 << 32)
    halves = (T.uint32(high), T.bitwise_or(T.shift_right(start, T.uint32(4)), T.uint32(low)))
    upper, below = (tirx.Cast("uint64", half) for half in halves)
    weights = kernel.emit.bind("weights", T.bitwise_or(T.shift_left(upper, T.uint64(32)), below))
    fresh = node.acc in kernel.fresh
    kernel.fresh.discard(node.acc)
    return _Product(mine, depth // K, width, outputs, parts, weights, fresh)


def _from_shared(kernel: Kernel, node: Gemm, product: _Product) -> None:
    """Products of pixels in shared memory."""
    emit, taps = kernel.emit, node.weights.taps
    inner = max(d for d in range(1, _UNROLL + 1) if product.depth % d == 0 and d * K % product.width == 0)
    rows = row_offsets(kernel, node, product.mine)
    with emit.loop(taps.size.const, "tap") as tap, emit.loop(product.depth // inner, "ko") as outer:
        pixels = corner(kernel, node, kernel.at(taps.low) + tap) + outer * (inner * K)
        weights = product.at(tap, outer * inner)
        begun = not product.fresh or _either(tap > 0, outer > 0)
        _steps(kernel, node, product, _Run(inner, rows, pixels, weights, begun))


@dataclass(frozen=True)
class _Run:
    """k16 steps that are written one after the other: one trip of the loops around them.

    Attributes:
        count: How many.
        rows: Of pixels, relative to the first.
        pixels: Element of the first pixel's first channel.
        weights: Descriptor of the first step's.
        begun: Whether the sums hold anything yet.
    """

    count: int
    rows: Buffer
    pixels: Index
    weights: Expr
    begun: Expr


def _steps(kernel: Kernel, node: Gemm, product: _Product, run: _Run) -> None:
    """The steps of one trip, each with the registers of the step before the last few."""
    emit, mb = kernel.emit, product.mine.mb
    held = kernel.registers("pixels", A_WORDS * WGMMA_STEPS * kernel.most_tiles, "uint32")
    apart = min(WGMMA_STEPS, run.count)
    again = node.weights.taps.size.const * product.depth > run.count
    for k in range(run.count):
        first = k % apart * mb * A_WORDS
        words = [[load(held, first + j * A_WORDS + i) for i in range(A_WORDS)] for j in range(mb)]
        if again or k >= apart:
            emit.ptx(_WAIT, _later(k, run.count, apart))
        for j in range(mb):
            emit.ptx(LOAD_MATRICES, *words[j], address(kernel.shared, run.pixels + k * K + load(run.rows, j)))
        emit.ptx(_FENCE)
        weights = _moved(run.weights, product.offset(k))
        _multiply(kernel, node, product, words, weights, k > 0 or run.begun)
        if again or run.count > apart or k == run.count - 1:
            emit.ptx(_COMMIT)


def _later(k: int, count: int, apart: int) -> int:
    """Groups of products closed after the one that last read the registers of step ``k``: those of ``k mod apart``."""
    before = [i for i in range(k - count, k) if i % count % apart == k % apart]
    return k - before[-1] - 1


def _from_registers(kernel: Kernel, node: Gemm, product: _Product) -> None:
    """Products of pixels that an EPILOGUE or a LOAD has left in registers; one tap."""
    tiles, steps = range(product.mine.mb), range(product.depth)
    pixels = [[chain.operand(kernel, node.source, product.mine, j, k) for j in tiles] for k in steps]
    for word in (word for step in pixels for tile in step for word in tile):
        settle(kernel, word)
    kernel.emit.ptx(_FENCE)
    for k in steps:
        weights = _moved(product.weights, product.offset(k))
        _multiply(kernel, node, product, pixels[k], weights, k > 0 or not product.fresh)
    kernel.emit.ptx(_COMMIT)


def _moved(descriptor: Expr, offset: int) -> Expr:
    """A descriptor of what lies further behind, by 16 bytes times ``offset``."""
    return descriptor + T.uint64(offset) if offset else descriptor


def _either(left: Expr, right: Expr) -> Expr:
    """Whether one of two conditions holds; Python bools fold."""
    if isinstance(left, bool):
        return True if left else right
    if isinstance(right, bool):
        return True if right else left
    return tirx.Or(left, right)


def _multiply(
    kernel: Kernel, node: Gemm, product: _Product, pixels: list[list[Expr]], weights: Expr, accumulate: Expr
) -> None:
    """The sums of all m64 tiles, for one k16 step; what was there counts where ``accumulate`` holds."""
    mine, channels = product.mine, product.channels
    name, sums = _TYPES[kernel.dtype], kernel.sums(node.acc)
    mnemonic = f"wgmma.mma_async.sync.aligned.m64n{channels}k16.f32.{name}.{name}"
    for j in range(mine.mb):
        for part in range(product.parts):
            first = ((mine.first + j) * mine.ni) * SUMS + part * channels // 2
            d = [load(sums, first + i) for i in range(channels // 2)]
            at = part * channels * product.width * 2 // 16
            kernel.emit.ptx(mnemonic, *d, *pixels[j], _moved(weights, at), T.ptx.pred(accumulate), 1, 1, 0)
