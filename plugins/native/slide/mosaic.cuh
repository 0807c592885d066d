// The mosaic: logits of all windows side by side, the classes of a patch ("node") next to each other, the winning class
// of every node, and whether all logits are finite.
//
// A block takes 32 neighbouring patches of a window. It brings 32 classes at a time through shared memory, so that both
// the reads (along patches) and the writes (along classes) are contiguous. Traffic: logits read once, written once.
#ifndef ALGM_NATIVE_SLIDE_MOSAIC_H_
#define ALGM_NATIVE_SLIDE_MOSAIC_H_

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "algm.h"
#include "common/host_device.h"
#include "common/rows.cuh"

namespace algm {

template <typename T>
struct Mosaic {
  T* values;          // (rows, columns, classes)
  uint16_t* winners;  // (rows, columns)
  int32_t* finite;    // (): 1, and 0 once a logit is not a finite number
  int rows, columns, classes;

  __device__ __forceinline__ int64_t node(int row, int column) const { return int64_t(row) * columns + column; }
  __device__ __forceinline__ T* at(int row, int column) const { return values + node(row, column) * classes; }
};

// How the mosaic divides into windows.
struct MosaicWindows {
  int across, gridHeight, gridWidth;

  ALGM_HD int patches() const { return gridHeight * gridWidth; }
  ALGM_HD int blocks() const { return ceilDiv(patches(), 32); }
};

constexpr int kMosaicWarps = 8;
constexpr int kMosaicRows = 32 / kMosaicWarps;  // of 32 classes or patches, those of a warp
constexpr int kMosaicBlocks = 8;                // of a multiprocessor

template <typename T>
__global__ void __launch_bounds__(kMosaicWarps * 32, kMosaicBlocks)
    mosaicKernel(MosaicWindows windows, const T* __restrict__ logits, Mosaic<T> mosaic) {
  __shared__ T staged[32][32 + 4 / sizeof(T)];  // class, patch; an odd number of words a row
  __shared__ float bests[kMosaicWarps][32];
  __shared__ int ids[kMosaicWarps][32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int window = blockIdx.x / windows.blocks(), firstPatch = blockIdx.x % windows.blocks() * 32;
  const int patches = windows.patches(), classes = mosaic.classes;
  const int top = window / windows.across * windows.gridHeight, left = window % windows.across * windows.gridWidth;
  const T* source = logits + int64_t(window) * classes * patches + firstPatch + lane;

  int64_t nodes[kMosaicRows];  // that the warp writes
#pragma unroll
  for (int i = 0; i < kMosaicRows; ++i) {
    const int patch = firstPatch + warp + i * kMosaicWarps;
    nodes[i] = mosaic.node(top + patch / windows.gridWidth, left + patch % windows.gridWidth);
  }

  float best = -INFINITY;
  int id = 0;
  bool finite = true;
  for (int first = 0; first < classes; first += 32) {
#pragma unroll
    for (int i = 0; i < kMosaicRows; ++i) {
      const int row = warp + i * kMosaicWarps;
      if (first + row >= classes || firstPatch + lane >= patches) continue;
      const T logit = source[int64_t(first + row) * patches];
      staged[row][lane] = logit;
      finite &= fabsf(toFloat(logit)) < INFINITY;  // false for NaN
      if (toFloat(logit) > best) {
        best = toFloat(logit);
        id = first + row;
      }
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kMosaicRows; ++i) {
      const int row = warp + i * kMosaicWarps;
      if (firstPatch + row >= patches || first + lane >= classes) continue;
      mosaic.values[nodes[i] * classes + first + lane] = staged[lane][row];
    }
    __syncthreads();
  }

  bests[warp][lane] = best;
  ids[warp][lane] = id;
  // The barrier of the bests. Whichever block stores, it stores the same.
  if (!__syncthreads_and(finite) && threadIdx.x == 0) *mosaic.finite = 0;
  const int patch = firstPatch + lane;
  if (warp != 0 || patch >= patches) return;
  for (int i = 1; i < kMosaicWarps; ++i) {
    if (bests[i][lane] > best || (bests[i][lane] == best && ids[i][lane] < id)) {
      best = bests[i][lane];
      id = ids[i][lane];
    }
  }
  mosaic.winners[mosaic.node(top + patch / windows.gridWidth, left + patch % windows.gridWidth)] = uint16_t(id);
}

}  // namespace algm

#endif  // ALGM_NATIVE_SLIDE_MOSAIC_H_
