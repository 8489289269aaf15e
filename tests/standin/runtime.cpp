// libcudart.so.13: memory, copies, streams and graphs, as far as TVM's runtime calls them.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "device.h"

namespace {

enum CopyKind { kHostToHost, kHostToDevice, kDeviceToHost, kDeviceToDevice, kEitherWay };

int last_error = standin::kSuccess;

int noted(int code) {
  if (code) last_error = code;
  return code;
}

bool is_wrong_side(const void* pointer, size_t bytes, bool is_device) {
  return is_device && !standin::is_device_memory(pointer, bytes);
}

// The host may change its memory as soon as this returns, so that is read at once.
int copy_in(void* to, const void* from, size_t bytes, void* stream) {
  std::vector<unsigned char> data((const unsigned char*)from, (const unsigned char*)from + bytes);
  return standin::submit(stream, [=] {
    memcpy(to, data.data(), data.size());
    return standin::kSuccess;
  });
}

int copy(void* to, const void* from, size_t bytes, int kind, void* stream) {
  bool to_device = kind == kHostToDevice || kind == kDeviceToDevice;
  bool from_device = kind == kDeviceToHost || kind == kDeviceToDevice;
  if (is_wrong_side(to, bytes, to_device) || is_wrong_side(from, bytes, from_device)) {
    return noted(standin::refuse(standin::kInvalidValue, "%zu bytes are copied beyond an allocation", bytes));
  }
  if (kind != kDeviceToDevice) standin::count_host_copy();
  if (kind == kHostToDevice) return noted(copy_in(to, from, bytes, stream));
  int code = standin::submit(stream, [=] {
    memcpy(to, from, bytes);
    return standin::kSuccess;
  });
  bool is_read = kind == kDeviceToHost && !standin::is_capturing();  // returns when the host has its data
  return noted(code || !is_read ? code : standin::finish(stream));
}

int attribute_value(int attribute) {
  switch (attribute) {
    case 1: return 1024;                         // threads per block
    case 10: return 32;                          // warp size
    case 16: return 132;                         // SMs
    case 75: return standin::arch() / 10;        // compute capability
    case 76: return standin::arch() % 10;
    case 8: return 48 * 1024;                    // shared memory without asking
    case 97: return standin::most_shared_bytes();
    default: return 1024;
  }
}

}  // namespace

extern "C" {
int cudaGetDevice(int* device) {
  *device = 0;
  return standin::kSuccess;
}

int cudaSetDevice(int) { return standin::kSuccess; }

int cudaGetDeviceCount(int* count) {
  *count = 1;
  return standin::kSuccess;
}

int cudaDeviceGetAttribute(int* value, int attribute, int) {
  *value = attribute_value(attribute);
  return standin::kSuccess;
}

int cudaGetDeviceProperties(void*, int) { return noted(standin::kNotSupported); }

int cudaMemGetInfo(size_t* free_bytes, size_t* all_bytes) {
  *free_bytes = *all_bytes = (size_t)1 << 36;
  return standin::kSuccess;
}

// ---- errors
const char* cudaGetErrorName(int code) {
  static char text[32];
  snprintf(text, sizeof text, "code %d", code);
  return text;
}

const char* cudaGetErrorString(int code) { return cudaGetErrorName(code); }

int cudaGetLastError() {
  int code = last_error;
  last_error = standin::kSuccess;
  return code;
}

int cudaPeekAtLastError() { return last_error; }

// ---- memory
int cudaMalloc(void** pointer, size_t bytes) { return noted(standin::allocate(pointer, bytes)); }

int cudaFree(void* pointer) { return noted(standin::release(pointer)); }

int cudaMallocHost(void** pointer, size_t bytes) {
  if (standin::is_capturing()) return noted(standin::refuse(standin::kCaptureUnsupported, "host memory in a capture"));
  *pointer = aligned_alloc(256, (bytes + 255) / 256 * 256);
  return *pointer ? standin::kSuccess : standin::kOutOfMemory;
}

int cudaFreeHost(void* pointer) {
  free(pointer);
  return standin::kSuccess;
}

int cudaMemcpyAsync(void* to, const void* from, size_t bytes, int kind, void* stream) {
  return copy(to, from, bytes, kind, stream);
}

int cudaMemcpyPeerAsync(void* to, int, const void* from, int, size_t bytes, void* stream) {
  return copy(to, from, bytes, kDeviceToDevice, stream);
}

// ---- streams and events
int cudaStreamCreateWithFlags(void** stream, unsigned flags);

int cudaStreamCreate(void** stream) {
  return cudaStreamCreateWithFlags(stream, 0);
}

int cudaStreamCreateWithFlags(void** stream, unsigned flags) {
  *stream = standin::create_stream(flags == 0);
  return standin::kSuccess;
}

int cudaStreamDestroy(void* stream) { return noted(standin::destroy_stream(stream)); }

int cudaStreamSynchronize(void* stream) {
  if (!standin::is_stream(stream)) return noted(standin::refuse(standin::kInvalidHandle, "there is no such stream"));
  if (standin::is_capturing()) return noted(standin::refuse(standin::kCaptureUnsupported, "a capture is waited for"));
  return noted(standin::finish(stream));
}

int cudaStreamWaitEvent(void* stream, void* event, unsigned) {
  return noted(standin::wait_for(stream, *(void**)event));
}

int cudaEventCreate(void** event) {
  *event = calloc(1, sizeof(void*));  // the stream it was last recorded on
  return standin::kSuccess;
}

int cudaEventDestroy(void* event) {
  free(event);
  return standin::kSuccess;
}

int cudaEventRecord(void* event, void* stream) {
  *(void**)event = stream;
  return standin::kSuccess;
}

int cudaEventSynchronize(void* event) {
  if (standin::is_capturing()) return noted(standin::refuse(standin::kCaptureUnsupported, "an event in a capture"));
  return noted(standin::finish(*(void**)event));
}

int cudaEventElapsedTime(float*, void*, void*) { return noted(standin::kNotSupported); }  // it has no time

// ---- graphs
int cudaStreamBeginCapture(void* stream, int) { return noted(standin::begin_capture(stream)); }

int cudaStreamEndCapture(void* stream, void** graph) { return noted(standin::end_capture(stream, graph)); }

int cudaGraphInstantiate(void** executable, void* graph, unsigned long long) {
  *executable = graph;
  return standin::kSuccess;
}

int cudaGraphLaunch(void* executable, void* stream) { return noted(standin::launch_graph(executable, stream)); }

int cudaGraphDestroy(void* graph) {
  standin::destroy_graph(graph);
  return standin::kSuccess;
}

int cudaGraphExecDestroy(void*) { return standin::kSuccess; }
}
