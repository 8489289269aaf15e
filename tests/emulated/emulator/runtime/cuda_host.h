// The CUDA language and built-ins as emulated device code sees them on the host.
//
// Included in front of every emulated kernel, in place of the headers nvcc provides. Scalars live in
// `cuda_scalars.h`, vectors in `cuda_vectors.h`; everything that touches other threads is a call into
// the runtime (`device_api.h`).
#pragma once
#include <cmath>
#include <cstring>
#include <type_traits>

#include "cuda_scalars.h"
#include "cuda_vectors.h"
#include "device_api.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(bytes) alignas(bytes)
#define __restrict__
// Static shared memory is collected in one linker section, which the runtime treats as a block's own
// memory. Dynamic shared memory (`extern __shared__`) is rewritten before compilation.
#define __shared__ static __attribute__((section("emulated_shared")))

struct dim3 {
  unsigned x, y, z;
};

// Declared const although the runtime changes them at every thread switch: within one emulated thread
// they never change, which is all the compiler needs to know, and const data is not instrumented.
extern const dim3 threadIdx, blockIdx, blockDim, gridDim;

// The start of dynamic shared memory.
extern unsigned char* const emulated_dynamic_shared;

// The default argument is evaluated at the call, so it is the line of the barrier.
inline void __syncthreads(int line = __builtin_LINE()) { emulator::block_barrier(line); }
inline void __syncwarp(unsigned mask = 0xffffffffu) { emulator::warp_barrier(mask); }
inline void __threadfence() {}
inline void __threadfence_block() {}

inline unsigned __cvta_generic_to_shared(const void* pointer) {
  return emulator::shared_address(pointer);
}

template <typename T>
inline T emulated_shuffle(unsigned mask, T value, int operand, int width, emulator::ShuffleMode mode) {
  static_assert(sizeof(T) <= 4, "only shuffles of up to 32 bits are emulated");
  uint32_t bits = 0;
  __builtin_memcpy(&bits, &value, sizeof(T));
  bits = emulator::shuffle(mask, bits, operand, width, mode);
  __builtin_memcpy(&value, &bits, sizeof(T));
  return value;
}

template <typename T>
inline T __shfl_sync(unsigned mask, T value, int lane, int width = 32) {
  return emulated_shuffle(mask, value, lane, width, emulator::ShuffleMode::kIndex);
}
template <typename T>
inline T __shfl_up_sync(unsigned mask, T value, int delta, int width = 32) {
  return emulated_shuffle(mask, value, delta, width, emulator::ShuffleMode::kUp);
}
template <typename T>
inline T __shfl_down_sync(unsigned mask, T value, int delta, int width = 32) {
  return emulated_shuffle(mask, value, delta, width, emulator::ShuffleMode::kDown);
}
template <typename T>
inline T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32) {
  return emulated_shuffle(mask, value, lane_mask, width, emulator::ShuffleMode::kXor);
}

// All lanes of the warp that the block has: emulated lanes wait for each other wherever the mask is used.
inline unsigned __activemask() {
  unsigned threads = blockDim.x * blockDim.y * blockDim.z;
  unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  unsigned lanes = threads - thread / 32 * 32;
  return lanes >= 32 ? 0xffffffffu : (1u << lanes) - 1;
}

// Integer and floating-point built-ins that <cmath> does not have.
template <typename T>
inline T min(T a, T b) {
  return b < a ? b : a;
}
template <typename T>
inline T max(T a, T b) {
  return a < b ? b : a;
}
inline float max(float a, float b) { return fmaxf(a, b); }
inline float min(float a, float b) { return fminf(a, b); }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline float __expf(float x) { return expf(x); }
inline float __exp2f(float x) { return exp2f(x); }
inline float __logf(float x) { return logf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline int __float_as_int(float x) {
  int bits;
  __builtin_memcpy(&bits, &x, 4);
  return bits;
}
inline unsigned __float_as_uint(float x) { return (unsigned)__float_as_int(x); }
inline float __uint_as_float(unsigned bits) {
  float x;
  __builtin_memcpy(&x, &bits, 4);
  return x;
}
inline float __int_as_float(int bits) { return __uint_as_float((unsigned)bits); }
template <typename T>
inline T __ldg(const T* pointer) {
  return *pointer;
}
