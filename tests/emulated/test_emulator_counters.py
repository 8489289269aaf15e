"""Counters on access patterns whose bank conflicts and sectors are known."""

import numpy as np
import pytest

from tests.emulated.emulator import Counters, emulate
from tests.emulated.tvm_style import kernel

FILL = "for (int i = tid; i < 2048; i += 32) { smem_ptr[i] = 0.0f; } tvm_builtin_cuda_cta_sync();"


def count(body: str, *, grid: int = 1) -> Counters:
    source = kernel(body, "float* X_ptr, float* Y_ptr", threads=32)
    x, y = np.zeros(4096, np.float32), np.full(4096, np.nan, np.float32)
    result = emulate(source, {"X": x, "Y": y}, outputs={"Y"}, grid=grid, shared_bytes=8192, count=True, timeout_s=5)
    assert result.findings == ()
    return result.counters


@pytest.mark.parametrize(
    ("type_", "index", "wavefronts", "ideal"),
    [
        ("float", "tid", 1, 1),
        ("float", "0", 1, 1),  # broadcast
        ("float", "tid * 2", 2, 1),
        ("float", "tid * 33", 1, 1),
        ("float", "tid * 32", 32, 1),
        ("half", "tid", 1, 1),
        ("half", "tid * 64", 32, 1),
        ("float2", "tid * 2", 2, 2),
        ("float2", "tid * 4", 4, 2),
        ("float4", "tid * 4", 4, 4),
        ("float4", "tid * 8", 8, 4),
        ("half4", "tid * 2", 2, 2),
        ("uint4", "(tid & 7) * 4", 4, 4),  # quarter warps read the same
    ],
)
def test_shared_loads(type_: str, index: str, wavefronts: int, ideal: int) -> None:
    pointer = f"({type_}*)smem_ptr" if type_ == "half" else "smem_ptr"
    body = f"{FILL} *({type_}*)(Y_ptr + tid * 4) = *({type_}*)({pointer} + {index});"
    counters = count(body)
    assert counters.shared_loads == 1
    assert (counters.shared_load_wavefronts, counters.shared_load_ideal) == (wavefronts, ideal)


def test_shared_stores_are_counted_apart() -> None:
    counters = count("for (int i = 0; i < 3; ++i) { smem_ptr[tid * 4 + i] = 0.0f; }", grid=2)
    assert counters.shared_loads == 0
    assert (counters.shared_stores, counters.shared_store_wavefronts, counters.shared_store_ideal) == (6, 24, 6)


@pytest.mark.parametrize(("pitch", "wavefronts"), [(32, 8), (16, 4), (36, 1), (4, 1)])
def test_matrix_loads(pitch: int, wavefronts: int) -> None:
    load = f"uint32_t r; ptx_ldmatrix_x1(r, shared_address(smem_ptr + (lane & 7) * {pitch})); Y_ptr[tid] = r;"
    counters = count(f"{FILL} {load}")
    assert (counters.ldmatrix, counters.ldmatrix_wavefronts, counters.ldmatrix_ideal) == (1, wavefronts, 1)


@pytest.mark.parametrize(("stride", "sectors"), [(1, 4), (2, 8), (8, 32)])
def test_global_sectors(stride: int, sectors: int) -> None:
    counters = count(f"Y_ptr[tid * {stride}] = X_ptr[tid];")
    assert (counters.global_load_sectors, counters.global_store_sectors) == (4, sectors)
    assert (counters.global_bytes_read, counters.global_bytes_written) == (128, 128)


def test_copies_products_and_barriers() -> None:
    body = """
  for (int i = 0; i < 2; ++i) { ptx_cp_async_16(shared_address(smem_ptr + tid * 4 + i * 128), X_ptr + tid * 4); }
  ptx_cp_async_commit_group();
  ptx_cp_async_wait_group_0();
  tvm_builtin_cuda_cta_sync();
  float d[4];
  for (int i = 0; i < 5; ++i) { ptx_mma_sync_k8_f16(d[0], d[1], d[2], d[3], 0, 0, 0, 0.0f, 0.0f, 0.0f, 0.0f); }
  Y_ptr[tid] = d[0];
"""
    counters = count(body)
    assert (counters.async_copies, counters.async_copy_bytes) == (64, 1024)
    assert counters.global_load_sectors == 32
    assert counters.mma == 5
    assert counters.barriers == 1


def test_not_counting_counts_nothing() -> None:
    source = kernel("Y_ptr[tid] = 1.0f;", "float* Y_ptr", threads=32)
    result = emulate(source, {"Y": np.zeros(32, np.float32)}, outputs={"Y"}, grid=1, shared_bytes=0)
    assert result.counters == Counters()


def test_chosen_blocks_are_counted_apart_and_others_write_nothing() -> None:
    body = "for (int i = 0; i < blockIdx.x; ++i) { smem_ptr[tid] = X_ptr[tid]; } Y_ptr[blockIdx.x * 32 + tid] = 1.0f;"
    source = kernel(body, "float* X_ptr, float* Y_ptr", threads=32)
    x, y = np.zeros(32, np.float32), np.full((5, 32), np.nan, np.float32)
    arguments = {"X": x, "Y": y}
    result = emulate(source, arguments, outputs={"Y"}, grid=5, shared_bytes=128, count=True, ctas=(3, 1))
    assert result.findings == ()
    assert {cta: found.shared_stores for cta, found in result.by_cta.items()} == {3: 3, 1: 1}
    assert {cta: found.block_sectors for cta, found in result.by_cta.items()} == {3: 8, 1: 8}
    assert result.counters.shared_stores == 4
    assert [cta for cta in range(5) if not np.isnan(y[cta]).all()] == [1, 3]
