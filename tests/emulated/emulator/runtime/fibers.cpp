// One stack per emulated thread, switched in user space.
//
// makecontext() only starts a fiber; every later switch is _setjmp/_longjmp, which unlike swapcontext()
// makes no system call. Stacks are reserved, not touched, so that 1024 threads cost address space only.
#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <sys/mman.h>
#include <ucontext.h>

#include "runtime.h"

namespace emulator {
namespace {

constexpr size_t kStackBytes = 256 * 1024;

struct Fiber {
  unsigned char* stack;
  void (*entry)();
  bool started;
  jmp_buf resume_point;
};

std::vector<Fiber> fibers;
int running = -1;
jmp_buf scheduler_point;
ucontext_t starting_context;

void enter() { fibers[running].entry(); }

void switch_to_new_stack(Fiber& fiber) {
  getcontext(&starting_context);
  starting_context.uc_stack.ss_sp = fiber.stack;
  starting_context.uc_stack.ss_size = kStackBytes;
  starting_context.uc_link = nullptr;
  makecontext(&starting_context, enter, 0);
  setcontext(&starting_context);
}

}  // namespace

void create_fibers(int count) {
  void* stacks = mmap(nullptr, count * kStackBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (stacks == MAP_FAILED) {
    perror("emulator: no memory for thread stacks");
    exit(2);
  }
  fibers.resize(count);
  for (int i = 0; i < count; ++i) fibers[i].stack = (unsigned char*)stacks + i * kStackBytes;
}

void start_fiber(int index, void (*entry)()) {
  fibers[index].entry = entry;
  fibers[index].started = false;
}

void resume_fiber(int index) {
  running = index;
  if (_setjmp(scheduler_point)) return;
  Fiber& fiber = fibers[index];
  if (fiber.started) _longjmp(fiber.resume_point, 1);
  fiber.started = true;
  switch_to_new_stack(fiber);
}

void suspend_fiber() {
  if (_setjmp(fibers[running].resume_point)) return;
  _longjmp(scheduler_point, 1);
}

bool on_stack_of(int index, const void* pointer) {
  const unsigned char* begin = fibers[index].stack;
  return pointer >= begin && pointer < begin + kStackBytes;
}

}  // namespace emulator
