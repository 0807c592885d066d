// Best destination of every source, FP16 on tensor cores: a running arg-max over tiles of the similarity product.
//
// A block takes 64 sources of an image and every kSplits-th tile of 64 destinations. Products of raw tokens are summed
// in FP32 by mma.sync; the same passing tiles give the squared lengths (one row a thread), which scale the finished
// sums. The similarity matrix never leaves registers. Tokens come through two stages of shared memory filled by
// cp.async; rows are padded to 144 bytes, so that ldmatrix and the row-wise reads of the lengths meet no bank conflict.
#ifndef ALGM_NATIVE_GLOBAL_MERGE_SIMILARITY_HALF_H_
#define ALGM_NATIVE_GLOBAL_MERGE_SIMILARITY_HALF_H_

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "common/images.cuh"
#include "common/ptx.cuh"
#include "common/rows.cuh"
#include "global_merge/pairing.h"

namespace algm {

constexpr int kTile = 64;        // sources and destinations of a tile
constexpr int kHalfThreads = 128;  // four warps, each 32 x 32 of the tile
constexpr int kDepth = 64;       // channels of a stage
constexpr int kStride = kDepth + 8;

// Shared memory of one block.
struct HalfTiles {
  alignas(16) __half rows[2][2 * kTile * kStride];  // stage: 64 source rows, then 64 destination rows
  float inverse[2 * kTile];
  Match best[2][kTile];  // of the left and right half of the destinations
};

// The lower-index-wins maximum over the four lanes that share a row of an mma result.
__device__ __forceinline__ Match bestOfQuad(Match match) {
#pragma unroll
  for (int mask = 1; mask <= 2; mask <<= 1) {
    const Match other{__shfl_xor_sync(~0u, match.similarity, mask), __shfl_xor_sync(~0u, match.index, mask)};
    if (isBetter(other, match)) match = other;
  }
  return match;
}

// Which tokens a block works on.
struct TileTask {
  const __half* image;  // first token
  Pairing pairing;
  int channels;
  int firstSource;

  // Starts the copies of one stage: rows 0..63 are sources, 64..127 destinations; what does not exist is zero.
  __device__ __forceinline__ void loadStage(__half* stage, int firstDestination, int firstChannel) const {
    constexpr int kChunks = kDepth / 8;
    for (int i = threadIdx.x; i < 2 * kTile * kChunks; i += kHalfThreads) {
      const int row = i / kChunks;
      const int channel = firstChannel + i % kChunks * 8;
      const int index = row < kTile ? firstSource + row : firstDestination + row - kTile;
      const bool exists = index < (row < kTile ? pairing.sources : pairing.destinations) && channel < channels;
      const int token = row < kTile ? Pairing::sourceToken(index) : pairing.destinationToken(index);
      const __half* source = exists ? image + int64_t(token) * channels + channel : image;
      copyAsync16(stage + row * kStride + i % kChunks * 8, source, exists);
    }
  }
};

// Adds the squares of one row of a stage.
__device__ __forceinline__ float addSquares(float squares, const __half* row) {
#pragma unroll
  for (int i = 0; i < kDepth; i += 8) {
    const Pack<__half, 8> pack = loadPack<__half, 8>(row + i);
#pragma unroll
    for (int j = 0; j < 8; ++j) squares += toFloat(pack.values[j]) * toFloat(pack.values[j]);
  }
  return squares;
}

// sums += the product of the warp's 32 source rows and 32 destination rows of a stage.
__device__ __forceinline__ void multiplyStage(float (&sums)[2][4][4], const __half* sources, const __half* destinations,
                                              int lane) {
#pragma unroll
  for (int k = 0; k < kDepth; k += 16) {
    uint32_t a[2][4], b[2][4];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      loadMatrices(a[i], sources + (i * 16 + lane % 16) * kStride + k + lane / 16 * 8);
      loadMatrices(b[i], destinations + (i * 16 + lane / 16 * 8 + lane % 8) * kStride + k + lane / 8 % 2 * 8);
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) multiplyAdd(sums[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
    }
  }
}

// Best match of each of the warp's rows in a finished tile; written to best[row] by the first lane of each quad.
__device__ __forceinline__ void matchTile(Match* best, const float (&sums)[2][4][4], const float* inverseSources,
                                          const float* inverseDestinations, int firstIndex, int destinations,
                                          int lane) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = i * 8 + lane / 4;
    Match match = noMatch();
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const int column = j / 2 * 8 + lane % 4 * 2 + j % 2;
      const float product = sums[i / 2][j / 2][i % 2 * 2 + j % 2];
      const float similarity = product * inverseSources[row] * inverseDestinations[column];
      const Match candidate{similarity, firstIndex + column};
      if (candidate.index < destinations && isBetter(candidate, match)) match = candidate;
    }
    match = bestOfQuad(match);
    if (lane % 4 == 0) best[row] = match;
  }
}

