// Runs a folder that `blockfuse pack` made, without Python: run_packed DIR INPUT.npy [EXPECTED.npy]
#include <dlfcn.h>
#include <tvm/ffi/container/array.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <numeric>
#include <sstream>

namespace ffi = tvm::ffi;

// A line of network/tensors.txt, such as "constant 1024 plain float32 64x147" or "input 4 plain float32 Nx3x8x8 x".
struct Description {
  std::string kind, layout, dtype, name;
  int64_t offset = 0, count = 1;  // of a constant in the weights; of elements, where the batch is open of one image
  int64_t most = 0;               // images, where the batch is open: the shape begins with N
  std::vector<int64_t> shape;
};

struct Network {  // for one target: of several in the folder, this machine's
  std::vector<Description> values;
  std::string target, library, weights;  // such as sm_90a, and the names of two files
  int64_t shared_bytes = 0;              // that a CTA needs
  bool on_gpu = false;
  double tolerance = 1e-3;  // of the largest expected value
};

struct Borrowed {  // an allocator for tensors in memory that stays
  char* memory;
  void AllocData(DLTensor* tensor) { tensor->data = memory; }
  void FreeData(DLTensor*) {}
};

[[noreturn]] void fail(const std::string& message) { throw std::runtime_error(message); }

// A file's bytes after the first `skipped`, at an address that vector instructions can use; they stay to the end.
char* read(const std::string& path, int64_t wanted, int64_t skipped = 0) {
  std::ifstream file(path, std::ios::binary);
  char* memory = static_cast<char*>(std::aligned_alloc(64, (wanted + 127) / 64 * 64));
  if (!file.seekg(skipped).read(memory, wanted)) fail(path + " cannot be read, or has less data than expected");
  return memory;
}

// Where the values of a .npy file start: behind magic and version in 8 bytes, the header's length in 2, the header.
int64_t values_at(const std::string& path) {
  const char* start = read(path, 10);
  return 10 + static_cast<unsigned char>(start[8]) + 256 * static_cast<unsigned char>(start[9]);
}

// The values of a .npy file.
char* read_array(const std::string& path, const Description& wanted) {
  int64_t size = values_at(path);
  std::string header(read(path, size), static_cast<size_t>(size));
  if (header.find("'<f4', 'fortran_order': False") == std::string::npos) fail(path + " is no C-ordered float32 array");
  auto whole = static_cast<int64_t>(std::filesystem::file_size(path));
  if (whole != size + 4 * wanted.count) fail(path + " has another shape than the network");
  return read(path, 4 * wanted.count, size);
}

// A line of network/tensors.txt; shapes that begin with N are for as many images as a line before says.
void read_line(const std::string& line, Network& network, int64_t& most) {
  std::string dims;
  if (line == "device cuda") network.on_gpu = true;
  if (line.rfind("tolerance ", 0) == 0) network.tolerance = std::stod(line.substr(10));
  if (line.rfind("batch ", 0) == 0) most = std::stoll(line.substr(6));
  std::istringstream words(line);
  Description one;
  if (!(words >> one.kind >> one.offset >> one.layout >> one.dtype >> dims)) return;
  std::getline(words >> std::ws, one.name);
  std::istringstream sizes(dims == "scalar" ? "" : dims);
  while (std::getline(sizes, dims, 'x')) {
    if (dims == "N") one.most = most;
    one.shape.push_back(dims == "N" ? 1 : std::stoll(dims));
  }
  for (int64_t size : one.shape) one.count *= size;
  network.values.push_back(one);
}

// One network for each target, which begins with a line such as "variant sm_90a 150000 library.so weights.bin".
std::vector<Network> read_networks(const std::string& path) {
  std::ifstream file(path);
  if (!file) fail(path + " cannot be opened; DIR is a folder that blockfuse pack made");
  std::vector<Network> networks;
  int64_t most = 0;
  for (std::string line, kind; std::getline(file, line);) {
    Network next;
    std::istringstream words(line);
    if (words >> kind >> next.target >> next.shared_bytes >> next.library >> next.weights && kind == "variant") {
      networks.push_back(next);
      most = 0;
    } else if (!networks.empty()) {
      read_line(line, networks.back(), most);
    }
  }
  if (networks.empty()) fail(path + " describes no network");
  return networks;
}

