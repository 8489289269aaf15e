// The functions that code compiled with -fsanitize=thread calls before every memory access.
//
// The sanitizer's own library is not linked: these definitions take its place, and send each access to
// the emulator's checks. The return address tells which instruction of the kernel it belongs to.
#include "runtime.h"

namespace {

void on_access(const void* pointer, size_t bytes, bool write, const void* pc) {
  using emulator::AccessKind;
  emulator::check_access(pointer, bytes, write ? AccessKind::kWrite : AccessKind::kRead, pc);
  if (emulator::counting) emulator::log_access(pointer, bytes, write, pc);
}

}  // namespace

#define HOOK(name, bytes, write) \
  void name(void* pointer) { on_access(pointer, bytes, write, __builtin_return_address(0)); }
#define HOOKS(bytes)                               \
  HOOK(__tsan_read##bytes, bytes, false)           \
  HOOK(__tsan_write##bytes, bytes, true)           \
  HOOK(__tsan_unaligned_read##bytes, bytes, false) \
  HOOK(__tsan_unaligned_write##bytes, bytes, true)

extern "C" {

HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)

void __tsan_read_range(void* pointer, size_t bytes) {
  on_access(pointer, bytes, false, __builtin_return_address(0));
}
void __tsan_write_range(void* pointer, size_t bytes) {
  on_access(pointer, bytes, true, __builtin_return_address(0));
}

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}

}  // extern "C"
