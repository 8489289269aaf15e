"""PIXELS: the loop nest around the micro-kernel, with ZERO and EPILOGUE.

for panel of output channels:              some vectors; their weights stay in the cache, pixels stream past
  for row:
    for tile of columns:                   tiles with the same taps inside the image share one loop
      sums[pixel][vector] = 0 or bias      one register each
      GEMM ...                             gemm.py
      target = steps(sums)                 epilogue.py
"""

from __future__ import annotations

from blockfuse.errors import InternalError
from blockfuse.machine import Bias, Epilogue, EpilogueStep, Gemm, Pixels, Zero
from blockfuse.schedules.cpu.context import Kernel
from blockfuse.schedules.cpu.epilogue import Finish, constants
from blockfuse.schedules.cpu.gemm import Piece, Term
from blockfuse.schedules.cpu.vectors import panels, runs
from blockfuse.schedules.cpu.window import ColumnTile, column_tiles
from blockfuse.schedules.emit import Index, constant, load


def lower_pixels(kernel: Kernel, node: Pixels) -> None:
    """Emit all pieces of a region."""
    emitter = kernel.emitter
    first, count = kernel.channels(node.region.channels)
    rows = kernel.bounds(node.region.rows)
    sums = _Sums(kernel, node)
    tiles = column_tiles(*kernel.columns(node.region.cols), node.pixels)
    tile_runs = runs(tiles, lambda tile: (tile.width, sums.taps(tile)))
    pieces = len(tiles) * rows[1] if isinstance(rows[1], int) else 0
    for panel, panel_count in runs(panels(count, kernel.lanes, node.vectors), lambda panel: panel.widths):
        with emitter.loop(panel_count, "panel") as i:
            before = emitter.bind("before", panel.first + i * panel.size)
            with kernel.rows(rows) as h:
                sums.enter_row(h)
                for tile, tile_count in tile_runs:
                    with emitter.loop(tile_count, "tile") as t:
                        number = (h - rows[0]) * len(tiles) + tile.number + t
                        column = tile.first + t * tile.width
                        sums.emit(Piece(tile, h, column, panel, first + before, before, number, pieces))


class _Sums:
    """The instructions inside a PIXELS node."""

    def __init__(self, kernel: Kernel, node: Pixels) -> None:
        self._kernel = kernel
        self._body = node.body
        self._start = _starting_bias(node)
        self._terms = {gemm: Term(kernel, gemm, node.region) for gemm in node.body if isinstance(gemm, Gemm)}
        self._ends = {
            end: Finish(kernel, end.target, _remaining(end, self._start))
            for end in node.body
            if isinstance(end, Epilogue)
        }

    def taps(self, tile: ColumnTile) -> tuple[tuple[tuple[int, ...], ...], ...]:
        """What makes the code of a tile: the taps of each term inside the image."""
        return tuple(term.taps(tile) for term in self._terms.values())

    def enter_row(self, h: Index) -> None:
        """Compute once what all pieces of an output row need."""
        for term in self._terms.values():
            term.enter_row(h)
        for end in self._ends.values():
            end.enter_row(h)

    def emit(self, piece: Piece) -> None:
        """Emit the instructions for one piece, in order."""
        for instruction in self._body:
            match instruction:
                case Zero():
                    self._zero(piece)
                case Gemm():
                    self._terms[instruction].emit(piece)
                case Epilogue():
                    self._finish(self._ends[instruction], piece)
                case _:
                    raise InternalError(f"{instruction} is not for a pixels loop")

    def _zero(self, piece: Piece) -> None:
        for register, _, lane, width in piece.sums(self._kernel.registers):
            start = constant(0.0, width)
            if self._start is not None:
                start = constants(self._kernel, self._start.keys, piece.channel + lane, width)
            self._kernel.emitter.store(register, 0, start, width)

    def _finish(self, end: Finish, piece: Piece) -> None:
        for register, p, lane, width in piece.sums(self._kernel.registers):
            end.store(load(register, 0, width), piece.column + p, piece.channel + lane, width)


def _starting_bias(node: Pixels) -> Bias | None:
    """The bias that sums can start from: the first step of the only epilogue, where a ZERO stands before the sums."""
    ends = [instruction for instruction in node.body if isinstance(instruction, Epilogue)]
    zeros = [instruction for instruction in node.body if isinstance(instruction, Zero)]
    if len(ends) != 1 or zeros != node.body[:1] or not ends[0].steps:
        return None
    step = ends[0].steps[0]
    return step if isinstance(step, Bias) else None


def _remaining(end: Epilogue, start: Bias | None) -> tuple[EpilogueStep, ...]:
    """Steps still to be applied when the sums have started from ``start``."""
    return end.steps if start is None else end.steps[1:]
