"""Real networks without their weights: files of graphs alone, which get seeded weights when they are read.

A large initializer is kept as its name, type and shape. :func:`fill` gives it values that keep activations in range:
filters are normal, scaled by what one output adds up; variances are positive; scales are near one.

    python -m tests.weightless FOLDER_OF_MODELS [PATTERN ...]      # writes tests/data/networks/*.onnx.gz
"""

from __future__ import annotations

import argparse
import gzip
import zlib
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

FOLDER = Path(__file__).parent / "data" / "networks"
SUFFIX = ".onnx.gz"

_SEEDED = "seeded"  # doc_string of an initializer without data
_KEPT = 64  # elements up to which an initializer may be a shape, an axis or a pad
_NORM_INPUTS = {1: "scale", 2: "shift", 3: "shift", 4: "variance"}


def strip(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without the data of its large floating-point initializers and without what only describes it."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    for tensor in bare.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and int(np.prod(tensor.dims)) > _KEPT:
            empty = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, doc_string=_SEEDED)
            tensor.CopyFrom(empty)
    del bare.graph.value_info[:]
    del bare.metadata_props[:]
    for node in bare.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    return bare


def fill(model: onnx.ModelProto, seed: int | None = 0) -> onnx.ModelProto:
    """Give every initializer without data seeded values, zeros without a seed; the model is changed and returned."""
    roles = _roles(model)
    for tensor in model.graph.initializer:
        if tensor.doc_string == _SEEDED:
            rng = None if seed is None else np.random.default_rng([seed, zlib.crc32(tensor.name.encode())])
            tensor.CopyFrom(
                numpy_helper.from_array(_values(rng, tuple(tensor.dims), roles.get(tensor.name, "")), tensor.name)
            )
    return model


def load(name: str, seed: int | None = 0) -> onnx.ModelProto:
    """A network of the test data with seeded weights.

    Args:
        name: Such as ``tv.resnet18.dynamo.op18.b1``.
        seed: For the weights; None for zeros, which are made at once.
    """
    with gzip.open(FOLDER / f"{name}{SUFFIX}") as file:
        return fill(onnx.load_model_from_string(file.read()), seed)


def names() -> list[str]:
    """All networks of the test data."""
    return sorted(path.name.removesuffix(SUFFIX) for path in FOLDER.glob(f"*{SUFFIX}"))


def _roles(model: onnx.ModelProto) -> dict[str, str]:
    """What normalizations read an initializer as."""
    roles = {}
    for node in model.graph.node:
        if node.op_type == "BatchNormalization":
            roles |= {name: _NORM_INPUTS[i] for i, name in enumerate(node.input) if i in _NORM_INPUTS}
    return roles


def _values(rng: np.random.Generator | None, shape: tuple[int, ...], role: str) -> np.ndarray:
    if rng is None:
        return np.zeros(shape, np.float32)
    noise = rng.standard_normal(shape)
    if role == "variance":
        return (0.75 + 0.5 * rng.random(shape)).astype(np.float32)
    if role == "scale":
        return (1 + 0.1 * noise).astype(np.float32)
    if len(shape) < 2 or role == "shift":
        return (0.1 * noise).astype(np.float32)
    added = max(int(np.prod(shape[1:])), 1) if len(shape) > 2 else min(shape)
    return (noise / added**0.5).astype(np.float32)


def main() -> None:
    """Write the test data."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("patterns", nargs="*", default=["*.onnx"])
    options = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    for path in sorted({path for pattern in options.patterns for path in options.folder.glob(pattern)}):
        bare = strip(onnx.load(path))
        data = gzip.compress(bare.SerializeToString(deterministic=True), 9, mtime=0)
        (FOLDER / f"{path.stem}{SUFFIX}").write_bytes(data)


if __name__ == "__main__":
    main()
