// Where a pointer of the kernel points to.
//
// Arguments lie in one mapped file with unmapped meaning between them ("guards"); dynamic shared memory
// lies between guards, too. An access to a guard is reported and harmless, so the run goes on; one
// outside everything the launch knows, or a misaligned one, would trap on the device and ends the run.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>

#include "runtime.h"

// Bounds of static shared memory, from the linker; null when the kernel has none.
extern "C" __attribute__((weak)) unsigned char __start_emulated_shared[];
extern "C" __attribute__((weak)) unsigned char __stop_emulated_shared[];
// Bounds of the program itself, from the linker.
extern "C" char __executable_start;
extern "C" char end;

unsigned char* emulated_dynamic_shared;

namespace emulator {
namespace {

constexpr size_t kSharedGuard = 256 * 1024;
constexpr size_t kSharedAlignment = 1024;

std::vector<Argument> arguments;
std::vector<Shadow> argument_shadows;
unsigned char* data_begin;
size_t data_size;
size_t dynamic_bytes, static_bytes;
Shadow dynamic_shadow("dynamic shared memory"), static_shadow("static shared memory");

bool within(const void* pointer, const void* begin, size_t bytes) {
  return pointer >= begin && pointer < (const unsigned char*)begin + bytes;
}

bool in_dynamic(const void* pointer) {
  return within(pointer, emulated_dynamic_shared - kSharedGuard, dynamic_bytes + 2 * kSharedGuard);
}

bool in_static(const void* pointer) {
  return within(pointer, __start_emulated_shared, static_bytes);
}

// In the shared window, dynamic memory follows static memory.
size_t dynamic_base() {
  return (static_bytes + kSharedAlignment - 1) / kSharedAlignment * kSharedAlignment;
}

long offset_in(const void* pointer, const unsigned char* begin) {
  return (const unsigned char*)pointer - begin;
}

const char* verb(AccessKind kind) {
  return kind == AccessKind::kRead || kind == AccessKind::kProxyRead ? "reads" : "writes";
}

void check_dynamic(const void* pointer, size_t bytes, AccessKind kind, const void* pc) {
  long offset = offset_in(pointer, emulated_dynamic_shared);
  if (offset < 0 || offset + bytes > dynamic_bytes) {
    report("shared-out-of-bounds", pc, "%s %zu bytes at offset %ld of %zu bytes of dynamic shared memory",
           verb(kind), bytes, offset, dynamic_bytes);
    return;
  }
  dynamic_shadow.check(offset, bytes, kind, pc);
}

void check_static(const void* pointer, size_t bytes, AccessKind kind, const void* pc) {
  size_t offset = offset_in(pointer, __start_emulated_shared);
  if (offset + bytes > static_bytes) {
    report("shared-out-of-bounds", pc, "%s %zu bytes at offset %zu of %zu bytes of static shared memory",
           verb(kind), bytes, offset, static_bytes);
    return;
  }
  static_shadow.check(offset, bytes, kind, pc);
}

void report_global(const void* pointer, size_t bytes, AccessKind kind, const void* pc) {
  for (size_t i = arguments.size(); i-- > 0;) {
    if (pointer < arguments[i].begin && i > 0) continue;
    report("global-out-of-bounds", pc, "%s %zu bytes at byte %ld of parameter %zu, which has %zu", verb(kind),
           bytes, offset_in(pointer, arguments[i].begin), i, arguments[i].bytes);
    return;
  }
}

void check_global(const void* pointer, size_t bytes, AccessKind kind, const void* pc) {
  for (size_t i = 0; i < arguments.size(); ++i) {
    const Argument& argument = arguments[i];
    if (!within(pointer, argument.begin, argument.bytes)) continue;
    size_t offset = offset_in(pointer, argument.begin);
    if (offset + bytes > argument.bytes) break;
    if (argument.writable) {
      argument_shadows[i].check(offset, bytes, kind, pc);
    } else if (kind != AccessKind::kRead) {
      report("write-to-input", pc, "writes %zu bytes at byte %zu of parameter %zu", bytes, offset, i);
    }
    return;
  }
  report_global(pointer, bytes, kind, pc);
}

bool is_misaligned(const void* pointer, size_t bytes) {
  bool vector_sized = bytes <= 16 && (bytes & (bytes - 1)) == 0;
  return vector_sized && (uintptr_t)pointer % bytes != 0;
}

}  // namespace

void set_up_memory(const std::vector<Argument>& launch_arguments, unsigned char* data, size_t data_bytes,
                   size_t shared_bytes) {
  arguments = launch_arguments;
  data_begin = data;
  data_size = data_bytes;
  for (const Argument& argument : arguments) {
    argument_shadows.emplace_back("an output");
    if (argument.writable) argument_shadows.back().reset(argument.bytes, true);
  }
  static_bytes = __stop_emulated_shared - __start_emulated_shared;
  dynamic_bytes = shared_bytes;
  void* arena = mmap(nullptr, shared_bytes + 2 * kSharedGuard, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (arena == MAP_FAILED) {
    perror("emulator: no memory for shared memory");
    exit(2);
  }
  emulated_dynamic_shared = (unsigned char*)arena + kSharedGuard;
}

void reset_shared_memory() {
  constexpr int kNan = 0xff;  // all ones is a NaN in every floating-point format
  memset(emulated_dynamic_shared, kNan, dynamic_bytes);
  if (static_bytes > 0) memset(__start_emulated_shared, kNan, static_bytes);
  dynamic_shadow.reset(dynamic_bytes, false);
  static_shadow.reset(static_bytes, false);
}

void check_access(const void* pointer, size_t bytes, AccessKind kind, const void* pc) {
  if (current < 0) return;
  if (on_stack_of(current, pointer)) return check_register(pointer, bytes, kind == AccessKind::kWrite, pc);
  if (is_misaligned(pointer, bytes)) {
    report("misaligned", pc, "%s %zu bytes at an address that is %zu past a multiple of %zu", verb(kind), bytes,
           (uintptr_t)pointer % bytes, bytes);
    finish();
  }
  if (in_dynamic(pointer)) return check_dynamic(pointer, bytes, kind, pc);
  if (in_static(pointer)) return check_static(pointer, bytes, kind, pc);
  if (within(pointer, data_begin, data_size)) return check_global(pointer, bytes, kind, pc);
  if (within(pointer, &__executable_start, &end - &__executable_start)) return;  // the kernel's own tables
  report("global-out-of-bounds", pc, "%s %zu bytes at %p, far from every parameter", verb(kind), bytes, pointer);
  finish();
}

void log_access(const void* pointer, size_t bytes, bool write, const void* pc) {
  if (current < 0) return;
  if (in_dynamic(pointer)) {
    log_shared_access(dynamic_base() + offset_in(pointer, emulated_dynamic_shared), bytes, write, pc);
  } else if (in_static(pointer)) {
    log_shared_access(offset_in(pointer, __start_emulated_shared), bytes, write, pc);
  } else if (within(pointer, data_begin, data_size)) {
    log_global_access(offset_in(pointer, data_begin), bytes, write, pc);
  }
}

uint32_t shared_address(const void* pointer) {
  if (in_dynamic(pointer)) return dynamic_base() + offset_in(pointer, emulated_dynamic_shared);
  if (in_static(pointer)) return offset_in(pointer, __start_emulated_shared);
  report("shared-out-of-bounds", __builtin_return_address(0), "converts %p, which is not in shared memory, to a "
         "shared address", pointer);
  return UINT32_MAX;
}

unsigned char* shared_pointer(uint32_t address, size_t bytes, const void* pc) {
  size_t window = dynamic_base() + dynamic_bytes;
  if (address + bytes <= static_bytes) return __start_emulated_shared + address;
  if (address >= dynamic_base() && address + bytes <= window) {
    return emulated_dynamic_shared + (address - dynamic_base());
  }
  report("shared-out-of-bounds", pc, "uses %zu bytes at shared address %u of %zu", bytes, address, window);
  return nullptr;
}

void land_copy(const unsigned char* destination, size_t bytes) {
  if (in_dynamic(destination)) {
    dynamic_shadow.land(offset_in(destination, emulated_dynamic_shared), bytes);
  } else {
    static_shadow.land(offset_in(destination, __start_emulated_shared), bytes);
  }
}

}  // namespace emulator
