"""EPILOGUE: sums in registers -> steps -> tile in shared memory, or in registers.

::

    for n8 in this warp's channels:          constants of two channels
      for j in mb, half in 2:                one pixel per lane: row l / 4 of each half of the m16 tile
        target[pixel, n, n+1] = steps(acc[j, n8, half])
"""

from __future__ import annotations

from blockfuse.machine import Epilogue, Level
from blockfuse.schedules.cuda import chain
from blockfuse.schedules.cuda.finish import load_constants
from blockfuse.schedules.cuda.kernel import Kernel
from blockfuse.schedules.cuda.results import Results, pixels_of, store_pair
from blockfuse.schedules.cuda.warps import share
from blockfuse.schedules.emit import remainder


def lower(kernel: Kernel, node: Epilogue) -> None:
    """Emit the loop over this warp's channels."""
    if node.target.level is Level.REGISTER:
        chain.lower(kernel, node)
        return
    emit, mine, sums = kernel.emit, share(kernel, node.acc), kernel.sums(node.acc)
    results = Results(node.acc.region, node.target, node.steps)
    pixels = pixels_of(kernel, results, mine)
    with emit.loop(2 * mine.ni, "n", "unrolled") as n:
        channel = (mine.col * (2 * mine.ni) + n) * 8 + remainder(kernel.lane, 4) * 2
        constants = load_constants(kernel, node.steps, results.region.channels.low, channel, 2)
        for pixel in pixels:
            first = ((mine.first + pixel.j) * (2 * mine.ni) + n) * 4 + pixel.half * 2
            with emit.when(pixel.exists):
                store_pair(kernel, results, pixel, sums, first, channel, constants)
