// What emulated device code may ask of the runtime.
//
// This is the only interface between the compiled kernel and the runtime. The Python side translates
// every PTX instruction into one of these calls, and `cuda_host.h` maps the CUDA built-ins to them.
#pragma once
#include <cstdint>

namespace emulator {

enum class ShuffleMode { kIndex, kUp, kDown, kXor };
enum class MatrixElement { kHalf, kBfloat16 };

// __syncthreads(). `line` identifies the barrier in the source, to tell two barriers apart.
void block_barrier(int line);
// __syncwarp(mask): orders shared-memory accesses among the lanes of one warp.
void warp_barrier(uint32_t mask);
// The 32-bit shared-window address of a generic pointer.
uint32_t shared_address(const void* pointer);
// The four __shfl_*_sync built-ins on one 32-bit register.
uint32_t shuffle(uint32_t mask, uint32_t value, int operand, int width, ShuffleMode mode);
// mma.sync.m16n8k{8,16}.row.col.f32: for depth 8 only a[0..1] and b[0] are read.
void multiply_matrices(float* d, const uint32_t* a, const uint32_t* b, const float* c, int depth,
                       MatrixElement element);
// ldmatrix / stmatrix of 1, 2 or 4 matrices of 8x8 16-bit elements.
void load_matrices(uint32_t* registers, int matrices, bool transposed, uint32_t address);
void store_matrices(const uint32_t* registers, int matrices, bool transposed, uint32_t address);
// wgmma.mma_async.m64nNk16.f32 with A in registers and B behind a descriptor, for N = `columns`. `sums` and `a` say
// where the registers are: products use them until they are waited for.
void multiply_warpgroup(float* const* sums, int columns, const uint32_t* const* a, uint64_t descriptor,
                        bool accumulate, MatrixElement element);
// wgmma.fence, wgmma.commit_group, wgmma.wait_group.
void fence_products();
void commit_products();
void wait_products(int groups_left);
// fence.proxy.async: what this thread has written becomes visible to wgmma.
void fence_proxy();
// cp.async: `bytes` are written, of which the first `source_bytes` are copied and the rest are zero.
void copy_async(uint32_t destination, const void* source, int bytes, int source_bytes);
void commit_copies();
void wait_copies(int groups_left);

}  // namespace emulator
