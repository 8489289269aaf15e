// State of the stand-in device; part of its libcuda.so.1.
#include "device.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <set>
#include <vector>

namespace standin {
namespace {

constexpr size_t kAlignment = 256;

using Graph = std::vector<std::function<int()>>;

std::map<const unsigned char*, size_t> allocations;
std::set<void*> streams;
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

}  // namespace

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

void* create_stream() {
  void* stream = malloc(1);
  streams.insert(stream);
  return stream;
}

int destroy_stream(void* stream) {
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

int wait_for(void* stream) {
  if (!is_stream(stream)) return refuse(kInvalidHandle, "the stream does not exist");
  statistics.waits += 1;
  return kSuccess;
}

int submit(void* stream, std::function<int()> work) {
  if (!is_stream(stream)) return refuse(kInvalidHandle, "the stream does not exist");
  if (!stream) statistics.default_work += 1;
  if (!recording) return work();
  if (stream != recorded_stream) return refuse(kCaptureWrongStream, "work goes to another stream during capture");
  recording->push_back(std::move(work));
  return kSuccess;
}

int launch_graph(void* graph, void* stream) {
  if (!is_stream(stream)) return refuse(kInvalidHandle, "the stream does not exist");
  statistics.graph_launches += 1;
  if (!stream) statistics.default_work += 1;
  for (auto& work : *(Graph*)graph) {
    if (int code = work()) return code;
  }
  return kSuccess;
}

void destroy_graph(void*) {}  // its executable copy is the same object

}  // namespace standin

extern "C" {
void standin_set_arch(int number) { standin::device_arch = number; }

void standin_statistics(long* out) { memcpy(out, &standin::statistics, sizeof standin::statistics); }

size_t standin_bytes_left(const void* pointer) { return standin::bytes_left(pointer); }
}
