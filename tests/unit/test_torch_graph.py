"""PyTorch modules built from canonical graphs, against ONNX Runtime."""

from __future__ import annotations

import json

import numpy as np

import blockfuse as bf
from benchmarks.torch_graph import _EMITTERS, constants_of, describe, describe_part
from blockfuse.frontend import zoo
from blockfuse.frontend.partition import partition
from blockfuse.frontend.patterns import all as built_in
from blockfuse.runtime.library import Port
from blockfuse.verification.compare import compare, tolerance
from blockfuse.verification.depth import path_depths
from blockfuse.verification.verify import reference_session, seeded_inputs
from tests.torch_python import needs_torch, run

CHILD = """
import json, sys
import numpy as np, torch
from pathlib import Path
from benchmarks.torch_graph import build
folder = Path(sys.argv[1])
for path in sorted(folder.glob("*.json")):
    description = json.loads(path.read_text())
    constants = dict(np.load(path.with_suffix(".npz")))
    inputs = [torch.from_numpy(np.load(path.with_suffix(f".{i}.npy"))) for i in range(len(description["inputs"]))]
    images = [x.contiguous(memory_format=torch.channels_last) for x in inputs]
    module = build(description, constants)
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in module.parameters() if w.dim() == 4)
    with torch.inference_mode():
        np.save(path.with_suffix(".out.npy"), module(*images).numpy())
"""


def write(folder, name, description, constants, inputs):
    (folder / f"{name}.json").write_text(json.dumps(description))
    read = {one for op in description["ops"] for one in op["inputs"]}
    np.savez(folder / f"{name}.npz", **{key: array for key, array in constants.items() if key in read})
    for number, array in enumerate(inputs):
        np.save(folder / f"{name}.{number}.npy", array)


@needs_torch
def test_every_network_of_the_zoo(tmp_path):
    expected = {}
    for name in zoo.__all__:
        model = getattr(zoo, name)(batch=2, size=64, width=0.25)
        graph = bf.compile(model, stop_after="canonicalize")
        inputs = seeded_inputs([Port(name, graph.tensor(name).shape) for name in graph.inputs])
        write(tmp_path, name, describe(graph), constants_of(graph), inputs.values())
        (result,) = reference_session(model, 0, optimised=False).run(None, inputs)
        terms, ops = path_depths(graph)[graph.outputs[0]]
        expected[name] = (result, tolerance(terms, "float32", ops))
    run("-c", CHILD, tmp_path)
    for name, (result, allowed) in expected.items():
        found = compare(np.load(tmp_path / f"{name}.out.npy"), result, allowed)
        assert found.passed, f"{name}: {found}"


def test_a_part_of_a_graph():
    graph = bf.compile(zoo.resnet18(size=32, width=0.125), stop_after="canonicalize")
    block = next(block for block in partition(graph, built_in()).blocks if block.pattern)
    part = describe_part(graph, block.ops, block.tensors[:-1], block.tensors[-1])
    made = {name for op in part["ops"] for name in op["outputs"]}
    constants = constants_of(graph).keys()
    assert part["outputs"] == [block.tensors[-1]]
    assert all(name in made | constants | {block.tensors[0]} for op in part["ops"] for name in op["inputs"] if name)
    assert json.loads(json.dumps(part)) == part


def test_every_operator_of_the_zoo_has_a_counterpart():
    kinds = {
        op.kind
        for name in zoo.__all__
        for op in bf.compile(getattr(zoo, name)(size=32, width=0.125), stop_after="canonicalize").ops()
    }
    assert kinds <= _EMITTERS.keys()


@needs_torch
def test_an_unknown_operator_is_named():
    script = "from benchmarks.torch_graph import build\ntry:\n    build({'inputs': [], 'ops': [{'kind': 'Odd'}]}, {})\n"
    script += "except NotImplementedError as error:\n    print(error)\n"
    assert run("-c", script).startswith("Odd has no counterpart")
