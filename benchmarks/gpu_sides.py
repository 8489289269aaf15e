"""The sides of a GPU benchmark: our containers and kernels, and PyTorch on the same graph with the same weights."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from benchmarks.cuda_driver import Cuda
from benchmarks.gpu_measure import Call
from benchmarks.gpu_weights import Constants, make_constants, unpack
from benchmarks.torch_graph import build

Array: TypeAlias = np.ndarray[Any, Any]
Json: TypeAlias = dict[str, Any]

TORCH_EAGER, TORCH_COMPILE = "torch eager", "torch compile"


def read_json(path: Path) -> Any:
    """A JSON document."""
    return json.loads(path.read_text(encoding="utf-8"))


def seeded_input(shape: Sequence[int], seed: int = 0) -> Array:
    """Standard normal values, as images have them after the usual normalisation."""
    return np.random.default_rng(seed).standard_normal(tuple(shape), np.float32)


# ---- our containers --------------------------------------------------------------------------------------------------
def use_runtime(export: Path) -> None:
    """Take ``tvm_ffi`` and TVM's runtime from an exported folder where they are not installed."""
    if importlib.util.find_spec("tvm_ffi") is None:
        sys.path.append(str(export / "python"))
    if importlib.util.find_spec("tvm") is None:
        os.environ.setdefault("BLOCKFUSE_RUNTIME_DIR", str(export / "python" / "blockfuse" / "runtime" / "lib"))
    hidden = "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None  # type: ignore[assignment] # else tvm_ffi loads it, which takes seconds
    import tvm_ffi  # noqa: F401, PLC0415 - not before its path is known

    if hidden:
        del sys.modules["torch"]


def load_container(folder: Path, constants: Constants) -> Any:
    """An exported container, whose weights are made first; their SHA-256 is checked."""
    import blockfuse  # noqa: PLC0415 - not before the path to TVM's runtime is known

    path = folder / "weights.bin"
    if not path.exists():
        path.write_bytes(packed_weights(folder, constants))
    return blockfuse.load(folder)


def packed_weights(folder: Path, constants: Constants) -> bytes:
    """The block of weights of an exported container."""
    described = read_json(folder / "weights.json")
    block = np.zeros(described["bytes"], np.uint8)
    with np.load(folder / "weights.npz") as arrays:
        for one in described["constants"]:
            data = np.ascontiguousarray(unpack(one, arrays, constants)).view(np.uint8)
            block[one["offset"] : one["offset"] + data.size] = data
    return block.tobytes()


def container_call(executable: Any, inputs: Mapping[str, Array]) -> Call:
    """One run, on a GPU of inputs that are there already and with results that stay there."""
    return executable.start().bind(inputs)


# ---- our kernels -----------------------------------------------------------------------------------------------------
class BlockKernels:
    """The kernels of a block on the GPU, with memory for all they read and write.

    Args:
        cuda: The GPU.
        folder: Where the kernels are.
        kernels: As exported, in order.
        constants: The network's, by name.
        inputs: Images of the block, N, H, W, C, by name.
    """

    def __init__(
        self, cuda: Cuda, folder: Path, kernels: Sequence[Json], constants: Constants, inputs: Mapping[str, Array]
    ) -> None:
        self._cuda = cuda
        self._places = {name: cuda.upload(array) for name, array in inputs.items()}
        self._launches: list[tuple[Callable[..., None], list[int]]] = []
        with np.load(folder / "weights.npz") as arrays:
            for one in kernels:
                self._add(one, (folder / one["file"]).read_bytes(), arrays, constants)
        self._result = kernels[-1]

    def _add(self, one: Json, image: bytes, arrays: Mapping[str, Array], constants: Constants) -> None:
        result = np.full(one["shape"], np.nan, one["dtype"])
        self._places[one["output"]] = self._cuda.upload(result)
        packed = {name: self._cuda.upload(unpack(item, arrays, constants)) for name, item in one["constants"].items()}
        packed |= {f"input_{i}": self._places[name] for i, name in enumerate(one["inputs"])}
        packed["result"] = self._places[one["output"]]
        if one["parts"]:
            parts = np.full(one["parts"], np.nan, np.float32)
            packed["result_parts"] = self._places[one["parts_output"]] = self._cuda.upload(parts)
        kernel = self._cuda.load(image, one["kernel"], one["grid"], one["threads"], one["shared_bytes"])
        self._launches.append((kernel, [packed[name] for name in one["parameters"]]))

    def __call__(self, stream: int = 0) -> None:
        """Launch all of them."""
        for kernel, pointers in self._launches:
            kernel(pointers, stream)

    def result(self) -> Array:
        """What the last one wrote, N, H, W, C."""
        self._cuda.synchronize()
        like = np.empty(self._result["shape"], self._result["dtype"])
        return self._cuda.download(self._places[self._result["output"]], like)


