"""Where a program keeps parts of images."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum

from blockfuse.errors import InternalError
from blockfuse.machine.affine import Affine, Range
from blockfuse.machine.layout import Layout
from blockfuse.stages import ImageShape


class Level(StrEnum):
    """Where a tile lives."""

    GLOBAL = "global"  # memory all kernels see
    LOCAL = "local"  # shared memory of an SM; a cache-resident buffer of a core
    REGISTER = "register"


@dataclass(frozen=True)
class Region:
    """A box of an image."""

    rows: Range
    cols: Range
    channels: Range

    def __str__(self) -> str:
        return f"[{self.rows}, {self.cols}, {self.channels}]"


@dataclass(frozen=True)
class Stack:
    """Images that lie below each other in a higher one, with rows of zeros between two of them.

    Attributes:
        images: How many.
        period: Rows from the first row of an image to that of the next.
        height: Rows of one image.
    """

    images: int
    period: int
    height: int

    @property
    def rows(self) -> int:
        """Rows of all, without those behind the last one."""
        return (self.images - 1) * self.period + self.height


@dataclass(eq=False)
class Tile:
    """Storage for a part of one image value.

    Attributes:
        name: Unique within the program.
        level: Where it lives.
        image: Shape of the whole value.
        rows: Rows it can hold.
        cols: Columns it can hold.
        channels: Channels it can hold; more than its image has where a global tile is part of a wider image.
        pitch: Elements from one pixel to the next.
        top: Image row in its first row. A ring has no fixed one.
        left: Image column in its first column.
        first_channel: Image channel in its first channel.
        ring: Whether row ``h`` of the image is in row ``h mod rows`` of the tile.
        padded: Whether it holds zeros for pixels outside the image; otherwise such pixels are not held and read as 0.
        apart_h: See :class:`~blockfuse.machine.layout.Layout`.
        apart_w: See there.
        gap: See there.
        padding: See there.
        streamed: Whether it comes with every item of the weight stream, behind the weights in their slot.
        planar: Whether a global tile is stored channel by channel (N, C, H, W).
        copies: How many tiles of this shape lie behind each other, one per trip of the ``channel_split`` loop.
        shared: Whether the tasks of one phase write it and those of later phases read it.
        offset: First element in the arena, or -1 where the tile has storage of its own.
        stack: How several images in memory make ``image``; None where it is one.
        whole: Of a global tile that has every ``stride_h``-th row and ``stride_w``-th column of another: that one.
        stride_h: See ``whole``.
        stride_w: See ``whole``.
        within: Of a tile that is some of another one's channels: that one, which has the storage.
        origin: Channel of the image of ``within`` that is channel 0 of this tile's.
        views: Tiles within this one.
        dtype: Of the elements of a global tile, where it is not the program's; else "".
    """

    name: str
    level: Level
    image: ImageShape
    rows: int
    cols: int
    channels: int
    pitch: int
    top: Affine = field(default_factory=Affine)
    left: Affine = field(default_factory=Affine)
    first_channel: Affine = field(default_factory=Affine)
    ring: bool = False
    padded: bool = False
    apart_h: int = 1
    apart_w: int = 1
    gap: int = 0
    padding: int = 0
    streamed: bool = False
    planar: bool = False
    copies: int = 1
    shared: bool = False
    offset: int = -1
    stack: Stack | None = None
    whole: Tile | None = None
    stride_h: int = 1
    stride_w: int = 1
    dtype: str = ""
    within: Tile | None = None
    origin: int = 0
    views: list[Tile] = field(default_factory=list, repr=False)

    @property
    def owner(self) -> Tile:
        """The tile whose storage this one is in."""
        return self.within or self

    @property
    def memory(self) -> Tile:
        """The global tile that stands for the same array in memory, with all rows, columns and channels."""
        return self.whole or self.owner

    @property
    def height(self) -> int:
        """Rows of one image in memory."""
        return self.stack.height if self.stack else self.image.height

    @property
    def layout(self) -> Layout:
        """How its pixels lie in one copy."""
        return Layout(self.rows, self.cols, self.pitch, self.apart_h, self.apart_w, self.gap, self.padding)

    @property
    def size(self) -> int:
        """Elements of one copy."""
        return self.layout.size

    @property
    def is_global(self) -> bool:
        """Whether every kernel sees it."""
        return self.level is Level.GLOBAL

    @property
    def is_shared(self) -> bool:
        """Whether it outlives the tasks of a parallel loop."""
        return self.shared or self.copies > 1

    @property
    def is_placed(self) -> bool:
        """Whether it has a place of its own in the arena of a GPU program."""
        return self.level is Level.LOCAL and not self.streamed

    def __str__(self) -> str:
        return self.name


def global_tile(
    name: str, image: ImageShape, *, planar: bool = False, stack: Stack | None = None, dtype: str = ""
) -> Tile:
    """A kernel's input or output: the whole image in memory."""
    shape = (image.height, image.width, image.channels)
    return Tile(name, Level.GLOBAL, image, *shape, image.channels, planar=planar, stack=stack, dtype=dtype)


def every(tile: Tile, stride_h: int, stride_w: int) -> Tile:
    """The image of every ``stride_h``-th row and ``stride_w``-th column of a global tile."""
    height, width = (-(-tile.image.height // stride_h), -(-tile.image.width // stride_w))
    image = ImageShape(height, width, tile.image.channels)
    stack = tile.stack
    if stack is not None:
        stack = Stack(stack.images, stack.period // stride_h, -(-stack.height // stride_h))
    name = f"{tile.name}_every_{stride_h}x{stride_w}"
    view = global_tile(name, image, stack=stack)
    view.whole, view.stride_h, view.stride_w = tile, stride_h, stride_w
    return view


def channels_of(tile: Tile, name: str, first: int, channels: int) -> Tile:
    """The tile of some channels of an image, from ``first`` on, in the storage of the tile that holds all of it.

    Raises:
        InternalError: The image has no such channels, or the tile is planar.
    """
    if tile.planar or not 0 <= first <= tile.image.channels - channels:
        raise InternalError(f"tile {tile} of {tile.image} has no view of {channels} channels from {first} on")
    image = ImageShape(tile.image.height, tile.image.width, channels)
    view = replace(tile, name=name, image=image, within=tile.owner, origin=tile.origin + first, views=[])
    view.first_channel = tile.first_channel - first
    tile.owner.views.append(view)
    return view


@dataclass(frozen=True)
class Slot:
    """Where in memory an image lies whose channels are some of a wider one's: images side by side are concatenated.

    Attributes:
        first: Channel of the wider image that is the image's channel 0.
        width: Channels of the wider image.
    """

    first: int
    width: int

    def apply(self, tile: Tile) -> None:
        """Put a global tile in this place, with all tiles within it.

        Raises:
            InternalError: The tile is planar, or does not fit.
        """
        if not tile.is_global or tile.planar or not 0 <= self.first <= self.width - tile.image.channels:
            raise InternalError(f"tile {tile} of {tile.image} cannot lie at channel {self.first} of {self.width}")
        for each in (tile, *tile.views):
            each.channels = each.pitch = self.width
            each.first_channel = Affine(-self.first - each.origin)

    def __str__(self) -> str:
        return f"channels {self.first}.. of {self.width}"
