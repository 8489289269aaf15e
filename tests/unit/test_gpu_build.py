"""From kernels to fat binaries inside a library, and which GPUs they are for."""

import re
import struct
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import blockfuse
from blockfuse import gpu
from blockfuse.build import cubin
from blockfuse.build.border import check_range, computed_in
from blockfuse.build.imports import rewritten
from blockfuse.build.network import Call, Network
from blockfuse.errors import InternalError, TargetError, UnsupportedModelError
from blockfuse.graph import Op, Tensor
from blockfuse.kernel_cache import KernelCache
from blockfuse.plan import device
from blockfuse.plan.device import GPUS, device_of, gpu_device
from blockfuse.report import Report
from blockfuse.runtime.library import Port
from blockfuse.runtime.variants import Variant, best_for
from blockfuse.target import newest_plain, parse_target, runs_on

KERNEL = 'extern "C" __global__ void bf_scale_kernel(float* y) { y[threadIdx.x] *= 2; }\n'


# ---- architectures ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("archs", "here", "runs"),
    [
        ("sm_80", "sm_80", True),
        ("sm_80", "sm_86", True),
        ("sm_86", "sm_80", False),
        ("sm_80", "sm_90", True),  # as PTX
        ("sm_90", "sm_89", False),
        ("sm_90a", "sm_90", True),
        ("sm_90a", "sm_100", False),
        ("sm_90a,sm_80", "sm_120", True),
        ("sm_100f", "sm_103", True),
        ("sm_100f", "sm_110", False),
        ("sm_103f", "sm_100", False),
        ("sm_120", "sm_100", False),
    ],
)
def test_where_code_runs(archs, here, runs):
    assert runs_on(archs.split(","), here) is runs


def test_ptx_is_made_of_the_newest_that_has_a_successor():
    assert newest_plain(["sm_80", "sm_90", "sm_100a"]) == 90
    assert newest_plain(["sm_90a"]) is None
    assert cubin.generations(["sm_80", "sm_90a"]) == [
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_90a,code=sm_90a",
        "-gencode=arch=compute_80,code=compute_80",
    ]


@pytest.mark.parametrize(
    ("archs", "here", "best"),
    [
        ("sm_80,sm_90,sm_90a", "sm_90", "sm_90a"),
        ("sm_90a,sm_90,sm_80", "sm_90", "sm_90a"),
        ("sm_80,sm_86,sm_89", "sm_89", "sm_89"),
        ("sm_80,sm_86", "sm_89", "sm_86"),  # of its generation, the newest that is not newer
        ("sm_86,sm_80,sm_89", "sm_87", "sm_86"),
        ("sm_80,sm_89", "sm_90", "sm_89"),  # as PTX
        ("sm_80,sm_90a", "sm_100", "sm_80"),
        ("sm_80,sm_100f", "sm_103", "sm_100f"),
        ("sm_90,sm_100a", "sm_103", "sm_90"),
        ("sm_90,sm_120", "sm_100", "sm_90"),
    ],
)
def test_the_best_match_runs(archs, here, best):
    for order in (1, -1):
        variants = [variant(arch) for arch in archs.split(",")][::order]
        assert best_for(variants, gpu.Gpu("gpu", here, 232_448)).name == best


def variant(arch, shared_bytes=0):
    target = replace(parse_target(arch), shared_bytes=shared_bytes)
    return Variant(SimpleNamespace(name="net", target=target), Report("net", arch))


def test_a_variant_that_needs_too_much_shared_memory_is_passed_over():
    variants = [variant("sm_86", 90_000), variant("sm_90", 200_000)]
    assert best_for(variants, gpu.Gpu("large", "sm_100", 232_448)).name == "sm_90"
    assert best_for(variants, gpu.Gpu("small", "sm_120", 101_376)).name == "sm_86"


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (gpu.Gpu("old", "sm_75", 65_536), "net was compiled for sm_80, sm_90a, and this GPU is old (sm_75)"),
        (
            gpu.Gpu("small", "sm_120", 101_376),
            "net was planned for sm_80 and needs 150,000 bytes of shared memory; this GPU, small (sm_120), has 101,376",
        ),
    ],
)
def test_a_gpu_that_cannot_run_the_code_is_named_beside_it(other, message):
    with pytest.raises(TargetError, match=f"^{re.escape(message)}$"):
        best_for([variant("sm_80", 150_000), variant("sm_90a", 200_000)], other)


def test_code_for_this_gpu_uses_its_own_instructions():
    assert [gpu.Gpu("gpu", arch, 0).target for arch in ("sm_80", "sm_90", "sm_100")] == ["sm_80", "sm_90a", "sm_100"]


