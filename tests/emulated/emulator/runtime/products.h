// One product of wgmma.mma_async: 64 pixels x 16 channels by 16 channels x N output channels.
#pragma once
#include "runtime.h"

namespace emulator {

constexpr int kThreads = 128;  // of a warpgroup
constexpr int kRows = 64, kDepth = 16;
constexpr int kAtom = 8;  // rows of weights after which the swizzle repeats
constexpr int kChunkBytes = 16;

// What a matrix descriptor says: PTX ISA, "Matrix descriptor format" of wgmma.
struct Descriptor {
  uint32_t start, atom_stride, row_bytes;
  int mode, base_offset;

  explicit Descriptor(uint64_t bits)
      : start((bits & 0x3fff) << 4),
        atom_stride((bits >> 32 & 0x3fff) << 4),
        row_bytes(128),
        mode(bits >> 62),
        base_offset(bits >> 49 & 7) {
    if (mode > 1) row_bytes >>= mode - 1;
  }
  // Where one of the two 16-byte chunks of an output channel's weights lies.
  uint32_t address(int channel, int chunk) const {
    uint32_t linear = start + channel / kAtom * atom_stride + channel % kAtom * row_bytes + chunk * kChunkBytes;
    return linear ^ ((linear >> 7 & (row_bytes / kChunkBytes - 1)) << 4);
  }
};

struct Product {
  int first_thread, columns;
  Descriptor weights;
  MatrixElement element;
  bool accumulate;
  const void* pc;
  std::vector<const uint32_t*> operands;  // [thread][4]
  std::vector<uint16_t> seen;             // weights when it started, [channel][16]
  bool computed = false;
  std::vector<float> results;             // of the multiplication alone, [row][channel]
};

// Whether the emulator knows the layout; reports what it does not know or what is misaligned.
bool is_supported(const Descriptor& weights, const void* pc);
// The weights as they are now, [channel][16]; all ones where there is no memory. Checked reads may be reported.
std::vector<uint16_t> read_weights(const Product& product, bool checked);
// Multiplies with operands and weights as they are now; reports weights that are not those it started with.
void compute(Product& product);

}  // namespace emulator
