// The stand-in device: memory, streams and graphs as the two libraries that pretend to be CUDA share them.
//
// Device memory is host memory, so everything is done at once and in order, unless `standin_set_late` was called: then
// work of streams is done as late as waits allow, and when one stream is waited for, half of what the others were given
// is done first. What the real device forbids is refused: memory that is not the device's, launches beyond its limits,
// and during capture whatever capture does not allow.
#pragma once
#include <cstddef>
#include <functional>

namespace standin {

// Codes that cudaError_t and CUresult have in common.
enum Code {
  kSuccess = 0,
  kInvalidValue = 1,
  kOutOfMemory = 2,
  kNoDevice = 100,
  kInvalidImage = 200,
  kNoBinaryForGpu = 209,
  kInvalidHandle = 400,
  kNotFound = 500,
  kLaunchFailed = 719,
  kNotSupported = 801,
  kCaptureUnsupported = 900,
  kCaptureWrongStream = 906,
};

// Says on standard error what was refused, and passes the code on.
int refuse(int code, const char* format, ...) __attribute__((format(printf, 2, 3)));

// The architecture's number, such as 90, and what it allows a block.
int arch();
unsigned most_shared_bytes();

// Memory, filled with bytes that are NaN in every floating type.
int allocate(void** pointer, size_t bytes);
int release(void* pointer);
// Whether all of a range is one live allocation's, and how much of that is left from the pointer on.
bool is_device_memory(const void* pointer, size_t bytes);
size_t bytes_left(const void* pointer);

// Streams. Null is the default stream.
// Those that do not block are not ordered with the default stream, which is ordered with all others.
void* create_stream(bool blocks);
int destroy_stream(void* stream);
bool is_stream(void* stream);
// Does what a stream was given so far, or all of them.
int finish(void* stream);
int finish_all();

// Capture. `submit` does something now, or notes it down if its stream is capturing.
int begin_capture(void* stream);
int end_capture(void* stream, void** graph);
bool is_capturing();
int submit(void* stream, std::function<int()> work);
int launch_graph(void* graph, void* stream);
// The stream waits for what `before` was given so far.
int wait_for(void* stream, void* before);
void count_host_copy();
void destroy_graph(void* graph);

}  // namespace standin
