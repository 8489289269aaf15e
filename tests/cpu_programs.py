"""Programs written by hand: sentences that plans make seldom or never, each with the block it computes."""

from __future__ import annotations

from blockfuse.block import Block
from blockfuse.machine import (
    Accumulate,
    Accumulators,
    Apply,
    Bias,
    Depthwise,
    Epilogue,
    Gemm,
    Level,
    Load,
    Loop,
    LoopKind,
    Node,
    Pixels,
    Program,
    Reduce,
    ReduceAcross,
    Region,
    Tile,
    WeightSlice,
    Zero,
    global_tile,
)
from blockfuse.machine.affine import Affine, Range, clip, first, span, var
from blockfuse.stages import Activation, Conv, Function, ImageShape, Pool, Window
from blockfuse.stages import Depthwise as DepthwiseStage

RELU = Function("relu")
PAD1 = Window(3, 3, pad_top=1, pad_left=1, pad_bottom=1, pad_right=1)


def whole(shape: ImageShape, rows: Range | None = None, channels: Range | None = None) -> Region:
    """All columns, and all rows and channels unless given."""
    return Region(rows or span(0, shape.height), span(0, shape.width), channels or span(0, shape.channels))


def local(name: str, shape: ImageShape) -> Tile:
    """A tile that holds a whole image."""
    return Tile(name, Level.LOCAL, shape, shape.height, shape.width, shape.channels, shape.channels)


def program(block: Block, name: str, body: list[Node], *tiles: Tile, x: Tile, y: Tile, lanes: int = 16) -> Program:
    """A CPU program around nodes."""
    return Program(name, "cpu", block.batch, (x,), y, tiles, block.parameter_shapes(), body, lanes=lanes)


def conv_block(shape: ImageShape, channels: int, window: Window, batch: int = 1) -> Block:
    """A convolution and a ReLU."""
    stages = (Conv("conv", (0,), channels, window), Activation("relu", (1,), RELU))
    return Block((shape,), stages, batch=batch).with_random_parameters(1)


def weights(block: Block, stage: int = 0, taps: Range | None = None, inputs: Range | None = None,
            outputs: Range | None = None) -> WeightSlice:  # fmt: skip
    """A slice of a stage's filter; all of it by default."""
    k, c, r, s = block.parameter_shapes()[stage, "weight"]
    return WeightSlice((stage, "weight"), taps or span(0, r * s), inputs or span(0, c), outputs or span(0, k))


END = (Bias(((0, "bias"),)), Apply(RELU))


def padded_ring() -> tuple[Block, Program]:
    """A planar input is loaded into a ring of rows that holds its padding; rows per step do not divide the height."""
    block = conv_block(ImageShape(10, 9, 3), 20, PAD1)
    x, y = global_tile("x", block.inputs[0], planar=True), global_tile("y", block.output)
    ring = Tile("ring", Level.LOCAL, block.inputs[0], 6, 11, 3, 3, left=Affine(-1), ring=True, padded=True)
    step = var("step") * 4
    end = clip(step + 4, 0, 10)
    load = Load(x, ring, Region(Range(first("step", Affine(-1), step + 1), end + 1), span(-1, 11), span(0, 3)))
    region = whole(block.output, Range(step, end))
    acc = Accumulators("acc", region)
    pixels = Pixels(region, 4, 2, [Zero(acc), Gemm(acc, ring, weights(block), PAD1), Epilogue(acc, y, END)])
    body = [Loop("step", 3, LoopKind.ROWS, [load, pixels])]
    return block, program(block, "padded_ring", body, ring, x=x, y=y)


def input_slices() -> tuple[Block, Program]:
    """The input channels are summed slice by slice into a tile; its one copy is then finished."""
    block = conv_block(ImageShape(5, 6, 24), 40, PAD1, batch=2)
    x, y = global_tile("x", block.inputs[0]), global_tile("y", block.output)
    sums, region = local("sums", block.output), whole(block.output)
    acc = Accumulators("acc", region)
    part = weights(block, inputs=span(var("slice") * 8, 8))
    pixels = Pixels(region, 6, 3, [Zero(acc), Gemm(acc, x, part, PAD1), Epilogue(acc, sums, (Accumulate(),))])
    slices: list[Node] = [Zero(sums), Loop("slice", 3, LoopKind.SLICE, [pixels]), ReduceAcross(sums, y, region, END)]
    return block, program(block, "input_slices", [Loop("image", 2, LoopKind.IMAGE, slices)], sums, x=x, y=y)


