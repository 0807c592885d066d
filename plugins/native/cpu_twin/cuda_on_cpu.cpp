// The scheduler of cuda_on_cpu.h: fibres of one block, barriers, warp exchanges, shuffled order.
#include "cuda_on_cpu.h"

#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <random>

#include "races.h"

namespace twin {
namespace {

constexpr size_t kStackBytes = 256 * 1024;
constexpr size_t kPoisonedBytes = 8 * 1024;  // of a stack: room for the variables of a kernel
constexpr int kMaxThreads = 1024;
constexpr uint32_t kBackwards = 1, kGreedy = 2, kEager = 4;  // bits of the seed

struct Fibre {
  Thread thread;
  jmp_buf resume;
  bool started = false;
  bool finished = false;
};

struct Warp {
  int arrived = 0;
  int lanes = 0;
  int kind = -1;
  uint64_t generation = 0;
  alignas(16) unsigned char values[2][kWarpSize * kLaneBytes];
};

struct Block {
  std::vector<Fibre> fibres;
  std::vector<Warp> warps;
  std::vector<unsigned char> shared;
  const std::function<void()>* kernel = nullptr;
  int waiting = 0;
  int refusals = 0;
  uint64_t generation = 0;
  bool progress = false;
};

Block block;
jmp_buf scheduler;
Fibre* running = nullptr;
uint32_t seed = 0;
uint32_t mostSharedBytes = 0;  // of a launch
unsigned char* stacks = nullptr;

void yieldToScheduler() {
  if (_setjmp(running->resume) == 0) _longjmp(scheduler, 1);
}

void fibreMain() {
  (*block.kernel)();
  running->finished = true;
  block.progress = true;
  _longjmp(scheduler, 1);
}

void startFibre(int index) {
  static ucontext_t context;
  unsigned char* const stack = stacks + size_t(index) * kStackBytes;
  std::memset(stack + kStackBytes - kPoisonedBytes, 0xFF, kPoisonedBytes);  // what a kernel leaves unset is NaN or -1
  getcontext(&context);
  context.uc_stack.ss_sp = stack;
  context.uc_stack.ss_size = kStackBytes;
  context.uc_link = nullptr;
  makecontext(&context, fibreMain, 0);
  setcontext(&context);
}

void step(int index) {
  running = &block.fibres[index];
  current = &running->thread;
  if (_setjmp(scheduler) != 0) return;
  if (running->started) _longjmp(running->resume, 1);
  running->started = true;
  startFibre(index);
}

// Steps every unfinished thread of `order` once; true if one of them got further.
bool stepAll(const std::vector<int>& order, size_t& left) {
  block.progress = false;
  left = 0;
  for (int index : order) {
    if (block.fibres[index].finished) continue;
    step(index);
    left += !block.fibres[index].finished;
  }
  return block.progress;
}

// All threads in turn, each to its next collective.
void runEvenly(std::mt19937& random) {
  std::vector<int> order(block.fibres.size());
  std::iota(order.begin(), order.end(), 0);
  for (size_t left = order.size(); left > 0;) {
    if (seed != 0) std::shuffle(order.begin(), order.end(), random);
    if (!stepAll(order, left) && left > 0) fail("threads wait for others that never arrive");
  }
}

// One warp at a time, each as far as it gets without the others.
void runGreedily(std::mt19937& random) {
  std::vector<int> warps(block.warps.size());
  std::iota(warps.begin(), warps.end(), 0);
  for (bool finished = false; !finished;) {
    std::shuffle(warps.begin(), warps.end(), random);
    bool progress = false;
    finished = true;
    for (int warp : warps) {
      std::vector<int> lanes(block.warps[warp].lanes);
      std::iota(lanes.begin(), lanes.end(), warp * kWarpSize);
      std::shuffle(lanes.begin(), lanes.end(), random);
      size_t left;
      while (stepAll(lanes, left)) progress = true;
      finished = finished && left == 0;
    }
    if (!progress && !finished) fail("threads wait for others that never arrive");
  }
}

void prepareBlock(dim3 grid, dim3 shape, dim3 position) {
  const int threads = int(shape.x * shape.y * shape.z);
  block.fibres.assign(threads, Fibre{});
  block.warps.assign((threads + kWarpSize - 1) / kWarpSize, Warp{});
  block.waiting = 0;
  block.refusals = 0;
  std::fill(block.shared.begin(), block.shared.end(), 0xFF);
  for (int index = 0; index < threads; ++index) {
    Thread& thread = block.fibres[index].thread;
    thread.threadIndex = dim3(index % shape.x, index / shape.x % shape.y, index / shape.x / shape.y);
    thread.blockIndex = position;
    thread.blockShape = shape;
    thread.gridShape = grid;
    thread.lane = index % kWarpSize;
    thread.warp = index / kWarpSize;
    ++block.warps[thread.warp].lanes;
  }
}

}  // namespace

Thread* current = nullptr;
int sharedBytesOfMultiprocessor = 228 * 1024;

void fail(const char* what) {
  std::fprintf(stderr, "CPU twin: %s (block %u,%u,%u thread %u)\n", what, blockIdx.x, blockIdx.y, blockIdx.z,
               threadIdx.x);
  std::abort();
}

void blockBarrier() {
  const uint64_t generation = block.generation;
  if (++block.waiting == int(block.fibres.size())) {
    block.waiting = 0;
    races::passBarrier();
    ++block.generation;
    block.progress = true;
  }
  while (generation == block.generation) yieldToScheduler();
}

bool blockAgrees(bool agree) {
  block.refusals += !agree;
  blockBarrier();
  const bool result = block.refusals == current->refusals;
  current->refusals = block.refusals;
  blockBarrier();
  return result;
}

const unsigned char* exchange(const void* value, size_t bytes, int kind) {
  if (bytes > kLaneBytes) fail("exchange of too many bytes");
  Warp& warp = block.warps[current->warp];
  unsigned char* values = warp.values[current->slot];
  current->slot ^= 1;
  if (bytes > 0) std::memcpy(values + kLaneBytes * current->lane, value, bytes);
  if (warp.arrived == 0) warp.kind = kind;
  if (warp.kind != kind) fail("lanes of a warp meet in different collectives");
  const uint64_t generation = warp.generation;
  if (++warp.arrived == warp.lanes) {
    warp.arrived = 0;
    if (kind == kSync) races::passWarpBarrier(current->warp);
    ++warp.generation;
    block.progress = true;
  }
  while (generation == warp.generation) yieldToScheduler();
  return values;
}

bool copiesAreEager() { return (seed & kEager) != 0; }

unsigned char* dynamicShared() {
  unsigned char* start = block.shared.data();
  return start + (16 - reinterpret_cast<uintptr_t>(start) % 16) % 16;
}

void run(dim3 grid, dim3 shape, size_t sharedBytes, const std::function<void()>& kernel) {
  if (stacks == nullptr) {
    void* memory = mmap(nullptr, kStackBytes * kMaxThreads, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) std::abort();
    stacks = static_cast<unsigned char*>(memory);
  }
  block.kernel = &kernel;
  block.shared.assign(sharedBytes + 16, 0);
  mostSharedBytes = std::max(mostSharedBytes, uint32_t(sharedBytes));
  races::startLaunch(dynamicShared(), sharedBytes);
  std::mt19937 random(seed);
  const uint64_t blocks = uint64_t(grid.x) * grid.y * grid.z;
  for (uint64_t i = 0; i < blocks; ++i) {
    const uint64_t at = seed & kBackwards ? blocks - 1 - i : i;
    const dim3 position(unsigned(at % grid.x), unsigned(at / grid.x % grid.y), unsigned(at / grid.x / grid.y));
    prepareBlock(grid, shape, position);
    races::startBlock();
    if (seed & kGreedy) {
      runGreedily(random);
    } else {
      runEvenly(random);
    }
  }
  races::endLaunch();
}

}  // namespace twin

// 0: threads and blocks in order. Otherwise the order of threads is shuffled, and bits of the seed choose: 1, blocks
// run backwards; 2, a warp runs as far as it can before another one; 4, asynchronous copies happen at once, not at the
// wait.
extern "C" __attribute__((visibility("default"))) void algm_twin_set_seed(uint32_t seed) { twin::seed = seed; }

// Kernels that come in several sizes are chosen by this: 228 KB, the H100's, unless set.
extern "C" __attribute__((visibility("default"))) void algm_twin_set_shared_memory(uint32_t bytes) {
  twin::sharedBytesOfMultiprocessor = int(bytes);
  twin::mostSharedBytes = 0;
}

// The most dynamic shared memory that a block has had since algm_twin_set_shared_memory().
extern "C" __attribute__((visibility("default"))) uint32_t algm_twin_most_shared_memory() {
  return twin::mostSharedBytes;
}
