"""The cases of ``tests/emulated``, by name, for launches on a real GPU."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from blockfuse.block import Block
from tests.cuda_kernels import Built, build
from tests.emulated.test_cuda_kernels import SMALL
from tests.emulated.test_cuda_nvcc import CASES as REAL_SIZES
from tests.emulated.test_cuda_random import SMALL as LITTLE_MEMORY
from tests.random_blocks import random_block

Make = Callable[[], Built]

IN_BFLOAT16 = (0, 3, 5, 9, 12, 13)
FLOAT16_SEEDS, BFLOAT16_SEEDS = range(40), range(40, 50)
LITTLE_MEMORY_SEEDS = (400, 416, 417, 418, 443, 456, 458, 459, 469, 476)


def all_cases() -> dict[str, Make]:
    """Functions that build each case."""
    found: dict[str, Make] = {}
    for number, (block, tile) in enumerate(SMALL):
        found[f"small_{number:02}_{_word(block)}"] = functools.partial(build, block, tile)
    for number in IN_BFLOAT16:
        block, tile = SMALL[number]
        found[f"bfloat16_{number:02}_{_word(block)}"] = functools.partial(build, replace(block, dtype="bfloat16"), tile)
    for number, (block, tile, warps) in enumerate(REAL_SIZES):
        found[f"real_{number:02}_{_word(block)}"] = functools.partial(build, block, tile, warps)
    for seed in FLOAT16_SEEDS:
        found[f"random_{seed:03}"] = functools.partial(_random, seed, "float16")
    for seed in BFLOAT16_SEEDS:
        found[f"random_{seed:03}_bfloat16"] = functools.partial(_random, seed, "bfloat16")
    for seed in LITTLE_MEMORY_SEEDS:
        found[f"random_{seed:03}_little_memory"] = functools.partial(
            build, random_block(np.random.default_rng(seed), dtype="float16"), device=LITTLE_MEMORY
        )
    return found


def _random(seed: int, dtype: str) -> Built:
    return build(random_block(np.random.default_rng(seed), dtype=dtype))


def _word(block: Block) -> str:
    return re.sub(r"\W+", "_", block.name)
