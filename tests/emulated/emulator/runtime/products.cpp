// What a product of wgmma reads and computes; when it does so is in wgmma.cpp.
#include "products.h"

#include <cstring>

namespace emulator {
namespace {

float widen(uint16_t bits, MatrixElement type) {
  if (type == MatrixElement::kBfloat16) {
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, 4);
    return value;
  }
  _Float16 value;
  memcpy(&value, &bits, 2);
  return (float)value;
}

}  // namespace

bool is_supported(const Descriptor& weights, const void* pc) {
  if (weights.mode == 0 || weights.base_offset != 0) {
    report("unsupported-descriptor", pc, "has swizzle mode %d and base offset %d", weights.mode, weights.base_offset);
    return false;
  }
  uint32_t pattern = kAtom * weights.row_bytes, inside = weights.start % pattern;
  if (inside + 2 * kChunkBytes > weights.row_bytes || weights.atom_stride % pattern != 0) {
    report("misaligned", pc, "multiplies weights at %u with atoms %u apart, where the swizzle repeats every %u bytes",
           weights.start, weights.atom_stride, pattern);
    return false;
  }
  return true;
}

std::vector<uint16_t> read_weights(const Product& product, bool checked) {
  std::vector<uint16_t> out(product.columns * kDepth, 0xffff);
  for (int channel = 0; channel < product.columns; ++channel) {
    for (int chunk = 0; chunk < 2; ++chunk) {
      uint32_t address = product.weights.address(channel, chunk);
      unsigned char* memory = shared_pointer(address, kChunkBytes, product.pc);
      if (memory == nullptr) return out;
      // One thread of each warp stands for all that read.
      for (int warp = 0; checked && warp < kThreads / kWarpSize; ++warp) {
        current = product.first_thread + warp * kWarpSize;
        check_access(memory, kChunkBytes, AccessKind::kProxyRead, product.pc);
      }
      memcpy(&out[channel * kDepth + chunk * 8], memory, kChunkBytes);
    }
  }
  return out;
}

// PTX ISA, "Register fragments for wgmma.m64nNk16": warp w has rows 16 w on, as m16n8k16 has them.
void compute(Product& product) {
  int here = current;
  std::vector<uint16_t> weights = read_weights(product, false);
  current = here;
  if (weights != product.seen) {
    report("product-overtaken", product.pc, "multiplies weights that changed before it was waited for");
  }
  float a[kRows][kDepth];
  for (int i = 0; i < kThreads; ++i) {
    int row = i / kWarpSize * 16 + i % kWarpSize / 4, pair = i % 4 * 2;
    for (int r = 0; r < 4; ++r) {
      uint32_t word = *product.operands[i * 4 + r];
      for (int e = 0; e < 2; ++e) a[row + r % 2 * 8][pair + r / 2 * 8 + e] = widen(word >> 16 * e, product.element);
    }
  }
  std::vector<float> b(weights.size());
  for (size_t i = 0; i < b.size(); ++i) b[i] = widen(weights[i], product.element);
  product.results.resize(kRows * product.columns);
  for (int row = 0; row < kRows; ++row) {
    for (int channel = 0; channel < product.columns; ++channel) {
      float sum = 0;
      for (int k = 0; k < kDepth; ++k) sum += a[row][k] * b[channel * kDepth + k];
      product.results[row * product.columns + channel] = sum;
    }
  }
  product.computed = true;
}

}  // namespace emulator
