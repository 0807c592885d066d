// Variable-length flash attention in FP32 on CUDA cores: for parity engines and tests, written to be plain.
//
// A block takes 32 queries of one head of one image and passes over the keys in tiles of 32. Four threads share a
// query: each scores every fourth key and owns every fourth group of four output channels.
#ifndef ALGM_NATIVE_PACKED_ATTENTION_ATTENTION_FLOAT_H_
#define ALGM_NATIVE_PACKED_ATTENTION_ATTENTION_FLOAT_H_

#include <cuda_runtime.h>

#include "common/images.cuh"
#include "common/launch.cuh"
#include "common/rows.cuh"

namespace algm {

template <int D>
struct FloatShape {
  static constexpr int kQueries = 32;
  static constexpr int kKeys = 32;
  static constexpr int kShare = 4;  // threads of a query
  static constexpr int kThreads = kQueries * kShare;
  static constexpr int kStride = D + 4;
  static constexpr int kWeightStride = kKeys + 1;
  static constexpr size_t kSharedBytes = (3 * kKeys * kStride + kQueries * kWeightStride) * sizeof(float);
  static_assert(D % 16 == 0 && kQueries == kKeys);
};

// Copies 32 rows of one third of qkv; rows at or beyond `count` become zeros.
template <int D>
__device__ __forceinline__ void loadRows(float* target, const float* source, int64_t stride, int first, int count) {
  constexpr int kChunks = D / 4;
  for (int i = threadIdx.x; i < FloatShape<D>::kKeys * kChunks; i += FloatShape<D>::kThreads) {
    const int row = i / kChunks, column = i % kChunks * 4;
    Pack<float, 4> pack = {};
    if (first + row < count) pack = loadPack<float, 4>(source + (first + row) * stride + column);
    storePack<float, 4>(target + row * FloatShape<D>::kStride + column, pack);
  }
}

// Four sums side by side: less rounding error than one long chain.
template <int D>
__device__ __forceinline__ float dot(const float* a, const float* b) {
  float sums[4] = {};
#pragma unroll
  for (int d = 0; d < D; d += 4) {
    const Pack<float, 4> left = loadPack<float, 4>(a + d), right = loadPack<float, 4>(b + d);
#pragma unroll
    for (int i = 0; i < 4; ++i) sums[i] += left.values[i] * right.values[i];
  }
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

// Grid: tiles of queries, heads, images. `scale` is D^-0.5 * log2(e).
template <int D>
__global__ void __launch_bounds__(FloatShape<D>::kThreads)
    attentionFloatKernel(const float* __restrict__ qkv, const int32_t* __restrict__ cuSeqlens, int tokens,
                         int maxTokens, int channels, float scale, float* __restrict__ y) {
  using Shape = FloatShape<D>;
  constexpr int kPerThread = Shape::kKeys / Shape::kShare;
  ALGM_DYNAMIC_SHARED(sharedBytes);
  float* queryTile = reinterpret_cast<float*>(sharedBytes);
  float* keyTile = queryTile + Shape::kQueries * Shape::kStride;
  float* valueTile = keyTile + Shape::kKeys * Shape::kStride;
  const ImageRange range = imageRange(cuSeqlens, blockIdx.z, tokens, maxTokens);
  const int firstQuery = blockIdx.x * Shape::kQueries;
  if (firstQuery >= range.count) return;

  const int64_t stride = 3 * int64_t(channels);
  const float* queries = qkv + range.begin * stride + blockIdx.y * D;
  const int row = threadIdx.x / Shape::kShare, part = threadIdx.x % Shape::kShare;
  const float* query = queryTile + row * Shape::kStride;
  float* weights = valueTile + Shape::kKeys * Shape::kStride + row * Shape::kWeightStride;
  loadRows<D>(queryTile, queries, stride, firstQuery, range.count);

  float output[D / 16][4] = {};
  float maximum = -INFINITY, sum = 0.0f;
  for (int first = 0; first < range.count; first += Shape::kKeys) {
    __syncthreads();  // the last tile is no longer read
    loadRows<D>(keyTile, queries + channels, stride, first, range.count);
    loadRows<D>(valueTile, queries + 2 * channels, stride, first, range.count);
    __syncthreads();

    float scores[kPerThread], largest = maximum;
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) {
      const int key = i * Shape::kShare + part;
      scores[i] = first + key < range.count ? dot<D>(query, keyTile + key * Shape::kStride) : -INFINITY;
      largest = fmaxf(largest, scores[i]);
    }
    largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 1));
    largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 2));
    const float rescale = exp2f((maximum - largest) * scale);
    maximum = largest;
    sum *= rescale;
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) {
      const float weight = exp2f((scores[i] - largest) * scale);
      weights[i * Shape::kShare + part] = weight;
      sum += weight;
    }
    __syncwarp();  // the four threads of a query are in one warp

#pragma unroll
    for (int i = 0; i < D / 16; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) output[i][j] *= rescale;
    }
    for (int key = 0; key < Shape::kKeys; ++key) {
      const float weight = weights[key];
#pragma unroll
      for (int i = 0; i < D / 16; ++i) {
        const Pack<float, 4> value = loadPack<float, 4>(valueTile + key * Shape::kStride + i * 16 + part * 4);
#pragma unroll
        for (int j = 0; j < 4; ++j) output[i][j] += weight * value.values[j];
      }
    }
  }

  sum += __shfl_xor_sync(~0u, sum, 1);
  sum += __shfl_xor_sync(~0u, sum, 2);
  if (firstQuery + row >= range.count) return;
  float* target = y + int64_t(range.begin + firstQuery + row) * channels + blockIdx.y * D;
#pragma unroll
  for (int i = 0; i < D / 16; ++i) {
    Pack<float, 4> pack;
#pragma unroll
    for (int j = 0; j < 4; ++j) pack.values[j] = output[i][j] / sum;
    storePack<float, 4>(target + i * 16 + part * 4, pack);
  }
}

}  // namespace algm

#endif  // ALGM_NATIVE_PACKED_ATTENTION_ATTENTION_FLOAT_H_
