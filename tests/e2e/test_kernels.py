"""``blockfuse kernels``: every kernel with its stages, figures and sources."""

import json
from dataclasses import replace

import onnx
import pytest

import blockfuse
from blockfuse import cli
from blockfuse.build.cubin import find_nvcc
from blockfuse.errors import TargetError
from blockfuse.frontend.zoo import resnet18
from blockfuse.report import KernelRecord, Report, StepRecord
from blockfuse.runtime import artifact
from blockfuse.runtime.variants import Variant
from blockfuse.tools import machine_code, resources
from blockfuse.tools.counts import Counts, read_counts
from blockfuse.tools.kernels import kernels_of, kernels_of_artifact, kernels_of_model
from blockfuse.tools.machine_code import Code

RECORD = KernelRecord("bf_a", "tile 7x14", 1000, 1.1, 10, 20, 3.0, "memory", ("conv 3x3 -> 8",), 12, 256, 40_000, 7000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, an artifact with sources, and one without."""
    path = tmp_path_factory.mktemp("kernels")
    onnx.save(resnet18(size=32, width=0.25, classes=10), path / "net.onnx")
    command = ["compile", str(path / "net.onnx"), "-q", "--threads", "1", "--fuse", "always", "-o"]
    assert cli.main([*command, str(path / "net.bf"), "--keep-sources"]) == 0
    kept = blockfuse.load(path / "net.bf")
    blockfuse.Executable([Variant(replace(kept._library, sources={}), kept.report())]).save(path / "plain.bf")
    return path


@pytest.fixture
def run(folder, capsys):
    """Code, output and messages of the command."""

    def command(name, *words):
        capsys.readouterr()
        code = cli.main(["kernels", str(folder / name), *words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


def test_every_kernel_is_listed_with_its_stages_and_calls(run):
    code, out, _ = run("net.bf")
    assert code == 0
    assert "9 kernels in 10 calls" in out
    assert "bf_basic_block_0: conv 3x3 -> 16 | relu | conv 3x3 -> 16 | add | relu" in out
    assert "2 calls (basic_block_0, basic_block_1); 1 bands" in out
    assert "CTAs" not in out
    code, out, _ = run("net.bf", "--json")
    kernels = json.loads(out)["kernels"]
    assert sum(one["share"] for one in kernels) == pytest.approx(1)
    assert all(one["plan"] and one["bound"] and one["stages"] and not one["resources"] for one in kernels)


def test_a_model_has_the_kernels_of_its_artifact(run):
    options = ("--threads", "1", "--fuse", "always")
    assert run("net.onnx", *options)[1] == run("net.bf")[1]
    assert run("net.onnx", *options, "--source", "bf_basic_block_3")[1] == run(
        "net.bf", "--source", "bf_basic_block_3"
    )[1]  # fmt: skip


def test_operators_without_a_kernel_are_counted():
    steps = (*(StepRecord(name, "Gather", name) for name in "ab"), StepRecord("c", "Concat", "c"))
    made = StepRecord("d", "single", "d", kernels=(RECORD,))
    found = kernels_of(Report("net", "cpu", steps=(*steps, made)))
    assert "without a kernel and a prediction: 2 Gather, 1 Concat" in str(found)
    assert found.to_dict()["without_kernel"] == {"Gather": 2, "Concat": 1}
    assert "without a kernel" not in str(kernels_of(Report("net", "cpu", steps=(made,))))


def test_the_source_of_a_kernel(run):
    code, out, _ = run("net.bf", "--source", "bf_basic_block_3")
    assert code == 0
    assert out.startswith("==== bf_basic_block_3.program\nprogram bf_basic_block_3 (cpu)")
    assert "==== bf_basic_block_3.tir" in out
    assert "def bf_basic_block_3(" in out
    code, out, _ = run("net.bf", "--source", "bf_basic_block_3", "--json")
    assert set(json.loads(out)["sources"]) == {"bf_basic_block_3.program", "bf_basic_block_3.tir"}


@pytest.mark.parametrize(
    ("name", "kernel", "message"),
    [
        ("net.bf", "bf_none", "there is no kernel 'bf_none'; there are bf_"),
        ("plain.bf", "bf_basic_block_3", "has no sources of bf_basic_block_3: compile it with --keep-sources"),
    ],
)
def test_sources_that_are_not_there(run, name, kernel, message):
    code, out, err = run(name, "--source", kernel)
    assert (code, out) == (2, "")
    assert message in err


def test_options_for_compiling_do_not_go_with_an_artifact(run):
    code, _, err = run("net.bf", "--fuse", "never")
    assert code == 2
    assert "--fuse says how to compile a model" in err


def test_sources_survive_loading_and_saving(folder, tmp_path):
    blockfuse.load(folder / "net.bf").save(tmp_path / "again.bf")
    assert kernels_of_artifact(tmp_path / "again.bf")[0].texts == kernels_of_artifact(folder / "net.bf")[0].texts
    assert (folder / "plain.bf").stat().st_size < (folder / "net.bf").stat().st_size


# ---- CUDA ------------------------------------------------------------------------------------------------------------
def test_a_cuda_kernel_is_shown_with_what_it_needs():
    alone = StepRecord("b", "Softmax", "z", note="no stage")
    report = Report("net", "sm_90", steps=(StepRecord("a", "mbconv", "y", kernels=(RECORD,)), alone))
    sass = {"HMMA": 72, "NOP": 90, "LDS": 80}
    codes = [Code("bf_a_kernel", "sm_90", 168, 24, 256, sass, 20), Code("bf_cast_1_kernel", "sm_90", 16, 0, 256)]
    counts = Counts({("bf_a", RECORD.plan, 12): 5000})
    shown = str(kernels_of(report, codes=codes, counts=counts))
    assert "12 CTAs of 256 threads, 40000 shared bytes; moves 7 kB predicted, 5 kB counted in emulation" in shown
    assert "sm_90: 168 registers, 24 bytes of stack, 20 spilled; 1 CTAs per SM, occupancy 12 %" in shown
    assert "SASS: 152 (HMMA 72, LDS 80)" in shown
    assert "bf_cast_1: converts a value at the network's border\n  sm_90: 16 registers, 0 bytes of stack, -" in shown
    assert "b: Softmax, an operator without a kernel of ours  no stage" in shown
    other = kernels_of(report, counts=Counts({("bf_a", RECORD.plan, 13): 5000}))
    assert "- counted in emulation" in str(other)


def test_counts_are_read_from_a_file(run, tmp_path):
    path = tmp_path / "counts.json"
    path.write_text('{"rows": [{"kernel": "bf_a", "plan": "tile 7x14", "grid": 12, "counted_bytes": 5000}]}')
    assert read_counts(path).of(RECORD) == 5000
    assert run("net.bf", "--counts", str(path))[0] == 0
    path.write_text("[1]")
    code, _, err = run("net.bf", "--counts", str(path))
    assert code == 2
    assert "write one with python -m benchmarks.cuda_counts" in err


def test_registers_are_those_of_the_machine_code_in_the_container(tmp_path, monkeypatch):
    _need_nvcc()
    path = tmp_path / "gpu.bf"
    model = resnet18(size=32, width=0.25, classes=10)
    blockfuse.compile(model, target="sm_80,sm_90a", dtype="float16").save(path)
    monkeypatch.setattr(machine_code, "find_disassembler", lambda: None)
    variants = kernels_of_artifact(path)
    assert [found.report.target for found in variants] == ["sm_80", "sm_90a"]
    for found in variants:
        assert not found.note
        assert {one.name for one in found.others} == {"bf_cast_1", "bf_cast_2"}
        for view in (*found.kernels, *found.others):
            (one,) = view.resources
            assert one.arch == found.report.target
            assert 8 <= one.registers <= 255
            assert one.spill_bytes == 0
            assert one.sass is None
        assert all(one.ctas > 0 for view in found.kernels for one in view.resources)
        assert all(view.record.moved_bytes >= view.record.global_bytes / 2 for view in found.kernels)


def test_a_container_without_machine_code_says_so(monkeypatch):
    library = replace(blockfuse.compile(resnet18(size=32, width=0.25, classes=10))._library, code=b"\x7fELF")
    library = replace(library, target=replace(library.target, archs=("sm_90",)))
    report = Report("net", "sm_90", steps=(StepRecord("a", "mbconv", "y", kernels=(RECORD,)),))
    monkeypatch.setattr(artifact, "load", lambda *_, **__: (Variant(library, report),))
    (found,) = kernels_of_artifact("net.bf")
    assert "holds no machine code" in str(found)


def _need_nvcc():
    try:
        find_nvcc()
    except TargetError:
        pytest.skip("compiling for GPUs needs nvcc")


@pytest.mark.parametrize(
    ("arch", "threads", "registers", "shared", "ctas"),
    [
        ("sm_90", 256, 168, 40_000, 1),  # registers: 8 warps of 5376
        ("sm_90", 256, 128, 40_000, 2),
        ("sm_90a", 128, 32, 100_000, 2),  # shared memory, with 1 KiB of the system's
        ("sm_89", 512, 32, 1_000, 3),  # threads
        ("sm_80", 32, 16, 0, 32),  # CTAs
        ("sm_90", 1024, 255, 0, 0),  # too many registers to start at all
        ("sm_70", 256, 32, 0, 0),
    ],
)
def test_ctas_per_sm(arch, threads, registers, shared, ctas):
    assert resources.ctas_on(arch, threads, registers, shared) == ctas


def test_cuda_c_of_a_model(folder):
    (kernels,) = kernels_of_model(folder / "net.onnx", "sm_90", dtype="float16", sources=True)
    texts = kernels.sources("bf_basic_block_3")
    assert list(texts) == ["bf_basic_block_3.program", "bf_basic_block_3.cu"]
    source = texts["bf_basic_block_3.cu"]
    assert source.startswith("// program bf_basic_block_3 (cuda)")
    assert "__global__" in source
    kernel = source[source.rindex("__global__") :]
    comments = [line.split("// ")[1] for line in kernel.splitlines() if "// " in line]
    steps = {line.split(":")[0] for line in comments if line.startswith("step ")}
    assert len(steps) == 2
    assert all(any(line.startswith(f"{step}: GEMM") for line in comments) for step in steps)
    assert all(not line.endswith("();") for line in comments)
    assert "registers, stack and SASS are shown of what compile wrote" in str(kernels)
