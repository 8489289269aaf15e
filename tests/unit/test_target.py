import os
import platform

import pytest

from blockfuse import target
from blockfuse.errors import TargetError, UsageError
from blockfuse.target import CPU_CLASSES, available_cores, best_cpu, parse_target


def pretend_features(monkeypatch, *features, machine="x86_64"):
    monkeypatch.setattr(target, "cpu_features", lambda: frozenset(features))
    monkeypatch.setattr(platform, "machine", lambda: machine)


def test_cpu_is_the_best_class_of_the_machine(monkeypatch):
    for name in ("cpu:avx512", "cpu:avx2"):
        pretend_features(monkeypatch, *CPU_CLASSES[name].features)
        assert parse_target("cpu").name == name
        pretend_features(monkeypatch, *CPU_CLASSES[name].features[1:])
        assert parse_target("cpu").name != name
    assert best_cpu().name == "cpu:generic"


def test_another_architecture_has_the_generic_class(monkeypatch):
    pretend_features(monkeypatch, machine="aarch64")
    generic = parse_target("cpu")
    assert (generic.name, generic.machine, generic.mcpu) == ("cpu:generic", "aarch64", "generic")
    assert not generic.missing_features()
    assert "aarch64" in parse_target("cpu:avx2").missing_features()[0]


def test_classes_differ_in_vectors_and_llvm_names():
    rows = {name: (t.mcpu, t.lanes, t.registers) for name, t in CPU_CLASSES.items()}
    assert rows == {
        "cpu:avx512": ("x86-64-v4", 16, 32),
        "cpu:avx2": ("x86-64-v3", 8, 16),
        "cpu:generic": ("generic", 4, 15),
    }


def test_missing_features_are_named(monkeypatch):
    pretend_features(monkeypatch, *CPU_CLASSES["cpu:avx2"].features)
    missing = parse_target("cpu:avx512").missing_features()
    assert missing == ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")


def test_threads_default_to_the_cores_of_the_process():
    assert parse_target("cpu").threads == available_cores() <= len(os.sched_getaffinity(0))
    assert parse_target("cpu:avx2", threads=3).threads == 3
    with pytest.raises(UsageError, match="threads must be at least 1, not 0"):
        parse_target("cpu", threads=0)


def test_a_target_that_is_no_text_is_refused():
    with pytest.raises(UsageError, match="target must be a text such as 'cpu' or 'sm_90', not list"):
        parse_target(["sm_80", "sm_90"])


def test_cores_follow_the_affinity_of_the_process():
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {max(allowed)})
        assert target.available_cpus() == (max(allowed),)
    finally:
        os.sched_setaffinity(0, allowed)


def test_siblings_count_as_one_core(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.setattr(target, "_core_of", lambda cpu: str(cpu % 2))
    assert target.available_cpus() == (0, 1)


@pytest.mark.parametrize(
    ("text", "archs"), [("cuda", ()), ("sm_80", ("sm_80",)), ("sm_80, SM_90a", ("sm_80", "sm_90a"))]
)
def test_cuda_targets_parse(text, archs):
    parsed = parse_target(text)
    assert (parsed.kind, parsed.archs) == ("cuda", archs)


@pytest.mark.parametrize("text", ["", "gpu", "cpu:avx1024", "sm_", "sm_80,cpu", "native"])
def test_unknown_targets_are_one_line_with_the_known_ones(text):
    with pytest.raises(TargetError, match=r"unknown target .*; known are cpu, cpu:avx512") as caught:
        parse_target(text)
    assert "\n" not in str(caught.value)


def test_features_come_from_the_operating_system():
    assert platform.machine() != "x86_64" or "sse2" in target.cpu_features()
