"""Reading what ptxas reports."""

import pytest

from tests.emulated.nvcc import CompilationError, compile_cubin, find_nvcc

needs_nvcc = pytest.mark.skipif(find_nvcc() is None, reason="nvcc is not installed")

SPILLS = """
extern "C" __global__ void __launch_bounds__(1024, 2) spills(const float* x, float* y) {
  __shared__ float t[100];
  float v[96];
#pragma unroll
  for (int i = 0; i < 96; ++i) v[i] = x[i * 1024 + threadIdx.x];
  t[threadIdx.x % 100] = v[0];
  __syncthreads();
  float sum = t[(threadIdx.x + 1) % 100];
#pragma unroll
  for (int i = 0; i < 96; ++i) sum = sum * v[i] + v[95 - i];
  y[threadIdx.x] = sum;
}
"""
PLAIN = 'extern "C" __global__ void plain(float* y) { y[threadIdx.x] = 1.0f; }\n'


@needs_nvcc
def test_registers_spills_and_shared_memory() -> None:
    stats = compile_cubin(SPILLS, "sm_80", dynamic_shared_bytes=1000)
    assert stats.kernel == "spills"
    assert stats.registers == 32  # 65536 registers over 2048 threads
    assert stats.spill_load_bytes > 0
    assert stats.spill_store_bytes > 0
    assert stats.stack_bytes > 0
    assert stats.static_shared_bytes == 400
    assert stats.shared_bytes == 1400


@needs_nvcc
def test_a_kernel_is_chosen_by_name() -> None:
    stats = compile_cubin(SPILLS + PLAIN, "sm_90a", kernel="plain")
    assert (stats.kernel, stats.spill_load_bytes, stats.stack_bytes) == ("plain", 0, 0)
    assert 4 < stats.instructions < compile_cubin(SPILLS + PLAIN, "sm_90a", kernel="spills").instructions
    with pytest.raises(CompilationError, match=r"\['plain', 'spills'\]"):
        compile_cubin(SPILLS + PLAIN, "sm_90a")


@needs_nvcc
def test_errors_are_those_of_nvcc() -> None:
    with pytest.raises(CompilationError, match="identifier"):
        compile_cubin("__global__ void f() { unknown(); }", "sm_80")
