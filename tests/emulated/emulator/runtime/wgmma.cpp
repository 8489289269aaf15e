// wgmma.mma_async: products of four warps that run until they are waited for.
//
// A product starts once all 128 threads have come to it, and is computed when the first of them waits for
// it: until then the sums hold NaN, and touching sums, changing operands or changing weights is reported.
// On the device a product may read and write at any time in between. Products on the same sums run in order.
//
// Registers are found by address: the kernel passes on where they are, so the compiler keeps them in memory
// and calls check_register() for every access.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <unordered_map>
#include <unordered_set>

#include "products.h"

namespace emulator {
namespace {

// The sums of one thread that products under way add to.
struct Sums {
  std::vector<float*> registers;
  std::vector<float> values;
  int products = 0;
};

// A product as one of its threads sees it.
struct Part {
  std::shared_ptr<Product> product;
  Sums* sums;
};

struct State {
  // At a product that has not started.
  std::vector<float*> sums;
  const uint32_t* operands[4];
  int columns;
  uint64_t descriptor;
  bool accumulate;
  MatrixElement element;
  const void* pc;
  // Under way.
  std::vector<std::shared_ptr<Sums>> sums_in_flight;
  std::vector<Part> open;
  std::deque<std::vector<Part>> groups;
  std::unordered_map<uintptr_t, int> sum_words, operand_words;  // how many products use them
  std::unordered_set<uintptr_t> touched;                        // since the last fence
};

std::vector<State> states;

uintptr_t word_of(const void* pointer) { return (uintptr_t)pointer & ~(uintptr_t)3; }

// ---- starting ---------------------------------------------------------------------------------

void check_fenced(const State& state, const void* pointer) {
  if (state.touched.count(word_of(pointer))) {
    report("product-not-fenced", state.pc, "multiplies with registers touched since the last wgmma.fence");
  }
}

// The sums of the current thread, which become unreadable.
Sums* take_sums(State& state) {
  for (std::shared_ptr<Sums>& sums : state.sums_in_flight) {
    if (sums->registers == state.sums) return sums.get();
  }
  auto sums = std::make_shared<Sums>();
  sums->registers = state.sums;
  for (float* pointer : state.sums) {
    check_fenced(state, pointer);
    if (state.sum_words.count(word_of(pointer))) {
      report("sums-in-flight", state.pc, "multiplies into sums that a product of another shape adds to");
    }
    sums->values.push_back(*pointer);
    *pointer = NAN;
  }
  state.sums_in_flight.push_back(std::move(sums));
  return state.sums_in_flight.back().get();
}

void start_for_current(const std::shared_ptr<Product>& product) {
  State& state = states[current];
  for (const uint32_t* pointer : state.operands) check_fenced(state, pointer);
  Sums* sums = take_sums(state);
  sums->products += 1;
  for (float* pointer : state.sums) state.sum_words[word_of(pointer)] += 1;
  for (const uint32_t* pointer : state.operands) state.operand_words[word_of(pointer)] += 1;
  state.open.push_back({product, sums});
}

void start(int first_thread) {
  const State& first = states[first_thread];
  auto product = std::make_shared<Product>(
      Product{first_thread, first.columns, Descriptor(first.descriptor), first.element, first.accumulate, first.pc, {},
              {}, false, {}});
  for (int i = 0; i < kThreads; ++i) {
    const State& state = states[first_thread + i];
    current = first_thread + i;
    if (state.descriptor != first.descriptor || state.accumulate != first.accumulate) {
      report("divergent-descriptor", state.pc, "multiplies weights %llx, another thread %llx",
             (unsigned long long)state.descriptor, (unsigned long long)first.descriptor);
    }
    product->operands.insert(product->operands.end(), state.operands, state.operands + 4);
  }
  current = first_thread;
  if (!is_supported(product->weights, first.pc)) finish();
  product->seen = read_weights(*product, true);
  for (int i = 0; i < kThreads; ++i) {
    current = first_thread + i;
    start_for_current(product);
  }
  if (counting) {
    counters.wgmma += 1;
    counters.wgmma_shared_bytes += product->columns * kDepth * 2;
  }
}

// ---- ending -----------------------------------------------------------------------------------

void release(std::unordered_map<uintptr_t, int>& words, const void* pointer) {
  auto found = words.find(word_of(pointer));
  if (--found->second == 0) words.erase(found);
}

// The product is over for the current thread.
void end_for_current(const Part& part) {
  State& state = states[current];
  Product& product = *part.product;
  if (!product.computed) compute(product);
  int in_group = current - product.first_thread, lane = in_group % kWarpSize;
  int row = in_group / kWarpSize * 16 + lane / 4;
  Sums& sums = *part.sums;
  for (size_t i = 0; i < sums.values.size(); ++i) {
    int channel = i / 4 * 8 + lane % 4 * 2 + i % 2;
    float result = product.results[(row + i % 4 / 2 * 8) * product.columns + channel];
    sums.values[i] = (product.accumulate ? sums.values[i] : 0) + result;
    release(state.sum_words, sums.registers[i]);
  }
  for (int r = 0; r < 4; ++r) release(state.operand_words, product.operands[in_group * 4 + r]);
  if (--sums.products > 0) return;
  for (size_t i = 0; i < sums.values.size(); ++i) *sums.registers[i] = sums.values[i];
  auto is_these = [&](const std::shared_ptr<Sums>& other) { return other.get() == &sums; };
  state.sums_in_flight.erase(std::find_if(state.sums_in_flight.begin(), state.sums_in_flight.end(), is_these));
}

enum ControlVariant : uint32_t { kFence, kCommit, kWait };

bool waits_at_product(size_t thread) { return threads[thread].state == ThreadState::kAtProduct; }

}  // namespace

void reset_products() {
  states.clear();
  states.resize(threads.size());
}

bool run_product() {
  bool progress = false;
  for (size_t first = 0; first + kThreads <= threads.size(); first += kThreads) {
    bool complete = true;
    for (int i = 0; i < kThreads && complete; ++i) {
      const State& state = states[first + i];
      complete = waits_at_product(first + i) && state.columns == states[first].columns &&
                 state.element == states[first].element;
    }
    if (!complete) continue;
    start(first);
    for (int i = 0; i < kThreads; ++i) threads[first + i].state = ThreadState::kRunnable;
    current = -1;
    progress = true;
  }
  return progress;
}

bool report_stuck_product() {
  for (size_t i = 0; i < threads.size(); ++i) {
    if (!waits_at_product(i)) continue;
    current = i;
    report("divergent-collective", states[i].pc, "waits at wgmma.mma_async for others of its four warps");
    return true;
  }
  return false;
}

void check_products_at_exit() {
  for (size_t i = 0; i < threads.size(); ++i) {
    size_t pending = states[i].open.size();
    for (const std::vector<Part>& group : states[i].groups) pending += group.size();
    if (pending == 0) continue;
    current = i;
    report("product-left-pending", nullptr, "ends with %zu products not waited for", pending);
  }
  current = -1;
}

void check_register(const void* pointer, size_t bytes, bool write, const void* pc) {
  State& state = states[current];
  for (uintptr_t word = word_of(pointer); word < (uintptr_t)pointer + bytes; word += 4) {
    state.touched.insert(word);
    if (state.sum_words.empty()) continue;
    if (state.sum_words.count(word)) {
      report("sums-in-flight", pc, "%s a sum of a product that was not waited for", write ? "writes" : "reads");
    } else if (write && state.operand_words.count(word)) {
      report("operand-in-flight", pc, "writes pixels of a product that was not waited for");
    }
  }
}

void multiply_warpgroup(float* const* sums, int columns, const uint32_t* const* a, uint64_t descriptor,
                        bool accumulate, MatrixElement element) {
  State& state = states[current];
  state.sums.assign(sums, sums + columns / 2);
  memcpy(state.operands, a, sizeof state.operands);
  state.columns = columns;
  state.descriptor = descriptor;
  state.accumulate = accumulate;
  state.element = element;
  state.pc = __builtin_return_address(0);
  suspend_as(ThreadState::kAtProduct);
}

void fence_products() {
  join_for_product_control(kFence, __builtin_return_address(0));
  states[current].touched.clear();
}

void commit_products() {
  join_for_product_control(kCommit, __builtin_return_address(0));
  State& state = states[current];
  state.groups.push_back(std::move(state.open));
  state.open.clear();
}

void wait_products(int groups_left) {
  join_for_product_control(kWait, __builtin_return_address(0));
  State& state = states[current];
  while ((int)state.groups.size() > groups_left) {
    for (const Part& part : state.groups.front()) end_for_current(part);
    state.groups.pop_front();
  }
}

void fence_proxy() { order_proxy(); }

}  // namespace emulator
