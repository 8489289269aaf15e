"""What emulated instructions compute, against numpy."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from tests.emulated.emulator import EmulationError, EmulationResult, emulate
from tests.emulated.tvm_style import kernel

Floats = npt.NDArray[np.float32]


def run(body: str, parameters: str, shared_bytes: int = 4096, **arguments: npt.NDArray[np.generic]) -> EmulationResult:
    """Runs one warp; Y is the output."""
    source = kernel(body, parameters, threads=32)
    result = emulate(source, arguments, outputs={"Y"}, grid=1, shared_bytes=shared_bytes, timeout_s=5)
    assert result.findings == ()
    return result


def bfloat16_bits(values: Floats) -> npt.NDArray[np.uint16]:
    """Rounds to nearest even, as the hardware does."""
    bits = values.view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def from_bfloat16(bits: npt.NDArray[np.uint16]) -> Floats:
    return (bits.astype(np.uint32) << 16).view(np.float32)


# A is row-major [16][depth], B is [8][depth] ("col"), both staged as they are and read through ldmatrix.
MULTIPLY = """
  ushort* tile = (ushort*)smem_ptr;
  for (int i = tid; i < 16 * {depth}; i += 32) {{ tile[i] = A_ptr[i]; }}
  for (int i = tid; i < 8 * {depth}; i += 32) {{ tile[16 * {depth} + i] = B_ptr[i]; }}
  __syncwarp();
  uint32_t a[4], b[2];
  ptx_ldmatrix_x{a_count}({a}, shared_address(tile + (lane & 15) * {depth} + (lane >> 4) * 8 % {depth}));
  ptx_ldmatrix_x{b_count}({b}, shared_address(tile + 16 * {depth} + (lane & 7) * {depth} + (lane >> 3) * 8 % {depth}));
  float d[4];
  ptx_mma_sync_k{depth}_{element}(d[0], d[1], d[2], d[3], {a}, {b}, 1.0f, 1.0f, 1.0f, 1.0f);
  for (int e = 0; e < 4; ++e) {{ Y_ptr[(lane / 4 + e / 2 * 8) * 8 + lane % 4 * 2 + e % 2] = d[e]; }}
"""


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("element", ["f16", "bf16"])
def test_matrix_product(depth: int, element: str) -> None:
    random = np.random.default_rng(depth)
    a, b = (random.standard_normal((rows, depth)).astype(np.float32) for rows in (16, 8))
    if element == "f16":
        a_bits, b_bits = a.astype(np.float16).view(np.uint16), b.astype(np.float16).view(np.uint16)
        a, b = a_bits.view(np.float16).astype(np.float32), b_bits.view(np.float16).astype(np.float32)
    else:
        a_bits, b_bits = bfloat16_bits(a), bfloat16_bits(b)
        a, b = from_bfloat16(a_bits), from_bfloat16(b_bits)
    body = MULTIPLY.format(
        depth=depth,
        element=element,
        a_count=depth // 4,
        b_count=depth // 8,
        a=", ".join(f"a[{i}]" for i in range(depth // 4)),
        b=", ".join(f"b[{i}]" for i in range(depth // 8)),
    )
    y = np.full((16, 8), np.nan, np.float32)
    run(body, "ushort* A_ptr, ushort* B_ptr, float* Y_ptr", A=a_bits, B=b_bits, Y=y)
    np.testing.assert_allclose(y, a.astype(np.float64) @ b.T + 1.0, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("transposed", [False, True])
def test_matrix_load(count: int, transposed: bool) -> None:
    registers = ", ".join(f"r[{i}]" for i in range(count))
    body = f"""
  ushort* tile = (ushort*)smem_ptr;
  for (int i = tid; i < 256; i += 32) {{ tile[i] = X_ptr[i]; }}
  __syncwarp();
  uint32_t r[4];
  ptx_ldmatrix_x{count}{"_trans" if transposed else ""}({registers}, shared_address(tile + lane * 8));
  for (int m = 0; m < {count}; ++m) {{ ((uint*)Y_ptr)[m * 32 + lane] = r[m]; }}
"""
    x = np.arange(256, dtype=np.uint16)
    y = np.zeros((count, 8, 8), np.uint16)
    run(body, "ushort* X_ptr, ushort* Y_ptr", X=x, Y=y)
    matrices = x.reshape(4, 8, 8)[:count]
    np.testing.assert_array_equal(y, matrices.transpose(0, 2, 1) if transposed else matrices)


@pytest.mark.parametrize("source_bytes", [0, 6, 16])
def test_copies_fill_with_zeros(source_bytes: int) -> None:
    body = f"""
  ptx_cp_async_src_size_16(shared_address(smem_ptr + tid * 4), X_ptr + tid * 8, {source_bytes});
  ptx_cp_async_commit_group();
  ptx_cp_async_wait_group_0();
  *(uint4*)(Y_ptr + tid * 8) = *(uint4*)(smem_ptr + tid * 4);
