// libcuda.so.1: modules and launches. Kernels run in whatever Python registered as the launcher.
//
// An image is a fat binary with a trailer that the stand-in nvcc appends: the architectures and the CUDA C it was
// made from. The device refuses images without code for it, as the real driver does.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "device.h"

namespace {

constexpr uint32_t kFatbinMagic = 0xba55ed50;
constexpr char kTrailerMagic[] = "BFSOURCE";
constexpr unsigned kFreeSharedBytes = 48 * 1024;
constexpr unsigned kMostThreads = 1024;
constexpr int kAttributeCores = 16, kAttributeMajor = 75, kAttributeMinor = 76, kAttributeSharedOptIn = 97;
constexpr int kCores = 132;
constexpr int kFunctionSharedBytes = 8;  // CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
constexpr char kName[] = "stand-in device";

struct FatbinHeader {
  uint32_t magic;
  uint16_t version, header_bytes;
  uint64_t code_bytes;
};

struct Trailer {
  char magic[8];
  uint64_t arch_bytes, source_bytes;
};

struct Module {
  std::string source;
};

struct Function {
  Module* module;
  std::string name;
  int parameters;
  unsigned allowed_shared_bytes;
};

struct LaunchConfig {
  unsigned grid[3], block[3], shared_bytes;
  void* stream;
  void* attributes;
  unsigned attribute_count;
};

using Describe = int (*)(const char* source, const char* name);
using Launch = int (*)(const char* source, const char* name, const unsigned* grid, const unsigned* block,
                       unsigned shared_bytes, void** arguments, int count);
Describe describe;
Launch launch;

// Whether any architecture of a list such as "sm_80 sm_90 compute_90" runs on the device.
bool has_code(const std::string& archs) {
  size_t position = 0;
  while (position < archs.size()) {
    size_t end = archs.find(' ', position);
    std::string arch = archs.substr(position, end - position);
    int number = 0;
    char suffix = 0;
    if (sscanf(arch.c_str(), "sm_%d%c", &number, &suffix) >= 1) {
      bool same_generation = number / 10 == standin::arch() / 10 && number <= standin::arch();
      if (suffix ? number == standin::arch() : same_generation) return true;
    } else if (sscanf(arch.c_str(), "compute_%d", &number) == 1 && number <= standin::arch()) {
      return true;
    }
    if (end == std::string::npos) break;
    position = end + 1;
  }
  return false;
}

int check_launch(const LaunchConfig& config, const Function& function) {
  uint64_t threads = (uint64_t)config.block[0] * config.block[1] * config.block[2];
  if (!config.grid[0] || !config.grid[1] || !config.grid[2] || config.grid[1] > 65535 || config.grid[2] > 65535) {
    return standin::refuse(standin::kInvalidValue, "%s: a grid of %u x %u x %u", function.name.c_str(), config.grid[0],
                           config.grid[1], config.grid[2]);
  }
  if (!threads || threads > kMostThreads) {
    return standin::refuse(standin::kInvalidValue, "%s: blocks of %lu threads", function.name.c_str(), threads);
  }
  if (config.shared_bytes > kFreeSharedBytes && config.shared_bytes > function.allowed_shared_bytes) {
    return standin::refuse(standin::kInvalidValue, "%s: %u bytes of shared memory without asking first",
                           function.name.c_str(), config.shared_bytes);
  }
  return standin::kSuccess;
}

}  // namespace

extern "C" {
void standin_set_launcher(Describe describe_function, Launch launch_function) {
  describe = describe_function;
  launch = launch_function;
}

int cuInit(unsigned) { return standin::kSuccess; }

int cuDeviceGetCount(int* count) {
  *count = 1;
  return standin::kSuccess;
}

int cuDeviceGet(int* device, int ordinal) {
  *device = ordinal;
  return ordinal == 0 ? standin::kSuccess : standin::kNoDevice;
}

int cuDeviceGetName(char* name, int length, int) {
  snprintf(name, length, "%s", kName);
  return standin::kSuccess;
}

int cuDriverGetVersion(int* version) {
  *version = 13000;
  return standin::kSuccess;
}

int cuDeviceGetAttribute(int* value, int attribute, int) {
  switch (attribute) {
    case kAttributeCores: *value = kCores; return standin::kSuccess;
    case kAttributeMajor: *value = standin::arch() / 10; return standin::kSuccess;
    case kAttributeMinor: *value = standin::arch() % 10; return standin::kSuccess;
    case kAttributeSharedOptIn: *value = standin::most_shared_bytes(); return standin::kSuccess;
    default: return standin::kInvalidValue;
  }
}

int cuGetErrorName(int code, const char** name) {
  static char text[32];
  snprintf(text, sizeof text, "code %d", code);
  *name = text;
  return standin::kSuccess;
}

int cuGetErrorString(int code, const char** text) { return cuGetErrorName(code, text); }

int cuModuleLoadData(void** module, const void* image) {
  if (standin::is_capturing()) return standin::refuse(standin::kCaptureUnsupported, "a module is loaded in a capture");
  FatbinHeader header;
  memcpy(&header, image, sizeof header);
  if (header.magic != kFatbinMagic) return standin::refuse(standin::kInvalidImage, "the image is no fat binary");
  const char* end = (const char*)image + header.header_bytes + header.code_bytes;
  Trailer trailer;
  memcpy(&trailer, end, sizeof trailer);
  if (memcmp(trailer.magic, kTrailerMagic, sizeof trailer.magic)) {
    return standin::refuse(standin::kInvalidImage, "the image was not made by the stand-in nvcc");
  }
  const char* archs = end + sizeof trailer;
  if (!has_code({archs, trailer.arch_bytes})) {
    return standin::refuse(standin::kNoBinaryForGpu, "the image has code for %.*s", (int)trailer.arch_bytes, archs);
  }
  *module = new Module{{archs + trailer.arch_bytes, trailer.source_bytes}};
  return standin::kSuccess;
}

int cuModuleUnload(void*) { return standin::kSuccess; }  // functions may still name it

int cuModuleGetFunction(void** function, void* module, const char* name) {
  Module* owner = (Module*)module;
  int parameters = describe ? describe(owner->source.c_str(), name) : -1;
  if (parameters < 0) return standin::refuse(standin::kNotFound, "there is no kernel %s", name);
  *function = new Function{owner, name, parameters, kFreeSharedBytes};
  return standin::kSuccess;
}

int cuFuncSetAttribute(void* function, int attribute, int value) {
  if (attribute != kFunctionSharedBytes) return standin::kSuccess;
  if (value < 0 || (unsigned)value > standin::most_shared_bytes()) {
    return standin::refuse(standin::kInvalidValue, "%d bytes of shared memory are asked for", value);
  }
  ((Function*)function)->allowed_shared_bytes = value;
  return standin::kSuccess;
}

int cuLaunchKernelEx(const LaunchConfig* config, void* handle, void** parameters, void**) {
  const Function& function = *(Function*)handle;
  if (int code = check_launch(*config, function)) return code;
  std::vector<void*> arguments;
  for (int i = 0; i < function.parameters; ++i) arguments.push_back(*(void**)parameters[i]);
  LaunchConfig at_launch = *config;
  return standin::submit(config->stream, [=]() mutable {
    int failed = launch(function.module->source.c_str(), function.name.c_str(), at_launch.grid, at_launch.block,
                        at_launch.shared_bytes, arguments.data(), (int)arguments.size());
    return failed ? standin::kLaunchFailed : standin::kSuccess;
  });
}

int cuTensorMapEncodeTiled() { return standin::kNotSupported; }
}
