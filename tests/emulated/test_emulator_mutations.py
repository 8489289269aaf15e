"""Mutations touch kernels only, one place each, and the emulator reports every one that matters."""

import numpy as np

from tests.emulated.emulator import EmulationResult, emulate
from tests.emulated.emulator.mutations import with_swapped_mma, without_each_barrier, without_each_wait, without_one_mma
from tests.emulated.tvm_style import kernel

# Sums the product of each lane's registers over four chunks that are fetched two steps ahead.
PIPELINE = kernel(
    """
  float d[4];
  d[0] = 0.0f; d[1] = 0.0f; d[2] = 0.0f; d[3] = 0.0f;
  ptx_cp_async_16(shared_address(smem_ptr + tid * 4), X_ptr + tid * 4);
  ptx_cp_async_commit_group();
  for (int i = 0; i < 4; ++i) {
    if (i < 3) {
      ptx_cp_async_16(shared_address(smem_ptr + (i + 1) % 2 * 256 + tid * 4), X_ptr + (i + 1) * 256 + tid * 4);
    }
    ptx_cp_async_commit_group();
    ptx_cp_async_wait_group_1();
    tvm_builtin_cuda_cta_sync();
    uint* words = (uint*)smem_ptr + i % 2 * 256 + (63 - tid) * 4;
    ptx_mma_sync_k8_f16(d[0], d[1], d[2], d[3], words[0], words[1], words[2], d[0], d[1], d[2], d[3]);
    tvm_builtin_cuda_cta_sync();
  }
  *(float4*)(Y_ptr + tid * 4) = *(float4*)(d + 0);
""",
    "float* X_ptr, float* Y_ptr",
)


def run(source: str) -> tuple[EmulationResult, np.ndarray]:
    x = np.random.default_rng(0).standard_normal(2048).astype(np.float16).view(np.float32)
    y = np.full((64, 4), np.nan, np.float32)
    return emulate(source, {"X": x, "Y": y}, outputs={"Y"}, grid=1, shared_bytes=2048, timeout_s=5), y


def test_every_missing_barrier_is_found() -> None:
    mutations = without_each_barrier(PIPELINE)
    assert [mutation.description.split(" ", 2)[2] for mutation in mutations] == [
        "without tvm_builtin_cuda_cta_sync();",
        "without tvm_builtin_cuda_cta_sync();",
    ]
    for mutation in mutations:
        result, _ = run(mutation.source)
        assert result.findings, mutation.description


def test_every_missing_wait_is_found() -> None:
    (mutation,) = without_each_wait(PIPELINE)
    result, _ = run(mutation.source)
    assert "copy-not-waited" in {finding.kind for finding in result.findings}


def test_a_wrong_product_shows_in_the_numbers() -> None:
    clean, expected = run(PIPELINE)
    assert clean.findings == ()
    for mutation in (without_one_mma(PIPELINE), with_swapped_mma(PIPELINE)):
        result, y = run(mutation.source)
        assert result.findings == ()
        assert not np.allclose(y, expected, rtol=1e-2), mutation.description


def test_lines_and_helpers_stay() -> None:
    body = PIPELINE.index("{", PIPELINE.rindex("main_kernel"))
    for mutation in [*without_each_barrier(PIPELINE), *without_each_wait(PIPELINE), without_one_mma(PIPELINE)]:
        assert mutation.source.count("\n") == PIPELINE.count("\n")
        assert mutation.source.startswith(PIPELINE[:body])
