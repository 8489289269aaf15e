"""Everything a GPU benchmark needs, made where the compiler is, for a machine where it is not.

    python -m benchmarks.gpu_export OUT --networks resnet18 mobilenet_v2 --batches 1 8 32 128

OUT holds no weights: they are made from a seed when the benchmark starts (:mod:`benchmarks.gpu_weights`)::

    export.json                   the networks
    python/                       the running part of blockfuse, TVM's runtime libraries
    NETWORK/constants.json        how to make the weights
    NETWORK/bBATCH/graph.json     the graph, for PyTorch; allowed rounding
    NETWORK/bBATCH/auto, never    containers without weights; weights.json, weights.npz: how to make and pack them
    NETWORK/bBATCH/blocks/        distinct blocks: kernels, fused and apart; blocks.json
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

import blockfuse as bf
from benchmarks.gpu_blocks import export_blocks
from benchmarks.gpu_weights import Constants, PackedWeights, make_constants, recipe_of_constants, trace
from benchmarks.torch_graph import constants_of, describe
from blockfuse.build.backend import backend_of
from blockfuse.build.cubin import find_nvcc
from blockfuse.frontend import to_onnx, zoo
from blockfuse.graph import Graph, Tensor
from blockfuse.runtime import artifact
from blockfuse.steps import Programs
from blockfuse.target import parse_target
from blockfuse.tools.facts import machine_facts
from blockfuse.tools.runtime_files import runtime_files
from blockfuse.verification.compare import tolerance
from blockfuse.verification.depth import path_depths

Json: TypeAlias = dict[str, Any]

POLICIES = ("auto", "never")
BATCHES = (1, 8, 32, 128)
LIMIT = 64 << 20


def main(arguments: Sequence[str] | None = None) -> None:
    """Export what the command line says."""
    options = parse(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    cuda = parse_target(options.target).kind == "cuda"
    write_runtime(options.folder / "python", options.wheel, cuda=cuda)
    done = []
    for name in options.networks:
        for batch in options.batches:
            print(f"{name}, batch {batch} ...", file=sys.stderr, flush=True)
            export_network(name, batch, options)
            done.append({"network": name, "batch": batch, "size": options.size, "width": options.width})
    compiled = {**machine_facts()["versions"], "nvcc": nvcc_release() if cuda else None}
    index = {
        "compiled_with": compiled,
        "target": options.target,
        "dtype": options.dtype,
        "policies": options.policies,
        "networks": done,
    }
    write_json(options.folder / "export.json", index)
    size = sum(path.stat().st_size for path in options.folder.rglob("*") if path.is_file())
    print(f"{options.folder}: {size / 2**20:.1f} MiB" + (", more than 64 MiB" if size > LIMIT else ""))


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Export networks for GPU benchmarks.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--networks", nargs="+", default=list(zoo.__all__), choices=zoo.__all__)
    parser.add_argument("--batches", nargs="+", type=int, default=list(BATCHES))
    parser.add_argument("--policies", nargs="+", default=list(POLICIES), choices=["auto", "always", "never"])
    parser.add_argument("--target", default="sm_90a")
    parser.add_argument("--dtype", default="float16")
    parser.add_argument("--size", type=int, default=224, help="height and width of the images")
    parser.add_argument("--width", type=float, default=1.0, help="multiplier of all channel counts")
    parser.add_argument("--no-blocks", action="store_true", help="whole networks only")
    parser.add_argument(
        "--wheel", action="append", type=Path, default=[], help="apache-tvm-ffi for another Python than this one"
    )
    options = parser.parse_args(arguments)
    if len(parse_target(options.target).variants) > 1:
        parser.error(f"a benchmark runs on one machine: give one target, not {options.target}")
    return options


def export_network(name: str, batch: int, options: argparse.Namespace) -> None:
    """One network at one batch size."""
    folder = options.folder / name / f"b{batch}"
    folder.mkdir(parents=True, exist_ok=True)
    model, constants = seeded_model(
        getattr(zoo, name)(batch=batch, size=options.size, width=options.width), folder.parent
    )
    graph = bf.compile(model, stop_after="canonicalize")
    terms, ops = max(path_depths(graph)[output] for output in graph.outputs)
    allowed = tolerance(max(1, terms), options.dtype, max(1, ops))
    write_json(folder / "graph.json", {**describe(graph), "allowed": allowed, "dtype": options.dtype})
    for policy in options.policies:
        export_container(model, constants, policy, folder / policy, options)
    if not options.no_blocks and parse_target(options.target).kind == "cuda":
        export_blocks(model, constants, folder / "blocks", options.target, options.dtype)


def seeded_model(model: Any, folder: Path) -> tuple[Any, Constants]:
    """The model with weights from a recipe, which is written into the folder, and those weights."""
    graph = bf.compile(model, stop_after="canonicalize")
    recipe = recipe_of_constants(constants_of(graph))
    write_json(folder / "constants.json", recipe)
    constants = make_constants(recipe)
    tensors = [
        Tensor(one.name, one.shape, one.dtype, constants[one.name]) if one.is_constant else one for one in graph.tensors
    ]
    return to_onnx(Graph(graph.name, graph.inputs, graph.outputs, tensors, graph.ops())), constants


# ---- containers ------------------------------------------------------------------------------------------------------
def export_container(model: Any, constants: Constants, policy: Any, folder: Path, options: argparse.Namespace) -> None:
    """A container without weights, and how to make them."""
    target = parse_target(options.target)
    chosen = {"target": options.target, "dtype": options.dtype, "fuse": policy, "cuda_graph": target.kind == "cuda"}
    programs = bf.compile(model, **chosen, stop_after="program")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    with tempfile.TemporaryDirectory() as name:
        bf.compile(model, **chosen).save(Path(name) / "network.bf")
        (variant,) = artifact.load(Path(name) / "network.bf", any_machine=True)
    artifact.save_folder([variant], folder)
    library = variant.library
    (folder / "weights.bin").unlink()
    weights = PackedWeights(constants)
    known = packed_constants(programs, backend_of(target, options.dtype).pack)
    described = []
    for one in library.constants:
        data = np.array(library.weights[one.offset : one.offset + one.nbytes]).view(one.dtype)
        positions, parameters = known.get(data.tobytes(), (np.zeros(1, np.int64), []))
        described.append({"offset": one.offset, **weights.add(data, positions, parameters)})
    write_json(folder / "weights.json", {"bytes": library.weights.nbytes, "constants": described})
    weights.save(folder / "weights.npz")


def packed_constants(programs: Programs, pack: Any) -> dict[bytes, tuple[Any, list[Any]]]:
    """By the bytes of a packed constant: where its elements come from, and what it was packed from."""
    traced: dict[str, list[Any]] = {}
    found = {}
    for kernel, name in zip(programs.planned.kernels, programs.names, strict=True):
        parameters, program = kernel.block.parameters, programs.by_name[name]
        if name not in traced:
            traced[name] = trace(lambda arrays, program=program: pack(program, arrays), parameters)
        for array, positions in zip(pack(program, parameters), traced[name], strict=True):
            found[array.tobytes()] = (positions, list(parameters.values()))
    return found


# ---- files -----------------------------------------------------------------------------------------------------------
def write_runtime(folder: Path, wheels: Sequence[Path], *, cuda: bool) -> None:
    """What running containers needs, for the search path of a Python with numpy."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in runtime_files(cuda=cuda, wheels=wheels).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.read_bytes())


def nvcc_release() -> str:
    """What nvcc says of itself, in one line."""
    done = subprocess.run([find_nvcc(), "--version"], capture_output=True, text=True, check=True)  # noqa: S603
    return next((line for line in done.stdout.splitlines() if "release" in line), done.stdout.strip())


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write one JSON document."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, allow_nan=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
