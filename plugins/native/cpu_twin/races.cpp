// Finds races that give right results all the same. It works in kernels compiled with -fsanitize=thread, whose loads and
// stores call the functions at the end; the compiler's own runtime for them is not linked. This file and the scheduler
// are compiled without that option.
//
// Two accesses to a byte, one of them a store, are a race unless a barrier of the block lies between them or, inside a
// warp, a __syncwarp(): shuffles and votes order no memory. Blocks of a launch are never ordered. Stores of one value by
// several threads pass. A load of shared memory that its block never stored to counts as a race too.
#include "races.h"

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "cuda_on_cpu.h"

// The library's static variables: those that kernels touch are the static __shared__ ones.
extern "C" __attribute__((visibility("hidden"))) char __bss_start[], _end[];

namespace twin::races {
namespace {

struct Access {
  uint32_t block = 0, epoch = 0, warpEpoch = 0;
  int thread = -1;
  void* code = nullptr;
};

struct Byte {
  Access write;
  std::vector<Access> reads;  // since the block's last barrier, and one of an earlier block
};

struct Region {
  uintptr_t begin;
  bool shared;
  std::vector<Byte> bytes;
};

// A second store without order: a race if it changes the byte.
struct Suspect {
  const unsigned char* byte;
  unsigned char before;
  Access first, second;
};

constexpr size_t kMaxReports = 20;

std::vector<Region> watched;
Region statics, dynamic;
std::vector<Suspect> suspects;
std::vector<std::string> reports;
bool active = false;
uint32_t block = 0, firstBlock = 0, epoch = 0;  // numbers never start anew
std::vector<uint32_t> warpEpochs(32);

void report(const char* what, const Access& first, const Access& second) {
  char text[200];
  const auto offset = [](const Access& a) {
    return static_cast<unsigned long>(static_cast<char*>(a.code) - __bss_start);
  };
  std::snprintf(text, sizeof(text), "%s: thread %d of block %u (code %#lx), thread %d of block %u (code %#lx)", what,
                first.thread, first.block - firstBlock, offset(first), second.thread, second.block - firstBlock,
                offset(second));
  if (reports.size() < kMaxReports) reports.emplace_back(text);
}

bool areOrdered(const Access& earlier, const Access& later, bool shared) {
  if (earlier.block < firstBlock) return true;  // another launch
  if (earlier.block != later.block) return shared;  // shared memory is each block's own
  if (earlier.thread == later.thread || earlier.epoch != later.epoch) return true;
  return earlier.thread / kWarpSize == later.thread / kWarpSize && earlier.warpEpoch != later.warpEpoch;
}

void resolveSuspects() {
  for (const Suspect& suspect : suspects) {
    if (*suspect.byte != suspect.before) report("two stores", suspect.first, suspect.second);
  }
  suspects.clear();
}

void noteRead(Byte& byte, const Access& access, bool shared) {
  const bool written = byte.write.thread >= 0;
  if (shared && (!written || byte.write.block != block)) {
    report("load of what nobody stored", access, access);
  } else if (written && !areOrdered(byte.write, access, shared)) {
    report("store and load", byte.write, access);
  }
  std::vector<Access> kept;
  for (const Access& read : byte.reads) {
    const bool otherBlock = read.block >= firstBlock && read.block != block && (kept.empty() || kept[0].block == block);
    if (otherBlock) kept.insert(kept.begin(), read);
    if (read.block == block && read.epoch == epoch && read.thread != access.thread) kept.push_back(read);
  }
  kept.push_back(access);
  byte.reads.swap(kept);
}

void noteWrite(Byte& byte, const unsigned char* address, const Access& access, bool shared) {
  if (byte.write.thread >= 0 && !areOrdered(byte.write, access, shared)) {
    suspects.push_back({address, *address, byte.write, access});
  }
  for (const Access& read : byte.reads) {
    if (areOrdered(read, access, shared)) continue;
    report("load and store", read, access);
    break;
  }
  byte.reads.clear();
  byte.write = access;
}

void note(const void* address, size_t bytes, bool write, void* code) {
  if (!active) return;
  resolveSuspects();
  const uintptr_t begin = reinterpret_cast<uintptr_t>(address);
  if (begin == reinterpret_cast<uintptr_t>(&current)) return;  // threadIdx and the like
  const int thread = current->warp * kWarpSize + current->lane;
  const Access access{block, epoch, warpEpochs[current->warp], thread, code};
  const auto noteIn = [&](Region& region) {
    for (uintptr_t at = begin; at < begin + bytes; ++at) {
      if (at < region.begin || at >= region.begin + region.bytes.size()) continue;
      Byte& byte = region.bytes[at - region.begin];
      if (write) {
        noteWrite(byte, reinterpret_cast<const unsigned char*>(at), access, region.shared);
      } else {
        noteRead(byte, access, region.shared);
      }
    }
  };
  noteIn(statics);
  noteIn(dynamic);
  for (Region& region : watched) noteIn(region);
}

}  // namespace

void startLaunch(const void* shared, size_t bytes) {
  active = !watched.empty();
  if (!active) return;
  firstBlock = block + 1;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(__bss_start);
  if (statics.bytes.empty()) statics = {begin, true, std::vector<Byte>(_end - __bss_start)};
  dynamic = {reinterpret_cast<uintptr_t>(shared), true, std::vector<Byte>(bytes)};
}

void startBlock() {
  ++block;
  ++epoch;
}

void endLaunch() {
  resolveSuspects();
  active = false;
}

void passBarrier() { ++epoch; }
void passWarpBarrier(int warp) { ++warpEpochs[warp]; }
void access(const void* address, size_t bytes, bool write) {
  note(address, bytes, write, __builtin_return_address(0));
}

}  // namespace twin::races

