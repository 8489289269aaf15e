"""Canonical form: the many ways exporters write a layer become one.

Later stages rely on this form; :func:`check_canonical` checks it. Kinds and attributes are those of ONNX opset 20
(``Swish``, which came later, and the bounds of ``Clip``, which are attributes here, aside). ``[..]`` are shapes.

=====================  =====================================  ==========================================================
kind                   inputs                                 attributes
=====================  =====================================  ==========================================================
Conv                   x, W const [K, C/g, R, S], b const     kernel_shape, strides, pads (h_begin, w_begin, h_end,
                       [K], always there                      w_end), dilations, group
Gemm                   x [N, C], W const [K, C], b const [K]  transB=1; a Flatten before it is of 1x1 images
Relu, Swish,           x                                      none
HardSwish, Sigmoid
Clip                   x                                      min, max: floats, infinite where there is no bound
HardSigmoid            x                                      alpha, beta
Gelu                   x                                      approximate: "none" or "tanh"
Add, Mul               two                                    none
GlobalAveragePool      x                                      none; the result is [N, C, 1, 1]
MaxPool                x                                      kernel_shape, strides, pads, dilations, ceil_mode
AveragePool            x                                      as MaxPool, and count_include_pad
BatchNormalization     x, scale, shift, mean, variance        epsilon; none directly after a convolution
LayerNormalization     x [N, C, ..], scale const [C], shift   axes=(1,), epsilon: each pixel over its channels
                       const [C]
MeanNormalization      x [N, C, H, W], scale const [C],       axes=(1,), epsilon: x / (mean + epsilon) * scale +
                       shift const [C]                        shift, with the mean of each pixel over its channels
LayerNormalization     x [.., D], scale const [D], shift      axis=-1, epsilon, stash_type: over the last of three axes
                       const [D]                              or more
Flatten                x of rank 3 or more                    axis=1: [N, ...] to [N, rest]
Reshape                x, const shape without 0 and -1        allowzero=0; for every other change of shape
=====================  =====================================  ==========================================================

* Windows are explicit, ``auto_pad`` is resolved. ``ceil_mode`` is 0 unless the last window averages over padding that
  it must not count, or lies in the padding altogether.
* Gone: Identity (but from a graph input or output to a graph output), Dropout, Sum, Squeeze, Unsqueeze, no-op casts,
  pads and slices, BatchNormalization, constant scale and constant pad next to a Conv.
* What normalizes or activates concatenated convolutions does so before they are concatenated. A Split of the channels
  of images is Slices.
* A ConvTranspose of images with constant filters and equal strides is a Conv, a DepthToSpace and a Slice.
* Images have their channels at axis 1. Transposes to channels-last stand below all ops on elements and on the channels
  of a pixel, where most meet their inverse and are gone; a MatMul over the channels is a 1x1 Conv. LayerNormalization
  has the attribute ``axes`` here, which ONNX's lacks: ONNX's ``axis`` means all axes from there on.
* All is float32; where an input or output is of half precision, a Cast stands next to it.
* Other kinds stay as they are. Names of graph inputs and outputs never change. ``Op.origin`` names the nodes of the
  model an op came from.
"""

from __future__ import annotations

from blockfuse.errors import InternalError
from blockfuse.frontend.canonical import (
    channels_last,
    clips,
    conv,
    forms,
    gates,
    groups,
    joins,
    linear,
    noise,
    norms,
    parallel,
    pixels,
    pooling,
    powers,
    quantized,
    response,
    shapes,
    shuffle,
    sums,
    transposed,
)
from blockfuse.frontend.canonical.check import check_canonical, refuse_uncanonical
from blockfuse.frontend.canonical.rewriting import Rewrite
from blockfuse.frontend.precision import is_half, widened
from blockfuse.graph import Graph

__all__ = ["LAST_REWRITES", "REWRITES", "canonicalize", "check_canonical"]

_SPELLING = (
    quantized.dequantized_conv,
    quantized.dequantized_matmul,
    quantized.float_conv,
    forms.axes_as_input,
    forms.pads_as_input,
    forms.bounds_as_input,
    forms.plain_batch_normalization,
    forms.plain_resize,
    forms.sizes_of_scales,
    forms.plain_group_normalization,
)

_ACTIVATIONS = (
    clips.clip_of_extremum,
    clips.explicit_clip,
    clips.merge_clips,
    gates.plain_swish,
    gates.explicit_hard_sigmoid,
    gates.swish,
    gates.mish,
    gates.hard_swish,
    gates.hard_sigmoid,
    gates.gelu,
    clips.relu_of_clip,
)

REWRITES = (
    *_SPELLING,
    # what changes nothing
    noise.drop_identity,
    noise.drop_dropout,
    noise.drop_cast,
    noise.drop_same_shape,
    noise.drop_single,
    noise.drop_transpose,
    # normalizations; before the means in them become pools
    norms.layer_normalization,
    norms.plain_layer_normalization,
    norms.fold_norm_constant,
    response.length_over_image,
    response.mean_normalization,
    response.response_gate,
    groups.group_normalization,
    groups.fold_group_constant,
    # shapes and heads
    shapes.gather_of_everything,
    shuffle.channel_shuffle,
    shuffle.split_of_shuffle,
    shuffle.slice_of_shuffle,
    shapes.plain_reshape,
    shapes.drop_expand,
    pooling.explicit_pool,
    pooling.fold_pad_into_pool,
    pooling.global_average_pool,
    pooling.mean_over_image,
    linear.plain_gemm,
    linear.matmul_of_gemm,
    linear.gemm_of_matmul,
    linear.fold_vector,
    pixels.raise_pixels,
    # convolutions
    sums.add_of_sum,
    conv.explicit_conv,
    conv.fold_pad,
    conv.fold_batch_normalization,
    conv.fold_channel_constant,
    transposed.explicit_transposed,
    transposed.fold_into_transposed,
    parallel.merge_normalized_image,
    parallel.merge_parallel_convs,
    *_ACTIVATIONS,
    # images with channels last; after the activations in them are one op each
    channels_last.merge_transposes,
    channels_last.sink_transposes,
    channels_last.flat_image_last,
)
"""All rewrites but the last, in order."""

LAST_REWRITES = (
    pixels.conv_of_flat_image,
    pooling.conv_of_padded_mean,
    transposed.conv_of_transposed,
    powers.plain_power,
    sums.add_of_difference,
    joins.slices_of_split,
    joins.conv_of_parts,
    joins.partial_shortcut,
    joins.finish_before_concat,
)
"""Those that must see images as they will stay, not with axes that are still to move."""

_MAX_ROUNDS = 100


def canonicalize(graph: Graph) -> Graph:
    """Bring a graph to canonical form; the given graph is not changed.

    Raises:
        UnsupportedModelError: An op has no canonical form, such as a convolution whose filter is computed.
    """
    if is_half(graph):  # constants such as the square root of 2 are recognised by the type they were rounded to
        graph = widened(_settled(graph, (*_SPELLING, *_ACTIVATIONS)))
    for rewrites in (REWRITES, (*REWRITES, *LAST_REWRITES)):
        graph = _settled(graph, rewrites)
    refuse_uncanonical(graph)
    return graph


def _settled(graph: Graph, rewrites: tuple[Rewrite, ...]) -> Graph:
    """The graph after as many rounds of rewrites as change it."""
    for _ in range(_MAX_ROUNDS):
        before = graph
        for rewrite in rewrites:
            graph = rewrite(graph)
        if graph is before:
            return graph
    raise InternalError(f"the rewrites of graph {graph.name!r} do not come to an end")
