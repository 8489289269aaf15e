"""Random whole models in any form: compiled, and compared with ONNX Runtime.

Where that says they differ, both are compared with the same model in float64: a result at most a few times as far from
the truth as ONNX Runtime's is not wrong, the model is ill-conditioned.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from blockfuse.compiler import compile as compile_model
from blockfuse.errors import BlockfuseError, ModelError, VerificationError
from blockfuse.runtime.executable import Executable
from blockfuse.verification.verify import seeded_inputs, verify
from tests.fuzz.forms import in_form
from tests.fuzz.harness import Case, Fuzzer, checked_refusal, judged, reduced
from tests.fuzz.whole_graphs import random_model
from tests.onnx_models import run as run_onnxruntime

Array: TypeAlias = np.ndarray[Any, Any]

WORSE = 8
"""Times as far from the truth as ONNX Runtime."""


def run(seeds: Sequence[int]) -> Iterator[Case]:
    """Compile and compare."""
    for seed in seeds:
        yield judged(_compare, seed)


def options(seed: int) -> dict:
    """How a model is compiled."""
    rng = np.random.default_rng((4, seed))
    fuse = ("auto", "always", "always", "never")[int(rng.integers(4))]
    return {"fuse": fuse, "threads": int(rng.choice((1, 2))), "per_block": bool(rng.random() < 0.3), "seed": seed}


def _compare(seed: int) -> str:
    model = in_form(random_model(seed), seed)
    chosen = options(seed)
    try:
        executable = compile_model(model, fuse=chosen["fuse"], threads=chosen["threads"], taps=chosen["per_block"])
    except BlockfuseError as error:
        return kind_of_refusal(checked_refusal(error))
    try:
        verify(model, executable=executable, **chosen)
    except VerificationError as error:
        _judge(model, executable, seed, error)
    except ModelError as error:
        if "ONNX Runtime cannot run" not in str(error):
            raise
        _judge(model, executable, seed, error)
    return ""


def kind_of_refusal(text: str) -> str:
    """A refusal without the names in it."""
    words = text.split("'")
    return "'..'".join(words[::2]) if len(words) > 2 else text


def _judge(model: onnx.ModelProto, executable: Executable, seed: int, error: BlockfuseError) -> None:
    """Raise the error unless the results are about as near to those in float64 as ONNX Runtime's are."""
    inputs = seeded_inputs(executable.inputs, seed)
    if not as_good_as_onnxruntime(model, inputs, executable.run(inputs), in_double(model, inputs)):
        raise error


def as_good_as_onnxruntime(
    model: onnx.ModelProto, inputs: Mapping[str, Array], actual: Mapping[str, Array], truth: Mapping[str, Array]
) -> bool:
    """Whether results are at most a few times as far from the truth as ONNX Runtime's, or off by few roundings."""
    try:
        other: Mapping[str, Array] = run_onnxruntime(model, inputs)
    except Exception:  # noqa: BLE001 - what it raises has no common base
        other = truth
    for name, exact in truth.items():
        half = actual[name].dtype == np.float16
        if not np.isfinite(exact).all() or (half and not _fits_half(exact, other[name])):
            continue
        floor = (64 * np.finfo(np.float32).eps + half * np.finfo(np.float16).eps) * np.abs(exact).max()
        if not np.abs(actual[name] - exact).max() <= max(floor, WORSE * np.abs(other[name] - exact).max()):
            return False
    return True


def _fits_half(exact: Array, other: Array) -> bool:
    """Whether results are in the range of float16, as are all that ONNX Runtime has on the way."""
    return bool(np.abs(exact).max() < np.finfo(np.float16).max and np.isfinite(other.astype(np.float32)).all())


def in_double(model: onnx.ModelProto, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The results of a model computed in float64, by name."""
    double = onnx.ModelProto()
    double.CopyFrom(model)
    for tensor in double.graph.initializer:
        _widen(tensor)
    for node in double.graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                _widen(attribute.t)
            if node.op_type == "Cast" and attribute.i in {TensorProto.FLOAT, TensorProto.FLOAT16}:
                attribute.i = TensorProto.DOUBLE
    results = ReferenceEvaluator(double).run(None, {name: value.astype(np.float64) for name, value in inputs.items()})
    return {value.name: result for value, result in zip(double.graph.output, results, strict=True)}


def _widen(tensor: TensorProto) -> None:
    if tensor.data_type in {TensorProto.FLOAT, TensorProto.FLOAT16}:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))


def save(seed: int, folder: Path) -> str:
    """The model as a file."""
    path = folder / f"graph_{seed}.onnx"
    onnx.save(in_form(random_model(seed), seed), path)
    return command(path, seed)


def command(path: Path, seed: int) -> str:
    """What shows a wrong result of a model, or of a smaller one if it can be reduced."""
    chosen = options(seed)
    words = ["--fuse", chosen["fuse"], "--threads", str(chosen["threads"])]
    smaller = reduced(path, ["--check", "verify", *words])
    more = ["--seed", str(seed), *(["--per-block"] if chosen["per_block"] else [])] if smaller == path else []
    return " ".join(["blockfuse verify", str(smaller), *words, *more])


FUZZER = Fuzzer("graphs", run, save, seconds=120, gigabytes=16)
