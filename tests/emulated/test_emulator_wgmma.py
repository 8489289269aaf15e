"""The emulator's books of wgmma: one product written by hand, and every rule around it broken once."""

from __future__ import annotations

import numpy as np
import pytest

from tests.emulated.emulator import EmulationResult, emulate
from tests.emulated.tvm_style import kernel

HELPERS = """
__forceinline__ __device__ void ptx_wgmma_mma_async_n8(float& __d0, float& __d1, float& __d2, float& __d3,
                                                       uint32_t __a0, uint32_t __a1, uint32_t __a2, uint32_t __a3,
                                                       uint64_t __b_desc, uint32_t __scale_d) {
  asm volatile("{ .reg .pred ps0; setp.ne.b32 ps0, %9, 0; wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 "
               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, %8, ps0, 1, 1, 0; }"
               : "+f"(__d0), "+f"(__d1), "+f"(__d2), "+f"(__d3)
               : "r"(__a0), "r"(__a1), "r"(__a2), "r"(__a3), "l"(__b_desc), "r"(__scale_d));
}
__forceinline__ __device__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__forceinline__ __device__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
__forceinline__ __device__ void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory"); }
__forceinline__ __device__ void proxy_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
"""
BODY = """
  ushort* tile = (ushort*)smem_ptr;
  tile[tid] = B_ptr[tid];
  proxy_fence();
  tvm_builtin_cuda_cta_sync();
  uint32_t a[4];
  float d[4];
  for (int r = 0; r < 4; ++r) {
    a[r] = ((uint32_t*)A_ptr)[(tid / 32 * 16 + lane / 4 + r % 2 * 8) * 8 + lane % 4 + r / 2 * 4];
  }
  for (int e = 0; e < 4; ++e) { d[e] = 1.0f; }
  uint64_t weights = 3ull << 62 | 16ull << 32 | 1ull << 16 | shared_address(tile) >> 4;
  wgmma_fence();
  ptx_wgmma_mma_async_n8(d[0], d[1], d[2], d[3], a[0], a[1], a[2], a[3], weights, 1);
  wgmma_commit();
  // meanwhile
  wgmma_wait();
  for (int e = 0; e < 4; ++e) { Y_ptr[(tid / 32 * 16 + lane / 4 + e / 2 * 8) * 8 + lane % 4 * 2 + e % 2] = d[e]; }
"""


def swizzled(b: np.ndarray) -> np.ndarray:
    """[16, 8] in shared memory: 32 bytes per output channel, 16-byte halves exchanged in every other 128 bytes."""
    out = np.zeros(128, b.dtype)
    for k, n in np.ndindex(16, 8):
        byte = n * 32 + k * 2
        out[(byte ^ ((byte >> 7) & 1) << 4) // 2] = b[k, n]
    return out


def launch(body: str) -> tuple[EmulationResult, np.ndarray, np.ndarray]:
    """The kernel's result and the product plus one."""
    random = np.random.default_rng(0)
    a, b = (random.standard_normal(shape).astype(np.float16) for shape in ((64, 16), (16, 8)))
    y = np.full((64, 8), np.nan, np.float32)
    source = kernel(body, "ushort* A_ptr, ushort* B_ptr, float* Y_ptr", threads=128)
    start = source.index('extern "C"')
    source = source[:start] + HELPERS + source[start:]
    arguments = {"A": a.view(np.uint16), "B": swizzled(b).view(np.uint16), "Y": y}
    result = emulate(source, arguments, outputs={"Y"}, grid=1, shared_bytes=1024, timeout_s=5)
    return result, y, a.astype(np.float64) @ b.astype(np.float64) + 1


def test_a_product_and_nothing_to_report():
    result, y, expected = launch(BODY)
    assert result.findings == ()
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_sums_may_be_overwritten():
    result, y, expected = launch(BODY.replace("weights, 1)", "weights, 0)"))
    assert result.findings == ()
    np.testing.assert_allclose(y, expected - 1, rtol=1e-5, atol=1e-5)


BROKEN = [
    ("  wgmma_fence();", "", "product-not-fenced"),
    ("  proxy_fence();", "", "proxy-fence-missing"),
    (
        "  proxy_fence();\n  tvm_builtin_cuda_cta_sync();",
        "tvm_builtin_cuda_cta_sync(); proxy_fence();",
        "proxy-fence-missing",
    ),
    ("  tvm_builtin_cuda_cta_sync();", "", "race-read-write"),
    ("  wgmma_wait();", "", "product-left-pending"),
    ("  wgmma_wait();", "", "sums-in-flight"),
    ("  wgmma_commit();", "", "sums-in-flight"),
    ("// meanwhile", "d[1] = 2.0f;", "sums-in-flight"),
    ("// meanwhile", "a[2] = 0;", "operand-in-flight"),
    ("// meanwhile", "tvm_builtin_cuda_cta_sync(); tile[tid] = 0;", "product-overtaken"),
    ("3ull << 62", "(3ull - tid % 2) << 62", "divergent-descriptor"),
    ("3ull << 62", "0ull << 62", "unsupported-descriptor"),
    ("3ull << 62", "3ull << 62 | 1ull << 49", "unsupported-descriptor"),
    ("shared_address(tile)", "(shared_address(tile) + 32)", "misaligned"),
    ("  wgmma_fence();", "  if (tid < 64) wgmma_fence(); else return;", "divergent-collective"),
    ("  wgmma_commit();", "  if (lane < 16) wgmma_commit();", "divergent-collective"),
]


@pytest.mark.parametrize(("what", "instead", "kind"), BROKEN)
def test_what_is_wrong_is_reported(what: str, instead: str, kind: str):
    assert what in BODY
    result, _, _ = launch(BODY.replace(what, instead))
    assert kind in {finding.kind for finding in result.findings}