"""
    x = np.arange(1, 257, dtype=np.uint16).reshape(32, 8)
    y = np.full_like(x, 999)
    run(body, "ushort* X_ptr, ushort* Y_ptr", X=x, Y=y)
    expected = np.where(np.arange(8) * 2 < source_bytes, x, 0)
    np.testing.assert_array_equal(y, expected)


SHUFFLES: dict[str, Callable[[int], int]] = {
    "__shfl_sync(4294967295u, tid, 5, 8)": lambda lane: lane // 8 * 8 + 5,
    "__shfl_xor_sync(4294967295u, tid, 3, 32)": lambda lane: lane ^ 3,
    "__shfl_up_sync(4294967295u, tid, 2, 16)": lambda lane: lane if lane % 16 < 2 else lane - 2,
    "__shfl_down_sync(4294967295u, tid, 7, 32)": lambda lane: lane if lane > 24 else lane + 7,
}


def test_shuffles() -> None:
    body = " ".join(f"Y_ptr[{i} * 32 + tid] = {call};" for i, call in enumerate(SHUFFLES))
    y = np.full((len(SHUFFLES), 32), -1, np.int32)
    run(body, "int* Y_ptr", Y=y)
    expected = [[source(lane) for lane in range(32)] for source in SHUFFLES.values()]
    np.testing.assert_array_equal(y, expected)


def test_half_arithmetic_rounds_every_step() -> None:
    random = np.random.default_rng(0)
    x = random.standard_normal((3, 32)).astype(np.float16)
    y = np.full((5, 32), np.nan, np.float16)
    body = """
  half a = X_ptr[tid]; half b = X_ptr[32 + tid]; half c = X_ptr[64 + tid];
  Y_ptr[tid] = a * b + c;
  Y_ptr[32 + tid] = __hfma(a, b, c);
  Y_ptr[64 + tid] = max(a, __float2half_rn(0.0f));
  Y_ptr[96 + tid] = ((half)(((float)a) / ((float)b)));
  Y_ptr[128 + tid] = make_half2(b, c).y;
"""
    run(body, "half* X_ptr, half* Y_ptr", X=x, Y=y)
    a, b, c = x
    fused = (a.astype(np.float64) * b + c).astype(np.float16)
    np.testing.assert_array_equal(y, [a * b + c, fused, np.maximum(a, 0), a / b, c])


def test_static_shared_memory_of_vectors() -> None:
    x = np.random.default_rng(0).standard_normal(128).astype(np.float16)
    y = np.full_like(x, np.nan)
    body = """
  __shared__ alignas(64) half4 X_shared_ptr[32];
  X_shared_ptr[tid] = *(half4*)(X_ptr + tid * 4);
  tvm_builtin_cuda_cta_sync();
  *(half4*)(Y_ptr + tid * 4) = X_shared_ptr[31 - tid];
"""
    run(body, "half* X_ptr, half* Y_ptr", X=x, Y=y)
    np.testing.assert_array_equal(y.reshape(32, 4), x.reshape(32, 4)[::-1])


def test_bfloat16_rounds_to_nearest_even() -> None:
    x = np.random.default_rng(0).standard_normal(32).astype(np.float32)
    x[:2] = np.array([0x3F808000, 0x3F818000], np.uint32).view(np.float32)  # ties
    y = np.zeros(32, np.uint16)
    run("Y_ptr[tid] = __float2bfloat16(X_ptr[tid]);", "float* X_ptr, nv_bfloat16* Y_ptr", X=x, Y=y)
    np.testing.assert_array_equal(y, bfloat16_bits(x))


def test_grids_blocks_and_scalars() -> None:
    body = "Y_ptr[((blockIdx.z * 3 + blockIdx.y) * 2 + blockIdx.x) * 32 + threadIdx.y * 8 + threadIdx.x] = scale * tid;"
    source = kernel(body, "float* Y_ptr, int scale", threads=32)
    y = np.full((4, 3, 2, 4, 8), np.nan, np.float32)
    arguments = {"Y_ptr": y, "scale": np.array(3, np.int32)}
    result = emulate(source, arguments, outputs={"Y"}, grid=(2, 3, 4), block=(8, 4, 1), shared_bytes=0)
    assert result.findings == ()
    np.testing.assert_array_equal(y, np.broadcast_to(3 * np.arange(8), y.shape))


def test_one_of_several_kernels() -> None:
    other = 'extern "C" __global__ void __launch_bounds__(32) other_kernel(float* Y_ptr) { Y_ptr[threadIdx.x] = 2.0f; }'
    two = kernel("Y_ptr[tid] = 1.0f;", "float* Y_ptr") + other
    y = np.full(64, np.nan, np.float32)
    emulate(two, {"Y": y}, outputs={"Y"}, grid=1, shared_bytes=0, kernel="other_kernel")
    assert (y[:32] == 2).all()
    assert np.isnan(y[32:]).all()
    with pytest.raises(EmulationError, match="several kernels"):
        emulate(two, {"Y": y}, outputs={"Y"}, grid=1, shared_bytes=0)


def test_wrong_arguments_are_errors() -> None:
    source = kernel("Y_ptr[tid] = 1.0f;", "float* Y_ptr")
    y = np.zeros((64, 2), np.float32)
    with pytest.raises(EmulationError, match="parameters are"):
        emulate(source, {"Z": y}, outputs=set(), grid=1, shared_bytes=0)
    with pytest.raises(EmulationError, match="not contiguous"):
        emulate(source, {"Y": y[:, 0]}, outputs={"Y"}, grid=1, shared_bytes=0)
    with pytest.raises(EmulationError, match="does not compile"):
        emulate(kernel("this is not C", "float* Y_ptr"), {"Y": y}, outputs={"Y"}, grid=1, shared_bytes=0)
