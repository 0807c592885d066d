// Variable-length flash attention, FP16 in and out, FP32 softmax and accumulation, on tensor cores (mma.sync).
//
// A block takes 128 queries of one head of one image and passes over the image's keys in tiles of 64. Keys and values
// come through two stages of shared memory filled by cp.async: tile t+1 is under way while tile t is used. Queries live
// in registers, scores and outputs too; a score matrix never reaches memory. Rows in shared memory are padded by 16
// bytes, which makes ldmatrix free of bank conflicts for every head dimension here (an odd number of 16-byte units a
// row). Long images go first: the blocks that run last, when others have nothing left to do, are short ones.
#ifndef ALGM_NATIVE_PACKED_ATTENTION_ATTENTION_HALF_H_
#define ALGM_NATIVE_PACKED_ATTENTION_ATTENTION_HALF_H_

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "common/images.cuh"
#include "common/launch.cuh"
#include "common/ptx.cuh"
#include "common/rows.cuh"

namespace algm {

// Sizes for head dimension D. Up to 80, a warp takes 32 queries: each fragment of keys or values then serves two
// multiplications, and shared memory keeps up with the tensor cores. Above that it takes 16: of such blocks with four
// warps, two would not fit a multiprocessor's shared memory everywhere, and at 128 registers end too.
template <int D>
struct HalfShape {
  static constexpr int kQueries = 128;
  static constexpr int kKeys = 64;
  static constexpr int kRowTiles = D <= 80 ? 2 : 1;  // of 16 queries a warp
  static constexpr int kWarps = kQueries / (16 * kRowTiles);
  static constexpr int kThreads = kWarps * 32;
  static constexpr int kStride = D + 8;
  static constexpr int kTileHalves = kKeys * kStride;
  static constexpr int kStageHalves = 2 * kTileHalves;  // keys, then values; also room for the queries or the output
  static constexpr size_t kSharedBytes = 2 * kStageHalves * sizeof(__half);
  static_assert(D % 16 == 0 && kQueries == 2 * kKeys);
};

// Copies rows of one image and head to shared memory: a thread always the same 16 bytes of every kStep-th row, so that
// little address arithmetic is left.
template <int D>
struct RowCopier {
  using Shape = HalfShape<D>;
  static constexpr int kChunks = D / 8;
  static constexpr int kStep = Shape::kThreads / kChunks;  // rows at a time; threads left over have nothing to do

  int row, column;
  int stride;  // bytes between rows of qkv
  int count;   // rows that exist

  __device__ __forceinline__ RowCopier(int channels, int count)
      : row(threadIdx.x / kChunks), column(threadIdx.x % kChunks * 8), stride(6 * channels), count(count) {}

  // Starts copying rows first .. first + kRows of one third of qkv; rows at or beyond `count` become zeros.
  template <int kRows>
  __device__ __forceinline__ void start(__half* target, const __half* source, int first) const {
    if (row >= kStep) return;
    const char* base = reinterpret_cast<const char*>(source + column);
#pragma unroll
    for (int i = 0; i < kRows; i += kStep) {
      const int from = first + row + i;
      // A predicate, not a return, which would keep the loop from being unrolled.
      if (kRows % kStep == 0 || i + kStep <= kRows || row + i < kRows) {
        copyAsync16(target + (row + i) * Shape::kStride + column, base + int64_t(from) * stride, from < count);
      }
    }
  }
};

// State of a warp: its queries, the running maximum, sum and output of the online softmax. A lane holds two rows of
// each tile of 16 queries: 4 rows or 2.
template <int D>
struct WarpAttention {
  using Shape = HalfShape<D>;
  static constexpr int kRowTiles = Shape::kRowTiles;

  uint32_t queries[kRowTiles][D / 16][4];
  float output[kRowTiles][D / 8][4];
  float maximum[kRowTiles][2];
  float sum[kRowTiles][2];  // of this lane's columns only until finish()

