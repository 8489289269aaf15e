"""A folder with a compiled network and all it needs to run where neither blockfuse nor TVM is installed.

::

    run.py                  runs, verifies, times
    pack.json               size and SHA-256 of every file; where the reference is
    network/                the container's files: manifest.json, library.so, weights.bin or seeded.json
    network/tensors.txt     inputs, constants and outputs, one per line, for programs without a JSON parser
    python/                 the running part of blockfuse, tvm_ffi, TVM's runtime libraries
    reference/              inputs and what they gave here
    licences/
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from blockfuse.errors import ArtifactError, BlockfuseError, ModelError, TargetError, UsageError
from blockfuse.report import Report
from blockfuse.runtime import artifact
from blockfuse.runtime.executable import Executable
from blockfuse.runtime.library import Constant, Library, Port
from blockfuse.runtime.seeded import Recipe, make_input, make_weights, recipe_of
from blockfuse.tools.runtime_files import runtime_files
from blockfuse.verification.compare import tolerance
from blockfuse.verification.verify import reference_session

if TYPE_CHECKING:
    from blockfuse.frontend.reading import Model

Arrays = Mapping[str, np.ndarray[Any, Any]]

_SEED = 0
_STORED_INPUT = 4 << 20  # bytes up to which an input is stored; larger ones are made from their seed
_SCALES = [2.0**-power for power in range(9)]


@dataclass(frozen=True)
class Packed:
    """What was packed.

    Attributes:
        folder: Where.
        bytes: Size of all files.
        weight_bytes: Of that, the weights.
        pythons: Files of ``tvm_ffi`` that name the Pythons it runs on.
        has_reference: Whether there are outputs to compare with.
        note: Why they are not, or are not those of this container here.
    """

    folder: str
    bytes: int
    weight_bytes: int
    pythons: tuple[str, ...]
    has_reference: bool
    note: str

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON holds it."""
        return {**asdict(self), "pythons": list(self.pythons)}

    def __str__(self) -> str:
        rest = (self.bytes - self.weight_bytes) / 1e6
        lines = [f"{self.folder}: {rest:.1f} MB and {self.weight_bytes / 1e6:.1f} MB of weights"]
        lines.append(f"runs on Pythons with numpy that load {' or '.join(self.pythons)}")
        lines.append(f"{'with' if self.has_reference else 'without'} reference outputs{self.note and ': '}{self.note}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Reference:
    """Inputs, what they give (nothing where that is not known), and a remark on it."""

    inputs: Arrays
    outputs: Arrays
    note: str


def pack(
    path: str | PathLike[str],
    folder: str | PathLike[str],
    *,
    seeded_weights: bool = False,
    wheels: Sequence[Path] = (),
    model: Model | None = None,
) -> Packed:
    """Pack a container into a folder that runs elsewhere.

    Args:
        path: The container.
        folder: Where to; it must not exist, or be empty.
        seeded_weights: Leave the weights out; random ones are made there from a seed, the same on every machine.
        wheels: Wheels of ``apache-tvm-ffi`` for other Pythons than this one.
        model: What it was compiled from: where this machine cannot run the container, ONNX Runtime makes the reference.

    Raises:
        ArtifactError: The container is damaged, or the folder cannot be written.
        UsageError: There is something at the folder's place, or a wheel is wrong.
        TargetError: A runtime library is not found.
        ModelError: ONNX Runtime cannot run the model.
    """
    target = Path(folder)
    _check_place(target)
    if seeded_weights and model is not None:
        raise UsageError("random weights are not those of the model: it gives no reference for them")
    library, report = artifact.load(path, any_machine=True)
    if any(port.dtype == "bfloat16" for port in (*library.inputs, *library.outputs)):
        raise UsageError(f"{path} takes or returns bfloat16, which files of arrays cannot hold")
    files = runtime_files(cuda=library.target.kind == "cuda", wheels=wheels)
    library, recipe, reference = _with_reference(library, report, model, seeded=seeded_weights)
    with _appearing(target) as new:
        for name, content in files.items():
            _put(content, new / ("" if name.startswith("licences/") else "python") / name)
        _put(Path(__file__).with_name("start.py"), new / "run.py")
        artifact.save_folder(library, report, new / "network", recipe)
        (new / "network" / "tensors.txt").write_text(_tensors(library, report), encoding="utf-8")
        size = _write_index(new, library, report, reference)
    return Packed(
        folder=str(folder),
        bytes=size,
        weight_bytes=0 if recipe else library.weights.nbytes,
        pythons=tuple(sorted(Path(name).name for name in files if re.fullmatch(r"tvm_ffi/core\..*\.so", name))),
        has_reference=bool(reference.outputs),
        note=reference.note,
    )


# ---- the folder ------------------------------------------------------------------------------------------------------
def _check_place(target: Path) -> None:
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise UsageError(f"cannot write {target}: there is a file of that name")
    if target.is_dir() and any(target.iterdir()):
        raise UsageError(f"cannot write {target}: the folder is not empty")
    if not target.absolute().parent.is_dir():
        raise UsageError(f"cannot write {target}: there is no folder {target.parent}")


@contextlib.contextmanager
def _appearing(target: Path) -> Iterator[Path]:
    """A new folder beside the target that takes its place at the end, or vanishes on an error."""
    new = None
    try:
        new = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.absolute().parent))
        yield new
        new.chmod(0o755)
        new.replace(target)
    except OSError as error:
        raise ArtifactError(f"cannot write {target}: {error.strerror or error}") from None
    finally:
        if new is not None:
            shutil.rmtree(new, ignore_errors=True)


