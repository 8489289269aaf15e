// What the kernel would ask of the memory system.
//
// An access of one thread is logged under its instruction and its occurrence since the last barrier; the
// lanes of a warp that share both are taken as one warp-wide instruction. That is exact where the lanes
// run the same path, and a good guess where they diverge.
//
// Shared memory has 32 banks of 4 bytes. Accesses of up to 4 bytes are served for the whole warp at
// once, those of 8 bytes per half warp, those of 16 bytes per quarter warp. Such a group needs as many
// wavefronts as the busiest bank has distinct words; the ideal is its distinct words over 32, rounded up.
#include <algorithm>
#include <map>
#include <set>
#include <unordered_map>
#include <unordered_set>

#include "runtime.h"

namespace emulator {

Counters counters;
bool counting;

namespace {

constexpr int kBanks = 32;
constexpr int kBankBytes = 4;
constexpr int kSectorBytes = 32;

struct LaneAccess {
  int lane;
  uint64_t address;
};

struct Instruction {
  const void* pc;
  int occurrence;
  bool operator==(const Instruction& other) const {
    return pc == other.pc && occurrence == other.occurrence;
  }
};

struct HashInstruction {
  size_t operator()(const Instruction& instruction) const {
    return (size_t)instruction.pc * 1000003 + instruction.occurrence;
  }
};

struct WarpAccess {
  size_t bytes;
  bool write;
  bool shared;
  std::vector<LaneAccess> lanes;
};

using WarpLog = std::unordered_map<Instruction, WarpAccess, HashInstruction>;
std::vector<WarpLog> warp_logs;
std::vector<std::unordered_map<const void*, int>> occurrences;  // per thread
std::unordered_set<uint64_t> block_sectors;                     // of the block that runs

struct Wavefronts {
  long actual, ideal;
};

Wavefronts wavefronts_of_words(const std::set<uint64_t>& words) {
  int per_bank[kBanks] = {};
  for (uint64_t word : words) ++per_bank[word % kBanks];
  return {*std::max_element(per_bank, per_bank + kBanks), ((long)words.size() + kBanks - 1) / kBanks};
}

Wavefronts wavefronts_of_access(const WarpAccess& access) {
  int group_size = access.bytes <= 4 ? kWarpSize : access.bytes == 8 ? kWarpSize / 2 : kWarpSize / 4;
  std::map<int, std::set<uint64_t>> words_of_group;
  for (const LaneAccess& lane : access.lanes) {
    for (size_t byte = 0; byte < access.bytes; byte += kBankBytes) {
      words_of_group[lane.lane / group_size].insert((lane.address + byte) / kBankBytes);
    }
  }
  Wavefronts total = {0, 0};
  for (const auto& [group, words] : words_of_group) {
    Wavefronts part = wavefronts_of_words(words);
    total.actual += part.actual;
    total.ideal += part.ideal;
  }
  return total;
}

void count_shared(const WarpAccess& access) {
  Wavefronts wavefronts = wavefronts_of_access(access);
  if (access.write) {
    counters.shared_stores += 1;
    counters.shared_store_wavefronts += wavefronts.actual;
    counters.shared_store_ideal += wavefronts.ideal;
  } else {
    counters.shared_loads += 1;
    counters.shared_load_wavefronts += wavefronts.actual;
    counters.shared_load_ideal += wavefronts.ideal;
  }
}

void count_global(const WarpAccess& access) {
  std::set<uint64_t> sectors;
  for (const LaneAccess& lane : access.lanes) {
    sectors.insert(lane.address / kSectorBytes);
    sectors.insert((lane.address + access.bytes - 1) / kSectorBytes);
  }
  (access.write ? counters.global_store_sectors : counters.global_load_sectors) += sectors.size();
  block_sectors.insert(sectors.begin(), sectors.end());
}

void log(uint64_t address, size_t bytes, bool write, bool shared, const void* pc) {
  warp_logs.resize((threads.size() + kWarpSize - 1) / kWarpSize);
  occurrences.resize(threads.size());
  Instruction instruction = {pc, occurrences[current][pc]++};
  WarpAccess& access = warp_logs[current / kWarpSize][instruction];
  access.bytes = bytes;
  access.write = write;
  access.shared = shared;
  access.lanes.push_back({current % kWarpSize, address});
}

}  // namespace

void log_shared_access(uint32_t address, size_t bytes, bool write, const void* pc) {
  log(address, bytes, write, true, pc);
}

void log_global_access(uint64_t address, size_t bytes, bool write, const void* pc) {
  (write ? counters.global_bytes_written : counters.global_bytes_read) += bytes;
  log(address, bytes, write, false, pc);
}

void count_matrix_access(const uint32_t* row_addresses, int matrices) {
  counters.ldmatrix += 1;
  for (int matrix = 0; matrix < matrices; ++matrix) {
    std::set<uint64_t> words;
    for (int row = 0; row < 8; ++row) {
      for (int word = 0; word < 4; ++word) {
        words.insert(row_addresses[matrix * 8 + row] / kBankBytes + word);
      }
    }
    Wavefronts wavefronts = wavefronts_of_words(words);
    counters.ldmatrix_wavefronts += wavefronts.actual;
    counters.ldmatrix_ideal += wavefronts.ideal;
  }
}

void flush_access_log() {
  for (WarpLog& warp_log : warp_logs) {
    for (const auto& [instruction, access] : warp_log) {
      access.shared ? count_shared(access) : count_global(access);
    }
    warp_log.clear();
  }
  for (auto& thread_occurrences : occurrences) thread_occurrences.clear();
}

void count_block_sectors() {
  counters.block_sectors += block_sectors.size();
  block_sectors.clear();
}

}  // namespace emulator
