"""Several images in one CTA: images lie below each other in one higher image, with rows of zeros between them.

Every value of a block becomes such a stack. Rows between images serve as the padding of both neighbours, so that
convolutions need not know; only what moves pixels from and to memory, and what clears rows outside images, does.
Small images fill m16 tiles better this way, and share the stream of weights.
"""

from __future__ import annotations

from dataclasses import replace

from blockfuse.errors import InternalError
from blockfuse.machine import Stack
from blockfuse.plan.infeasible import Impossible
from blockfuse.plan.units import Folded, Term, Unit
from blockfuse.stages import ImageShape

_MOST_ROWS = 8  # between two images of the result


def stacked(folded: Folded, images: int) -> Folded | Impossible:
    """The block over stacks of images.

    Args:
        folded: The block over single images.
        images: Images of a stack.

    Returns:
        The same units over higher images, for fewer of them; or why images cannot lie below each other.
    """
    if images == 1:
        return folded
    if images not in folded.over_images:
        folded.over_images[images] = _stacked(folded, images)
    found: Folded | Impossible = folded.over_images[images]
    return found


def _stacked(folded: Folded, images: int) -> Folded | Impossible:
    if folded.block.any_batch:
        return Impossible("the number of images is not known")
    steps = _row_steps(folded)
    if isinstance(steps, Impossible):
        return steps
    heights, out = [shape.height for shape in folded.shapes], folded.shapes[-1].height
    for between in range(_MOST_ROWS + 1):
        periods = [(out + between) * step for step in steps]
        if _has_room(folded, heights, periods):
            return _with_stacks(folded, images, periods)
    return Impossible(f"a window reads more than {_MOST_ROWS} rows around an image")


def over_stacks(folded: Folded, images: int) -> Folded:
    """The same for a plan, which is made for images that can lie below each other.

    Raises:
        InternalError: They cannot.
    """
    found = stacked(folded, images)
    if isinstance(found, Impossible):
        raise InternalError(f"block {folded.block.name}: {images} images in one: {found}")
    return found


def _row_steps(folded: Folded) -> list[int] | Impossible:
    """Rows of every value per row of the result, or why that has no answer."""
    steps = [0] * len(folded.shapes)
    steps[-1] = 1
    for index in reversed(range(len(folded.units))):
        unit, step = folded.units[index], steps[folded.value(index)]
        if unit.kind == "pool":
            return Impossible(f"{unit.name} counts the pixels of one image")
        if unit.kind == "border":
            return Impossible(f"{unit.name} frames one image")
        reads = [(term.source, step * term.window.stride_h) for term in unit.terms]
        for value, wanted in (*reads, *((value, step) for value in unit.added)):
            if unit.is_gate(value, folded.shapes[value]):
                return Impossible(f"{unit.name} has a factor per image")
            if steps[value] not in {0, wanted}:
                return Impossible(f"two paths move over value {value} at different steps")
            steps[value] = wanted
    return steps


def _has_room(folded: Folded, heights: list[int], periods: list[int]) -> bool:
    """Whether the rows between images of every value are as many as its readers need zeros."""
    reads = [(folded.value(i), term) for i, unit in enumerate(folded.units) for term in unit.terms]
    if any(period < height for period, height in zip(periods, heights, strict=True)):
        return False
    return all(periods[term.source] - heights[term.source] >= _zeros(term, heights, made) for made, term in reads)


def _zeros(term: Term, heights: list[int], made: int) -> int:
    """Rows of zeros that a term reads above or below an image, whichever are more."""
    window = term.window
    below = (heights[made] - 1) * window.stride_h + window.extent_h - window.pad_top - heights[term.source]
    return max(window.pad_top, below)


def _with_stacks(folded: Folded, images: int, periods: list[int]) -> Folded:
    stacks = [Stack(images, period, shape.height) for period, shape in zip(periods, folded.shapes, strict=True)]

    def image(value: int) -> ImageShape:
        return replace(folded.shapes[value], height=stacks[value].rows)

    def unit(index: int) -> Unit:
        return replace(folded.units[index], shape=image(folded.value(index)))

    inputs = tuple(image(value) for value in range(folded.input_count))
    block = replace(folded.block, inputs=inputs, batch=-(-folded.block.batch // images))
    return Folded(block, tuple(unit(i) for i in range(len(folded.units))), tuple(stacks))