def _put(content: Path | bytes, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.read_bytes())


def _put_arrays(new: Path, kind: str, arrays: Arrays) -> dict[str, str]:
    """Store arrays in the order of the ports; where each is, by its name."""
    (new / "reference").mkdir(exist_ok=True)
    paths = {name: f"reference/{kind}_{index}.npy" for index, name in enumerate(arrays)}
    for name, path in paths.items():
        np.save(new / path, arrays[name], allow_pickle=False)
    return paths


def _put_inputs(new: Path, inputs: Arrays) -> dict[str, str | dict[str, Any]]:
    """Store inputs; those that would be the larger part of the folder, as what they are made from."""
    small = {name: array for name, array in inputs.items() if array.nbytes <= _STORED_INPUT}
    paths = _put_arrays(new, "input", small)
    made = {
        name: {"seed": [_SEED, index], "shape": list(array.shape), "dtype": array.dtype.name}
        for index, (name, array) in enumerate(inputs.items())
        if name not in small
    }
    return {**paths, **made}


def _write_index(new: Path, library: Library, report: Mapping[str, Any], reference: Reference) -> int:
    """Write the reference and ``pack.json``; return the size of all files."""
    stored = {
        "inputs": _put_inputs(new, reference.inputs),
        "outputs": _put_arrays(new, "output", reference.outputs),
        "tolerance": _tolerance(library, report),
        "note": reference.note,
    }
    names = sorted(str(path.relative_to(new)) for path in new.rglob("*") if path.is_file())
    contents = {name: (new / name).read_bytes() for name in names}
    index = {
        "pack": 1,
        "network": library.name,
        "target": library.target.name,
        "python": platform.python_version(),
        "reference": stored,
        "files": {name: [len(data), hashlib.sha256(data).hexdigest()] for name, data in contents.items()},
    }
    text = json.dumps(index, indent=1, allow_nan=False)
    (new / "pack.json").write_text(text, encoding="utf-8")
    return len(text) + sum(map(len, contents.values()))


def _tensors(library: Library, report: Mapping[str, Any]) -> str:
    """Device, tolerance, and a line per input, constant and output: alignment or offset, layout, type, shape, name.

    Where any batch can be run, a line before says how many images at most, and shapes begin with N.
    """
    inputs = [f"input {port.alignment} {port.layout} {_typed(port)} {port.name}" for port in library.inputs]
    constants = [f"constant {constant.offset} plain {_typed(constant)}" for constant in library.constants]
    outputs = [f"output 0 {port.layout} {_typed(port)} {port.name}" for port in library.outputs]
    batch = [f"batch {library.batch.most}"] if library.batch else []
    head = (f"device {library.target.kind}", f"tolerance {_tolerance(library, report):.3g}")
    return "\n".join((*head, *batch, *inputs, *constants, *outputs, ""))


def _typed(value: Port | Constant) -> str:
    is_open = isinstance(value, Port) and value.any_batch
    dims = ["N", *value.shape[1:]] if is_open else value.shape
    return f"{value.dtype} {'x'.join(map(str, dims)) or 'scalar'}"


# ---- the reference ---------------------------------------------------------------------------------------------------
def _with_reference(
    library: Library, report: Mapping[str, Any], model: Model | None, *, seeded: bool
) -> tuple[Library, Recipe | None, Reference]:
    """The network as it is packed, how its weights are made if they are left out, and what it gives."""
    inputs = {
        port.name: make_input(port.shape, port.dtype, (_SEED, index)) for index, port in enumerate(library.inputs)
    }
    if seeded:
        return _with_seeded_weights(library, report, inputs)
    reference = _run(library, report, inputs)
    if reference.note and model is not None:
        reference = Reference(inputs, _model_outputs(model, library, inputs), f"by ONNX Runtime, as {reference.note}")
    return library, None, reference


def _run(library: Library, report: Mapping[str, Any], inputs: Arrays) -> Reference:
    """What a network gives here; or nothing, and why."""
    try:
        return Reference(inputs, Executable(library, Report.from_dict(report)).run(inputs), "")
    except TargetError as error:
        return Reference(inputs, {}, str(error))


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


def _with_seeded_weights(
    library: Library, report: Mapping[str, Any], inputs: Arrays
) -> tuple[Library, Recipe, Reference]:
    """The network with random weights, as wide as its own, or as much narrower as its outputs need to be finite."""
    for scale in _SCALES:
        recipe = recipe_of(library, scale=scale)
        seeded = replace(library, weights=make_weights(recipe, library.constants, library.weights.nbytes))
        reference = _run(seeded, report, inputs)
        if all(np.isfinite(array).all() for array in reference.outputs.values()):
            return seeded, recipe, reference
    raise BlockfuseError(f"{library.name} gives no finite outputs with random weights: pack it with its own")


def _tolerance(library: Library, report: Mapping[str, Any]) -> float:
    """What rounding may change from one machine to another.

    The same code in the same order gives the same bits; other GPUs and other numbers of threads may add up in another
    order. No path adds up more terms than there are weights.
    """
    terms = sum(math.prod(constant.shape) for constant in library.constants)
    stages = sum(max(1, len(step["stages"])) for step in report["steps"])
    types = {constant.dtype for constant in library.constants} | {port.dtype for port in library.outputs}
    coarsest = next((dtype for dtype in ("bfloat16", "float16") if dtype in types), "float32")
    return tolerance(max(1, terms), coarsest, max(1, stages))
