// Enough of CUDA's execution model to compile the kernels with g++ and run them on a CPU, one block at a time.
//
// Every thread of a block is a fibre on one OS thread. A barrier or warp collective hands over to the next fibre, in an
// order that a seed shuffles: a kernel that misses a barrier gives other results under another seed. Checked, and fatal
// with a message: threads that leave while others wait, warps whose lanes meet in different collectives, misaligned
// 16-byte copies. Races that change no result are found by races.cpp. Not modelled: caches, time. The tests run the
// kernels' compiled PTX on the same threads, by a launch() of their own.
#ifndef ALGM_NATIVE_CPU_TWIN_CUDA_ON_CPU_H_
#define ALGM_NATIVE_CPU_TWIN_CUDA_ON_CPU_H_

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
// One block runs at a time, so one copy of a block's shared variables is enough.
#define __shared__ static

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct alignas(8) float2 { float x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

namespace twin {

constexpr int kWarpSize = 32;

struct PendingCopy {
  void* target;
  const void* source;  // nullptr: zeros
};

// What a fibre knows about itself.
struct Thread {
  dim3 threadIndex, blockIndex, blockShape, gridShape;
  int lane = 0;
  int warp = 0;
  int refusals = 0;                              // of the block's votes that this thread has taken note of
  int slot = 0;                                  // which of the warp's two exchange buffers is next
  std::vector<PendingCopy> openCopies;           // cp.async since the last commit
  std::vector<std::vector<PendingCopy>> groups;  // committed, oldest first
};

extern Thread* current;

[[noreturn]] void fail(const char* what);

// Waits for every thread of the block.
void blockBarrier();

// Waits for every thread of the block; whether all of them agree.
bool blockAgrees(bool agree);

// Gives `value` (at most 64 bytes) to the warp and returns the 32 contributions, valid until the lane's next exchange.
const unsigned char* exchange(const void* value, size_t bytes, int kind);

unsigned char* dynamicShared();

// What the kernels' launchers take for the device's.
extern int sharedBytesOfMultiprocessor;

// Whether asynchronous copies happen as early as the hardware may do them, or as late.
bool copiesAreEager();

void run(dim3 grid, dim3 block, size_t sharedBytes, const std::function<void()>& kernel);

// Starts a kernel: its C++, or what the file that defines ALGM_CPU_TWIN_OTHER_LAUNCH has in its place.
template <typename... Parameters>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t sharedBytes, Parameters... arguments)
#ifdef ALGM_CPU_TWIN_OTHER_LAUNCH
    ;
#else
{
  run(grid, block, sharedBytes, [&] { kernel(arguments...); });
}
#endif

constexpr size_t kLaneBytes = 64;
enum Collective { kSync, kShuffle, kBallot, kLoadMatrix, kMultiply };

template <typename T>
T laneValue(const unsigned char* lanes, int lane) {
  T value;
  std::memcpy(&value, lanes + kLaneBytes * lane, sizeof(T));
  return value;
}

}  // namespace twin

#define threadIdx (::twin::current->threadIndex)
#define blockIdx (::twin::current->blockIndex)
#define blockDim (::twin::current->blockShape)
#define gridDim (::twin::current->gridShape)

inline void __syncthreads() { twin::blockBarrier(); }
inline int __syncthreads_and(int predicate) { return twin::blockAgrees(predicate != 0); }
inline void __syncwarp(unsigned = ~0u) { twin::exchange(nullptr, 0, twin::kSync); }

template <typename T>
T __shfl_sync(unsigned, T value, int lane) {
  return twin::laneValue<T>(twin::exchange(&value, sizeof(T), twin::kShuffle), lane & 31);
}
template <typename T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return twin::laneValue<T>(twin::exchange(&value, sizeof(T), twin::kShuffle), twin::current->lane ^ mask);
}
inline unsigned __ballot_sync(unsigned, bool predicate) {
  const unsigned char* lanes = twin::exchange(&predicate, sizeof(bool), twin::kBallot);
  unsigned bits = 0;
  for (int lane = 0; lane < 32; ++lane) bits |= unsigned(twin::laneValue<bool>(lanes, lane)) << lane;
  return bits;
}

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
// The 32 bits from bit `shift` (below 32) of high:low.
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return unsigned((uint64_t(high) << 32 | low) >> (shift & 31));
}
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline unsigned __float_as_uint(float value) { unsigned bits; std::memcpy(&bits, &value, 4); return bits; }
inline float __uint_as_float(unsigned bits) { float value; std::memcpy(&value, &bits, 4); return value; }

typedef struct CUstream_st* cudaStream_t;
typedef int cudaError_t;

#endif  // ALGM_NATIVE_CPU_TWIN_CUDA_ON_CPU_H_
