"""Side-by-side measurement: order, counts and records; never times."""

import json
import sys

import numpy as np
import pytest

from blockfuse.errors import BlockfuseError, UsageError
from blockfuse.report import Report
from blockfuse.runtime.library import Port
from blockfuse.tools import bench as bench_module
from blockfuse.tools import facts as facts_module
from blockfuse.tools.bench import BenchResult, Side, bench
from blockfuse.tools.facts import machine_facts
from tests import onnx_models

SHAPE = (1, 4, 8, 8)


@pytest.fixture
def log():
    return []


class Executable:
    """Stands for a compiled network."""

    threads = 1
    inputs = (Port("x", SHAPE),)

    def __init__(self, log):
        self.log = log

    def inputs_for(self, batch):
        assert batch is None
        return self.inputs

    def start(self):
        return self

    def report(self):
        return Report("small", "cpu", threads=1)

    def run(self, inputs):
        assert inputs["x"].shape == SHAPE
        self.log.append("ours")


@pytest.fixture
def baseline(monkeypatch, log):
    """Replaces ONNX Runtime by a note in the log."""
    monkeypatch.setattr(bench_module, "onnxruntime_call", lambda *_, **__: lambda: log.append("theirs"))


def model():
    return onnx_models.model([onnx_models.node("Relu", "x", "y")], SHAPE)


@pytest.mark.usefixtures("baseline")
def test_sides_alternate_and_take_turns_to_start(log):
    result = bench(Executable(log), model(), rounds=3, seconds=0, turn=0)
    warm_up = ["ours", "ours", "theirs", "theirs"]  # a call that is discarded, and one of a turn
    assert log == [
        *warm_up,
        *("ours", "ours", "theirs", "theirs"),
        *("theirs", "theirs", "ours", "ours"),
        *("ours", "ours", "theirs", "theirs"),
    ]
    assert (result.rounds, result.ours.calls, result.baseline.calls) == (3, 3, 3)


def test_the_first_call_of_a_turn_is_not_timed(monkeypatch):
    clock = iter(np.arange(100.0))
    monkeypatch.setattr(bench_module.time, "perf_counter", lambda: next(clock))
    calls = []
    assert bench_module._timed(lambda: calls.append(1), 3.0) == [1.0, 1.0, 1.0]
    assert len(calls) == 4


def test_without_a_number_of_rounds_there_are_at_least_three(log):
    result = bench(Executable(log), baseline=None, seconds=0, turn=0)
    assert result.rounds == 3
    assert result.baseline is None
    assert result.ratio is None
    assert set(log) == {"ours"}


def test_numbers_of_a_side():
    side = bench_module._side("ours", [0.004, 0.001, 0.002, 0.003, 0.1, 0.005, 0.006, 0.007, 0.008, 0.009])
    assert (side.minimum, side.median, side.p90, side.calls) == (1.0, 5.5, 100.0, 10)


def test_ratios_are_ours_over_the_baseline():
    sides = Side("blockfuse", 10, 2.0, 4.0, 5.0), Side("onnxruntime", 9, 3.0, 5.0, 6.0)
    result = BenchResult("net", "cpu", "auto", 2, 3, *sides, {"device": "some CPU"})
    assert (result.ratio, result.ratio_of_medians) == (2 / 3, 4 / 5)
    assert "blockfuse / onnxruntime: 0.67 by minima, 0.80 by medians" in str(result)


@pytest.mark.parametrize(("load", "warns"), [(None, False), (0.1, False), (0.9, True)])
def test_a_busy_machine_is_told(load, warns):
    result = BenchResult("net", "cpu", "auto", 2, 3, Side("blockfuse", 1, 1, 1, 1), None, {"device": "some CPU"}, load)
    assert ("other processes kept 0.9 cores busy" in str(result)) == warns


def test_own_work_is_no_foreign_load(monkeypatch):
    monkeypatch.setattr(facts_module.Path, "read_text", lambda *_, **__: "cpu 120 0 60 1000 5 0 10 10 0 0\n")
    monkeypatch.setattr(facts_module.os, "sysconf", lambda _: 100)
    monkeypatch.setattr(facts_module.time, "process_time", lambda: 0.5)
    assert facts_module.foreign_seconds() == pytest.approx(2.0 - 0.5)


def test_foreign_load_is_that_of_the_measurement(monkeypatch):
    seconds = iter([100.0, 100.25])
    clock = iter([0.0, 0.0, 10.0, 10.0, 10.0, 10.5])  # two for the warm-up, start, one call, end
    monkeypatch.setattr(bench_module, "foreign_seconds", lambda: next(seconds))
    monkeypatch.setattr(bench_module.time, "perf_counter", lambda: next(clock))
    assert bench_module.measure({"a": int}, 1, 0, 0).foreign_load == 0.5


def test_a_result_says_all_that_it_takes_to_understand_it(log):
    result = bench(Executable(log), model(), rounds=1, seconds=0, turn=0)
    document = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert document["threads"] == 1
    assert document["baseline"]["name"] == "onnxruntime"
    assert document["baseline"]["minimum"] > 0
    assert {"minimum", "median", "p90"} < document["ours"].keys()
    assert document["facts"].keys() >= {"device", "date", "versions", "cores", "load"}
    assert document["foreign_load"] >= 0
    assert document["facts"]["versions"]["apache-tvm"].startswith("0.27")
    assert document["facts"]["date"].endswith("+00:00")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"baseline": "tensorrt", "model": model()}, "unknown baseline 'tensorrt'; known are onnxruntime"),
        ({"model": None}, "the baseline onnxruntime needs the model"),
        ({"baseline": None, "rounds": 0}, "rounds must be at least 1"),
        ({"baseline": None, "seconds": -1}, "must not be negative"),
    ],
)
def test_wrong_arguments(log, options, message):
    with pytest.raises(UsageError, match=message):
        bench(Executable(log), **options)
    assert not log


def test_a_baseline_of_another_model_is_refused(log):
    other = onnx_models.model(
        [onnx_models.node("Relu", "z", "y")],
        inputs=[onnx_models.helper.make_tensor_value_info("z", 1, SHAPE)],
    )
    with pytest.raises(UsageError, match="compiled from another model"):
        bench(Executable(log), other, rounds=1)


def test_without_onnxruntime_the_message_names_the_extra(log, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BlockfuseError, match=r"pip install 'blockfuse\[verify\]'"):
        bench(Executable(log), model(), rounds=1)


def test_facts_name_the_machine():
    facts = machine_facts()
    assert facts["device"]
    assert facts["cores"] >= 1
    assert facts["versions"]["numpy"] == np.__version__