  __device__ __forceinline__ void start(const __half* rows, int lane) {
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
      for (int k = 0; k < D / 16; ++k) {
        loadMatrices(queries[r][k], rows + (r * 16 + lane % 16) * Shape::kStride + k * 16 + lane / 16 * 8);
      }
#pragma unroll
      for (int i = 0; i < D / 8; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) output[r][i][j] = 0.0f;
      }
      maximum[r][0] = maximum[r][1] = -INFINITY;
      sum[r][0] = sum[r][1] = 0.0f;
    }
  }

  // One tile of keys and values, of which the first `valid` exist (the others are zeros in shared memory).
  __device__ __forceinline__ void step(const __half* keys, const __half* values, int valid, float scale, int lane) {
    float scores[kRowTiles][Shape::kKeys / 8][4] = {};
#pragma unroll
    for (int k = 0; k < D / 16; ++k) {
#pragma unroll
      for (int n = 0; n < Shape::kKeys / 16; ++n) {
        uint32_t b[4];
        loadMatrices(b, keys + (n * 16 + lane / 16 * 8 + lane % 8) * Shape::kStride + k * 16 + lane / 8 % 2 * 8);
#pragma unroll
        for (int r = 0; r < kRowTiles; ++r) {
          multiplyAdd(scores[r][2 * n], queries[r][k], b[0], b[1]);
          multiplyAdd(scores[r][2 * n + 1], queries[r][k], b[2], b[3]);
        }
      }
    }
    if (valid < Shape::kKeys) maskScores(scores, valid, lane);
    softmax(scores, scale);
#pragma unroll
    for (int k = 0; k < Shape::kKeys / 16; ++k) {
      uint32_t a[kRowTiles][4];
#pragma unroll
      for (int r = 0; r < kRowTiles; ++r) {
        a[r][0] = packHalves(scores[r][2 * k][0], scores[r][2 * k][1]);
        a[r][1] = packHalves(scores[r][2 * k][2], scores[r][2 * k][3]);
        a[r][2] = packHalves(scores[r][2 * k + 1][0], scores[r][2 * k + 1][1]);
        a[r][3] = packHalves(scores[r][2 * k + 1][2], scores[r][2 * k + 1][3]);
      }
#pragma unroll
      for (int d = 0; d < D / 16; ++d) {
        uint32_t b[4];
        loadMatricesTransposed(b, values + (k * 16 + lane % 16) * Shape::kStride + d * 16 + lane / 16 * 8);
#pragma unroll
        for (int r = 0; r < kRowTiles; ++r) {
          multiplyAdd(output[r][2 * d], a[r], b[0], b[1]);
          multiplyAdd(output[r][2 * d + 1], a[r], b[2], b[3]);
        }
      }
    }
  }

  __device__ __forceinline__ void maskScores(float (&scores)[kRowTiles][Shape::kKeys / 8][4], int valid, int lane) {
#pragma unroll
    for (int n = 0; n < Shape::kKeys / 8; ++n) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (n * 8 + lane % 4 * 2 + j % 2 >= valid) {
#pragma unroll
          for (int r = 0; r < kRowTiles; ++r) scores[r][n][j] = -INFINITY;
        }
      }
    }
  }

  // Turns scores into weights 2^(scale * (score - maximum)) and rescales what was summed under a smaller maximum. Every
  // tile has at least one valid key, so the maximum is finite unless the input is not.
  __device__ __forceinline__ void softmax(float (&scores)[kRowTiles][Shape::kKeys / 8][4], float scale) {
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float largest = maximum[r][half];
#pragma unroll
        for (int n = 0; n < Shape::kKeys / 8; ++n) {
          largest = fmaxf(largest, fmaxf(scores[r][n][2 * half], scores[r][n][2 * half + 1]));
        }
        largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 1));
        largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 2));
        const float rescale = fastExp2((maximum[r][half] - largest) * scale);
        const float shift = largest * scale;
        maximum[r][half] = largest;
        float added = 0.0f;
#pragma unroll
        for (int n = 0; n < Shape::kKeys / 8; ++n) {
#pragma unroll
          for (int j = 2 * half; j < 2 * half + 2; ++j) {
            scores[r][n][j] = fastExp2(fmaf(scores[r][n][j], scale, -shift));
            added += scores[r][n][j];
          }
        }
        sum[r][half] = sum[r][half] * rescale + added;
#pragma unroll
        for (int i = 0; i < D / 8; ++i) {
          output[r][i][2 * half] *= rescale;
          output[r][i][2 * half + 1] *= rescale;
        }
      }
    }
  }

  // Writes the warp's rows to shared memory as halves.
  __device__ __forceinline__ void finish(__half* rows, int lane) {
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float total = sum[r][half];
        total += __shfl_xor_sync(~0u, total, 1);
        total += __shfl_xor_sync(~0u, total, 2);
        const float inverse = 1.0f / total;
        __half* row = rows + (r * 16 + half * 8 + lane / 4) * Shape::kStride + lane % 4 * 2;
#pragma unroll
        for (int i = 0; i < D / 8; ++i) {
          *reinterpret_cast<uint32_t*>(row + i * 8) =
              packHalves(output[r][i][2 * half] * inverse, output[r][i][2 * half + 1] * inverse);
        }
      }
    }
  }
};