#define ALGM_TWIN_API extern "C" __attribute__((visibility("default")))

// Watches a buffer of global memory; without any, nothing is checked.
ALGM_TWIN_API void algm_twin_watch(const void* buffer, size_t bytes) {
  twin::races::watched.push_back({reinterpret_cast<uintptr_t>(buffer), false, std::vector<twin::races::Byte>(bytes)});
}

// Ends the watch. Returns the number of races, of which twenty at most are kept, and prints them.
ALGM_TWIN_API int algm_twin_races() {
  for (const std::string& text : twin::races::reports) std::printf("%s\n", text.c_str());
  std::fflush(stdout);
  const int count = int(twin::races::reports.size());
  twin::races::reports.clear();
  twin::races::watched.clear();
  return count;
}

// What the compiler calls.
#define ALGM_ACCESS(name, bytes, write)                                       \
  extern "C" void __tsan_##name(void* address) {                              \
    twin::races::note(address, bytes, write, __builtin_return_address(0));    \
  }
#define ALGM_ACCESSES(bytes)                                                  \
  ALGM_ACCESS(read##bytes, bytes, false)                                      \
  ALGM_ACCESS(write##bytes, bytes, true)                                      \
  ALGM_ACCESS(unaligned_read##bytes, bytes, false)                            \
  ALGM_ACCESS(unaligned_write##bytes, bytes, true)
ALGM_ACCESSES(1)
ALGM_ACCESSES(2)
ALGM_ACCESSES(4)
ALGM_ACCESSES(8)
ALGM_ACCESSES(16)
extern "C" void __tsan_read_range(void* address, size_t bytes) {
  twin::races::note(address, bytes, false, __builtin_return_address(0));
}
extern "C" void __tsan_write_range(void* address, size_t bytes) {
  twin::races::note(address, bytes, true, __builtin_return_address(0));
}
extern "C" void __tsan_func_entry(void*) {}
extern "C" void __tsan_func_exit() {}
extern "C" void __tsan_init() {}
extern "C" void __tsan_vptr_update(void**, void*) {}
extern "C" void __tsan_vptr_read(void**) {}
