// State of the stand-in device; part of its libcuda.so.1.
#include "device.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <vector>

namespace standin {
namespace {

constexpr size_t kAlignment = 256;

using Graph = std::vector<std::function<int()>>;

std::map<const unsigned char*, size_t> allocations;
using Queue = std::deque<std::function<int()>>;

std::map<void*, bool> streams;  // whether they are ordered with the default stream
std::map<void*, Queue> late_work;
bool is_late = false, is_working = false;
std::vector<void*> to_release;  // while the device works: a kernel may still use them
Graph* recording = nullptr;
void* recorded_stream = nullptr;
int device_arch = 90;

struct Statistics {
  long allocations, bytes, graph_launches, host_copies, default_work, waits;
} statistics;

// The allocation that holds a pointer, or the end of the map.
std::map<const unsigned char*, size_t>::const_iterator holder(const void* pointer) {
  auto next = allocations.upper_bound((const unsigned char*)pointer);
  if (next == allocations.begin()) return allocations.end();
  --next;
  return (const unsigned char*)pointer < next->first + next->second ? next : allocations.end();
}

// Does the first items of a queue, until so many are left.
int work_off(Queue& queue, size_t left) {
  if (is_working) return kSuccess;  // the launcher is Python, whose garbage is collected at any time
  int code = kSuccess;
  while (queue.size() > left && !code) {
    std::function<int()> work = std::move(queue.front());
    queue.pop_front();
    is_working = true;
    code = work();
    is_working = false;
  }
  return code;
}

// Work of the default stream comes after that of all streams that block.
int finish_blocking() {
  for (auto& [stream, queue] : late_work) {
    if (!streams[stream]) continue;
    if (int code = work_off(queue, 0)) return code;
  }
  return kSuccess;
}

// Does something now, or when its stream is waited for.
int do_or_defer(void* stream, std::function<int()> work) {
  if (!is_late) return work();
  if (stream) {
    late_work[stream].push_back(std::move(work));
    return kSuccess;
  }
  int code = finish_blocking();
  return code ? code : work();
}

}  // namespace

int finish(void* stream) {
  if (!stream) return finish_blocking();
  for (auto& [other, queue] : late_work) {
    if (other == stream) continue;
    if (int code = work_off(queue, queue.size() / 2)) return code;
  }
  return work_off(late_work[stream], 0);
}

int finish_all() {
  for (auto& [stream, queue] : late_work) {
    if (int code = work_off(queue, 0)) return code;
  }
  return kSuccess;
}

int refuse(int code, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fprintf(stderr, "stand-in device: ");
  vfprintf(stderr, format, arguments);
  fprintf(stderr, "\n");
  va_end(arguments);
  return code;
}

int arch() { return device_arch; }

unsigned most_shared_bytes() {
  switch (device_arch) {
    case 80:
    case 87: return 163 * 1024;
    case 90:
    case 100:
    case 103: return 227 * 1024;
    default: return 99 * 1024;
  }
}

int allocate(void** pointer, size_t bytes) {
  if (is_capturing()) return refuse(kCaptureUnsupported, "memory is allocated during capture");
  size_t size = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  *pointer = aligned_alloc(kAlignment, size ? size : kAlignment);
  if (!*pointer) return kOutOfMemory;
  memset(*pointer, 0xff, size);
  allocations[(const unsigned char*)*pointer] = bytes;
  statistics.allocations += 1;
  statistics.bytes += bytes;
  return kSuccess;
}

int release(void* pointer) {
  if (!pointer) return kSuccess;
  if (is_working) {
    to_release.push_back(pointer);
    return kSuccess;
  }
  if (int code = finish_all()) return code;
  while (!to_release.empty()) {
    void* earlier = to_release.back();
    to_release.pop_back();
    if (int code = release(earlier)) return code;
  }
  if (!allocations.erase((const unsigned char*)pointer)) return refuse(kInvalidValue, "freed memory is not allocated");
  free(pointer);
  return kSuccess;
}

bool is_device_memory(const void* pointer, size_t bytes) { return bytes_left(pointer) >= bytes; }

size_t bytes_left(const void* pointer) {
  auto found = holder(pointer);
  if (found == allocations.end()) return 0;
  return found->first + found->second - (const unsigned char*)pointer;
}

void* create_stream(bool blocks) {
  void* stream = malloc(1);
  streams[stream] = blocks;
  return stream;
}

int destroy_stream(void* stream) {
  if (int code = is_stream(stream) ? finish(stream) : kSuccess) return code;
  late_work.erase(stream);
  if (!streams.erase(stream)) return refuse(kInvalidHandle, "a stream is destroyed that does not exist");
  free(stream);
  return kSuccess;
}

bool is_stream(void* stream) { return !stream || streams.count(stream); }

int begin_capture(void* stream) {
  if (!stream) return refuse(kCaptureUnsupported, "the default stream cannot be captured");
  if (recording) return refuse(kCaptureUnsupported, "a capture begins within another");
  recording = new Graph;
  recorded_stream = stream;
  return kSuccess;
}

int end_capture(void* stream, void** graph) {
  if (!recording || stream != recorded_stream) return refuse(kCaptureWrongStream, "the stream is not capturing");
  *graph = recording;
  recording = nullptr;
  recorded_stream = nullptr;
  return kSuccess;
}

bool is_capturing() { return recording != nullptr; }

void count_host_copy() { statistics.host_copies += 1; }

int wait_for(void* stream, void* before) {
  if (!is_stream(stream)) return refuse(kInvalidHandle, "the stream does not exist");
  statistics.waits += 1;
  return finish(before);
}

int submit(void* stream, std::function<int()> work) {
  if (!is_stream(stream)) return refuse(kInvalidHandle, "the stream does not exist");
  if (!stream) statistics.default_work += 1;
  if (!recording) return do_or_defer(stream, std::move(work));
  if (stream != recorded_stream) return refuse(kCaptureWrongStream, "work goes to another stream during capture");
  recording->push_back(std::move(work));
  return kSuccess;
}

int launch_graph(void* graph, void* stream) {
  if (!is_stream(stream)) return refuse(kInvalidHandle, "the stream does not exist");
  statistics.graph_launches += 1;
  if (!stream) statistics.default_work += 1;
  return do_or_defer(stream, [=] {
    for (auto& work : *(Graph*)graph) {
      if (int code = work()) return code;
    }
    return (int)kSuccess;
  });
}

void destroy_graph(void*) {}  // its executable copy is the same object

}  // namespace standin

extern "C" {
void standin_set_arch(int number) { standin::device_arch = number; }

void standin_set_late() { standin::is_late = true; }

void standin_statistics(long* out) { memcpy(out, &standin::statistics, sizeof standin::statistics); }

size_t standin_bytes_left(const void* pointer) { return standin::bytes_left(pointer); }
}