// How well code for an architecture matches a GPU: 3 where it is for that alone, 2 for its generation, 1 as PTX, else 0.
int match(const std::string& arch, int gpu) {
  int number = std::stoi(arch.substr(3));
  bool same_generation = number / 10 == gpu / 10 && number <= gpu;
  if (arch.back() == 'a') return number == gpu ? 3 : 0;
  if (same_generation) return 2;
  return arch.back() != 'f' && number <= gpu ? 1 : 0;
}

// The network that this machine runs best.
const Network& best(const std::vector<Network>& networks) {
  if (!networks[0].on_gpu) return networks[0];
  auto ask = reinterpret_cast<int (*)(int*, int, int)>(dlsym(RTLD_DEFAULT, "cudaDeviceGetAttribute"));
  int major = 0, minor = 0, shared_bytes = 0;
  if (!ask || ask(&major, 75, 0) || ask(&minor, 76, 0) || ask(&shared_bytes, 97, 0)) fail("there is no GPU");
  int gpu = 10 * major + minor;
  auto rank = [&](const Network& one) {
    int matches = one.shared_bytes <= shared_bytes ? match(one.target, gpu) : 0;
    return std::pair(matches, matches ? std::stoi(one.target.substr(3)) : 0);
  };
  auto less = [&](const Network& one, const Network& other) { return rank(one) < rank(other); };
  const Network& found = *std::max_element(networks.begin(), networks.end(), less);
  if (rank(found).first) return found;
  std::string targets = networks[0].target;
  for (size_t i = 1; i < networks.size(); ++i) targets += ", " + networks[i].target;
  fail("the network was compiled for " + targets + ", and this GPU is sm_" + std::to_string(gpu));
}

// Where the batch is open, it is as many images as the input file holds.
void settle_batch(std::vector<Description>& all, const Description& input, const std::string& path) {
  if (!input.most) return;
  int64_t images = (static_cast<int64_t>(std::filesystem::file_size(path)) - values_at(path)) / (4 * input.count);
  if (images < 1 || images > input.most) fail(path + " holds not 1 to " + std::to_string(input.most) + " images");
  for (Description& one : all) {
    if (!one.most) continue;
    one.shape[0] = images;
    one.count *= images;
  }
}

const Description& the_only(const std::vector<Description>& all, const std::string& kind) {
  auto matches = [&](const Description& one) { return one.kind == kind; };
  auto found = std::find_if(all.begin(), all.end(), matches);
  if (std::count_if(all.begin(), all.end(), matches) != 1 || found->dtype != "float32" || found->layout != "plain")
    fail("this program runs networks with one input and one output, float32, and the output no image");
  return *found;
}

int64_t bytes_of(const Description& one) { return one.count * ((ffi::StringToDLDataType(one.dtype).bits + 7) / 8); }

// Memory as a tensor; on a GPU, a copy of it there.
ffi::Tensor tensor(const Network& network, char* memory, const Description& one) {
  ffi::ShapeView shape(one.shape.data(), one.shape.size());
  DLDataType dtype = ffi::StringToDLDataType(one.dtype);
  if (!network.on_gpu) return ffi::Tensor::FromNDAlloc(Borrowed{memory}, shape, dtype, DLDevice{kDLCPU, 0});
  auto allocate = ffi::Function::GetGlobalRequired("runtime.TVMTensorAllocWithScope");
  auto result = allocate(ffi::Shape(shape), dtype, DLDevice{kDLCUDA, 0}, nullptr).cast<ffi::Tensor>();
  auto copy = ffi::Function::GetGlobalRequired("runtime.TVMTensorCopyFromBytes");
  copy(result, static_cast<void*>(memory), bytes_of(one));
  return result;
}

// The first element of a result on the CPU.
const float* values_of(const Network& network, const ffi::Tensor& result, const Description& one) {
  if (!network.on_gpu) return static_cast<const float*>(result.data_ptr());
  auto copy = ffi::Function::GetGlobalRequired("runtime.TVMTensorCopyToBytes");
  void* memory = std::aligned_alloc(64, (bytes_of(one) + 63) / 64 * 64);
  copy(result, memory, bytes_of(one));
  return static_cast<float*>(memory);
}

