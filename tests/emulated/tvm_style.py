"""Small CUDA kernels in the style TVM prints them, for tests of the emulator."""

_MMA = """
__forceinline__ __device__ void ptx_mma_sync_{name}(float& __d0, float& __d1, float& __d2, float& __d3, {a_parameters}, \
{b_parameters}, float __c0, float __c1, float __c2, float __c3) {{
  asm volatile("mma.sync.aligned.m16n8k{depth}.row.col.f32.{element}.{element}.f32 {{%0, %1, %2, %3}}, {{{a_numbers}}}, \
{{{b_numbers}}}, {{{c_numbers}}};" : "=f"(__d0), "=f"(__d1), "=f"(__d2), "=f"(__d3) : {operands}, "f"(__c0), "f"(__c1), \
"f"(__c2), "f"(__c3));
}}
"""

_LDMATRIX = """
__forceinline__ __device__ void ptx_ldmatrix_x{count}{suffix}({parameters}, uint32_t __p) {{
  asm volatile("ldmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 {{{numbers}}}, [%{count}];" : {outputs} : \
"r"(__p) : "memory");
}}
"""

_COPIES = """
__forceinline__ __device__ void ptx_cp_async_16(uint32_t __dst_mem, const void* __src_mem) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :  : "r"(__dst_mem), "l"(__src_mem) : "memory");
}
__forceinline__ __device__ void ptx_cp_async_4(uint32_t __dst_mem, const void* __src_mem) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" :  : "r"(__dst_mem), "l"(__src_mem) : "memory");
}
__forceinline__ __device__ void ptx_cp_async_src_size_16(uint32_t __dst_mem, const void* __src_mem, uint32_t __size) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" :  : "r"(__dst_mem), "l"(__src_mem), "r"(__size) : "memory");
}
__forceinline__ __device__ void ptx_cp_async_commit_group() {
  asm volatile("cp.async.commit_group;" :  : );
}
__forceinline__ __device__ void ptx_cp_async_wait_group_0() {
  asm volatile("cp.async.wait_group 0;" :  :  : "memory");
}
__forceinline__ __device__ void ptx_cp_async_wait_group_1() {
  asm volatile("cp.async.wait_group 1;" :  :  : "memory");
}
__forceinline__ __device__ void tvm_builtin_cuda_cta_sync() {
    __syncthreads();
}
__forceinline__ __device__ unsigned int shared_address(void* p) {
    return __cvta_generic_to_shared(p);
}
"""


def kernel(body: str, parameters: str, *, threads: int = 64) -> str:
    """A source with one kernel; its body sees ``tid``, ``lane`` and dynamic shared memory ``smem_ptr``."""
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


def _helpers() -> str:
    products = [_mma(depth, element) for depth in (8, 16) for element in ("f16", "bf16")]
    loads = [_ldmatrix(count, trans) for count in (1, 2, 4) for trans in ("", ".trans")]
    return "".join([*products, *loads, _COPIES])


def _mma(depth: int, element: str) -> str:
    a_count, b_count = depth // 4, depth // 8
    a_names = [f"__a{i}" for i in range(a_count)]
    b_names = [f"__b{i}" for i in range(b_count)]
    return _MMA.format(
        name=f"k{depth}_{element}",
        depth=depth,
        element=element,
        a_parameters=", ".join(f"uint32_t {name}" for name in a_names),
        b_parameters=", ".join(f"uint32_t {name}" for name in b_names),
        a_numbers=_numbers(4, a_count),
        b_numbers=_numbers(4 + a_count, b_count),
        c_numbers=_numbers(4 + a_count + b_count, 4),
        operands=", ".join(f'"r"({name})' for name in a_names + b_names),
    )


def _ldmatrix(count: int, trans: str) -> str:
    return _LDMATRIX.format(
        count=count,
        trans=trans,
        suffix=trans.replace(".", "_"),
        parameters=", ".join(f"uint32_t& __r{i}" for i in range(count)),
        numbers=_numbers(0, count),
        outputs=", ".join(f'"=r"(__r{i})' for i in range(count)),
    )


def _numbers(first: int, count: int) -> str:
    return ", ".join(f"%{first + i}" for i in range(count))
