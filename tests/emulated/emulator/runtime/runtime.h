// State shared by the parts of the emulator's runtime. One process emulates one kernel launch.
//
//   launch.cpp       reads the request, runs the blocks, schedules warps, releases barriers
//   fibers.cpp       one stack per emulated thread, switched by hand
//   memory.cpp       where a pointer points to: bounds, alignment, writes to inputs
//   shadow.cpp       who touched each byte last: races, uninitialised reads, copies in flight
//   hooks.cpp        the __tsan_* functions the compiler calls before every memory access
//   collectives.cpp  instructions a whole warp executes together
//   wgmma.cpp        products of four warps that run until they are waited for
//   products.cpp     what such a product reads and computes
//   async_copy.cpp   cp.async: data that lands only at the wait
//   counters.cpp     instruction counts, bank conflicts, global sectors
//   report.cpp       findings, and the text handed back at the end
#pragma once
#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "device_api.h"

struct dim3 {
  unsigned x, y, z;
};
// Seen by the kernel as const (see cuda_host.h).
extern dim3 threadIdx, blockIdx, blockDim, gridDim;
extern unsigned char* emulated_dynamic_shared;

namespace emulator {

constexpr int kWarpSize = 32;

// ---- threads and their scheduling -------------------------------------------------------------

enum class ThreadState { kRunnable, kAtBlockBarrier, kAtCollective, kAtProduct, kFinished };
enum class CollectiveKind { kWarpBarrier, kShuffle, kMultiply, kLoadMatrices, kStoreMatrices, kProductControl };

// What a lane brings to a collective instruction, and what it takes away.
struct Collective {
  CollectiveKind kind;
  uint32_t variant;  // must agree among the lanes: shape, transposition, shuffle mode
  uint32_t mask;     // the lanes that have to take part
  const void* pc;
  uint32_t address;
  int operand, width;
  uint32_t a[4], b[2];
  float c[4];
  uint32_t result[4];
  float d[4];
};

struct AsyncCopy {
  unsigned char* destination;
  const void* source;
  int bytes, source_bytes;
};

struct Thread {
  dim3 index;
  ThreadState state;
  int barrier_line;
  Collective collective;
  std::vector<AsyncCopy> open_copies;
  std::deque<std::vector<AsyncCopy>> copy_groups;
};

extern std::vector<Thread> threads;
extern int current;  // the thread that is running or being acted for; -1 outside the kernel

// Suspends the current thread in `state` until the scheduler makes it runnable again.
void suspend_as(ThreadState state);

// ---- fibers.cpp -------------------------------------------------------------------------------

void create_fibers(int count);
void start_fiber(int index, void (*entry)());
void resume_fiber(int index);  // returns when that fiber suspends
void suspend_fiber();
bool on_stack_of(int index, const void* pointer);

// ---- memory.cpp -------------------------------------------------------------------------------

struct Argument {
  unsigned char* begin;
  size_t bytes;
  bool writable;
};

void set_up_memory(const std::vector<Argument>& arguments, unsigned char* data, size_t data_bytes,
                   size_t shared_bytes);
void reset_shared_memory();
// Products read through the asynchronous proxy, which sees what was fenced for it.
enum class AccessKind { kRead, kWrite, kAsyncWrite, kProxyRead };
// Reports what is wrong with one access of the current thread.
void check_access(const void* pointer, size_t bytes, AccessKind kind, const void* pc);
// Adds one access of the current thread to the access log of counters.cpp.
void log_access(const void* pointer, size_t bytes, bool write, const void* pc);
// The host pointer of `bytes` bytes at a shared-window address; reports and returns null where nothing is mapped.
unsigned char* shared_pointer(uint32_t address, size_t bytes, const void* pc);
// Marks an asynchronous copy of the current thread as arrived.
void land_copy(const unsigned char* destination, size_t bytes);

// ---- shadow.cpp -------------------------------------------------------------------------------

// Who touched each byte of a range last.
class Shadow {
 public:
  explicit Shadow(const char* memory) : memory_(memory) {}
  void reset(size_t bytes, bool initialised);
  void check(size_t offset, size_t bytes, AccessKind kind, const void* pc);
  void land(size_t offset, size_t bytes);

 private:
  struct Cell {
    uint32_t write_time, read_time;  // 0: never
    int32_t writer, reader;          // reader may stand for several, see shadow.cpp
    uint32_t proxy_epoch;            // of the writer, when it wrote
    bool initialised, pending;
  };
  bool check_write(Cell& cell, size_t offset, bool pending, const void* pc);
  bool check_read(Cell& cell, size_t offset, const void* pc);
  bool check_fenced(const Cell& cell, size_t offset, const void* pc);
  const char* memory_;  // for messages
  std::vector<Cell> cells_;
};

// Ordering events: they separate what comes before from what comes after.
void order_new_block();
void order_block_barrier();
void order_warp_barrier(int warp);
// The current thread's fence.proxy.async.
void order_proxy();

// ---- collectives.cpp --------------------------------------------------------------------------

// Executes one collective that is complete in this warp; false where none is.
bool run_collective(int warp);
// Waits for the other lanes of the warp, which must execute the same wgmma instruction.
void join_for_product_control(uint32_t variant, const void* pc);
// Reports the lanes of this warp that wait for a collective that cannot complete.
bool report_stuck_collective(int warp);

// ---- wgmma.cpp --------------------------------------------------------------------------------

// Forgets all products; called at the start of a block.
void reset_products();
// Starts a product that all threads of a warpgroup have come to; false where there is none.
bool run_product();
// Reports threads that wait for a product that cannot start.
bool report_stuck_product();
void check_products_at_exit();
// One access of the current thread to its registers and stack.
void check_register(const void* pointer, size_t bytes, bool write, const void* pc);

// ---- async_copy.cpp ---------------------------------------------------------------------------

void check_copies_at_exit();

// ---- counters.cpp -----------------------------------------------------------------------------

struct Counters {
  long wgmma, wgmma_shared_bytes;
  long mma, ldmatrix, ldmatrix_wavefronts, ldmatrix_ideal;
  long shared_loads, shared_load_wavefronts, shared_load_ideal;
  long shared_stores, shared_store_wavefronts, shared_store_ideal;
  long global_load_sectors, global_store_sectors, block_sectors;
  long async_copies, async_copy_bytes;
  long global_bytes_read, global_bytes_written;
  long barriers;
};
extern Counters counters;
extern bool counting;

void log_shared_access(uint32_t address, size_t bytes, bool write, const void* pc);
void log_global_access(uint64_t address, size_t bytes, bool write, const void* pc);
void count_matrix_access(const uint32_t* row_addresses, int matrices);
// Turns the accesses logged since the last barrier into warp-wide transactions.
void flush_access_log();
// Counts the sectors that the block which ends now has touched.
void count_block_sectors();

// ---- report.cpp -------------------------------------------------------------------------------

// Records a finding of the current thread. Only the first of each kind keeps its text.
void report(const char* kind, const void* pc, const char* format, ...) __attribute__((format(printf, 3, 4)));
// Writes the counters as they stand after a CTA that was chosen.
void report_counters(unsigned cta);
// Writes findings and counters to the report file and ends the process.
[[noreturn]] void finish();
// From here on crashes and the timeout end in a report, too.
void install_signal_handlers(long timeout_ms);

}  // namespace emulator