# ---- figures ---------------------------------------------------------------------------------------------------------
def test_every_architecture_has_its_own_plans():
    target = parse_target("sm_90,sm_86,sm_90")
    assert [(one.name, one.archs) for one in target.variants] == [("sm_90", ("sm_90",)), ("sm_86", ("sm_86",))]
    assert [device_of(one).local_bytes for one in target.variants] == [227 * 1024, 99 * 1024]
    with pytest.raises(InternalError, match="plans are made for one architecture, not for sm_90, sm_86, sm_90"):
        device_of(target)


@pytest.mark.parametrize(
    ("arch", "figures", "shared", "threads"),
    [
        ("sm_87", "RTX 3090", 163, 1536),
        ("sm_100", "H200", 227, 2048),
        ("sm_103a", "H200", 227, 2048),
        ("sm_120", "H200", 99, 1536),
        ("sm_999", "H200", 99, 2048),  # of which nothing is known: the least of any
    ],
)
def test_without_figures_those_of_the_nearest_older_one_count(monkeypatch, arch, figures, shared, threads):
    monkeypatch.setattr(device, "this_gpu", lambda: gpu.Gpu("other", "sm_86", 1))
    found = gpu_device(arch)
    nearest = next(one for one in GPUS.values() if one.name == figures)
    number = "".join(filter(str.isdecimal, arch))
    sizes = {"local_bytes": shared * 1024, "resident_threads": threads}
    assert found == replace(nearest, name=f"sm_{number} by the figures of {figures}", **sizes)


def test_sizes_of_this_machines_gpu_are_asked_for(monkeypatch):
    monkeypatch.setattr(device, "this_gpu", lambda: gpu.Gpu("B300", "sm_103", 200_000, cores=66))
    found, h200 = gpu_device("sm_103a"), GPUS["sm_90"]
    assert found.name == "B300 (sm_103) by the figures of H200, scaled to 66 SMs"
    assert (found.cores, found.local_bytes) == (66, 200_000)
    rates = ("tensor_peak", "vector_peak", "cache_bandwidth", "local_bandwidth")
    assert all(getattr(found, rate) == getattr(h200, rate) / 2 for rate in rates)
    assert (found.memory_bandwidth, found.clock) == (h200.memory_bandwidth, h200.clock)


@pytest.mark.parametrize("arch", ["sm_75", "sm_70", "sm_52"])
def test_architectures_without_the_instructions_are_refused_with_them(arch):
    text = f"^{arch} is too old: kernels use mma.sync m16n8k16 and cp.async, which need sm_80 or newer$"
    with pytest.raises(TargetError, match=text):
        blockfuse.compile("nothing.onnx", target=f"sm_80,{arch}")


def test_no_driver_is_one_clear_line(monkeypatch):
    monkeypatch.setattr(gpu, "_DRIVER", "libno_such_driver.so.1")
    with pytest.raises(TargetError, match=r"^there is no GPU driver on this machine: libno_such_driver.so.1 is not"):
        gpu.this_gpu()


