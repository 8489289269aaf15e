"""Reading machine code: fat binaries, attributes of kernels, and what disassemblers print."""

import subprocess

import numpy as np
import pytest

from blockfuse.build.cubin import compile_kernels, find_nvcc
from blockfuse.build.fatbin import fat_binary, machine_code
from blockfuse.errors import TargetError
from blockfuse.kernel_cache import KernelCache
from blockfuse.tools import machine_code as reading
from tests.cuda_kernels import build
from tests.residual_blocks import mbconv

NVDISASM = """
//--------------------- .text.first_kernel --------------------------
\t.section\t.text.first_kernel,"ax",@progbits
.text.first_kernel:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/               @P0 HMMA.16816.F32 R4, R8, R12, R4 ;
        /*0020*/              @!UP1 HMMA.16816.F32 R4, R8, R12, R4 ;
        /*0030*/                   STL.64 [R1], R4 ;
.L_x_1:
        /*0040*/                   LDL R4, [R1+0x4] ;
.text.second_kernel:
        /*0000*/                   EXIT ;
"""
CUOBJDUMP = """
\t\tFunction : first_kernel
\t.headerflags\t@"EF_CUDA_SM90"
        /*0000*/                   LDSM.16.M88.4 R4, [R2] ;      /* 0x00000a00ff017b82 */
                                                                 /* 0x000fe20000000800 */
        /*0010*/                   EXIT ;                        /* 0x000000000000794d */
\t\tFunction : second_kernel
        /*0000*/                   STL.128 [R1], R4 ;            /* 0x000000000000794d */
"""


def test_machine_code_is_found_wherever_it_is():
    first = fat_binary({"sm_80": b"\x7fELF" + bytes(60), "compute_80": b".version 8.0"})
    second = fat_binary({"sm_90a": b"\x7fELF" + bytes(8)})
    data = b"junk" + first + b"\x50\xed\x55\xba" + b"more" + second
    found = machine_code(data)
    assert [arch for arch, _ in found] == ["sm_80", "sm_90a"]
    assert found[0][1] == b"\x7fELF" + bytes(60)
    assert machine_code(data[:-9]) == found[:1]
    assert machine_code(b"\x50\xed\x55\xba") == []


@pytest.mark.parametrize("image", [b"", b"\x7fELF", b"\x7fELF" + bytes(100), np.random.default_rng(0).bytes(500)])
def test_what_is_no_machine_code_has_no_kernels(image):
    assert reading.kernel_attributes(image) == {}


def test_instructions_are_counted_by_kernel():
    assert reading.counted(NVDISASM) == {
        "first_kernel": ({"HMMA": 2, "LDC": 1, "STL": 1, "LDL": 1}, 12),
        "second_kernel": ({"EXIT": 1}, 0),
    }
    assert reading.counted(CUOBJDUMP) == {
        "first_kernel": ({"LDSM": 1, "EXIT": 1}, 0),
        "second_kernel": ({"STL": 1}, 16),
    }


@pytest.fixture(scope="module")
def source():
    """CUDA C of a small kernel with comments at its instructions."""
    return build(mbconv(7, 9, 16, 48), (4, 6), 4).source


def test_registers_and_threads_are_those_that_ptxas_reports(source, tmp_path):
    (tmp_path / "kernel.cu").write_text(source)
    command = [_nvcc(), "-arch=sm_90a", "-O3", "-std=c++17", "--use_fast_math", "-w", "-Xptxas", "-v", "-cubin"]
    log = subprocess.run([*command, "kernel.cu"], cwd=tmp_path, capture_output=True, text=True, check=True).stderr
    (library,) = compile_kernels([source], ["sm_90a"], KernelCache(None))
    (code,) = reading.codes_of(b"around" + library)
    assert (code.kernel, code.arch, code.threads) == ("mbconv_kernel", "sm_90a", 128)
    assert f"Used {code.registers} registers" in log
    assert f"{code.stack_bytes} bytes stack frame" in log
    assert code.spill_bytes == 0
    assert code.sass is None or code.sass["HMMA"] > 0


def test_a_stack_is_seen():
    text = 'extern "C" __global__ void deep(int* x, int n) { int a[64]; for (int i = 0; i < 64; ++i) a[i] = x[i * n];'
    text += " int s = 0; for (int i = 0; i < n; ++i) s += a[(s + i) % 64]; x[0] = s; }"
    _nvcc()
    (library,) = compile_kernels([text], ["sm_80"], KernelCache(None))
    (code,) = reading.codes_of(library)
    assert code.stack_bytes == 256
    assert code.spill_bytes is None or code.spill_bytes > 0


def test_comments_do_not_change_machine_code(source):
    bare = "".join(f"{line}\n" for line in source.splitlines() if not line.lstrip().startswith(("// step", "// LOAD")))
    assert bare.count("// ") < source.count("// ")
    _nvcc()
    kept, plain = compile_kernels([source, bare], ["sm_90a"], KernelCache(None))
    assert [image for _, image in machine_code(kept)] == [image for _, image in machine_code(plain)]


def _nvcc():
    try:
        return find_nvcc()
    except TargetError:
        pytest.skip("compiling for GPUs needs nvcc")
