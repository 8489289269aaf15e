// CUDA vector types.
//
// They are plain aggregates: with -fno-tree-sra the compiler keeps a whole-vector copy as one access of
// 2 to 16 bytes, as the device does, so that it is checked and counted as one.
#pragma once
#include "cuda_scalars.h"

#define EMULATED_VECTORS(name, scalar)                                                          \
  struct alignas(2 * sizeof(scalar)) name##2 {                                                  \
    scalar x, y;                                                                                \
  };                                                                                            \
  struct name##3 {                                                                              \
    scalar x, y, z;                                                                             \
  };                                                                                            \
  struct alignas(4 * sizeof(scalar) < 16 ? 4 * sizeof(scalar) : 16) name##4 {                   \
    scalar x, y, z, w;                                                                          \
  };                                                                                            \
  inline name##2 make_##name##2(scalar x, scalar y) { return {x, y}; }                          \
  inline name##3 make_##name##3(scalar x, scalar y, scalar z) { return {x, y, z}; }             \
  inline name##4 make_##name##4(scalar x, scalar y, scalar z, scalar w) { return {x, y, z, w}; }

EMULATED_VECTORS(char, signed char)
EMULATED_VECTORS(uchar, unsigned char)
EMULATED_VECTORS(short, short)
EMULATED_VECTORS(ushort, unsigned short)
EMULATED_VECTORS(int, int)
EMULATED_VECTORS(uint, unsigned int)
EMULATED_VECTORS(float, float)
EMULATED_VECTORS(double, double)
EMULATED_VECTORS(half, half)
EMULATED_VECTORS(nv_bfloat16, nv_bfloat16)
#undef EMULATED_VECTORS

typedef half2 __half2;
typedef nv_bfloat162 __nv_bfloat162;
inline nv_bfloat162 make_bfloat162(nv_bfloat16 x, nv_bfloat16 y) { return {x, y}; }

// TVM's own helper: two halves in one register, the first in the low bits.
template <typename F>
inline unsigned emulated_pack(NarrowFloat<F> low, NarrowFloat<F> high) {
  return (unsigned)high.bits << 16 | low.bits;
}
inline unsigned __pack_half2(half low, half high) { return emulated_pack(low, high); }
inline unsigned __pack_nv_bfloat162(nv_bfloat16 low, nv_bfloat16 high) { return emulated_pack(low, high); }

inline half2 __floats2half2_rn(float x, float y) { return {x, y}; }
inline half2 __float22half2_rn(float2 v) { return {v.x, v.y}; }
inline float2 __half22float2(half2 v) { return {v.x, v.y}; }
inline half2 __halves2half2(half x, half y) { return {x, y}; }
inline half __low2half(half2 v) { return v.x; }
inline half __high2half(half2 v) { return v.y; }
inline half2 __float2half2_rn(float x) { return {x, x}; }
inline half2 __half2half2(half x) { return {x, x}; }
inline nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {x, y}; }
inline half2 __hadd2(half2 a, half2 b) { return {a.x + b.x, a.y + b.y}; }
inline half2 __hsub2(half2 a, half2 b) { return {a.x - b.x, a.y - b.y}; }
inline half2 __hmul2(half2 a, half2 b) { return {a.x * b.x, a.y * b.y}; }
inline half2 __hfma2(half2 a, half2 b, half2 c) { return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)}; }
inline half2 __hmax2(half2 a, half2 b) { return {__hmax(a.x, b.x), __hmax(a.y, b.y)}; }
inline half2 __hmin2(half2 a, half2 b) { return {__hmin(a.x, b.x), __hmin(a.y, b.y)}; }