def filter_row_loop() -> tuple[Block, Program]:
    """A loop over filter rows, and panels of output channels around it."""
    block = conv_block(ImageShape(6, 7, 5), 32, Window(3, 3, 1, 1, 2, 2, 2, 2, 0, 2))
    x, y = global_tile("x", block.inputs[0]), global_tile("y", block.output)
    panel = span(var("panel") * 16, 16)
    region = whole(block.output, channels=panel)
    acc = Accumulators("acc", region)
    part = weights(block, taps=span(var("slice") * 3, 3), outputs=panel)
    window = block.stages[0].window
    pixels = Pixels(region, 7, 1, [Zero(acc), Gemm(acc, x, part, window, True), Epilogue(acc, y, (Accumulate(),))])
    finish = Accumulators("finish", region)
    last = Pixels(region, 7, 1, [Zero(finish), Epilogue(finish, y, (Accumulate(), *END))])
    inner: list[Node] = [Zero(y, region), Loop("slice", 3, LoopKind.SLICE, [pixels]), last]
    return block, program(block, "filter_row_loop", [Loop("panel", 2, LoopKind.CHUNK, inner)], x=x, y=y)


def planar_source() -> tuple[Block, Program]:
    """A GEMM that reads a planar input as it is, with vectors of eight."""
    block = conv_block(ImageShape(7, 5, 20), 24, PAD1)
    x, y = global_tile("x", block.inputs[0], planar=True), global_tile("y", block.output)
    region = whole(block.output)
    acc = Accumulators("acc", region)
    pixels = Pixels(region, 3, 2, [Zero(acc), Gemm(acc, x, weights(block), PAD1), Epilogue(acc, y, END)])
    return block, program(block, "planar_source", [pixels], x=x, y=y, lanes=8)


def channel_chunks() -> tuple[Block, Program]:
    """Expand and depthwise by chunks of the channels; the inner tile holds one chunk and zeros around it."""
    shape = ImageShape(6, 6, 8)
    stages = (
        Conv("expand", (0,), 48, Window()),
        Activation("relu", (1,), RELU),
        DepthwiseStage("dw", (2,), PAD1),
        Activation("relu", (3,), RELU),
    )
    block = Block((shape,), stages).with_random_parameters(2)
    x, y = global_tile("x", shape), global_tile("y", block.output)
    low = var("chunk") * 24
    chunk = span(low, 24)
    one = Affine(-1)
    inner = Tile("inner", Level.LOCAL, ImageShape(6, 6, 48), 8, 8, 24, 24, one, one, low, padded=True)
    region = whole(inner.image, channels=chunk)
    acc = Accumulators("acc", region)
    expand = Pixels(
        region, 6, 2, [Zero(acc), Gemm(acc, x, weights(block, outputs=chunk), Window()), Epilogue(acc, inner, END)]
    )
    steps = (Bias(((2, "bias"),)), Apply(RELU))
    sweep = Depthwise(inner, y, weights(block, 2, outputs=chunk), PAD1, region, steps, 6)
    body: list[Node] = [Loop("chunk", 2, LoopKind.CHUNK, [Zero(inner), expand, sweep])]
    return block, program(block, "channel_chunks", body, inner, x=x, y=y)


def two_phases() -> tuple[Block, Program]:
    """Per image two parallel phases over bands, with a tile that outlives the first; the second one pools."""
    shape = ImageShape(8, 5, 6)
    pool = Window(8, 5)
    stages = (Conv("conv", (0,), 20, PAD1), Activation("relu", (1,), RELU), Pool("pool", (2,), "mean", pool))
    block = Block((shape,), stages, batch=3).with_random_parameters(3)
    x, y = global_tile("x", shape), global_tile("y", block.output)
    middle = local("middle", ImageShape(8, 5, 20))
    middle.shared = True
    region = whole(middle.image, span(var("band") * 4, 4))
    acc = Accumulators("acc", region)
    pixels = Pixels(region, 5, 2, [Zero(acc), Gemm(acc, x, weights(block), PAD1), Epilogue(acc, middle, END)])
    share = span(var("share") * 10, 10)
    gather = Reduce(middle, y, "mean", pool, whole(block.output, channels=share), (), 1)
    phases: list[Node] = [Loop("band", 2, LoopKind.BAND, [pixels]), Loop("share", 2, LoopKind.CHANNEL_SPLIT, [gather])]
    return block, program(block, "two_phases", [Loop("image", 3, LoopKind.IMAGE, phases)], middle, x=x, y=y)


PROGRAMS = (padded_ring, input_slices, filter_row_loop, planar_source, channel_chunks, two_phases)
