// 16-bit floating-point scalars: half and nv_bfloat16.
//
// Both are one 16-bit member, so that a load or store of one is one instrumented access of two bytes.
// Arithmetic is done in float and rounded once. For + - * / and sqrt that equals rounding the exact
// result, because float has more than twice the mantissa bits of either type.
#pragma once
#include <cmath>
#include <cstdint>
#include <type_traits>

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;

struct HalfFormat {
  static float widen(uint16_t bits) {
    _Float16 value;
    __builtin_memcpy(&value, &bits, 2);
    return (float)value;
  }
  template <typename T>
  static uint16_t narrow(T value) {
    _Float16 narrowed = (_Float16)value;
    uint16_t bits;
    __builtin_memcpy(&bits, &narrowed, 2);
    return bits;
  }
};

struct BfloatFormat {
  static float widen(uint16_t bits) {
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    __builtin_memcpy(&value, &wide, 4);
    return value;
  }
  template <typename T>
  static uint16_t narrow(T wide) {
    float value = (float)wide;
    uint32_t bits;
    __builtin_memcpy(&bits, &value, 4);
    if (value != value) return 0x7fff;
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);  // round to nearest even
  }
};

template <typename Format>
struct NarrowFloat {
  uint16_t bits;

  NarrowFloat() = default;
  template <typename T, typename = std::enable_if_t<std::is_arithmetic_v<T>>>
  NarrowFloat(T value) : bits(Format::narrow(value)) {}
  operator float() const { return Format::widen(bits); }

  friend NarrowFloat operator+(NarrowFloat a, NarrowFloat b) { return (float)a + (float)b; }
  friend NarrowFloat operator-(NarrowFloat a, NarrowFloat b) { return (float)a - (float)b; }
  friend NarrowFloat operator*(NarrowFloat a, NarrowFloat b) { return (float)a * (float)b; }
  friend NarrowFloat operator/(NarrowFloat a, NarrowFloat b) { return (float)a / (float)b; }
  friend NarrowFloat operator-(NarrowFloat a) { return -(float)a; }
  friend bool operator<(NarrowFloat a, NarrowFloat b) { return (float)a < (float)b; }
  friend bool operator>(NarrowFloat a, NarrowFloat b) { return (float)a > (float)b; }
  friend bool operator<=(NarrowFloat a, NarrowFloat b) { return (float)a <= (float)b; }
  friend bool operator>=(NarrowFloat a, NarrowFloat b) { return (float)a >= (float)b; }
  friend bool operator==(NarrowFloat a, NarrowFloat b) { return (float)a == (float)b; }
  friend bool operator!=(NarrowFloat a, NarrowFloat b) { return (float)a != (float)b; }
  NarrowFloat& operator+=(NarrowFloat other) { return *this = *this + other; }
  NarrowFloat& operator-=(NarrowFloat other) { return *this = *this - other; }
  NarrowFloat& operator*=(NarrowFloat other) { return *this = *this * other; }
};

typedef NarrowFloat<HalfFormat> half;
typedef half __half;
typedef NarrowFloat<BfloatFormat> nv_bfloat16;
typedef nv_bfloat16 __nv_bfloat16;

inline half __float2half(float x) { return x; }
inline half __float2half_rn(float x) { return x; }
inline float __half2float(half x) { return x; }
inline nv_bfloat16 __float2bfloat16(float x) { return x; }
inline nv_bfloat16 __float2bfloat16_rn(float x) { return x; }
inline float __bfloat162float(nv_bfloat16 x) { return x; }

// Intrinsics that exist for both types.
template <typename F>
inline NarrowFloat<F> max(NarrowFloat<F> a, NarrowFloat<F> b) {
  return a > b ? a : b;
}
template <typename F>
inline NarrowFloat<F> min(NarrowFloat<F> a, NarrowFloat<F> b) {
  return a < b ? a : b;
}
template <typename F>
inline NarrowFloat<F> __hmax(NarrowFloat<F> a, NarrowFloat<F> b) {
  return fmaxf(a, b);
}
template <typename F>
inline NarrowFloat<F> __hmin(NarrowFloat<F> a, NarrowFloat<F> b) {
  return fminf(a, b);
}
template <typename F>
inline NarrowFloat<F> __hadd(NarrowFloat<F> a, NarrowFloat<F> b) {
  return a + b;
}
template <typename F>
inline NarrowFloat<F> __hsub(NarrowFloat<F> a, NarrowFloat<F> b) {
  return a - b;
}
template <typename F>
inline NarrowFloat<F> __hmul(NarrowFloat<F> a, NarrowFloat<F> b) {
  return a * b;
}
template <typename F>
inline NarrowFloat<F> __hfma(NarrowFloat<F> a, NarrowFloat<F> b, NarrowFloat<F> c) {
  return (double)(float)a * (float)b + (float)c;
}
template <typename F>
inline bool __hgt(NarrowFloat<F> a, NarrowFloat<F> b) {
  return a > b;
}
template <typename F>
inline bool __hlt(NarrowFloat<F> a, NarrowFloat<F> b) {
  return a < b;
}
inline half hexp(half x) { return expf(x); }
inline half hsqrt(half x) { return sqrtf(x); }
inline half hrsqrt(half x) { return 1.0f / sqrtf(x); }
inline half htanh(half x) { return tanhf(x); }
