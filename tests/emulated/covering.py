"""Blocks of every family at awkward sizes: a set in which every pair of choices occurs together at least once.

A greedy construction over shuffled candidates, seeded, so the set is the same on every machine.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from blockfuse.block import Block
from blockfuse.machine import Engine
from blockfuse.plan.fold import Folded, fold
from blockfuse.plan.split_pool import split_pool
from blockfuse.plan.stack import stacked
from blockfuse.stages import Conv, Grouped, Window
from tests.cuda_kernels import Built, build
from tests.residual_blocks import (
    basic,
    bottleneck,
    convfirst,
    convnext,
    custom,
    finished,
    fused_mbconv,
    gate_of,
    gated_project,
    hidden_image,
    mbconv,
    on_sums,
    pooled_sum,
    resnext,
    same,
    single,
    squeezed_project,
)

Chosen = TypeVar("Chosen")
Maker = Callable[[int, int, int, int], Block]
"""A block from height, width, channels, batch."""

TILE = (4, 6)
SIZES = {"divisible": (8, 12), "ragged": (7, 9), "smaller": (3, 4), "one_pixel": (1, 1)}
CHANNELS = (3, 16, 24, 40, 64, 112, 200)
BATCHES = (1, 3)
DTYPES = ("float16", "bfloat16")
ENGINES = tuple(Engine)
PARTS = ("one", "shares", "images")
"""What one CTA makes: a tile, a share of its channels where they divide, or a tile of two images where that may be."""

AXES = ("family", "size", "channels", "batch", "dtype", "engine", "parts")
_CANDIDATES = 60  # tried for every case that is added


def _inverted(r: int, stride: int, expansion: int, *, residual: bool) -> Maker:
    def make(h: int, w: int, c: int, n: int) -> Block:
        out = c if residual and stride == 1 else c + 8
        if expansion > 1:
            return mbconv(h, w, c, expansion * c, out, r, stride, n)
        block = mbconv(h, w, c, c, out, r, stride, n)
        stages = [replace(s, inputs=tuple(max(0, i - 2) for i in s.inputs)) for s in block.stages[2:]]
        return finished("mbconv1", block.inputs[0], stages, n)

    return make


def _dense(r: int, stride: int = 1) -> Maker:
    return lambda h, w, c, n: single(h, w, c, Conv(f"conv{r}x{r}_{stride}", (0,), 24, same(r, stride)), n)


def _parts(h: int, w: int, c: int, n: int, *, second: bool) -> Block:
    """One of the two kernels for a gate whose image is pooled in parts; the whole gate where there are no parts."""
    block = gate_of(h, w, c, _squeezed(c), n)
    pair = next(split_pool(block), (block, block))
    return replace(pair[second], name="gate").with_random_parameters(1)


def _pooled_groups(h: int, w: int, channels: int, n: int) -> Block:
    """A strided convolution of narrow groups, and the maxima of its tiles."""
    return replace(
        single(h, w, channels, Grouped("grouped", (0,), channels, channels // 8, same(3, 2)), n), pooled="max"
    )


def _squeezed(channels: int) -> int:
    return max(1, channels // 4)


def _grouped(width: int, channels: int) -> int:
    """A number of channels close to ``channels`` that has groups of ``width``."""
    return max(1, round(channels / width)) * width


_MBCONVS = tuple(
    itertools.product(enumerate((3, 5)), enumerate(((1, True), (1, False), (2, False))), enumerate((1, 3, 6)))
)


def _name(r: int, stride: int, residual: bool, e: int) -> str:
    return f"mbconv{r}x{r}_s{stride}_e{e}{'_add' if residual else ''}"


FAMILIES: dict[str, Maker] = {
    **{_name(r, *shape, e): _inverted(r, shape[0], e, residual=shape[1]) for (_, r), (_, shape), (_, e) in _MBCONVS},
    "basic": lambda h, w, c, n: basic(h, w, c, batch=n),
    "basic_stride2": lambda h, w, c, n: basic(h, w, c, 32, 2, n),
    "bottleneck": lambda h, w, c, n: bottleneck(h, w, c, 32, batch=n),
    "bottleneck_projection": lambda h, w, c, n: bottleneck(h, w, c, 24, c + 16, batch=n),
    "bottleneck_stride2": lambda h, w, c, n: bottleneck(h, w, c, 32, c + 16, 2, n),
    "convnext": lambda h, w, c, n: convnext(h, w, c, batch=n),
    "convfirst_g8": lambda h, w, c, n: convfirst(h, w, _grouped(8, c), 8, 4, n),
    "convfirst_g16": lambda h, w, c, n: convfirst(h, w, _grouped(16, c), 16, 4, n),
    "fused_mbconv": lambda h, w, c, n: fused_mbconv(h, w, c, 4 * min(c, 64), batch=n),
    "resnext_g4": lambda h, w, c, n: resnext(h, w, c, 32, 4, batch=n),
    "resnext_g8": lambda h, w, c, n: resnext(h, w, c, 40, 8, 2, n),
    "resnext_g32": lambda h, w, c, n: resnext(h, w, c, 64, 32, batch=n),
    "se_hidden": lambda h, w, c, n: hidden_image(h, w, c, 2 * c, n),
    "se_gate": lambda h, w, c, n: gate_of(h, w, c, _squeezed(c), n),
    "se_parts": lambda h, w, c, n: _parts(h, w, c, n, second=False),
    "se_gate_of_parts": lambda h, w, c, n: _parts(h, w, c, n, second=True),
    "se_project": lambda h, w, c, n: gated_project(h, w, c, 40, n),
    "se_gate_project": lambda h, w, c, n: squeezed_project(h, w, c, _squeezed(c), 24, n),
    "se_pooled": lambda h, w, c, n: replace(hidden_image(h, w, c, 2 * c, n), pooled="mean"),
    "se_pooled_sum": pooled_sum,
    "se_pooled_groups": lambda h, w, c, n: _pooled_groups(h, w, _grouped(8, c), n),
    "se_gate_of_sums": lambda h, w, c, n: on_sums(gate_of(h, w, c, _squeezed(c), n), TILE),
    "se_sums_project": lambda h, w, c, n: on_sums(squeezed_project(h, w, c, _squeezed(c), 24, n), (2, 3)),
    "stem7x7": _dense(7, 2),
    "stem3x3": _dense(3, 2),
    "single1x1": lambda h, w, c, n: single(h, w, c, Conv("conv1x1", (0,), 40, Window()), n),
    "single3x3": _dense(3),
    "single5x5": _dense(5),
    "custom": lambda h, w, c, n: custom(h, w, c, 24, n),
}


_LEFT_OUT = {_name(r, *shape, e) for (i, r), (j, shape), (k, e) in _MBCONVS if (i + j + k) % 2}
SOME = tuple(name for name in FAMILIES if name not in _LEFT_OUT)
"""All families but half of the MBConvs: every filter, shape and expansion of these still meets each of the others."""

WHOLE = ("se_gate_project",)
"""Families whose kernels have the whole image in a CTA."""


@dataclass(frozen=True)
class Case:
    """One choice of everything."""

    family: str
    size: str
    channels: int
    batch: int
    dtype: str
    engine: Engine
    parts: str

    @property
    def pairs(self) -> set[tuple[tuple[str, object], ...]]:
        """All pairs of its choices."""
        return set(itertools.combinations([(name, getattr(self, name)) for name in AXES], 2))

    def built(self) -> Built:
        """The kernel at the tile that the sizes are about; of a gate and what it gates, the whole image."""
        block = self.block()
        tile = SIZES[self.size] if self.family in WHOLE else TILE
        if self.parts == "images" and isinstance(stacked(fold(block), 2), Folded):
            if block.pooled:  # whole images, each reduced by itself: four warps may lack the registers
                return build(block, engine=self.engine, split=1, images=2)
            return build(block, tile, 4, engine=self.engine, split=1, images=2)
        split = 2 if self.parts == "shares" and can_share(block, 2) else 1
        return build(block, tile, 4, engine=self.engine, split=split, images=1)

    def block(self) -> Block:
        """The block, with parameters."""
        height, width = SIZES[self.size]
        block = FAMILIES[self.family](height, width, self.channels, self.batch)
        return replace(block, dtype=self.dtype, name=str(self))

    def __str__(self) -> str:
        choices = (self.family, self.size, self.channels, self.batch, self.dtype, self.engine, self.parts)
        return "_".join(map(str, choices))


def can_share(block: Block, split: int) -> bool:
    """Whether CTAs may share the channels of a block's result: whole m16n16 tiles of a contraction."""
    folded = fold(block)
    return folded.units[-1].kind == "contract" and -(-folded.shapes[-1].channels // 16) % split == 0


def covering_set(at_least: int, seed: int = 0, families: Sequence[str] = tuple(FAMILIES)) -> list[Case]:
    """Cases in which every pair of choices occurs; more than needed for that if fewer than ``at_least``."""
    rng = random.Random(seed)  # noqa: S311 - nothing secret
    axes: Sequence[Sequence[object]] = (families, tuple(SIZES), CHANNELS, BATCHES, DTYPES, ENGINES, PARTS)
    missing = {pair for a, b in itertools.combinations(range(len(axes)), 2) for pair in _pairs(axes, a, b)}
    chosen: list[Case] = []
    while missing or len(chosen) < at_least:
        candidates = [Case(*(rng.choice(axis) for axis in axes)) for _ in range(_CANDIDATES)]  # type: ignore[arg-type]
        best = max(candidates, key=lambda case: len(case.pairs & missing))
        if best.pairs & missing or not missing:
            chosen.append(best)
            missing -= best.pairs
    return chosen


def product() -> list[Case]:
    """Every combination of choices; the parts a CTA makes alternate."""
    axes = (tuple(FAMILIES), tuple(SIZES), CHANNELS, BATCHES, DTYPES, ENGINES)
    return [Case(*choice, PARTS[number % len(PARTS)]) for number, choice in enumerate(itertools.product(*axes))]


def _pairs(axes: Sequence[Sequence[object]], a: int, b: int) -> set[tuple[tuple[str, object], ...]]:
    return {((AXES[a], x), (AXES[b], y)) for x in axes[a] for y in axes[b]}


def sliced(cases: Sequence[Chosen], part: str) -> list[Chosen]:
    """Every n-th case from the k-th on, where ``part`` is ``k/n`` with k from 1 to n; all where it is empty."""
    if not part:
        return list(cases)
    first, step = (int(number) for number in part.split("/"))
    if not 1 <= first <= step:
        raise ValueError(f"slice {part}: k/n with k from 1 to n was expected")
    return list(cases[first - 1 :: step])
