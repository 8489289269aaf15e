"""A folder with a compiled network and all it needs to run where neither blockfuse nor TVM is installed.

::

    run.py                  runs, verifies, times
    pack.json               size and SHA-256 of every file; where the reference is
    network/                the container's files: manifest.json, library.so, weights.bin or seeded.json; for several
                            targets the latter in a folder each
    network/tensors.txt     inputs, constants and outputs, one per line, for programs without a JSON parser
    python/                 the running part of blockfuse, tvm_ffi, TVM's runtime libraries
    reference/              inputs and what they gave here
    licences/
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from blockfuse.errors import ArtifactError, UsageError
from blockfuse.runtime import artifact
from blockfuse.runtime.library import Constant, Port
from blockfuse.runtime.manifest import CODE, WEIGHTS
from blockfuse.runtime.variants import Variant
from blockfuse.tools.pack_reference import (
    SEED,
    Arrays,
    Reference,
    inputs_of,
    reference_of,
    tolerance_of,
    with_seeded_weights,
)
from blockfuse.tools.runtime_files import runtime_files

if TYPE_CHECKING:
    from blockfuse.frontend.reading import Model

_STORED_INPUT = 4 << 20  # bytes up to which an input is stored; larger ones are made from their seed


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
    variants = artifact.load(path, any_machine=True)
    library = variants[0].library
    if any(port.dtype == "bfloat16" for port in (*library.inputs, *library.outputs)):
        raise UsageError(f"{path} takes or returns bfloat16, which files of arrays cannot hold")
    files = runtime_files(cuda=library.target.kind == "cuda", wheels=wheels)
    inputs, recipes = inputs_of(library), ()
    if seeded_weights:
        variants, recipes, references = zip(*(with_seeded_weights(one, inputs) for one in variants), strict=True)
    else:
        references = (reference_of(variants, inputs, model),) * len(variants)
    with _appearing(target) as new:
        for name, content in files.items():
            _put(content, new / ("" if name.startswith("licences/") else "python") / name)
        _put(Path(__file__).with_name("start.py"), new / "run.py")
        artifact.save_folder(variants, new / "network", recipes)
        (new / "network" / "tensors.txt").write_text(_tensors(variants), encoding="utf-8")
        weights = sum(path.stat().st_size for path in (new / "network").rglob("weights.bin"))
        size = _write_index(new, variants, inputs, references)
    return Packed(
        folder=str(folder),
        bytes=size,
        weight_bytes=weights,
        pythons=tuple(sorted(Path(name).name for name in files if re.fullmatch(r"tvm_ffi/core\..*\.so", name))),
        has_reference=any(reference.outputs for reference in references),
        note="; ".join(dict.fromkeys(reference.note for reference in references if reference.note)),
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
    paths = {name: f"reference/{kind}_{index}.npy" for index, name in enumerate(arrays)}
    for name, path in paths.items():
        (new / path).parent.mkdir(parents=True, exist_ok=True)
        np.save(new / path, arrays[name], allow_pickle=False)
    return paths


def _put_inputs(new: Path, inputs: Arrays) -> dict[str, str | dict[str, Any]]:
    """Store inputs; those that would be the larger part of the folder, as what they are made from."""
    small = {name: array for name, array in inputs.items() if array.nbytes <= _STORED_INPUT}
    paths = _put_arrays(new, "input", small)
    made = {
        name: {"seed": [SEED, index], "shape": list(array.shape), "dtype": array.dtype.name}
        for index, (name, array) in enumerate(inputs.items())
        if name not in small
    }
    return {**paths, **made}


def _put_references(new: Path, variants: Sequence[Variant], references: Sequence[Reference]) -> dict[str, Any]:
    """Store what every variant is to give: one set of outputs for all, where they have the same weights."""
    apart = len(set(map(id, references))) > 1
    return {
        variant.name: {
            "outputs": _put_arrays(new, f"{variant.name}/output" if apart else "output", reference.outputs),
            "tolerance": tolerance_of(variant),
            "note": reference.note,
        }
        for variant, reference in zip(variants, references, strict=True)
    }


def _write_index(new: Path, variants: Sequence[Variant], inputs: Arrays, references: Sequence[Reference]) -> int:
    """Write the references and ``pack.json``; return the size of all files."""
    stored = {"inputs": _put_inputs(new, inputs), "variants": _put_references(new, variants, references)}
    names = sorted(str(path.relative_to(new)) for path in new.rglob("*") if path.is_file())
    contents = {name: (new / name).read_bytes() for name in names}
    index = {
        "pack": 2,
        "network": variants[0].library.name,
        "targets": [variant.name for variant in variants],
        "python": platform.python_version(),
        "reference": stored,
        "files": {name: [len(data), hashlib.sha256(data).hexdigest()] for name, data in contents.items()},
    }
    text = json.dumps(index, indent=1, allow_nan=False)
    (new / "pack.json").write_text(text, encoding="utf-8")
    return len(text) + sum(map(len, contents.values()))


# ---- for programs without a JSON parser ------------------------------------------------------------------------------
def _tensors(variants: Sequence[Variant]) -> str:
    """What every variant is for and what its files are called; then what it takes, holds and gives."""
    names = artifact.files_of(variants)
    return "".join(_tensors_of(variant, files) for variant, files in zip(variants, names, strict=True))


def _tensors_of(variant: Variant, files: Mapping[str, str]) -> str:
    """Target, shared memory of a CTA, library and weights; device, tolerance, and a line per tensor.

    An input, constant or output has alignment or offset, layout, type, shape, name. Where any batch can be run, a line
    before says how many images at most, and shapes begin with N.
    """
    library = variant.library
    inputs = [f"input {port.alignment} {port.layout} {_typed(port)} {port.name}" for port in library.inputs]
    constants = [f"constant {constant.offset} plain {_typed(constant)}" for constant in library.constants]
    outputs = [f"output 0 {port.layout} {_typed(port)} {port.name}" for port in library.outputs]
    batch = [f"batch {library.batch.most}"] if library.batch else []
    code = f"variant {variant.name} {library.target.shared_bytes} {files[CODE]} {files[WEIGHTS]}"
    head = (code, f"device {library.target.kind}", f"tolerance {tolerance_of(variant):.3g}")
    return "\n".join((*head, *batch, *inputs, *constants, *outputs, ""))


def _typed(value: Port | Constant) -> str:
    is_open = isinstance(value, Port) and value.any_batch
    dims = ["N", *value.shape[1:]] if is_open else value.shape
    return f"{value.dtype} {'x'.join(map(str, dims)) or 'scalar'}"
