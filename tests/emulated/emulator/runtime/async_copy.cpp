// cp.async: copies that land only when they are waited for.
//
// Until then the destination holds NaN and is marked as in flight, so that reading too early is both
// reported and visible in the numbers. On the device the data may land at any time in between.
#include <cstring>

#include "runtime.h"

namespace emulator {
namespace {

void land(const AsyncCopy& copy) {
  memset(copy.destination, 0, copy.bytes);
  memcpy(copy.destination, copy.source, copy.source_bytes);
  land_copy(copy.destination, copy.bytes);
}

}  // namespace

void copy_async(uint32_t destination, const void* source, int bytes, int source_bytes) {
  const void* pc = __builtin_return_address(0);
  unsigned char* target = shared_pointer(destination, bytes, pc);
  if (target == nullptr) return;
  if ((uintptr_t)source % bytes != 0) {
    report("misaligned", pc, "copies %d bytes from an address that is not a multiple of that", bytes);
    finish();
  }
  if (source_bytes > bytes) source_bytes = bytes;
  if (source_bytes > 0) {
    check_access(source, source_bytes, AccessKind::kRead, pc);
    if (counting) log_access(source, source_bytes, false, pc);
  }
  check_access(target, bytes, AccessKind::kAsyncWrite, pc);
  if (counting) {
    counters.async_copies += 1;
    counters.async_copy_bytes += bytes;
  }
  memset(target, 0xff, bytes);
  threads[current].open_copies.push_back({target, source, bytes, source_bytes});
}

void commit_copies() {
  Thread& thread = threads[current];
  thread.copy_groups.push_back(std::move(thread.open_copies));
  thread.open_copies.clear();
}

void wait_copies(int groups_left) {
  std::deque<std::vector<AsyncCopy>>& groups = threads[current].copy_groups;
  while ((int)groups.size() > groups_left) {
    for (const AsyncCopy& copy : groups.front()) land(copy);
    groups.pop_front();
  }
}

void check_copies_at_exit() {
  for (size_t i = 0; i < threads.size(); ++i) {
    size_t pending = threads[i].open_copies.size();
    for (const std::vector<AsyncCopy>& group : threads[i].copy_groups) pending += group.size();
    if (pending == 0) continue;
    current = i;
    report("copy-left-pending", nullptr, "ends with %zu copies not waited for", pending);
  }
  current = -1;
}

}  // namespace emulator