// matches[split][row of the source's token] = best destination among the tiles of that split. blockIdx.x = tile of
// sources times splits + split, blockIdx.y = image.
__global__ void __launch_bounds__(kHalfThreads)
    similarityHalfKernel(const __half* __restrict__ x, const int32_t* __restrict__ cuSeqlens, int tokens, int maxTokens,
                         int channels, int extraTokens, int splits, Match* __restrict__ matches) {
  __shared__ HalfTiles shared;
  const ImageRange range = imageRange(cuSeqlens, blockIdx.y, tokens, maxTokens);
  const Pairing pairing = makePairing(range.count, extraTokens);
  const int split = blockIdx.x % splits;
  const TileTask task{x + int64_t(range.begin) * channels, pairing, channels, int(blockIdx.x) / splits * kTile};
  const int tiles = ceilDiv(pairing.destinations, kTile);
  if (!pairing.canMerge() || task.firstSource >= pairing.sources || split >= tiles) return;

  const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  const int warpSource = warp / 2 * 32, warpDestination = warp % 2 * 32;
  const int depthSteps = ceilDiv(channels, kDepth);
  const int steps = ceilDiv(tiles - split, splits) * depthSteps;
  const auto firstDestination = [&](int step) { return (split + step / depthSteps * splits) * kTile; };

  Match running = noMatch();  // threads 0..63: of source `thread` of the tile
  float sums[2][4][4] = {};
  float squares = 0.0f;
  task.loadStage(shared.rows[0], firstDestination(0), 0);
  commitCopies();
  for (int step = 0; step < steps; ++step) {
    if (step + 1 < steps) {
      task.loadStage(shared.rows[(step + 1) % 2], firstDestination(step + 1), (step + 1) % depthSteps * kDepth);
    }
    commitCopies();
    waitCopies<1>();
    __syncthreads();  // the stage of this step is complete
    const __half* stage = shared.rows[step % 2];
    squares = addSquares(squares, stage + thread * kStride);
    multiplyStage(sums, stage + warpSource * kStride, stage + (kTile + warpDestination) * kStride, lane);

    if ((step + 1) % depthSteps == 0) {
      shared.inverse[thread] = inverseLength(squares);
      __syncthreads();
      matchTile(shared.best[warp % 2] + warpSource, sums, shared.inverse + warpSource,
                shared.inverse + kTile + warpDestination, firstDestination(step) + warpDestination,
                pairing.destinations, lane);
      __syncthreads();
      if (thread < kTile) {
        for (int half = 0; half < 2; ++half) {
          const Match match = shared.best[half][thread];
          if (isBetter(match, running)) running = match;
        }
      }
      squares = 0.0f;
#pragma unroll
      for (int i = 0; i < 32; ++i) sums[i / 16][i / 4 % 4][i % 4] = 0.0f;
    }
    __syncthreads();  // the next step overwrites this stage
  }
  const int source = task.firstSource + thread;
  if (thread < kTile && source < pairing.sources) {
    matches[int64_t(split) * tokens + range.begin + Pairing::sourceToken(source)] = running;
  }
}

}  // namespace algm

#endif  // ALGM_NATIVE_GLOBAL_MERGE_SIMILARITY_HALF_H_
