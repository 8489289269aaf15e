"""Every kind of finding: provoked by a wrong kernel, absent from its corrected twin."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pytest

from tests.emulated.emulator import EmulationResult, UnsupportedInstruction, emulate
from tests.emulated.tvm_style import kernel

SYNC = "tvm_builtin_cuda_cta_sync();"
TO_SHARED = "shared_address(smem_ptr + tid * 4)"
COMMIT = "ptx_cp_async_commit_group();"
COPY = f"ptx_cp_async_16({TO_SHARED}, X_ptr + tid * 4); {COMMIT}"
WAIT = "ptx_cp_async_wait_group_0();"
SHUFFLE = "__shfl_xor_sync(4294967295u, X_ptr[tid], 1, 32)"
MULTIPLY = (
    "float d[4]; ptx_mma_sync_k8_f16(d[0], d[1], d[2], d[3], 0, 0, 0, 0.0f, 0.0f, 0.0f, 0.0f); Y_ptr[tid] = d[0];"
)
LOAD_MATRIX = "smem_ptr[tid] = 0.0f; __syncwarp(); uint32_t r; ptx_ldmatrix_x1(r, {address}); Y_ptr[tid] = r;"


@dataclass(frozen=True)
class Case:
    """A wrong kernel body, the right one, and the kind of finding that tells them apart."""

    name: str
    kind: str
    wrong: str
    right: str
    threads: int = 64
    grid: int = 1


CASES = [
    Case(
        "read before barrier",
        "race-read-write",
        f"smem_ptr[tid] = 0.0f; {SYNC} smem_ptr[tid] = X_ptr[tid]; Y_ptr[tid] = smem_ptr[tid ^ 32];",
        f"smem_ptr[tid] = 0.0f; {SYNC} smem_ptr[tid] = X_ptr[tid]; {SYNC} Y_ptr[tid] = smem_ptr[tid ^ 32];",
    ),
    Case(
        "overwritten while read",
        "race-read-write",
        f"smem_ptr[tid] = X_ptr[tid]; {SYNC} Y_ptr[tid] = smem_ptr[min(tid + 1, 63)]; smem_ptr[tid] = 0.0f;",
        f"smem_ptr[tid] = X_ptr[tid]; {SYNC} Y_ptr[tid] = smem_ptr[min(tid + 1, 63)]; {SYNC} smem_ptr[tid] = 0.0f;",
    ),
    Case(
        "overwritten by one of several readers",
        "race-read-write",
        f"smem_ptr[tid] = X_ptr[tid]; {SYNC} Y_ptr[tid] = smem_ptr[63]; if (tid == 63) {{ smem_ptr[63] = 0.0f; }}",
        f"smem_ptr[tid] = X_ptr[tid]; {SYNC} Y_ptr[tid] = smem_ptr[63]; if (tid == 63) {{ smem_ptr[62] = 0.0f; }}",
    ),
    Case(
        "a warp barrier orders one warp only",
        "race-read-write",
        "smem_ptr[tid] = X_ptr[tid]; __syncwarp(); if (tid > 31) { Y_ptr[tid] = smem_ptr[tid ^ 32]; }",
        "smem_ptr[tid] = X_ptr[tid]; __syncwarp(); if (tid > 31) { Y_ptr[tid] = smem_ptr[tid ^ 16]; }",
    ),
    Case(
        "a shuffle is no barrier",
        "race-read-write",
        f"smem_ptr[tid] = 0.0f; __syncwarp(); smem_ptr[tid] = {SHUFFLE}; Y_ptr[tid] = smem_ptr[tid ^ 16] + {SHUFFLE};",
        f"smem_ptr[tid] = 0.0f; __syncwarp(); smem_ptr[tid] = {SHUFFLE}; Y_ptr[tid] = smem_ptr[tid] + {SHUFFLE};",
    ),
    Case(
        "two threads write",
        "race-write-write",
        f"smem_ptr[tid >> 1] = X_ptr[tid]; {SYNC} Y_ptr[tid] = smem_ptr[tid >> 1];",
        f"if ((tid & 1) == 0) {{ smem_ptr[tid >> 1] = X_ptr[tid]; }} {SYNC} Y_ptr[tid] = smem_ptr[tid >> 1];",
    ),
    Case(
        "two blocks write",
        "race-write-write",
        "Y_ptr[tid] = X_ptr[tid];",
        "Y_ptr[((int)blockIdx.x) * 64 + tid] = X_ptr[tid];",
        grid=2,
    ),
    Case(
        "never written",
        "uninitialised-shared",
        f"if (tid < 63) {{ smem_ptr[tid] = X_ptr[tid]; }} {SYNC} Y_ptr[tid] = smem_ptr[63 - tid];",
        f"smem_ptr[tid] = X_ptr[tid]; {SYNC} Y_ptr[tid] = smem_ptr[63 - tid];",
    ),
    Case(
        "static shared memory is uninitialised",
        "uninitialised-shared",
        f"__shared__ float t[64]; if (tid < 63) {{ t[tid] = X_ptr[tid]; }} {SYNC} Y_ptr[tid] = t[63 - tid];",
        f"__shared__ float t[64]; t[tid] = X_ptr[tid]; {SYNC} Y_ptr[tid] = t[63 - tid];",
    ),
    Case(
        "shared memory does not survive a block",
        "uninitialised-shared",
        "if (((int)blockIdx.x) == 0) { smem_ptr[tid] = 1.0f; } Y_ptr[((int)blockIdx.x) * 64 + tid] = smem_ptr[tid];",
        "smem_ptr[tid] = 1.0f; Y_ptr[((int)blockIdx.x) * 64 + tid] = smem_ptr[tid];",
        grid=2,
    ),
    Case("past the end", "global-out-of-bounds", "Y_ptr[tid] = X_ptr[tid + 193];", "Y_ptr[tid] = X_ptr[tid + 192];"),
    Case("before the start", "global-out-of-bounds", "Y_ptr[tid - 1] = X_ptr[tid];", "Y_ptr[tid] = X_ptr[tid];"),
    Case("far away", "global-out-of-bounds", "Y_ptr[tid * 268435456L] = 0.0f;", "Y_ptr[tid * 2] = 0.0f;"),
    Case("past shared memory", "shared-out-of-bounds", "smem_ptr[tid + 193] = 0.0f;", "smem_ptr[tid + 192] = 0.0f;"),
    Case(
        "past shared memory through its address",
        "shared-out-of-bounds",
        f"ptx_cp_async_16({TO_SHARED} + 16777216, X_ptr + tid * 4); {COMMIT} {WAIT}",
        f"{COPY} {WAIT}",
    ),
    Case("input", "write-to-input", "X_ptr[tid] = 0.0f;", "Y_ptr[tid] = 0.0f;"),
    Case(
        "no wait",
        "copy-not-waited",
        f"{COPY} Y_ptr[tid] = smem_ptr[tid * 4]; {WAIT}",
        f"{COPY} {WAIT} Y_ptr[tid] = smem_ptr[tid * 4];",
    ),
    Case(
        "waits for too few groups",
        "copy-not-waited",
        f"{COPY} ptx_cp_async_wait_group_1(); Y_ptr[tid] = smem_ptr[tid * 4]; {WAIT}",
        f"{COPY} ptx_cp_async_commit_group(); ptx_cp_async_wait_group_1(); Y_ptr[tid] = smem_ptr[tid * 4]; {WAIT}",
    ),
    Case(
        "overwrites a copy in flight",
        "copy-not-waited",
        f"{COPY} smem_ptr[tid * 4] = 0.0f; {WAIT}",
        f"{COPY} {WAIT} smem_ptr[tid * 4] = 0.0f;",
    ),
    Case(
        "barrier before the wait",
        "race-read-write",
        f"{COPY} {SYNC} {WAIT} if (tid == 63) {{ Y_ptr[0] = smem_ptr[0]; }} {SYNC}",
        f"{COPY} {WAIT} {SYNC} if (tid == 63) {{ Y_ptr[0] = smem_ptr[0]; }} {SYNC}",
    ),
    Case("never waited for", "copy-left-pending", COPY, f"{COPY} {WAIT}"),
    Case(
        "vector access",
        "misaligned",
        "*(float4*)(Y_ptr + tid) = *(float4*)(X_ptr + tid * 4);",
        "*(float4*)(Y_ptr + tid * 4) = *(float4*)(X_ptr + tid * 4);",
        threads=32,
    ),
    Case(
        "copy",
        "misaligned",
        f"ptx_cp_async_src_size_16({TO_SHARED}, X_ptr + tid, 6); {COMMIT} {WAIT}",
        f"ptx_cp_async_4({TO_SHARED}, X_ptr + tid); {COMMIT} {WAIT}",
    ),
    Case(
        "matrix row",
        "misaligned",
        LOAD_MATRIX.format(address="shared_address(smem_ptr + (tid & 7) * 2)"),
        LOAD_MATRIX.format(address="shared_address(smem_ptr + (tid & 7) * 4)"),
        threads=32,
    ),
    Case(
        "shuffle by half a warp",
        "divergent-collective",
        f"if (lane < 16) {{ Y_ptr[tid] = {SHUFFLE}; }} {SYNC}",
        f"Y_ptr[tid] = {SHUFFLE}; {SYNC}",
    ),
    Case(
        "shuffle from a lane outside the mask",
        "divergent-collective",
        "if (lane < 16) { Y_ptr[tid] = __shfl_xor_sync(65535u, X_ptr[tid], 16, 32); }",
        "if (lane < 16) { Y_ptr[tid] = __shfl_xor_sync(65535u, X_ptr[tid], 8, 32); }",
    ),
    Case("mma by half a warp", "divergent-collective", f"if (lane < 16) {{ {MULTIPLY} }}", MULTIPLY),
    Case("mma by an incomplete warp", "divergent-collective", MULTIPLY, f"if (tid < 32) {{ {MULTIPLY} }}", threads=48),
    Case(
        "some leave", "barrier-divergence", f"if (tid < 32) {{ return; }} {SYNC}", f"{SYNC} if (tid < 32) {{ return; }}"
    ),
    Case(
        "two barriers",
        "barrier-divergence",
        f"if (tid < 32) {{ {SYNC} }}\n else {{ {SYNC} }}",
        f"if (tid < 64) {{ {SYNC} }}",
    ),
    Case(
        "spins",
        "deadlock",
        "smem_ptr[tid] = 1.0f; while (((volatile float*)smem_ptr)[tid] == 1.0f) { }",
        "smem_ptr[tid] = 0.0f; while (((volatile float*)smem_ptr)[tid] == 1.0f) { }",
    ),
    Case("traps", "crash", "Y_ptr[tid] = tid / ((int)X_ptr[tid]);", "Y_ptr[tid] = tid / ((int)X_ptr[tid] + 1);"),
]


def run(
    body: str, *, threads: int = 64, grid: int = 1, order: Literal["forward", "reverse"] = "forward"
) -> tuple[EmulationResult, np.ndarray]:
    source = kernel(body, "float* __restrict__ X_ptr, float* __restrict__ Y_ptr", threads=threads)
    inputs, outputs = np.zeros(256, np.float32), np.full(256, np.nan, np.float32)
    result = emulate(
        source,
        {"X": inputs, "Y": outputs},
        outputs={"Y"},
        grid=grid,
        shared_bytes=1024,
        thread_order=order,
        timeout_s=0.5,
    )
    return result, outputs


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind}: {case.name}")
def test_finds_what_is_wrong_and_only_that(case: Case) -> None:
    wrong, _ = run(case.wrong, threads=case.threads, grid=case.grid)
    assert [finding.kind for finding in wrong.findings] == [case.kind]
    right, _ = run(case.right, threads=case.threads, grid=case.grid)
    assert right.findings == ()


def test_a_finding_names_line_block_thread_and_count() -> None:
    result, _ = run("\n\nY_ptr[tid] = X_ptr[tid + 250];")
    (finding,) = result.findings
    source = kernel("\n\nHERE", "").split("\n")
    line = source.index("HERE") + 1
    assert finding.first.startswith(f"line {line}: block (0, 0, 0) thread 6 reads 4 bytes at byte 1024 of parameter 0")
    assert finding.count == 58


def test_data_in_flight_is_nan() -> None:
    _, early = run(f"{COPY} Y_ptr[tid] = smem_ptr[tid * 4]; {WAIT}")
    _, late = run(f"{COPY} {WAIT} Y_ptr[tid] = smem_ptr[tid * 4];")
    assert np.isnan(early[:64]).all()
    assert (late[:64] == 0).all()


def test_both_thread_orders_agree_unless_there_is_a_race() -> None:
    body = "smem_ptr[tid] = 0.0f; {} smem_ptr[tid] = tid; {} Y_ptr[tid] = smem_ptr[tid ^ 33];"
    clean = [run(body.format(SYNC, SYNC), order=order) for order in ("forward", "reverse")]
    racy = [run(body.format(SYNC, ""), order=order) for order in ("forward", "reverse")]
    np.testing.assert_array_equal(clean[0][1], clean[1][1])
    assert not np.array_equal(racy[0][1], racy[1][1], equal_nan=True)
    assert racy[0][0].findings
    assert racy[1][0].findings


def test_unknown_instructions_are_named() -> None:
    with pytest.raises(UnsupportedInstruction, match=r"cp\.async\.bulk\.commit_group"):
        run('asm volatile("cp.async.bulk.commit_group;" ::: "memory");')
