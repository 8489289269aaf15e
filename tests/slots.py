"""Images that lie among the channels of wider ones, as kernels read and write concatenated images."""

from __future__ import annotations

import numpy as np

from blockfuse.machine import Program, Slot, Tile
from blockfuse.stages import Array


def into_slots(program: Program, rng: np.random.Generator, step: int = 1) -> Program:
    """The same program, with its output and some of its inputs among the channels of wider images.

    Args:
        program: Is changed.
        rng: Draws the slots.
        step: What first channels and widths are multiples of.
    """
    for tile in (*program.inputs, program.output):
        if not tile.planar and (tile is program.output or rng.random() < 0.7):
            first, rest = (step * int(rng.integers(0, 20)) for _ in range(2))
            Slot(first, first + -(-tile.image.channels // step) * step + rest).apply(tile)
    return program


def in_slot(tile: Tile, image: Array) -> Array:
    """The wider N, H, W, C array in which a global tile's image lies; NaN all around it."""
    wide = np.full((*image.shape[:3], tile.channels), np.nan, image.dtype)
    wide[..., _channels(tile)] = image
    return wide


def out_of_slot(tile: Tile, wide: Array) -> Array:
    """A global tile's image out of the wider array, which must be NaN all around it as before."""
    around = np.delete(wide, _channels(tile), axis=3)
    assert np.isnan(around.astype(np.float32)).all(), f"{tile} was written outside its channels"
    return wide[..., _channels(tile)]


def _channels(tile: Tile) -> slice:
    first = -tile.first_channel.const
    return slice(first, first + tile.image.channels)
