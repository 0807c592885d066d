// Which classes can win somewhere in a tile.
//
// A value in the tile is a mean of the logits at its nodes, so it lies between the class's lowest and highest logit
// there. A class whose highest is below another class's lowest wins nowhere.
#ifndef ALGM_NATIVE_SLIDE_CONTEST_H_
#define ALGM_NATIVE_SLIDE_CONTEST_H_

#include <cuda_runtime.h>

#include "common/rows.cuh"
#include "slide/axis.h"
#include "slide/mosaic.cuh"

namespace algm {

constexpr int kSlideWarps = 8;
constexpr int kSlideThreads = kSlideWarps * 32;

// One tile of the source picture and the nodes that it draws on.
struct Tile {
  SlideAxis down, across;
  int row, column;  // index of the tile along either axis
  int rowSupport, columnSupport;

  __device__ __forceinline__ Tile(const SlideAxis& down_, const SlideAxis& across_, int index)
      : down(down_),
        across(across_),
        row(index / across_.tiles),
        column(index % across_.tiles),
        rowSupport(down_.support(row)),
        columnSupport(across_.support(column)) {}

  __device__ __forceinline__ int nodes() const { return rowSupport * columnSupport; }
  __device__ __forceinline__ int rowNode(int i) const { return down.node(row, i); }
  __device__ __forceinline__ int columnNode(int i) const { return across.node(column, i); }
};

struct Interval {
  float low, high;
};

// Where the values of a class lie in the tile, rounding included. A class with a logit that is not finite may lie
// anywhere.
template <typename T>
__device__ __forceinline__ Interval valuesOf(const Tile& tile, const Mosaic<T>& mosaic, int id) {
  float low = INFINITY, high = -INFINITY;
  bool finite = true;
  for (int a = 0; a < tile.rowSupport; ++a) {
    const int rowNode = tile.rowNode(a);
    for (int b = 0; b < tile.columnSupport; ++b) {
      const float logit = toFloat(mosaic.at(rowNode, tile.columnNode(b))[id]);
      finite &= fabsf(logit) < INFINITY;
      low = fminf(low, logit);
      high = fmaxf(high, logit);
    }
  }
  if (!finite) return {-INFINITY, INFINITY};
  // A sum of s products in float32 is off by less than (s + 1) units of the largest term.
  const float slack = 2.4e-7f * float(tile.rowSupport + tile.columnSupport) * fmaxf(fabsf(low), fabsf(high));
  return {low - slack, high + slack};
}

// Largest of the block's values, the same in all threads. `shared` is free again after the caller's next barrier.
__device__ __forceinline__ float blockMaximum(float value, float (&shared)[kSlideWarps]) {
#pragma unroll
  for (int mask = 16; mask > 0; mask >>= 1) value = fmaxf(value, __shfl_xor_sync(~0u, value, mask));
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kSlideWarps; ++i) value = fmaxf(value, shared[i]);
  return value;
}

// The value that a class must reach to win somewhere: the best lower end of all classes.
template <typename T>
__device__ __forceinline__ float valueToReach(const Tile& tile, const Mosaic<T>& mosaic, float (&shared)[kSlideWarps]) {
  float reached = -INFINITY;
  for (int id = threadIdx.x; id < mosaic.classes; id += kSlideThreads) {
    reached = fmaxf(reached, valuesOf(tile, mosaic, id).low);
  }
  return blockMaximum(reached, shared);
}

// Those of the classes first .. first + kSlideThreads that can win, ascending.
struct Candidates {
  uint16_t ids[kSlideThreads];
  int counts[kSlideWarps];

  // Fills the list and returns its length, the same in all threads.
  template <typename T>
  __device__ __forceinline__ int select(const Tile& tile, const Mosaic<T>& mosaic, int first, float toReach) {
    const int id = first + threadIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const bool possible = id < mosaic.classes && valuesOf(tile, mosaic, id).high >= toReach;
    const unsigned chosen = __ballot_sync(~0u, possible);
    if (lane == 0) counts[warp] = __popc(chosen);
    __syncthreads();
    int before = 0, total = 0;
#pragma unroll
    for (int i = 0; i < kSlideWarps; ++i) {
      before += i < warp ? counts[i] : 0;
      total += counts[i];
    }
    if (possible) ids[before + __popc(chosen & ((1u << lane) - 1))] = uint16_t(id);
    __syncthreads();
    return total;
  }
};

}  // namespace algm

#endif  // ALGM_NATIVE_SLIDE_CONTEST_H_
