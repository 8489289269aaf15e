"""The block types known by name: one function each, in files by family.

A new one is a function with ``@pattern`` in such a file and its name in :func:`all`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from blockfuse.frontend.patterns.chains import inception_branch, repvgg_chain
from blockfuse.frontend.patterns.convfirst import convfirst_block, convnext_block
from blockfuse.frontend.patterns.dense import darknet_block, dense_layer, preactivation_basic_block
from blockfuse.frontend.patterns.inverted import (
    depthwise_separable,
    fused_inverted_residual,
    inverted_residual,
    shuffle_unit,
)
from blockfuse.frontend.patterns.joined import (
    fire_module,
    ghost_bottleneck,
    inception_next_block,
    res2net_bottleneck,
)
from blockfuse.frontend.patterns.mixed import mixed_inverted_residual, mlp_block, pool_mixer, rexnet_block
from blockfuse.frontend.patterns.residual import (
    basic_block,
    bottleneck,
    grouped_bottleneck,
    normalizer_free_bottleneck,
    preactivation_bottleneck,
)
from blockfuse.frontend.patterns.separable import convmixer_block, xception_block

if TYPE_CHECKING:
    from blockfuse.pattern import Pattern

__all__ = [
    "all",
    "basic_block",
    "bottleneck",
    "convfirst_block",
    "convmixer_block",
    "convnext_block",
    "darknet_block",
    "dense_layer",
    "depthwise_separable",
    "fire_module",
    "fused_inverted_residual",
    "ghost_bottleneck",
    "grouped_bottleneck",
    "inception_branch",
    "inception_next_block",
    "inverted_residual",
    "mixed_inverted_residual",
    "mlp_block",
    "normalizer_free_bottleneck",
    "pool_mixer",
    "preactivation_basic_block",
    "preactivation_bottleneck",
    "repvgg_chain",
    "res2net_bottleneck",
    "rexnet_block",
    "shuffle_unit",
    "xception_block",
]


def all() -> tuple[Pattern, ...]:  # noqa: A001 - read as bf.patterns.all()
    """Every built-in pattern, in order of preference."""
    return (
        ghost_bottleneck,
        fire_module,
        res2net_bottleneck,
        inception_next_block,
        mixed_inverted_residual,
        rexnet_block,
        preactivation_bottleneck,
        preactivation_basic_block,
        normalizer_free_bottleneck,
        xception_block,
        convmixer_block,
        dense_layer,
        bottleneck,
        grouped_bottleneck,
        basic_block,
        darknet_block,
        convnext_block,
        depthwise_separable,
        inverted_residual,
        convfirst_block,
        shuffle_unit,
        fused_inverted_residual,
        pool_mixer,
        mlp_block,
        inception_branch,
        repvgg_chain,
    )
