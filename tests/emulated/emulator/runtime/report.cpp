// Findings, and the text handed back when the process ends.
//
// The report goes to standard output, one line each:
//   finding <kind> <count> <address of the instruction, or 0> <text of the first one>
//   counter <name> <value>; where CTAs were chosen, also after each: at <CTA> <name> <value so far>
//   done
// A report without `done` is one whose process died on the way.
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <sys/time.h>
#include <unistd.h>

#include "runtime.h"

namespace emulator {
namespace {

struct FindingRecord {
  long count;
  const void* pc;
  std::string first;
};

std::map<std::string, FindingRecord> findings;

std::string place() {
  char text[96];
  if (current < 0) return "";
  snprintf(text, sizeof text, "block (%u, %u, %u) thread %d ", blockIdx.x, blockIdx.y, blockIdx.z, current);
  return text;
}

void print_counters(const std::string& head) {
  const struct {
    const char* name;
    long value;
  } values[] = {
      {"wgmma", counters.wgmma},
      {"wgmma_shared_bytes", counters.wgmma_shared_bytes},
      {"mma", counters.mma},
      {"ldmatrix", counters.ldmatrix},
      {"ldmatrix_wavefronts", counters.ldmatrix_wavefronts},
      {"ldmatrix_ideal", counters.ldmatrix_ideal},
      {"shared_loads", counters.shared_loads},
      {"shared_load_wavefronts", counters.shared_load_wavefronts},
      {"shared_load_ideal", counters.shared_load_ideal},
      {"shared_stores", counters.shared_stores},
      {"shared_store_wavefronts", counters.shared_store_wavefronts},
      {"shared_store_ideal", counters.shared_store_ideal},
      {"global_load_sectors", counters.global_load_sectors},
      {"global_store_sectors", counters.global_store_sectors},
      {"block_sectors", counters.block_sectors},
      {"async_copies", counters.async_copies},
      {"async_copy_bytes", counters.async_copy_bytes},
      {"global_bytes_read", counters.global_bytes_read},
      {"global_bytes_written", counters.global_bytes_written},
      {"barriers", counters.barriers},
  };
  for (const auto& counter : values) printf("%s %s %ld\n", head.c_str(), counter.name, counter.value);
}

void on_signal(int signal) {
  // The process is lost in any case; the worst that can happen is that the report is cut short.
  if (signal == SIGPROF) {
    report("deadlock", nullptr, "was running when the time was up");
  } else {
    report("crash", nullptr, "ended the process with signal %d", signal);
  }
  finish();
}

}  // namespace

void report(const char* kind, const void* pc, const char* format, ...) {
  FindingRecord& record = findings[kind];
  if (record.count++ > 0) return;
  char text[400];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  record.pc = pc;
  record.first = place() + text;
}

void report_counters(unsigned cta) { print_counters("at " + std::to_string(cta)); }

void finish() {
  for (const auto& [kind, record] : findings) {
    printf("finding %s %ld %lx %s\n", kind.c_str(), record.count, (unsigned long)record.pc, record.first.c_str());
  }
  print_counters("counter");
  printf("done\n");
  fflush(stdout);
  _exit(0);
}

void install_signal_handlers(long timeout_ms) {
  constexpr size_t kStackBytes = 256 * 1024;  // a fiber's stack may be what overflowed
  stack_t stack = {};
  stack.ss_sp = malloc(kStackBytes);
  stack.ss_size = kStackBytes;
  sigaltstack(&stack, nullptr);
  struct sigaction action = {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_ONSTACK | SA_RESETHAND;
  for (int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGPROF}) sigaction(signal, &action, nullptr);
  // Time used, not time passed: a busy machine must not look like a kernel that hangs.
  struct itimerval timer = {};
  timer.it_value.tv_sec = timeout_ms / 1000;
  timer.it_value.tv_usec = timeout_ms % 1000 * 1000;
  setitimer(ITIMER_PROF, &timer, nullptr);
}

}  // namespace emulator
