// Who touched each byte last, and whether barriers order it before the access at hand.
//
// A clock counts ordering events. An access is stamped with the clock; a barrier advances it and notes the
// new time, so whatever carries an earlier stamp happened before the barrier. Two accesses to one byte,
// at least one of them a write, by different threads, with no barrier between them, are a race.
//
// Only the last reader is kept. When several read since the last barrier, `reader` says whether they are
// all in one warp (then __syncwarp can order them) or not.
#include <climits>

#include "runtime.h"

namespace emulator {
namespace {

constexpr int32_t kNobody = -1;
constexpr int32_t kSeveralWarps = INT_MIN;

uint32_t now = 1, block_start = 1, last_block_barrier = 1;
std::vector<uint32_t> last_warp_barrier;
std::vector<std::vector<uint32_t>> proxy_fences;  // by thread: when each of its epochs ended

int32_t several_of_warp(int warp) { return -2 - warp; }

int warp_of(int32_t who) {
  if (who == kSeveralWarps) return -1;
  return who >= 0 ? who / kWarpSize : -2 - who;
}

// Whether an access at `time` by `who` is ordered before what the current thread does now.
bool is_ordered(uint32_t time, int32_t who) {
  if (time < block_start) return false;  // another block: nothing orders blocks
  if (who == current || time < last_block_barrier) return true;
  int warp = current / kWarpSize;
  return warp_of(who) == warp && time < last_warp_barrier[warp];
}

int32_t merge_readers(int32_t earlier, int32_t reader) {
  if (earlier == reader) return reader;
  return warp_of(earlier) == warp_of(reader) ? several_of_warp(warp_of(reader)) : kSeveralWarps;
}

}  // namespace

void order_new_block() {
  block_start = last_block_barrier = ++now;
  last_warp_barrier.assign((threads.size() + kWarpSize - 1) / kWarpSize, now);
  proxy_fences.assign(threads.size(), {});
}

void order_block_barrier() { last_block_barrier = ++now; }

void order_warp_barrier(int warp) { last_warp_barrier[warp] = ++now; }

void order_proxy() { proxy_fences[current].push_back(now); }

void Shadow::reset(size_t bytes, bool initialised) {
  cells_.assign(bytes, Cell{0, 0, kNobody, kNobody, 0, initialised, false});
}

void Shadow::check(size_t offset, size_t bytes, AccessKind kind, const void* pc) {
  for (size_t i = offset; i < offset + bytes; ++i) {
    bool reads = kind == AccessKind::kRead || kind == AccessKind::kProxyRead;
    bool fine = reads ? check_read(cells_[i], i, pc)
                      : check_write(cells_[i], i, kind == AccessKind::kAsyncWrite, pc);
    if (fine && kind == AccessKind::kProxyRead) fine = check_fenced(cells_[i], i, pc);
    if (!fine) return;  // one report per access
  }
}

bool Shadow::check_write(Cell& cell, size_t offset, bool pending, const void* pc) {
  bool in_flight = cell.pending;
  bool write_race = cell.write_time != 0 && !is_ordered(cell.write_time, cell.writer);
  bool read_race = cell.read_time != 0 && !is_ordered(cell.read_time, cell.reader);
  int32_t writer = cell.writer;
  uint32_t epoch = current < 0 ? 0 : proxy_fences[current].size();
  cell = Cell{now, read_race ? 0 : cell.read_time, current, cell.reader, epoch, true, pending};
  if (write_race) {
    report("race-write-write", pc, "writes byte %zu of %s, also written by thread %d", offset, memory_, writer);
  } else if (read_race) {
    report("race-read-write", pc, "writes byte %zu of %s while other threads may read it", offset, memory_);
  } else if (in_flight) {
    report("copy-not-waited", pc, "writes byte %zu of %s, to which a copy is in flight", offset, memory_);
  }
  return !(write_race || read_race || in_flight);
}

bool Shadow::check_read(Cell& cell, size_t offset, const void* pc) {
  if (!cell.initialised) {
    report("uninitialised-shared", pc, "reads byte %zu of %s, which nobody wrote", offset, memory_);
    return false;
  }
  if (cell.pending) {
    report("copy-not-waited", pc, "reads byte %zu of %s before the copy of thread %d was waited for", offset,
           memory_, cell.writer);
    return false;
  }
  if (cell.write_time != 0 && !is_ordered(cell.write_time, cell.writer)) {
    report("race-read-write", pc, "reads byte %zu of %s while thread %d may write it", offset, memory_, cell.writer);
    return false;
  }
  bool other_readers = cell.read_time >= last_block_barrier && cell.reader != kNobody;
  cell.reader = other_readers ? merge_readers(cell.reader, current) : current;
  cell.read_time = now;
  return true;
}

// The writer must have fenced after the write, and a barrier must have come after the fence.
bool Shadow::check_fenced(const Cell& cell, size_t offset, const void* pc) {
  if (cell.writer < 0) return true;
  const std::vector<uint32_t>& fences = proxy_fences[cell.writer];
  if (cell.proxy_epoch < fences.size() && is_ordered(fences[cell.proxy_epoch], cell.writer)) return true;
  report("proxy-fence-missing", pc, "reads byte %zu of %s, which thread %d wrote, without fence.proxy.async between",
         offset, memory_, cell.writer);
  return false;
}

void Shadow::land(size_t offset, size_t bytes) {
  for (size_t i = offset; i < offset + bytes; ++i) {
    cells_[i].pending = false;
    // A barrier before the wait does not order the data: it arrived only now.
    if (cells_[i].writer != current) continue;
    cells_[i].write_time = now;
    cells_[i].proxy_epoch = proxy_fences[current].size();
  }
}

}  // namespace emulator