// The code needs TVM's runtime libraries, and on a GPU CUDA's, at run time, not to be linked.
void load_runtime(const std::string& folder, bool on_gpu) {
  std::vector<std::string> names{"libtvm_runtime.so"};
  if (on_gpu) names = {"libtvm_runtime.so", "libcudart.so.13", "libtvm_runtime_cuda.so"};
  for (const std::string& name : names) {
    if (name == "libcudart.so.13" && dlopen(name.c_str(), RTLD_NOW | RTLD_GLOBAL)) continue;  // this machine's own
    std::string path = folder + "/python/blockfuse/runtime/lib/" + name;
    if (!dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL)) fail(dlerror());
  }
}

ffi::Tensor run(const std::string& folder, const Network& network, char* input) {
  ffi::Module library = ffi::Module::LoadFromFile(folder + "/network/" + network.library);
  ffi::Module machine = library->GetFunction("vm_load_executable").value()().cast<ffi::Module>();
  ffi::Function initialize = machine->GetFunction("vm_initialization").value();
  int cpu = kDLCPU, gpu = kDLCUDA, reused = 2;  // device, its number, whether its memory is reused
  if (network.on_gpu) initialize(gpu, 0, reused, cpu, 0, reused);
  else initialize(cpu, 0, reused);

  const auto& all = network.values;
  std::vector<ffi::Any> arguments{tensor(network, input, the_only(all, "input"))};  // and the constants, in their order
  for (const Description& one : all) {
    if (one.kind != "constant") continue;
    char* weights = read(folder + "/network/" + network.weights, bytes_of(one), one.offset);
    arguments.emplace_back(tensor(network, weights, one));
  }
  std::vector<ffi::AnyView> views(arguments.begin(), arguments.end());
  ffi::Any results;
  machine->GetFunction("main").value().CallPacked(views.data(), static_cast<int>(views.size()), &results);
  return results.cast<ffi::Array<ffi::Tensor>>()[0];
}

void compare(const float* values, const float* expected, int64_t count, double tolerance) {
  double error = 0, largest = 0;
  for (int64_t i = 0; i < count; ++i) {
    double difference = std::abs(double{values[i]} - expected[i]);
    error = std::isnan(difference) ? INFINITY : std::max(error, difference);
    largest = std::max(largest, std::abs(double{expected[i]}));
  }
  std::cout << "largest difference " << error << ", of values up to " << largest << '\n';
  if (!(error <= tolerance * largest)) fail("the result is not the expected one");
}

int main(int count, char** words) try {
  setenv("TVM_THREAD_POOL_SPIN_COUNT", "200", 0);  // else idle threads yield 300,000 times before the process can end
  if (count < 3 || count > 4) fail("usage: run_packed DIR INPUT.npy [EXPECTED.npy]");
  std::vector<Network> networks = read_networks(words[1] + std::string("/network/tensors.txt"));
  load_runtime(words[1], networks[0].on_gpu);
  Network network = best(networks);
  std::vector<Description>& all = network.values;
  settle_batch(all, Description(the_only(all, "input")), words[2]);
  const Description& output = the_only(all, "output");
  ffi::Tensor result = run(words[1], network, read_array(words[2], the_only(all, "input")));
  const float* values = values_of(network, result, output);
  std::vector<int64_t> order(static_cast<size_t>(output.count));
  std::iota(order.begin(), order.end(), 0);
  auto end = order.begin() + std::min<int64_t>(5, output.count);
  std::partial_sort(order.begin(), end, order.end(), [&](int64_t a, int64_t b) { return values[a] > values[b]; });
  for (auto i = order.begin(); i < end; ++i) std::cout << output.name << '[' << *i << "] = " << values[*i] << '\n';
  if (count == 4) compare(values, reinterpret_cast<float*>(read_array(words[3], output)), output.count, network.tolerance);
  return 0;
} catch (const std::exception& error) {
  std::cerr << "run_packed: error: " << error.what() << '\n';
  return 1;
}