# ---- PyTorch ---------------------------------------------------------------------------------------------------------
class TorchSide:
    """PyTorch on a graph.

    Args:
        torch: PyTorch.
        description: The graph.
        constants: Its weights.
        inputs: Images N, C, H, W in float32, by name.
        dtype: Type to compute in.
        device: ``cuda`` or ``cpu``.
    """

    def __init__(
        self, torch: Any, description: Json, constants: Constants, inputs: Mapping[str, Array], dtype: str, device: str
    ) -> None:
        self._torch, self._description, self._constants, self._device = torch, description, constants, device
        self._inputs = [self._image(inputs[port["name"]]) for port in description["inputs"]]
        self._narrow = [image.to(getattr(torch, dtype)) for image in self._inputs]
        self._module = build(description, constants, dtype, device)

    def _image(self, array: Array) -> Any:
        tensor = self._torch.from_numpy(np.ascontiguousarray(array)).to(self._device)
        return tensor.contiguous(memory_format=self._torch.channels_last) if tensor.dim() == 4 else tensor

    def reference(self) -> tuple[Array, float]:
        """The last output in float32, and the largest magnitude of all values on the way to it."""
        names = [op["outputs"][0] for op in self._description["ops"]]
        everything = {**self._description, "outputs": names}
        module = build(everything, self._constants, "float32", self._device)
        with self._torch.inference_mode():
            values = module(*self._inputs)
        values = values if isinstance(values, tuple) else (values,)
        result = values[names.index(self._description["outputs"][-1])]
        return result.float().cpu().numpy(), max(float(value.abs().max()) for value in values)

    def result(self) -> Array:
        """The last output of the eager module."""
        with self._torch.inference_mode():
            result = self._module(*self._narrow)
        return (result[-1] if isinstance(result, tuple) else result).float().cpu().numpy()

    def eager(self, *, graphed: bool) -> Call:
        """The module as it is; optionally as one recorded graph of launches."""
        return self._recorded(self._module) if graphed else self._plain(self._module)

    def compiled(self, mode: str) -> Call:
        """The module through ``torch.compile``, on a GPU as one recorded graph of launches."""
        module = self._torch.compile(self._module, mode=mode)
        return self._recorded(module) if self._device == "cuda" else self._plain(module)

    def _plain(self, module: Any) -> Call:
        def call() -> None:
            with self._torch.inference_mode():
                module(*self._narrow)

        return call

    def _recorded(self, module: Any) -> Call:
        return record(self._torch, lambda _: self._plain(module)())


def record(torch: Any, launch: Callable[[int], object]) -> Call:
    """The launches of a function, given the stream to use, as one CUDA graph."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            launch(aside.cuda_stream)
    torch.cuda.current_stream().wait_stream(aside)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        launch(torch.cuda.current_stream().cuda_stream)
    return graph.replay


def constants_in(folder: Path) -> Constants:
    """The weights of an exported network."""
    return make_constants(read_json(folder / "constants.json"))
