// Instructions that a warp executes together: shuffles, warp barriers, matrix loads and products.
//
// Each lane leaves its operands in its `Collective` and suspends. Once every lane of the mask has done so
// with the same instruction, run_collective() computes all results and lets the lanes continue.
#include <cstring>

#include "runtime.h"

namespace emulator {
namespace {

constexpr uint32_t kFullMask = 0xffffffffu;
constexpr uint32_t kNanPair = 0xffffffffu;

// The lanes of one warp that execute an instruction together.
struct Lanes {
  int first_thread;
  uint32_t mask;
  bool has(int lane) const { return mask >> lane & 1u; }
  Collective& operator[](int lane) const { return threads[first_thread + lane].collective; }
};

Collective& enter(CollectiveKind kind, uint32_t variant, uint32_t mask, const void* pc) {
  Collective& collective = threads[current].collective;
  collective = Collective{};
  collective.kind = kind;
  collective.variant = variant;
  collective.mask = mask;
  collective.pc = pc;
  return collective;
}

void wait_for_warp() { suspend_as(ThreadState::kAtCollective); }

float widen(uint32_t pair, int element, MatrixElement type) {
  uint16_t bits = pair >> (16 * element);
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

// PTX ISA, "Matrix fragments for mma.m16n8k16": lane = 4 * row group + column pair.
void run_multiply(const Lanes& lanes, int depth, MatrixElement type) {
  float a[16][16] = {}, b[16][8] = {};
  for (int lane = 0; lane < kWarpSize; ++lane) {
    int group = lane / 4, pair = lane % 4 * 2;
    const Collective& in = lanes[lane];
    for (int e = 0; e < 2; ++e) {
      for (int k = 0; k < depth; k += 8) {
        a[group][k + pair + e] = widen(in.a[k / 4], e, type);
        a[group + 8][k + pair + e] = widen(in.a[k / 4 + 1], e, type);
        b[k + pair + e][group] = widen(in.b[k / 8], e, type);
      }
    }
  }
  for (int lane = 0; lane < kWarpSize; ++lane) {
    for (int e = 0; e < 4; ++e) {
      int row = lane / 4 + e / 2 * 8, column = lane % 4 * 2 + e % 2;
      float sum = lanes[lane].c[e];
      for (int k = 0; k < depth; ++k) sum += a[row][k] * b[k][column];
      lanes[lane].d[e] = sum;
    }
  }
  if (counting) counters.mma += 1;
}

// The element of an 8x8 matrix that half `e` of a lane's register holds.
uint16_t& element_of(uint16_t (&matrix)[8][8], int lane, int e, bool transposed) {
  int row = lane / 4, column = lane % 4 * 2 + e;
  return transposed ? matrix[column][row] : matrix[row][column];
}

// Copies one 16-byte row, whose address the given lane supplied.
void move_row(const Lanes& lanes, int lane, uint16_t* row, bool store) {
  current = lanes.first_thread + lane;
  const Collective& request = lanes[lane];
  unsigned char* memory = shared_pointer(request.address, 16, request.pc);
  if (memory == nullptr) {
    if (!store) memset(row, 0xff, 16);
    return;
  }
  check_access(memory, 16, store ? AccessKind::kWrite : AccessKind::kRead, request.pc);
  store ? memcpy(memory, row, 16) : memcpy(row, memory, 16);
}

void run_matrix_access(const Lanes& lanes, int matrices, bool transposed, bool store) {
  uint32_t addresses[kWarpSize];
  for (int lane = 0; lane < kWarpSize; ++lane) addresses[lane] = lanes[lane].address;
  if (counting && !store) count_matrix_access(addresses, matrices);
  for (int m = 0; m < matrices; ++m) {
    uint16_t matrix[8][8];
    if (!store) {
      for (int row = 0; row < 8; ++row) move_row(lanes, m * 8 + row, matrix[row], false);
    }
    for (int lane = 0; lane < kWarpSize; ++lane) {
      uint16_t* halves = (uint16_t*)(store ? &lanes[lane].a[m] : &lanes[lane].result[m]);
      for (int e = 0; e < 2; ++e) {
        uint16_t& element = element_of(matrix, lane, e, transposed);
        store ? element = halves[e] : halves[e] = element;
      }
    }
    if (store) {
      for (int row = 0; row < 8; ++row) move_row(lanes, m * 8 + row, matrix[row], true);
    }
  }
}

// PTX ISA, "shfl.sync": a source outside the segment of `width` lanes means the lane's own value.
int shuffle_source(int lane, const Collective& request) {
  int segment = lane / request.width * request.width;
  int last = segment + request.width - 1;
  switch ((ShuffleMode)request.variant) {
    case ShuffleMode::kIndex:
      return segment + (request.operand & (request.width - 1));
    case ShuffleMode::kUp:
      return lane - request.operand < segment ? lane : lane - request.operand;
    case ShuffleMode::kDown:
      return lane + request.operand > last ? lane : lane + request.operand;
    case ShuffleMode::kXor:
      return (lane ^ request.operand) > last ? lane : lane ^ request.operand;
  }
  return lane;
}

void run_shuffle(const Lanes& lanes) {
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if (!lanes.has(lane)) continue;
    int source = shuffle_source(lane, lanes[lane]);
    if (!lanes.has(source)) {
      current = lanes.first_thread + lane;
      report("divergent-collective", lanes[lane].pc, "shuffles from lane %d, which does not take part", source);
      lanes[lane].result[0] = kNanPair;
      continue;
    }
    lanes[lane].result[0] = lanes[source].a[0];
  }
}

const char* name_of(CollectiveKind kind) {
  switch (kind) {
    case CollectiveKind::kWarpBarrier: return "__syncwarp";
    case CollectiveKind::kShuffle: return "a shuffle";
    case CollectiveKind::kMultiply: return "mma.sync";
    case CollectiveKind::kLoadMatrices: return "ldmatrix";
    case CollectiveKind::kStoreMatrices: return "stmatrix";
    case CollectiveKind::kProductControl: return "wgmma.fence, commit_group or wait_group";
  }
  return "?";
}

bool needs_all_lanes(CollectiveKind kind) {
  return kind != CollectiveKind::kWarpBarrier && kind != CollectiveKind::kShuffle;
}

void execute(const Lanes& lanes, int representative) {
  const Collective& request = lanes[representative];
  uint32_t variant = request.variant;
  switch (request.kind) {
    case CollectiveKind::kWarpBarrier: return order_warp_barrier(lanes.first_thread / kWarpSize);
    case CollectiveKind::kShuffle: return run_shuffle(lanes);
    case CollectiveKind::kMultiply: return run_multiply(lanes, variant & 31, (MatrixElement)(variant >> 5));
    case CollectiveKind::kLoadMatrices: return run_matrix_access(lanes, variant & 7, variant >> 3, false);
    case CollectiveKind::kStoreMatrices: return run_matrix_access(lanes, variant & 7, variant >> 3, true);
    case CollectiveKind::kProductControl: return;
  }
}

uint32_t lanes_in_state(int warp, ThreadState state) {
  uint32_t mask = 0;
  for (int lane = 0; lane < kWarpSize; ++lane) {
    size_t thread = warp * kWarpSize + lane;
    if (thread < threads.size() && threads[thread].state == state) mask |= 1u << lane;
  }
  return mask;
}

uint32_t missing_lanes(int warp) {
  size_t left = threads.size() - warp * kWarpSize;
  uint32_t existing = left >= kWarpSize ? kFullMask : (1u << left) - 1;
  return ~existing | lanes_in_state(warp, ThreadState::kFinished);
}

// The waiting lanes that execute the same instruction with the same mask as `lane`.
uint32_t companions(const Lanes& waiting, int lane) {
  uint32_t mask = 0;
  const Collective& request = waiting[lane];
  for (int other = 0; other < kWarpSize; ++other) {
    if (!waiting.has(other)) continue;
    const Collective& candidate = waiting[other];
    bool same = candidate.kind == request.kind && candidate.variant == request.variant &&
                candidate.mask == request.mask;
    if (same) mask |= 1u << other;
  }
  return mask;
}

}  // namespace

void warp_barrier(uint32_t mask) {
  enter(CollectiveKind::kWarpBarrier, 0, mask, __builtin_return_address(0));
  wait_for_warp();
}

uint32_t shuffle(uint32_t mask, uint32_t value, int operand, int width, ShuffleMode mode) {
  Collective& request = enter(CollectiveKind::kShuffle, (uint32_t)mode, mask, __builtin_return_address(0));
  request.a[0] = value;
  request.operand = operand;
  request.width = width;
  wait_for_warp();
  return request.result[0];
}

void multiply_matrices(float* d, const uint32_t* a, const uint32_t* b, const float* c, int depth,
                       MatrixElement element) {
  uint32_t variant = (uint32_t)element << 5 | depth;
  Collective& request = enter(CollectiveKind::kMultiply, variant, kFullMask, __builtin_return_address(0));
  memcpy(request.a, a, depth / 4 * sizeof *a);
  memcpy(request.b, b, depth / 8 * sizeof *b);
  memcpy(request.c, c, sizeof request.c);
  wait_for_warp();
  memcpy(d, request.d, sizeof request.d);
}

void load_matrices(uint32_t* registers, int matrices, bool transposed, uint32_t address) {
  uint32_t variant = (uint32_t)transposed << 3 | matrices;
  Collective& request = enter(CollectiveKind::kLoadMatrices, variant, kFullMask, __builtin_return_address(0));
  request.address = address;
  wait_for_warp();
  memcpy(registers, request.result, matrices * sizeof *registers);
}

void store_matrices(const uint32_t* registers, int matrices, bool transposed, uint32_t address) {
  uint32_t variant = (uint32_t)transposed << 3 | matrices;
  Collective& request = enter(CollectiveKind::kStoreMatrices, variant, kFullMask, __builtin_return_address(0));
  request.address = address;
  memcpy(request.a, registers, matrices * sizeof *registers);
  wait_for_warp();
}

void join_for_product_control(uint32_t variant, const void* pc) {
  enter(CollectiveKind::kProductControl, variant, kFullMask, pc);
  wait_for_warp();
}

bool run_collective(int warp) {
  Lanes waiting = {warp * kWarpSize, lanes_in_state(warp, ThreadState::kAtCollective)};
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if (!waiting.has(lane)) continue;
    const Collective& request = waiting[lane];
    uint32_t together = companions(waiting, lane);
    if (request.mask & ~missing_lanes(warp) & ~together) continue;  // somebody has yet to arrive
    if (needs_all_lanes(request.kind) && together != kFullMask) {
      return false;  // it never will be complete
    }
    execute({waiting.first_thread, together}, lane);
    for (int other = 0; other < kWarpSize; ++other) {
      if (together >> other & 1u) threads[waiting.first_thread + other].state = ThreadState::kRunnable;
    }
    current = -1;
    return true;
  }
  return false;
}

bool report_stuck_collective(int warp) {
  Lanes waiting = {warp * kWarpSize, lanes_in_state(warp, ThreadState::kAtCollective)};
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if (!waiting.has(lane)) continue;
    const Collective& request = waiting[lane];
    current = waiting.first_thread + lane;
    report("divergent-collective", request.pc, "waits at %s with lanes %08x of mask %08x", name_of(request.kind),
           companions(waiting, lane), request.mask);
    return true;
  }
  return false;
}

}  // namespace emulator
