// Runs one launch: block after block, and within a block warp after warp until every thread waits.
//
// The request is read from standard input, one word and its numbers per line:
//   grid x y z | block x y z | shared bytes | reverse 0/1 | count 0/1 | timeout ms
//   cta x: run this one, and of others only those that are named like it | argument offset bytes writable
// Offsets are into the data file named on the command line, which is mapped and written in place.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime.h"

dim3 threadIdx, blockIdx, blockDim, gridDim;

// Generated with the kernel: calls it with its parameters.
extern "C" void emulated_kernel(void** arguments);

namespace emulator {

std::vector<Thread> threads;
int current = -1;

namespace {

struct Request {
  dim3 grid, block;
  size_t shared_bytes;
  bool reverse, count;
  long timeout_ms;
  std::vector<unsigned> chosen;  // CTAs; all where none is named
  std::vector<Argument> arguments;
};

Request request;
std::vector<void*> kernel_arguments;

void die(const char* what) {
  perror(what);
  exit(2);
}

void read_line(char* line, unsigned char* data) {
  unsigned long v[3] = {};
  char word[16];
  sscanf(line, "%15s %lu %lu %lu", word, &v[0], &v[1], &v[2]);
  dim3 size = {(unsigned)v[0], (unsigned)v[1], (unsigned)v[2]};
  if (!strcmp(word, "grid")) request.grid = size;
  if (!strcmp(word, "block")) request.block = size;
  if (!strcmp(word, "shared")) request.shared_bytes = v[0];
  if (!strcmp(word, "reverse")) request.reverse = v[0];
  if (!strcmp(word, "count")) request.count = v[0];
  if (!strcmp(word, "timeout")) request.timeout_ms = v[0];
  if (!strcmp(word, "cta")) request.chosen.push_back(v[0]);
  if (!strcmp(word, "argument")) request.arguments.push_back({data + v[0], v[1], v[2] != 0});
}

void run_kernel() {
  emulated_kernel(kernel_arguments.data());
  suspend_as(ThreadState::kFinished);
}

void start_block(dim3 index) {
  blockIdx = index;
  reset_shared_memory();
  reset_products();
  order_new_block();
  for (size_t i = 0; i < threads.size(); ++i) {
    threads[i].state = ThreadState::kRunnable;
    threads[i].open_copies.clear();
    threads[i].copy_groups.clear();
    start_fiber(i, run_kernel);
  }
}

// Lets the runnable lanes of a warp run until each waits for something; false if none could.
bool run_lanes(int warp) {
  bool progress = false;
  int first = warp * kWarpSize;
  for (int k = 0; k < kWarpSize; ++k) {
    size_t i = first + (request.reverse ? kWarpSize - 1 - k : k);
    if (i >= threads.size() || threads[i].state != ThreadState::kRunnable) continue;
    current = i;
    threadIdx = threads[i].index;
    resume_fiber(i);
    current = -1;
    progress = true;
  }
  return progress;
}

bool run_warps() {
  bool progress = false;
  int warps = (threads.size() + kWarpSize - 1) / kWarpSize;
  for (int k = 0; k < warps; ++k) {
    int warp = request.reverse ? warps - 1 - k : k;
    while (run_lanes(warp) || run_collective(warp)) progress = true;
  }
  return run_product() || progress;
}

// All live threads are at a barrier: checks that it is the same one, and lets them continue.
void release_block_barrier(size_t finished) {
  int line = 0;
  for (size_t i = 0; i < threads.size(); ++i) {
    if (threads[i].state != ThreadState::kAtBlockBarrier) continue;
    current = i;
    if (line == 0) line = threads[i].barrier_line;
    if (threads[i].barrier_line != line) {
      report("barrier-divergence", nullptr, "waits at the barrier of line %d, others at that of line %d",
             threads[i].barrier_line, line);
      line = threads[i].barrier_line;
    }
    threads[i].state = ThreadState::kRunnable;
  }
  if (finished > 0) {
    report("barrier-divergence", nullptr, "waits at the barrier of line %d, but %zu threads have ended", line,
           finished);
  }
  current = -1;
  order_block_barrier();
  if (counting) {
    counters.barriers += 1;
    flush_access_log();
  }
}

size_t threads_in(ThreadState state) {
  size_t count = 0;
  for (const Thread& thread : threads) count += thread.state == state;
  return count;
}

void report_stuck_block() {
  int warps = (threads.size() + kWarpSize - 1) / kWarpSize;
  bool explained = false;
  for (int warp = 0; warp < warps; ++warp) explained |= report_stuck_collective(warp);
  explained |= report_stuck_product();
  if (!explained) report("deadlock", nullptr, "no thread can continue");
  finish();
}

void run_block(dim3 index) {
  start_block(index);
  for (;;) {
    while (run_warps()) {
    }
    size_t finished = threads_in(ThreadState::kFinished);
    if (finished == threads.size()) break;
    if (finished + threads_in(ThreadState::kAtBlockBarrier) < threads.size()) report_stuck_block();
    release_block_barrier(finished);
  }
  check_copies_at_exit();
  check_products_at_exit();
  if (!counting) return;
  flush_access_log();
  count_block_sectors();
}

void set_up(const char* data_path) {
  int file = open(data_path, O_RDWR);
  struct stat status;
  if (file < 0 || fstat(file, &status) != 0) die(data_path);
  void* data = mmap(nullptr, status.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (data == MAP_FAILED) die(data_path);
  char line[256];
  while (fgets(line, sizeof line, stdin)) read_line(line, (unsigned char*)data);

  blockDim = request.block;
  gridDim = request.grid;
  counting = request.count;
  for (Argument& argument : request.arguments) kernel_arguments.push_back(argument.begin);
  for (unsigned z = 0; z < blockDim.z; ++z) {
    for (unsigned y = 0; y < blockDim.y; ++y) {
      for (unsigned x = 0; x < blockDim.x; ++x) threads.push_back({{x, y, z}, ThreadState::kFinished, 0, {}, {}, {}});
    }
  }
  create_fibers(threads.size());
  set_up_memory(request.arguments, (unsigned char*)data, status.st_size, request.shared_bytes);
  install_signal_handlers(request.timeout_ms);
}

}  // namespace

void suspend_as(ThreadState state) {
  threads[current].state = state;
  suspend_fiber();
}

void block_barrier(int line) {
  threads[current].barrier_line = line;
  suspend_as(ThreadState::kAtBlockBarrier);
}

}  // namespace emulator

int main(int argc, char** argv) {
  using namespace emulator;
  if (argc != 2) return 2;
  set_up(argv[1]);
  for (unsigned x : request.chosen) {
    run_block({x, 0, 0});
    report_counters(x);
  }
  if (!request.chosen.empty()) finish();
  for (unsigned z = 0; z < gridDim.z; ++z) {
    for (unsigned y = 0; y < gridDim.y; ++y) {
      for (unsigned x = 0; x < gridDim.x; ++x) run_block({x, y, z});
    }
  }
  finish();
}
