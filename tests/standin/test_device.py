"""What the stand-in device refuses and finds: a check that was never seen to fail proves nothing."""

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import onnx
import pytest

import blockfuse as bf
from blockfuse import gpu
from blockfuse.cli import main
from blockfuse.errors import TargetError, UsageError
from blockfuse.tools.exit_codes import NO_TARGET
from blockfuse.verification.compare import tolerance
from tests.emulated.emulator.mutations import without_each_barrier
from tests.onnx_models import floats, model, node, run
from tests.standin import kernel_sources, run_network

ROOT = Path(__file__).parents[2]
TOLERANCE = tolerance(9 * 16 * 2, "float16", 5)


def in_child(script):
    """What a script prints that has the device as ``device`` and its libraries as ``cuda`` and ``cudart``."""
    start = """
        import ctypes
        from tests.standin.libraries import StandIn
        device = StandIn("sm_90")
        cuda, cudart = ctypes.CDLL("libcuda.so.1"), ctypes.CDLL("libcudart.so.13")
        pointer, stream, other, graph = (ctypes.c_void_p() for _ in range(4))
        cudart.cudaStreamCreate(ctypes.byref(stream))
        cudart.cudaStreamCreate(ctypes.byref(other))
    """
    text = textwrap.dedent(start) + textwrap.dedent(script)
    done = subprocess.run([sys.executable, "-c", text], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.split(), done.stderr


@pytest.fixture(scope="module")
def block(compile_to):
    """A residual block: container, name and source of its kernel, inputs, and the right result."""
    weights = {"v": floats(16, 16, 3, 3, seed=1) / 12, "w": floats(16, 16, 3, 3, seed=2) / 12}
    proto = model(
        [
            node("Conv", "x v", "a", pads=[1, 1, 1, 1]),
            node("Relu", "a", "b"),
            node("Conv", "b w", "c", pads=[1, 1, 1, 1]),
            node("Add", "c x", "d"),
            node("Relu", "d", "y"),
        ],
        (1, 16, 10, 9),
        weights,
    )
    executable, container = compile_to(proto, "sm_80,sm_90a", fuse="always")
    (step,) = executable.report().steps
    assert step.is_fused
    name = f"{step.kernels[0].name}_kernel"
    inputs = {"x": floats(1, 16, 10, 9)}
    return container, name, kernel_sources(container)[name], inputs, run(proto, inputs)["y"]


def difference(result, expected):
    return float(np.abs(result.outputs[0]["y"] - expected).max() / np.abs(expected).max())


# ---- kernels ---------------------------------------------------------------------------------------------------------
def test_a_block_is_right_and_a_store_one_pixel_off_is_not(block):
    container, name, source, inputs, expected = block
    result = run_network(container, [inputs])
    assert not result.findings
    assert difference(result, expected) < TOLERANCE
    shifted = source.replace("(result_ptr + (", "(result_ptr + (16 + ")
    assert shifted != source
    assert not difference(run_network(container, [inputs], replaced={name: shifted}), expected) < 0.1


def test_a_missing_barrier_is_found(block):
    container, name, source, inputs, _ = block
    for mutation in without_each_barrier(source):
        found = run_network(container, [inputs], replaced={name: mutation.source}).findings
        assert name in {kernel for kernel, _, _ in found}, mutation.description


@pytest.mark.parametrize("arch", ["sm_86", "sm_90", "sm_120"])
def test_a_container_runs_where_it_has_code_or_ptx(block, arch):
    container, _, _, inputs, expected = block
    assert difference(run_network(container, [inputs], arch=arch), expected) < TOLERANCE


def test_a_container_without_code_for_the_gpu_names_both(compile_to):
    proto = model([node("Conv", "x w", "y")], constants={"w": floats(8, 4, 1, 1)})
    for target, arch in (("sm_90a", "sm_100"), ("sm_90", "sm_80")):
        _, container = compile_to(proto, target)
        result = run_network(container, [{"x": floats(1, 4, 8, 8)}], arch=arch)
        assert result.error == f"TargetError: small was compiled for {target}, and this GPU is stand-in device ({arch})"


# ---- without the device ----------------------------------------------------------------------------------------------
def test_loading_without_a_driver_says_so(compile_to, monkeypatch):
    monkeypatch.setattr(gpu, "_DRIVER", "libno_such_driver.so.1")
    executable, container = compile_to(model([node("Conv", "x w", "y")], constants={"w": floats(8, 4, 1, 1)}))
    for start in (executable.start, lambda: bf.load(container)):
        with pytest.raises(TargetError, match=r"^there is no GPU driver on this machine: libno_such_driver"):
            start()


@pytest.mark.usefixtures("compile_to")
def test_the_command_line_compiles_for_gpus_it_does_not_have(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(gpu, "_DRIVER", "libno_such_driver.so.1")
    source, container = tmp_path / "net.onnx", tmp_path / "net.bf"
    onnx.save(model([node("Conv", "x w", "y")], constants={"w": floats(8, 4, 1, 1)}), source)
    options = ["-o", str(container), "--dtype", "float16", "-q"]
    assert main(["compile", str(source), *options, "--target", "sm_80,sm_90", "--cuda-graph"]) == 0
    assert main(["inspect", str(container)]) == 0
    shown = capsys.readouterr().out
    assert "small for sm_80, " in shown
    assert "small for sm_90, " in shown
    assert main(["run", str(container)]) == NO_TARGET
    container.unlink()
    assert main(["compile", str(source), *options, "--target", "cuda"]) == NO_TARGET
    assert capsys.readouterr().err.count("there is no GPU driver on this machine") == 2
    assert not container.exists()


@pytest.mark.usefixtures("compile_to")
def test_nothing_is_narrowed_unasked():
    proto = model([node("Conv", "x w", "y")], constants={"w": floats(8, 4, 1, 1)})
    assert bf.compile(proto, target="sm_90").report().dtype == "float32"
    with pytest.raises(UsageError, match="dtype 'float64' is not available; target sm_90 computes in float32 or "):
        bf.compile(proto, target="sm_90", dtype="float64")
    with pytest.raises(UsageError, match="cuda_graph is for GPUs, and the target is cpu"):
        bf.compile(proto, cuda_graph=True)


# ---- what the device refuses -----------------------------------------------------------------------------------------
def test_memory_starts_as_nan_and_ends_with_the_allocation():
    out, err = in_child("""
        import numpy as np
        cudart.cudaMalloc(ctypes.byref(pointer), 64)
        array = np.zeros(17, np.float32)
        address = ctypes.c_void_p(array.ctypes.data)
        print(cudart.cudaMemcpyAsync(address, pointer, 64, 2, None), np.isnan(array[:16]).all())
        print(cudart.cudaMemcpyAsync(address, pointer, 68, 2, None))
        print(cudart.cudaFree(pointer), cudart.cudaFree(pointer))
        print(cudart.cudaMemcpyAsync(pointer, address, 64, 1, None))
    """)
    assert out == ["0", "True", "1", "0", "1", "1"]
    assert "68 bytes are copied beyond an allocation" in err


def test_capture_allows_only_what_it_can_repeat():
    out, err = in_child("""
        print(cudart.cudaStreamBeginCapture(None, 0), cudart.cudaStreamBeginCapture(stream, 0))
        print(cudart.cudaMalloc(ctypes.byref(pointer), 64), cuda.cuModuleLoadData(ctypes.byref(pointer), b""))
        print(cudart.cudaStreamSynchronize(stream), cudart.cudaMemcpyAsync(b"", b"", 0, 0, other))
        print(cudart.cudaMemcpyAsync(b"", b"", 0, 0, stream), cudart.cudaStreamEndCapture(stream, ctypes.byref(graph)))
        print(cudart.cudaGraphLaunch(graph, stream), cudart.cudaMalloc(ctypes.byref(pointer), 64))
    """)
    assert out == ["900", "0", "900", "900", "900", "906", "0", "0", "0", "0"]
    assert "memory is allocated during capture" in err


def test_launches_beyond_the_limits_are_refused():
    out, _ = in_child("""
        from pathlib import Path
        import subprocess, struct, tempfile
        source = Path(tempfile.mkdtemp()) / "kernel.cu"
        source.write_text('extern "C" __global__ void __launch_bounds__(32) k(int* result_ptr) { result_ptr[0] = 7; }')
        nvcc = "tests/standin/toolkit/bin/nvcc"
        subprocess.run([nvcc, "-gencode=arch=compute_90,code=sm_90", "-o", "/dev/stdout", str(source)], check=False,
                       stdout=open(source.with_suffix(".bin"), "wb"))
        image = source.with_suffix(".bin").read_bytes()
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        cuda.cuModuleLoadData(ctypes.byref(module), image)
        print(cuda.cuModuleGetFunction(ctypes.byref(function), module, b"no"))
        cuda.cuModuleGetFunction(ctypes.byref(function), module, b"k")
        cudart.cudaMalloc(ctypes.byref(pointer), 4)
        def launch(grid=1, block=32, shared=0, on=None, to=pointer):
            numbers = struct.pack("<7I4xQQI4x", grid, 1, 1, block, 1, 1, shared, on or 0, 0, 0)
            parameters = (ctypes.c_void_p * 1)(ctypes.addressof(to))
            return cuda.cuLaunchKernelEx(numbers, function, parameters, None)
        print(launch(), launch(grid=0), launch(block=2048), launch(shared=50000), launch(on=12345))
        print(launch(to=ctypes.c_void_p(64)))
        print(cuda.cuFuncSetAttribute(function, 8, 300000), cuda.cuFuncSetAttribute(function, 8, 50000))
        print(launch(shared=50000))
    """)
    assert out == ["500", "0", "1", "1", "1", "400", "719", "1", "0", "0"]
