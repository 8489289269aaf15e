"""What differs between the kinds of targets once tile programs are written: lowering, packing, the network's border.

TVM is loaded when something is lowered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from blockfuse.block import ParameterKey
from blockfuse.build.assemble import Pack
from blockfuse.build.border import Cast, check_range, computed_in
from blockfuse.build.network import Network
from blockfuse.machine import Program
from blockfuse.schedules import cpu, cuda
from blockfuse.stages import Array
from blockfuse.target import Target

Border = Callable[[Network], tuple[Network, dict[str, Cast]]]


@dataclass(frozen=True)
class Backend:
    """A kind of target.

    Attributes:
        lower: A program to TensorIR.
        pack: A kernel's weights to its constant parameters.
        border: The network with what its inputs and outputs need around it, and the kernels that were added.
    """

    lower: Callable[[Program], Any]
    pack: Pack
    border: Border

    def lower_casts(self, casts: Mapping[str, Cast], *, any_batch: bool) -> dict[str, Any]:
        """The TensorIR of kernels at the border, by name."""
        return {name: _lower_cast(name, cast, any_batch=any_batch) for name, cast in casts.items()}


def backend_of(target: Target, dtype: str) -> Backend:
    """The backend of a target for networks that compute in a type."""
    if target.kind == "cpu":
        return Backend(_lower_cpu, _pack_cpu, lambda network: (network, {}))

    def pack(program: Program, parameters: Mapping[ParameterKey, Array]) -> tuple[Array, ...]:
        for data in parameters.values():
            check_range(np.asarray(data), dtype, f"a weight of kernel {program.name!r}")
        return cuda.pack(program, parameters)

    return Backend(_lower_cuda, pack, lambda network: computed_in(network, dtype))


def _lower_cpu(program: Program) -> Any:
    return cpu.lower(program)


def _lower_cast(name: str, cast: Cast, *, any_batch: bool) -> Any:
    if cast.squares is None:
        return cuda.lower_cast(
            name, cast.shape, cast.source, cast.target, transposed=cast.transposed, any_batch=any_batch
        )
    return cuda.lower_squares(name, cast.shape, cast.source, cast.target, **asdict(cast.squares), any_batch=any_batch)


def _lower_cuda(program: Program) -> Any:
    return cuda.lower(program)


def _pack_cpu(program: Program, parameters: Mapping[ParameterKey, Array]) -> tuple[Array, ...]:
    weights = cpu.pack(program, parameters)
    return (weights,) if weights.size else ()
