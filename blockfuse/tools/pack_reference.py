"""What a packed network is to give on the machine it is for: inputs, outputs, and how far off those may be."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from blockfuse.errors import BlockfuseError, ModelError, TargetError
from blockfuse.runtime.executable import Executable
from blockfuse.runtime.library import Library
from blockfuse.runtime.seeded import Recipe, make_input, make_weights, recipe_of
from blockfuse.runtime.variants import Variant
from blockfuse.verification.compare import tolerance
from blockfuse.verification.verify import reference_session

if TYPE_CHECKING:
    from blockfuse.frontend.reading import Model

Arrays = Mapping[str, np.ndarray[Any, Any]]

SEED = 0
_SCALES = [2.0**-power for power in range(9)]


@dataclass(frozen=True)
class Reference:
    """What inputs give (nothing where that is not known), and a remark on it."""

    outputs: Arrays
    note: str


def inputs_of(library: Library) -> Arrays:
    """Seeded values for every input."""
    ports = enumerate(library.inputs)
    return {port.name: make_input(port.shape, port.dtype, (SEED, index)) for index, port in ports}


def reference_of(variants: Sequence[Variant], inputs: Arrays, model: Model | None) -> Reference:
    """What a network gives here, or ONNX Runtime makes of its model where it does not run here."""
    reference = _run(variants, inputs)
    if reference.note and model is not None:
        outputs = _model_outputs(model, variants[0].library, inputs)
        return Reference(outputs, f"by ONNX Runtime, as {reference.note}")
    return reference


def with_seeded_weights(variant: Variant, inputs: Arrays) -> tuple[Variant, Recipe, Reference]:
    """A network with random weights, as wide as its own, or as much narrower as its outputs need to be finite.

    Every variant lays out its weights in its own way, so random ones make it a network of its own.
    """
    library = variant.library
    for scale in _SCALES:
        recipe = recipe_of(library, scale=scale)
        weights = make_weights(recipe, library.constants, library.weights.nbytes)
        seeded = replace(variant, library=replace(library, weights=weights))
        reference = _run([seeded], inputs)
        if all(np.isfinite(array).all() for array in reference.outputs.values()):
            return seeded, recipe, reference
    raise BlockfuseError(f"{library.name} gives no finite outputs with random weights: pack it with its own")


def tolerance_of(variant: Variant) -> float:
    """What rounding may change from one machine to another.

    The same code in the same order gives the same bits; other GPUs and other numbers of threads may add up in another
    order. No path adds up more terms than there are weights.
    """
    library = variant.library
    terms = sum(math.prod(constant.shape) for constant in library.constants)
    stages = sum(max(1, len(step.stages)) for step in variant.report.steps)
    types = {constant.dtype for constant in library.constants} | {port.dtype for port in library.outputs}
    coarsest = next((dtype for dtype in ("bfloat16", "float16") if dtype in types), "float32")
    return tolerance(max(1, terms), coarsest, max(1, stages))


def _run(variants: Sequence[Variant], inputs: Arrays) -> Reference:
    """What a network gives here; or nothing, and why."""
    try:
        return Reference(Executable(variants).run(inputs), "")
    except TargetError as error:
        return Reference({}, str(error))


def _model_outputs(model: Model, library: Library, inputs: Arrays) -> Arrays:
    """What ONNX Runtime makes of the model."""
    from blockfuse.frontend.load import load  # noqa: PLC0415 - loads onnx

    names = [port.name for port in library.outputs]
    session = reference_session(load(model), 0, optimised=False)
    try:
        outputs = dict(zip(names, session.run(names, dict(inputs)), strict=True))
    except Exception as error:  # noqa: BLE001 - what it raises has no common base
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ModelError(f"the container is not one of the model: {reason}") from None
    if any(outputs[port.name].shape != port.shape for port in library.outputs):
        raise ModelError("the container is not one of the model: its outputs have other shapes")
    return outputs
