"""How exact fused blocks are one by one, next to the same block layer by layer, both against float64.

    python -m benchmarks.isolated_blocks MODEL.onnx     every step of the network, fused, on one thread

Each block gets the exact result of the blocks before it, rounded to float32 once; so a network in which errors grow
from block to block says nothing about the kernels here, as it does in ``blockfuse verify``. Errors are divided by the
root mean square of the exact result. Looking ends at the first operator that has no kernel.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

import blockfuse
from blockfuse.block import reference
from blockfuse.stages import Array
from blockfuse.steps import PlannedSteps, write_programs
from tests.cpu_kernels import call, compile_programs


class Runner:
    """The kernels of a network planned one way."""

    def __init__(self, model: str, fuse: str) -> None:
        planned = blockfuse.compile(model, target="cpu", threads=1, fuse=fuse, stop_after="plan")
        if not isinstance(planned, PlannedSteps):
            raise TypeError(f"planned steps are {type(planned).__name__}")
        self.planned = planned
        self._programs = write_programs(planned)
        self._makers = {kernel.block.tensors[-1]: number for number, kernel in enumerate(planned.kernels)}
        self._compiled = compile_programs(list(self._programs.by_name.values()))

    def run(self, number: int, inputs: list[Array]) -> Array:
        """The result of a kernel, given its images as N, H, W, C."""
        name = self._programs.names[number]
        block = self.planned.kernels[number].block
        return call(self._compiled[name], self._programs.by_name[name], inputs, block.parameters)

    def make(self, result: str, images: Mapping[str, Array]) -> Array:
        """A tensor by as many kernels as it takes from images that are known.

        Raises:
            LookupError: No kernel makes it.
        """
        if result in images:
            return images[result]
        number = self._makers[result]
        return self.run(number, [self.make(name, images) for name in self.planned.kernels[number].block.tensors[:-1]])


@dataclass(frozen=True)
class Errors:
    """Root mean square of what a block is off by, over that of its exact result."""

    name: str
    fused: float
    layers: float


def isolated(model: str, seed: int = 0) -> Iterator[Errors]:
    """Every fused kernel of a network on the exact result of those before."""
    fused, layers = Runner(model, "always"), Runner(model, "never")
    first = fused.planned.kernels[0].block
    shape = (first.batch, first.inputs[0].height, first.inputs[0].width, first.inputs[0].channels)
    exact = {first.tensors[0]: np.random.default_rng(seed).standard_normal(shape)}
    for number, kernel in enumerate(fused.planned.kernels):
        *reads, result = kernel.block.tensors
        if not exact.keys() >= set(reads):
            return
        images = {name: exact[name].astype(np.float32) for name in reads}
        wanted = reference(kernel.block, [images[name] for name in reads])[-1]
        try:
            apart = layers.make(result, images)
        except LookupError:
            return
        got = fused.run(number, [images[name] for name in reads])
        yield Errors(kernel.block.name, _error(got, wanted), _error(apart, wanted))
        exact[result] = reference(kernel.block, [exact[name] for name in reads])[-1]


def _error(got: Array, wanted: Array) -> float:
    return float(np.sqrt(np.mean(np.square(got - wanted)) / np.mean(np.square(wanted))))


def main() -> None:
    """Print every block, and the geometric mean of fused over layer by layer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    ratios = []
    print(f"{'block':32}{'fused':>10}{'layers':>10}")
    for errors in isolated(parser.parse_args().model):
        print(f"{errors.name:32}{errors.fused:10.1e}{errors.layers:10.1e}", flush=True)
        ratios.append(errors.fused / errors.layers)
    print(f"{len(ratios)} kernels: fused over layer by layer {statistics.geometric_mean(ratios):.2f} (geometric mean)")


if __name__ == "__main__":
    main()