// Rows of the image that comes at `rank` when each 32 images are sorted by falling length. Called by whole warps.
__device__ __forceinline__ ImageRange rangeOfRank(const int32_t* cuSeqlens, int rank, int tokens, int maxTokens,
                                                  int lane) {
  const int image = rank / 32 * 32 + lane;
  ImageRange range{0, -1};
  if (image < int(gridDim.z)) range = imageRange(cuSeqlens, image, tokens, maxTokens);
  int before = 0;
#pragma unroll
  for (int other = 0; other < 32; ++other) {
    const int count = __shfl_sync(~0u, range.count, other);
    before += count > range.count || (count == range.count && other < lane);
  }
  const int owner = __ffs(__ballot_sync(~0u, before == rank % 32)) - 1;
  return {__shfl_sync(~0u, range.begin, owner), __shfl_sync(~0u, range.count, owner)};
}

// Grid: tiles of queries, heads, images by falling length. `scale` is D^-0.5 * log2(e).
template <int D>
__global__ void __launch_bounds__(HalfShape<D>::kThreads, 65536 / 256 / HalfShape<D>::kThreads)
    attentionHalfKernel(const __half* __restrict__ qkv, const int32_t* __restrict__ cuSeqlens, int tokens,
                        int maxTokens, int channels, float scale, __half* __restrict__ y) {
  using Shape = HalfShape<D>;
  ALGM_DYNAMIC_SHARED(sharedBytes);
  __half* shared = reinterpret_cast<__half*>(sharedBytes);
  const auto stageOf = [shared](int tile) { return shared + tile % 2 * Shape::kStageHalves; };
  const int lane = threadIdx.x % 32;
  const ImageRange range = rangeOfRank(cuSeqlens, blockIdx.z, tokens, maxTokens, lane);
  const int firstQuery = blockIdx.x * Shape::kQueries;
  if (firstQuery >= range.count) return;

  const int warpRow = threadIdx.x / 32 * 16 * Shape::kRowTiles;
  const __half* queries = qkv + range.begin * (3 * int64_t(channels)) + blockIdx.y * D;
  const __half* keys = queries + channels;
  const __half* values = keys + channels;
  const RowCopier<D> copier(channels, range.count);
  const auto startTile = [&](int tile) {
    __half* stage = stageOf(tile);
    copier.template start<Shape::kKeys>(stage, keys, tile * Shape::kKeys);
    copier.template start<Shape::kKeys>(stage + Shape::kTileHalves, values, tile * Shape::kKeys);
  };

  // The queries pass through the second stage while the first tile of keys and values fills the first.
  WarpAttention<D> warp;
  copier.template start<Shape::kQueries>(stageOf(1), queries, firstQuery);
  commitCopies();
  startTile(0);
  commitCopies();
  waitCopies<1>();
  __syncthreads();
  warp.start(stageOf(1) + warpRow * Shape::kStride, lane);

  const int tiles = ceilDiv(range.count, Shape::kKeys);
  for (int tile = 0; tile < tiles; ++tile) {
    waitCopies<0>();
    __syncthreads();  // this tile is complete, and nobody reads the other stage any more
    if (tile + 1 < tiles) startTile(tile + 1);
    commitCopies();
    const __half* stage = stageOf(tile);
    warp.step(stage, stage + Shape::kTileHalves, range.count - tile * Shape::kKeys, scale, lane);
  }

  // Through the stage that is free, so that rows leave in 16-byte pieces; a warp touches its own rows only.
  __half* rows = stageOf(tiles) + warpRow * Shape::kStride;
  warp.finish(rows, lane);
  __syncwarp();
  constexpr int kChunks = D / 8;
  for (int i = lane; i < 16 * Shape::kRowTiles * kChunks; i += 32) {
    const int row = i / kChunks, column = i % kChunks * 8;
    const int query = firstQuery + warpRow + row;
    if (query >= range.count) continue;
    __half* target = y + int64_t(range.begin + query) * channels + blockIdx.y * D + column;
    storePack<__half, 8>(target, loadPack<__half, 8>(rows + row * Shape::kStride + column));
  }
}

}  // namespace algm

#endif  // ALGM_NATIVE_PACKED_ATTENTION_ATTENTION_HALF_H_
