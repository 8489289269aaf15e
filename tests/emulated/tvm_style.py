"""Small CUDA kernels in the style TVM prints them, for tests of the emulator."""

import functools
from collections.abc import Sequence

_FLOAT, _WORD, _POINTER = ("float", "f"), ("uint32_t", "r"), ("const void*", "l")

_BUILTINS = """
__forceinline__ __device__ void tvm_builtin_cuda_cta_sync() {
    __syncthreads();
}
__forceinline__ __device__ unsigned int shared_address(void* p) {
    return __cvta_generic_to_shared(p);
}
"""


def kernel(body: str, parameters: str, *, threads: int = 64) -> str:
    """A source with one kernel; its body sees ``tid``, ``lane`` and dynamic shared memory ``smem_ptr``.

    The helpers it may call are ``ptx_mma_sync_k{8,16}_{f16,bf16}``, ``ptx_ldmatrix_x{1,2,4}{,_trans}``,
    ``ptx_cp_async_{4,8,16}``, ``ptx_cp_async_src_size_16``, ``ptx_cp_async_commit_group``,
    ``ptx_cp_async_wait_group_{0,1}``, ``tvm_builtin_cuda_cta_sync`` and ``shared_address``.
    """
    signature = f'extern "C" __global__ void __launch_bounds__({threads}) main_kernel({parameters})'
    return f"""{_helpers()}
{signature};
{signature} {{
  extern __shared__ __align__(128) float smem_ptr[];
  int tid = ((int)threadIdx.x);
  int lane = (tid & 31);
{body}
}}
"""


@functools.cache
def _helpers() -> str:
    products = [_product(depth, element) for depth in (8, 16) for element in ("f16", "bf16")]
    loads = [_matrix_load(count, trans) for count in (1, 2, 4) for trans in ("", ".trans")]
    return "".join([*products, *loads, *_copies(), _BUILTINS])


def _product(depth: int, element: str) -> str:
    a, b = depth // 4, depth // 8
    groups = [_numbers(0, 4), _numbers(4, a), _numbers(4 + a, b), _numbers(4 + a + b, 4)]
    return _helper(
        f"ptx_mma_sync_k{depth}_{element}",
        f"mma.sync.aligned.m16n8k{depth}.row.col.f32.{element}.{element}.f32 " + ", ".join(groups),
        outputs=[_FLOAT] * 4,
        inputs=[*[_WORD] * (a + b), *[_FLOAT] * 4],
    )


def _matrix_load(count: int, trans: str) -> str:
    return _helper(
        f"ptx_ldmatrix_x{count}{trans.replace('.', '_')}",
        f"ldmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 {_numbers(0, count)}, [%{count}]",
        outputs=[_WORD] * count,
        inputs=[_WORD],
    )


def _copies() -> list[str]:
    addresses = [_WORD, _POINTER]
    return [
        _helper("ptx_cp_async_4", "cp.async.ca.shared.global [%0], [%1], 4", inputs=addresses),
        _helper("ptx_cp_async_8", "cp.async.ca.shared.global [%0], [%1], 8", inputs=addresses),
        _helper("ptx_cp_async_16", "cp.async.cg.shared.global [%0], [%1], 16", inputs=addresses),
        _helper("ptx_cp_async_src_size_16", "cp.async.cg.shared.global [%0], [%1], 16, %2", inputs=[*addresses, _WORD]),
        _helper("ptx_cp_async_commit_group", "cp.async.commit_group"),
        _helper("ptx_cp_async_wait_group_0", "cp.async.wait_group 0"),
        _helper("ptx_cp_async_wait_group_1", "cp.async.wait_group 1"),
    ]


def _helper(
    name: str, instruction: str, outputs: Sequence[tuple[str, str]] = (), inputs: Sequence[tuple[str, str]] = ()
) -> str:
    """A function around one instruction; operands are pairs of a C type and an asm constraint."""
    parameters = [f"{type_}& __o{i}" for i, (type_, _) in enumerate(outputs)]
    parameters += [f"{type_} __i{i}" for i, (type_, _) in enumerate(inputs)]
    results = ", ".join(f'"={constraint}"(__o{i})' for i, (_, constraint) in enumerate(outputs))
    operands = ", ".join(f'"{constraint}"(__i{i})' for i, (_, constraint) in enumerate(inputs))
    return f"""__forceinline__ __device__ void {name}({", ".join(parameters)}) {{
  asm volatile("{instruction};" : {results} : {operands} : "memory");
}}
"""


def _numbers(first: int, count: int) -> str:
    return "{" + ", ".join(f"%{first + i}" for i in range(count)) + "}"
