"""One network or one block of a GPU benchmark: its sides are made, compared with a reference, and timed."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from benchmarks.cuda_driver import Cuda, CudaError
from benchmarks.gpu_measure import Call, Json, Work, efficiency, figures_of, limits, ratios
from benchmarks.gpu_sides import (
    TORCH_COMPILE,
    TORCH_EAGER,
    BlockKernels,
    TorchSide,
    container_call,
    load_container,
    read_json,
    record,
    seeded_input,
)
from benchmarks.gpu_weights import Constants

Array: TypeAlias = np.ndarray[Any, Any]

OURS = ("fused", "unfused")
_CHANNELS_FIRST, _CHANNELS_LAST = (0, 3, 1, 2), (0, 2, 3, 1)


@dataclass(frozen=True)
class Setting:
    """What all parts of a run share.

    Attributes:
        folder: What was exported.
        dtype: Type that is computed in.
        sides: Names of the sides wanted.
        fused: The policy that ``fused`` was compiled with.
        torch: PyTorch, or None where only our sides are measured.
        cuda: The GPU; None where everything runs on the processor.
        torch_device: PyTorch's: ``cuda``, or ``cpu`` where nothing is to be learnt from its times.
        mode: Of ``torch.compile``.
        time: Times sides in turns.
    """

    folder: Path
    dtype: str
    sides: tuple[str, ...]
    fused: str
    torch: Any
    cuda: Cuda | None
    torch_device: str
    mode: str
    time: Callable[[Mapping[str, Call]], dict[str, Json]]

    @property
    def device(self) -> tuple[str, str]:
        """Name and architecture of what is measured."""
        return ("processor", "") if self.cuda is None else (self.cuda.name, self.cuda.arch)

    def torch_side(self, graph: Json, constants: Constants, inputs: Mapping[str, Array]) -> TorchSide | None:
        """PyTorch on a graph; None where it is not measured."""
        if self.torch is None:
            return None
        return TorchSide(self.torch, graph, constants, inputs, self.dtype, self.torch_device)


class _Part:
    """What networks and blocks have in common: check every side, time those that are right.

    Args:
        setting: What all parts share.
        network: Name of the network.
        batch: Images at a time.
    """

    def __init__(self, setting: Setting, network: str, batch: int) -> None:
        self.setting = setting
        self.folder = setting.folder / network / f"b{batch}"

    def judged(self, results: Mapping[str, Array], torch: TorchSide | None, allowed: float, *, inner: bool) -> Json:
        """For every side the largest error over what rounding explains.

        The reference is PyTorch in float32, or without it the first side. Errors are relative to the largest magnitude
        of the result, or of all values on the way (``inner``).
        """
        if torch is None:
            expected = next(iter(results.values()))
            largest = float(np.abs(expected).max())
        else:
            expected, all_values = torch.reference()
            largest = all_values if inner else float(np.abs(expected).max())
        scale = allowed * max(largest, 1e-3)
        return {
            name: float(np.abs(array.reshape(expected.shape) - expected).max()) / scale
            for name, array in results.items()
        }

    def measured(self, makers: Mapping[str, Callable[[], Call]], errors: Mapping[str, float]) -> Json:
        """Times and ratios of the sides that are right; an error above 1, or NaN, is wrong."""
        wrong = [name for name, error in errors.items() if not error <= 1]
        calls, failed = {}, {}
        for name, make in makers.items():
            if name in wrong:
                continue
            try:
                calls[name] = make()
            except Exception as error:  # noqa: BLE001 - a baseline that does not compile must not take the others along
                failed[name] = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        times = self.setting.time(calls)
        finite = {name: error if math.isfinite(error) else None for name, error in errors.items()}
        return {"times": times, "ratios": ratios(times), "errors": finite, "wrong": wrong, "failed": failed}

    def figures(self, times: Mapping[str, Json], kernels: Mapping[str, list[Work]]) -> Json:
        """Efficiency beside the waterline; on a processor neither is known."""
        operations = {name: sum(one.operations for one in work) for name, work in kernels.items()}
        if self.setting.cuda is None or not operations or not all(operations.values()):
            return {"operations": operations}
        arch = self.setting.device[1]
        device = figures_of(arch)
        found = {"operations": operations, "efficiency": efficiency(times, kernels, device, arch)}
        return {**found, "waterline": limits(kernels, device, arch)}


class NetworkPart(_Part):
    """A whole network."""

    def run(self, constants: Constants) -> Json:
        """Check and time all sides."""
        setting, graph = self.setting, read_json(self.folder / "graph.json")
        inputs = {port["name"]: seeded_input(port["shape"]) for port in graph["inputs"]}
        ours = {
            side: load_container(self.folder / policy, constants)
            for side, policy in zip(OURS, (setting.fused, "never"), strict=True)
            if side in setting.sides
        }
        torch = setting.torch_side(graph, constants, inputs)
        results = {name: one.run(inputs)[graph["outputs"][-1]] for name, one in ours.items()}
        calls: dict[str, Callable[[], Call]] = {
            name: functools.partial(container_call, one, inputs) for name, one in ours.items()
        }
        if torch is not None:
            results[TORCH_EAGER] = torch.result()
            calls |= self._torch_calls(torch)
        data = self.measured(calls, self.judged(results, torch, graph["allowed"], inner=False))
        kernels = {
            name: [
                Work(kernel.operations, kernel.global_bytes, kernel.plan)
                for step in one.report().steps
                for kernel in step.kernels
            ]
            for name, one in ours.items()
        }
        return {**data, **self.figures(data["times"], kernels)}

    def _torch_calls(self, torch: TorchSide) -> dict[str, Callable[[], Call]]:
        made = {
            TORCH_EAGER: functools.partial(torch.eager, graphed=False),
            TORCH_COMPILE: functools.partial(torch.compiled, self.setting.mode),
        }
        return {name: make for name, make in made.items() if name in self.setting.sides}


class BlockPart(_Part):
    """One distinct block of a network.

    Args:
        setting: What all parts share.
        network: Name of the network.
        batch: Images at a time.
        block: As exported.
    """

    def __init__(self, setting: Setting, network: str, batch: int, block: Json) -> None:
        super().__init__(setting, network, batch)
        self.block = block

    def run(self, constants: Constants) -> Json:
        """Check and time all sides."""
        setting, block, cuda = self.setting, self.block, self.setting.cuda
        if cuda is None:
            raise CudaError("blocks are measured on GPUs alone")
        graph = block["graph"]
        images = {port["name"]: _image(port["shape"], number) for number, port in enumerate(graph["inputs"])}
        torch = setting.torch_side(graph, constants, {name: _first(array) for name, array in images.items()})
        try:
            ours = {
                way: BlockKernels(cuda, self.folder / "blocks", kernels, constants, images)
                for way, kernels in block["ways"].items()
                if way in setting.sides
            }
            results = {}
            for name, kernels in ours.items():
                kernels()
                results[name] = _first(kernels.result().astype(np.float32))
            calls = {name: functools.partial(self._call, kernels) for name, kernels in ours.items()}
            if torch is not None:
                results[TORCH_EAGER] = torch.result()
                calls |= self._torch_calls(torch)
            data = self.measured(calls, self.judged(results, torch, block["allowed"], inner=True))
        finally:
            cuda.free()
        sizes = {
            way: [Work(kernel["operations"], kernel["global_bytes"], kernel["plan"]) for kernel in kernels]
            for way, kernels in block["ways"].items()
            if way in setting.sides
        }
        about = {key: block[key] for key in ("pattern", "calls", "stages")}
        plans = {way: [kernel["plan"] for kernel in kernels] for way, kernels in block["ways"].items()}
        return {**about, "plans": plans, **data, **self.figures(data["times"], sizes)}

    def _call(self, kernels: BlockKernels) -> Call:
        on_gpu = self.setting.torch is not None and self.setting.torch_device == "cuda"
        return record(self.setting.torch, kernels) if on_gpu else kernels

    def _torch_calls(self, torch: TorchSide) -> dict[str, Callable[[], Call]]:
        made = {
            TORCH_EAGER: functools.partial(torch.eager, graphed=self.setting.torch_device == "cuda"),
            TORCH_COMPILE: functools.partial(torch.compiled, self.setting.mode),
        }
        return {name: make for name, make in made.items() if name in self.setting.sides}


def _image(shape: list[int], seed: int) -> Array:
    """A half-precision image with channels last, for a shape N, C, H, W."""
    return seeded_input([shape[axis] for axis in _CHANNELS_LAST], seed).astype(np.float16)


def _first(image: Array) -> Array:
    """A float32 image with channels first."""
    return np.ascontiguousarray(image.astype(np.float32).transpose(_CHANNELS_FIRST))