# ---- nvcc ------------------------------------------------------------------------------------------------------------
def test_no_compiler_is_one_clear_line(monkeypatch, tmp_path):
    monkeypatch.setattr(cubin, "_USUAL_PLACE", str(tmp_path))
    for name in ("CUDA_HOME", "CUDA_PATH", "PATH"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setattr(cubin, "find_nvrtc", lambda: None)
    with pytest.raises(TargetError, match=r"^compiling for GPUs needs nvcc or NVRTC: put nvcc on the path, set "):
        cubin.find_compiler()


@pytest.fixture
def fake_nvcc(monkeypatch, tmp_path):
    """A function that makes an nvcc of a shell script; it returns a file with a line per call."""

    def install(script):
        (tmp_path / "bin").mkdir(exist_ok=True)
        path, log = tmp_path / "bin" / "nvcc", tmp_path / "log"
        path.write_text(f'#!/bin/sh\n[ "$1" = --version ] && exec echo one\necho "$@" >> {log}\n{script}\n')
        path.chmod(0o755)
        monkeypatch.setenv("CUDA_HOME", str(tmp_path))
        return log

    return install


def test_equal_kernels_are_compiled_once(fake_nvcc, tmp_path):
    log = fake_nvcc("cp kernel.cu kernel.fatbin")
    cache = KernelCache(tmp_path / "cache")
    for _ in range(2):
        assert cubin.compile_kernels(["a", "b"], ["sm_90"], cache) == [b"a", b"b"]
    assert len(log.read_text().splitlines()) == 2
    cubin.compile_kernels(["a"], ["sm_80"], cache)
    assert len(log.read_text().splitlines()) == 3


def test_what_nvcc_rejects_is_named(fake_nvcc):
    fake_nvcc('echo "kernel.cu(3): error: no such thing" >&2; echo more >&2; exit 1')
    with pytest.raises(InternalError, match=r"^nvcc rejects kernel bf_scale_kernel: kernel.cu\(3\): error: no such"):
        cubin.compile_kernels([KERNEL], ["sm_90"], KernelCache(None))
    fake_nvcc("echo \"nvcc fatal   : Unsupported gpu architecture 'compute_70'\" >&2; exit 1")
    with pytest.raises(TargetError, match=r"^nvcc cannot compile for sm_70: nvcc fatal"):
        cubin.compile_kernels([KERNEL], ["sm_70"], KernelCache(None))


def test_a_real_nvcc_makes_code_for_every_architecture(tmp_path):
    try:
        compiler = Path(cubin.find_nvcc())
    except TargetError as error:
        pytest.skip(str(error))
    (code,) = cubin.compile_kernels([KERNEL], ["sm_80", "sm_90a"], KernelCache(None))
    assert code[:4] == b"\x50\xed\x55\xba"
    lister = compiler.resolve().with_name("cuobjdump")
    if not lister.exists():
        return
    (tmp_path / "kernel.fatbin").write_bytes(code)
    command = [lister, "-lelf", "-lptx", tmp_path / "kernel.fatbin"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert all(arch in listed for arch in ("sm_80", "sm_90a", "ptx"))


# ---- the import tree -------------------------------------------------------------------------------------------------
def packed(*parts):
    """As TVM packs it: lengths before everything."""
    return b"".join(struct.pack("<Q", len(part)) + part for part in parts)


def test_sources_in_a_library_become_machine_code():
    tree = struct.pack("<3Q", 2, 0, 1) + struct.pack("<2Q", 1, 1)
    module = packed(b"cuda") + b"functions" + packed(b"source")
    data = packed(tree + packed(b"_lib", b"relax.VMExecutable", b"bytecode", b"cuda", module))
    expected = packed(b"cubin") + b"functions" + packed(b"machine code")
    assert rewritten(data, {"other": b"", "source": b"machine code"}) == packed(
        tree + packed(b"_lib", b"relax.VMExecutable", b"bytecode", b"cuda", expected)
    )
    with pytest.raises(InternalError, match="holds no source that was compiled"):
        rewritten(data, {"other": b""})


# ---- the border ------------------------------------------------------------------------------------------------------
def network(value=1.0):
    shape = (2, 3, 4, 5)
    tensors = {name: Tensor(name, shape, "float32") for name in "xay"}
    tensors["c"] = Tensor("c", (1,), "float32", np.array([value], np.float32))
    tensors["n"] = Tensor("n", (1,), "int64", np.array([1 << 40]))
    steps = (Call("k", ("x",), (), "a", (2, 4, 5, 3)), Op("Mul", "mul", ("a", "c"), ("y",)))
    ports = [(Port(name, shape),) for name in "xy"]
    return Network("net", *ports, steps, tensors)


def test_a_network_is_computed_in_half_precision_between_its_ports():
    inner, casts = computed_in(network(), "float16")
    inner.check()
    assert [(cast.source, cast.target, cast.shape, cast.transposed) for cast in casts.values()] == [
        ("float32", "float16", (2, 3, 4, 5), True),
        ("float16", "float32", (2, 4, 5, 3), False),
    ]
    assert [step.inputs for step in inner.steps] == [("x",), ("x.float16",), ("a", "c"), ("y.float16",)]
    types = {name: tensor.dtype for name, tensor in inner.tensors.items()}
    assert (types["x"], types["y"], types["a"], types["c"], types["n"]) == (
        "float32",
        "float32",
        "float16",
        "float16",
        "int64",
    )
    assert inner.tensors["c"].value.dtype == np.float16


def test_constants_too_large_for_the_type_are_named():
    with pytest.raises(UnsupportedModelError, match="constant 'c' holds 7e"):
        computed_in(network(7e4), "float16")
    computed_in(network(np.inf), "float16")


@pytest.mark.parametrize("values", [[], [1, -65504], [np.nan, 2], [np.inf, -np.inf], [np.nan, np.inf, -3]])
def test_what_fits_the_type_or_is_no_number_passes(values):
    check_range(np.array(values, np.float32), "float16", "c")


@pytest.mark.parametrize("values", [[7e4], [0, -7e4], [np.nan, 7e4], [np.inf, -7e4, np.nan]])
def test_a_number_beyond_the_type_is_found_among_what_is_none(values):
    with pytest.raises(UnsupportedModelError, match="c holds 7e"):
        check_range(np.array(values, np.float32), "float16", "c")
