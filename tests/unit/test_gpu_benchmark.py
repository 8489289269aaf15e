"""The GPU benchmark without a GPU: weights that travel, turns, ratios, records, and runs on a processor."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import gpu, gpu_export, gpu_sides
from benchmarks.gpu_export import packed_constants
from benchmarks.gpu_measure import (
    EventClock,
    HostClock,
    Work,
    efficiency,
    engine_peak,
    figures_of,
    limits,
    measure,
    ratios,
)
from benchmarks.gpu_weights import PackedWeights, make_constants, recipe_of_constants, trace, unpack
from blockfuse.errors import ArtifactError
from blockfuse.plan.choose_cuda import plan_cuda
from blockfuse.plan.cuda import CudaPlan
from blockfuse.plan.device import GPUS
from blockfuse.plan.fold import fold
from blockfuse.program.cuda import program_cuda
from blockfuse.schedules.cuda import pack
from tests.random_blocks import random_block
from tests.torch_python import needs_torch, run

CPU = ["--target", "cpu", "--dtype", "float32", "--size", "32", "--width", "0.125", "--batches", "1"]
OURS = ["--sides", "fused", "unfused", "--seconds", "0"]


# ---- weights ---------------------------------------------------------------------------------------------------------
def cuda_program(seed):
    block = random_block(np.random.default_rng(seed), dtype="float16")
    plan = plan_cuda(fold(block), GPUS["sm_90"])
    assert isinstance(plan, CudaPlan)
    return block, program_cuda(fold(block), plan, "kernel")


@pytest.mark.parametrize("seed", range(8))
def test_packed_weights_are_made_from_the_graphs(seed, tmp_path):
    block, program = cuda_program(seed)
    constants = {f"{stage}.{key}": array.copy() for (stage, key), array in block.parameters.items()}
    weights = PackedWeights(constants)
    traced = trace(lambda arrays: pack(program, arrays), block.parameters)
    packed = pack(program, block.parameters)
    parameters = list(block.parameters.values())
    described = [weights.add(array, where, parameters) for array, where in zip(packed, traced, strict=True)]
    weights.save(tmp_path / "weights.npz")
    with np.load(tmp_path / "weights.npz") as arrays:
        for one, array in zip(json.loads(json.dumps(described)), packed, strict=True):
            assert unpack(one, arrays, constants).tobytes() == array.tobytes()
    for one, array in zip(described, packed, strict=True):
        assert "positions" in one or array.dtype == np.float32, "a stream of weights travels as positions"


def test_what_the_recipe_lacks_travels_as_it_is(tmp_path):
    array = np.arange(6, dtype=np.float32)
    weights = PackedWeights({})
    described = weights.add(array, np.arange(1, 7), [array])
    weights.save(tmp_path / "weights.npz")
    with np.load(tmp_path / "weights.npz") as arrays:
        assert np.array_equal(unpack(described, arrays, {}), array)


def test_constants_are_made_from_a_seed():
    rng = np.random.default_rng(0)
    constants = {"large": rng.standard_normal((64, 32, 3)).astype(np.float32), "small": rng.standard_normal(7)}
    recipe = json.loads(json.dumps(recipe_of_constants(constants)))
    made, again = make_constants(recipe), make_constants(recipe)
    assert {name: array.shape for name, array in made.items()} == {"large": (64, 32, 3), "small": (7,)}
    assert np.array_equal(made["large"], again["large"])
    assert not np.array_equal(made["large"], constants["large"])
    assert made["large"].std() == pytest.approx(constants["large"].std(), rel=0.05)
    assert np.array_equal(made["small"], constants["small"])
    assert len(json.dumps(recipe)) < constants["large"].nbytes / 4


# ---- turns and figures -----------------------------------------------------------------------------------------------
class FakeClock:
    """Time passes as the sides say."""

    name = "fake"

    def __init__(self):
        self.turns = []

    def seconds(self, call, count):
        self.turns.append(call.__name__)
        return sum(call() for _ in range(count))


def test_sides_take_turns():
    def slow():
        return 0.004

    def fast():
        return 0.001

    clock = FakeClock()
    times = measure({"slow": slow, "fast": fast}, clock, seconds=0, turn=0.02, fewest=4)
    assert clock.turns[-8:] == ["slow", "fast", "fast", "slow", "slow", "fast", "fast", "slow"]
    assert times["slow"]["calls_per_turn"] == 5
    assert times["fast"]["calls_per_turn"] == 20
    assert times["slow"]["minimum"] == times["slow"]["median"] == pytest.approx(4.0)
    assert times["fast"]["turns"] == 4


def test_nothing_to_time():
    assert measure({}, HostClock()) == {}


def test_the_host_clock_counts_calls():
    calls = []
    assert HostClock().seconds(lambda: calls.append(1), 3) > 0
    assert len(calls) == 3


def test_the_host_clock_waits_for_what_was_begun():
    done = []
    HostClock(lambda: done.append("wait")).seconds(lambda: done.append("call"), 2)
    assert done == ["wait", "call", "call", "wait"]


def side(minimum, median):
    return {"minimum": minimum, "median": median}


def test_a_ratio_below_one_is_faster():
    found = ratios({"fused": side(1, 2), "unfused": side(2, 2), "torch eager": side(4, 4)})
    assert found["fused / torch eager"]["of_minima"] == 0.25
    assert found["fused / torch eager"]["medians"] == [2, 4]
    assert found["fused / unfused"]["of_medians"] == 1
    assert found.keys() == {"fused / torch eager", "unfused / torch eager", "fused / unfused"}


def test_efficiency_of_chip_and_engine():
    device = GPUS["sm_90"]
    seconds = 1e-3
    kernels = {"fused": [Work(int(device.tensor_peak * seconds / 2), 1, "tile 7x14")]}
    found = efficiency(
        {"fused": side(1e3 * seconds, 1), "torch eager": side(2e3 * seconds, 1)}, kernels, device, "sm_90"
    )
    assert found["fused"]["of_chip"] == pytest.approx(0.5)
    assert found["fused"]["of_engine"] == pytest.approx(0.5 / 0.62)
    assert found["torch eager"]["of_chip"] == pytest.approx(0.25)


def test_peaks_of_engines():
    device = GPUS["sm_90"]
    mma, wgmma = Work(100, 1, "8 warps"), Work(100, 1, "8 warps, wgmma")
    assert engine_peak([mma], GPUS["sm_80"], "sm_80") == GPUS["sm_80"].tensor_peak
    assert engine_peak([wgmma], device, "sm_90") > engine_peak([mma, wgmma], device, "sm_90")
    assert engine_peak([mma, wgmma], device, "sm_90") > engine_peak([mma], device, "sm_90")
    assert engine_peak([], device, "sm_90") == device.tensor_peak


def test_limits_say_whose_figures_they_are_and_that_they_are_predicted():
    device = figures_of("sm_90")
    found = limits({"fused": [Work(10**9, 10**6, "")], "unfused": [Work(10**9, 10**8, "")]}, device, "sm_90")
    assert found["figures_of"] == "H200"
    predicted = found["predicted"]
    assert predicted["fused"]["efficiency"] > predicted["unfused"]["efficiency"]
    assert predicted["unfused"]["lost_seconds"] > 0


# ---- PyTorch's events and graphs, of a PyTorch that only takes notes -------------------------------------------------
class Notes(list):
    """A stand-in for ``torch`` that notes what is done in which order."""

    def __init__(self):
        super().__init__()
        notes = self

        class Event:
            def __init__(self, **_):
                pass

            def record(self):
                notes.append("event")

            def synchronize(self):
                notes.append("wait")

            def elapsed_time(self, _):
                return 4.0

        class Context:
            def __init__(self, name):
                self.name, self.cuda_stream = name, 7 if name == "aside" else 9

            def __enter__(self):
                notes.append(f"in {self.name}")

            def __exit__(self, *_):
                notes.append(f"out of {self.name}")

            def wait_stream(self, _):
                pass

        graph = SimpleNamespace(replay=lambda: notes.append("replay"))
        self.cuda = SimpleNamespace(
            Event=Event,
            Stream=lambda: Context("aside"),
            CUDAGraph=lambda: graph,
            current_stream=lambda: Context("capturing"),
            stream=lambda _: Context("warm-up"),
            graph=lambda _: Context("graph"),
            synchronize=lambda: notes.append("synchronize"),
        )


def test_events_enclose_the_calls():
    torch = Notes()
    assert EventClock(torch).seconds(lambda: torch.append("call"), 2) == 0.004
    assert torch == ["synchronize", "event", "call", "call", "event", "wait"]


def test_launches_are_warm_before_they_are_recorded():
    torch = Notes()
    gpu_sides.record(torch, torch.append)()
    assert torch == [
        *("in warm-up", 7, 7, 7, "out of warm-up", "synchronize"),
        *("in graph", 9, "out of graph", "replay"),
    ]


# ---- whole runs ------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    gpu_export.main([str(folder), "--networks", "resnet18", "mobilenet_v2", *CPU])
    assert not list(folder.rglob("weights.bin")), "weights do not travel"
    return folder


def test_our_sides_are_measured_and_recorded(exported, tmp_path, capsys):
    output = tmp_path / "gpu_test.json"
    arguments = [str(exported), "--output", str(output), "--only", "resnet18", *OURS]
    assert gpu.main(arguments) == 0
    data = json.loads(output.read_text())
    (record,) = data["records"]
    assert record["key"] == ["network", "resnet18", 1]
    assert record["errors"].keys() == record["times"].keys() == {"fused", "unfused"}
    assert 0 < record["errors"]["unfused"] <= 1
    assert "below 1 we are faster" in data["convention"]
    assert record["measured"]["date"]
    assert "fused / unfused" in capsys.readouterr().out


def test_a_run_goes_on_where_another_stopped(exported, tmp_path, capsys):
    output = tmp_path / "gpu_test.json"
    arguments = [str(exported), "--output", str(output), *OURS]
    assert gpu.main([*arguments, "--minutes", "-1"]) == 0
    assert "run it again to go on" in capsys.readouterr().out
    gpu.main([*arguments, "--only", "mobilenet_v2"])
    gpu.main(arguments)
    assert [key for key in capsys.readouterr().out.split() if key in {"resnet18", "mobilenet_v2"}] == [
        "mobilenet_v2",
        "resnet18",
    ]
    assert len(json.loads(output.read_text())["records"]) == 2


def test_what_lacks_a_side_is_measured_again(tmp_path):
    options = SimpleNamespace(folder=tmp_path, mode="default")
    index = {"target": "sm_90", "compiled_with": {}}
    setting = SimpleNamespace(fused="auto", device=("device", "sm_90"))
    results = gpu.Results(tmp_path / "gpu_test.json", setting, index, options)
    results.add(("network", "n", 1), {"times": {"fused": {}}, "wrong": ["unfused"], "failed": {"torch compile": "why"}})
    again = gpu.Results(tmp_path / "gpu_test.json", setting, index, options)
    assert again.has(("network", "n", 1), ["fused", "unfused", "torch compile"])
    assert not again.has(("network", "n", 1), ["fused", "torch eager"])
    assert not again.has(("network", "n", 8), ["fused"])


def test_wrong_results_are_not_timed(exported, tmp_path, monkeypatch):
    output = tmp_path / "gpu_test.json"
    load = gpu_sides.load_container

    def broken(folder, constants):
        executable = load(folder, constants)
        if folder.name == "never":
            right = executable.run
            executable.run = lambda inputs: {name: 1.5 * array for name, array in right(inputs).items()}
        return executable

    monkeypatch.setattr("benchmarks.gpu_parts.load_container", broken)
    assert gpu.main([str(exported), "--output", str(output), "--only", "resnet18", *OURS]) == 1
    (record,) = json.loads(output.read_text())["records"]
    assert record["wrong"] == ["unfused"]
    assert record["times"].keys() == {"fused"}


def test_damaged_weights_are_noticed(exported, tmp_path):
    constants = gpu_sides.constants_in(exported / "resnet18")
    folder = tmp_path / "never"
    folder.mkdir()
    for path in (exported / "resnet18" / "b1" / "never").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "weights.bin").unlink(missing_ok=True)
    name = max(constants, key=lambda key: constants[key].size)
    described = json.loads((folder / "weights.json").read_text())
    assert gpu_sides.packed_weights(folder, constants)
    described["constants"][0]["offset"] += 64
    described["bytes"] += 64
    (folder / "weights.json").write_text(json.dumps(described))
    with pytest.raises(ArtifactError, match="damaged"):
        gpu_sides.load_container(folder, {**constants, name: constants[name] + 1})


@needs_torch
def test_all_sides_on_a_processor(exported, tmp_path):
    output = tmp_path / "gpu_test.json"
    words = ["--only", "mobilenet_v2", "--seconds", 0, "--sides", "fused", "unfused", "torch eager"]
    printed = run("benchmarks/gpu.py", exported, "--output", output, *words)
    assert "torch eager" in printed
    (record,) = json.loads(output.read_text())["records"]
    assert record["times"].keys() == {"fused", "unfused", "torch eager"}
    assert max(record["errors"].values()) <= 1


def test_kernels_that_share_a_program_share_positions():
    block, program = cuda_program(3)
    twin = replace(block, parameters={key: 2 * array for key, array in block.parameters.items()})
    kernels = [SimpleNamespace(block=one) for one in (block, twin)]
    programs = SimpleNamespace(
        planned=SimpleNamespace(kernels=kernels), names=("kernel", "kernel"), by_name={"kernel": program}
    )
    found = packed_constants(programs, pack)
    for one in (block, twin):
        for array in pack(program, one.parameters):
            _, parameters = found[array.tobytes()]
            assert [id(item) for item in parameters] == [id(item) for item in one.parameters.values()]
