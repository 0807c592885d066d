// Best destination of every source in FP32 arithmetic, any type and number of channels: tiles of 64 x 64 on CUDA cores.
//
// For FP32 activations, and for FP16 rows that tensor cores cannot take (channels not a multiple of 8). Each thread
// sums a 4 x 4 patch of the product and, alongside, the squares of its rows and columns.
#ifndef ALGM_NATIVE_GLOBAL_MERGE_SIMILARITY_FLOAT_H_
#define ALGM_NATIVE_GLOBAL_MERGE_SIMILARITY_FLOAT_H_

#include <cuda_runtime.h>

#include "common/rows.cuh"
#include "global_merge/global_shape.cuh"
#include "global_merge/pairing.h"

namespace algm {

constexpr int kFloatTile = 64;
constexpr int kFloatThreads = 256;  // 16 x 16 patches
constexpr int kFloatDepth = 16;     // channels of a step
constexpr int kPatch = 4;

// The same contract as similarityHalfKernel, on a grid of (tiles of sources times splits, images).
template <typename T>
__global__ void __launch_bounds__(kFloatThreads)
    similarityFloatKernel(GlobalShape shape, const T* __restrict__ x, const int32_t* __restrict__ cuSeqlens, int splits,
                          Match* __restrict__ matches) {
  __shared__ float sourceTile[kFloatDepth][kFloatTile + 1];
  __shared__ float destinationTile[kFloatDepth][kFloatTile + 1];
  const ImageRange range = shape.range(cuSeqlens, blockIdx.y);
  const Pairing pairing = shape.pairing(range);
  const int channels = shape.channels;
  const int split = blockIdx.x % splits;
  const int firstSource = int(blockIdx.x) / splits * kFloatTile;
  const int tiles = ceilDiv(pairing.destinations, kFloatTile);
  if (!pairing.canMerge() || firstSource >= pairing.sources || split >= tiles) return;

  const T* image = x + int64_t(range.begin) * channels;
  const int row = threadIdx.x / 16 * kPatch, column = threadIdx.x % 16 * kPatch;
  Match running[kPatch] = {noMatch(), noMatch(), noMatch(), noMatch()};
  for (int tile = split; tile < tiles; tile += splits) {
    const int firstDestination = tile * kFloatTile;
    float sums[kPatch][kPatch] = {}, sourceSquares[kPatch] = {}, destinationSquares[kPatch] = {};
    for (int start = 0; start < channels; start += kFloatDepth) {
      for (int i = threadIdx.x; i < kFloatTile * kFloatDepth; i += kFloatThreads) {
        const int index = i / kFloatDepth, depth = i % kFloatDepth, channel = start + depth;
        const int source = firstSource + index, destination = firstDestination + index;
        sourceTile[depth][index] = source < pairing.sources && channel < channels
            ? toFloat(image[int64_t(Pairing::sourceToken(source)) * channels + channel]) : 0.0f;
        destinationTile[depth][index] = destination < pairing.destinations && channel < channels
            ? toFloat(image[int64_t(pairing.destinationToken(destination)) * channels + channel]) : 0.0f;
      }
      __syncthreads();
#pragma unroll
      for (int depth = 0; depth < kFloatDepth; ++depth) {
        float a[kPatch], b[kPatch];
#pragma unroll
        for (int i = 0; i < kPatch; ++i) {
          a[i] = sourceTile[depth][row + i];
          b[i] = destinationTile[depth][column + i];
          sourceSquares[i] += a[i] * a[i];
          destinationSquares[i] += b[i] * b[i];
        }
#pragma unroll
        for (int i = 0; i < kPatch; ++i) {
#pragma unroll
          for (int j = 0; j < kPatch; ++j) sums[i][j] += a[i] * b[j];
        }
      }
      __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < kPatch; ++i) {
#pragma unroll
      for (int j = 0; j < kPatch; ++j) {
        const float similarity =
            sums[i][j] * inverseLength(sourceSquares[i]) * inverseLength(destinationSquares[j]);
        const Match candidate{similarity, firstDestination + column + j};
        if (candidate.index < pairing.destinations && isBetter(candidate, running[i])) running[i] = candidate;
      }
    }
  }
  // The 16 threads of a row of patches are one half of a warp.
#pragma unroll
  for (int i = 0; i < kPatch; ++i) {
#pragma unroll
    for (int mask = 1; mask <= 8; mask <<= 1) {
      const Match other{__shfl_xor_sync(~0u, running[i].similarity, mask),
                        __shfl_xor_sync(~0u, running[i].index, mask)};
      if (isBetter(other, running[i])) running[i] = other;
    }
    const int source = firstSource + row + i;
    if (column == 0 && source < pairing.sources) {
      matches[int64_t(split) * shape.tokens + range.begin + source] = running[i];
    }
  }
}

}  // namespace algm

#endif  // ALGM_NATIVE_GLOBAL_MERGE_SIMILARITY_FLOAT_H_
