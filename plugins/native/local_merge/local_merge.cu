// AlgmLocalMerge: similar windows of the token grid become one token each.
//
// Pass 1, quadSimilarityKernel or windowSimilarityKernel: one warp per window. Reads the window's tokens, computes
//   similarity and key, and, if the window merges, writes its mean to the workspace. Windows of four tokens of usual
//   width live in registers, so that each token is read once; other windows read theirs again, from L1 or L2.
// Pass 2, orderKernel: eight threads per window. Counts the windows of its image that stand before it (its rank if it
//   merges) and the single windows of lower index. W^2 comparisons of an image, on indices only: 256 to 2304 windows
//   are usual, and counting needs no sort, no scan and no limit on their number.
// Pass 3, scatterKernel: one warp per window. Copies the mean, or the tokens of a single window, to their places and
//   writes sizes, token_map, cu_seqlens and count. Images run backwards: the last ones read in pass 1 are still in L2.
//
// Traffic, X = bytes of x, f = share of windows that merge, m = window size: reads X + f X/m + (1-f) X, writes
// f X/m twice and (1-f) X. Floor: X read, f X/m + (1-f) X written. At m = 4 and f = 0.53 (60 % of the tokens stay) that
// is 2.3 X against 1.6 X before any hit in L2; where x fits in L2 the second reading does not reach memory.
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "algm.h"
#include "common/images.cuh"
#include "common/launch.cuh"
#include "common/rows.cuh"
#include "common/validity.h"
#include "common/warp.cuh"
#include "local_merge/window_order.h"

namespace algm {
namespace {

constexpr int kWarps = 8;
constexpr int kOrderThreads = 256;                           // also keys at a time
constexpr int kOrderSlices = kOrderThreads / 32;             // threads of a window
constexpr int kOrderWindows = kOrderThreads / kOrderSlices;  // of a block, and keys that its slices take at a time
constexpr int kQuad = 4;                                     // members of the windows with a kernel of their own
constexpr int kMaxChunks = 4;  // of 32 vectors: rows of up to 1024 halves or 512 floats fit in registers

struct LocalShape {
  WindowGrid grid;
  int batch;
  int channels;
  int gridTokens;   // N0
  int extraTokens;  // E

  __device__ __forceinline__ int64_t row(int image, int gridToken) const {
    return int64_t(image) * (extraTokens + gridTokens) + extraTokens + gridToken;
  }
};

// Scratch memory; layouts in the comments.
struct LocalScratch {
  uint32_t* keys;         // (B, W) mergeKey
  int32_t* ranks;         // (B, W) place among the merging windows, if it merges
  int32_t* singles;       // (B, W+1) single windows of lower index; the last is their number
  float* inverseLengths;  // (B, N0) used by windowSimilarityKernel only
  void* means;            // (B, W, C) x: means of merging windows, the rest never written
  size_t bytes;
};

// (|sum of unit tokens|^2 - m) / (m (m-1)).
__device__ __forceinline__ float meanCosine(float squaredSum, int members) {
  const float m = static_cast<float>(members);
  return (squaredSum - m) / (m * (m - 1.0f));
}

// Sums of four values over the warp: lane i gets that of value i / 8.
__device__ __forceinline__ float warpSumOfQuad(const float (&values)[kQuad], int lane) {
  const bool upper = lane & 16, odd = lane & 8;
  float pair[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    pair[i] = (upper ? values[i + 2] : values[i]) + __shfl_xor_sync(~0u, upper ? values[i] : values[i + 2], 16);
  }
  float sum = (odd ? pair[1] : pair[0]) + __shfl_xor_sync(~0u, odd ? pair[0] : pair[1], 8);
#pragma unroll
  for (int mask = 4; mask > 0; mask >>= 1) sum += __shfl_xor_sync(~0u, sum, mask);
  return sum;
}

// Pass 1 for windows of four tokens whose rows take kChunks vectors a lane, all of them full but the last.
template <typename T, int V, int kChunks>
__global__ void __launch_bounds__(kWarps * 32)
    quadSimilarityKernel(LocalShape shape, const T* __restrict__ x, const float* __restrict__ threshold,
                         uint32_t* __restrict__ keys, T* __restrict__ means) {
  const int lane = threadIdx.x % 32;
  const int window = blockIdx.x * kWarps + threadIdx.x / 32;
  const int image = blockIdx.y;
  if (window >= shape.grid.windows) return;

  const float limit = *threshold;  // under way together with the rows
  const int first = shape.grid.tokenOfRow(window, 0);
  const int shift = shape.grid.windowWidth / 2;  // the logarithm of 1, 2 or 4
  Words<T, V> tokens[kQuad][kChunks];
#pragma unroll
  for (int member = 0; member < kQuad; ++member) {
    const int token = first + (member >> shift) * shape.grid.gridWidth + (member & (shape.grid.windowWidth - 1));
    const T* row = x + shape.row(image, token) * shape.channels;
#pragma unroll
    for (int chunk = 0; chunk < kChunks; ++chunk) {
      // Lanes beyond the row read its begin and take zeros; no branch, which would take packs of halves apart.
      const int channel = (chunk * 32 + lane) * V;
      const bool inside = chunk + 1 < kChunks || channel < shape.channels;
      tokens[member][chunk] = loadWords<T, V>(row + (inside ? channel : 0));
      for (uint32_t& word : tokens[member][chunk].values) word &= inside ? ~0u : 0u;
    }
  }

  float squares[kQuad] = {};
#pragma unroll
  for (int member = 0; member < kQuad; ++member) {
#pragma unroll
    for (int chunk = 0; chunk < kChunks; ++chunk) {
      const Pack<T, V> pack = elementsOf<T, V>(tokens[member][chunk]);
#pragma unroll
      for (int i = 0; i < V; ++i) squares[member] += toFloat(pack.values[i]) * toFloat(pack.values[i]);
    }
  }
  const float ownInverse = inverseLength(warpSumOfQuad(squares, lane));
  float inverse[kQuad];
#pragma unroll
  for (int member = 0; member < kQuad; ++member) inverse[member] = __shfl_sync(~0u, ownInverse, 8 * member);

  float squaredSum = 0.0f;
#pragma unroll
  for (int chunk = 0; chunk < kChunks; ++chunk) {
    float sums[V] = {};
#pragma unroll
    for (int member = 0; member < kQuad; ++member) {
      const Pack<T, V> pack = elementsOf<T, V>(tokens[member][chunk]);
#pragma unroll
      for (int i = 0; i < V; ++i) sums[i] += toFloat(pack.values[i]) * inverse[member];
    }
#pragma unroll
    for (int i = 0; i < V; ++i) squaredSum += sums[i] * sums[i];
  }
  const uint32_t key = mergeKey(meanCosine(warpSum(squaredSum), kQuad), limit);
  const int64_t slot = int64_t(image) * shape.grid.windows + window;
  if (lane == 0) keys[slot] = key;
  if (key == kSingle) return;

#pragma unroll
  for (int chunk = 0; chunk < kChunks; ++chunk) {
    const int channel = (chunk * 32 + lane) * V;
    if (chunk + 1 == kChunks && channel >= shape.channels) continue;
    float sums[V] = {};
#pragma unroll
    for (int member = 0; member < kQuad; ++member) {
      const Pack<T, V> pack = elementsOf<T, V>(tokens[member][chunk]);
#pragma unroll
      for (int i = 0; i < V; ++i) sums[i] += toFloat(pack.values[i]);
    }
    Pack<T, V> mean;
#pragma unroll
    for (int i = 0; i < V; ++i) mean.values[i] = fromFloat<T>(sums[i] / kQuad);
    storePack<T, V>(means + slot * shape.channels + channel, mean);
  }
}

// Pass 1 for any window. `inverseLengths` passes the lengths from the first reading to the second.
template <typename T, int V>
__global__ void __launch_bounds__(kWarps * 32)
    windowSimilarityKernel(LocalShape shape, const T* __restrict__ x, const float* __restrict__ threshold,
                           uint32_t* __restrict__ keys, T* __restrict__ means, float* inverseLengths) {
  const int lane = threadIdx.x % 32;
  const int window = blockIdx.x * kWarps + threadIdx.x / 32;
  const int image = blockIdx.y;
  if (window >= shape.grid.windows) return;
  const int members = shape.grid.members();
  float* inverse = inverseLengths + int64_t(image) * shape.gridTokens;

  for (int member = 0; member < members; ++member) {
    const int token = shape.grid.token(window, member);
    const T* row = x + shape.row(image, token) * shape.channels;
    float squares = 0.0f;
    for (int channel = lane * V; channel < shape.channels; channel += 32 * V) {
      const Pack<T, V> pack = loadPack<T, V>(row + channel);
#pragma unroll
      for (int i = 0; i < V; ++i) squares += toFloat(pack.values[i]) * toFloat(pack.values[i]);
    }
    squares = warpSum(squares);
    if (lane == 0) inverse[token] = inverseLength(squares);
  }
  __syncwarp();

  float squaredSum = 0.0f;
  for (int channel = lane * V; channel < shape.channels; channel += 32 * V) {
    float sums[V] = {};
    for (int member = 0; member < members; ++member) {
      const int token = shape.grid.token(window, member);
      const Pack<T, V> pack = loadPack<T, V>(x + shape.row(image, token) * shape.channels + channel);
#pragma unroll
      for (int i = 0; i < V; ++i) sums[i] += toFloat(pack.values[i]) * inverse[token];
    }
#pragma unroll
    for (int i = 0; i < V; ++i) squaredSum += sums[i] * sums[i];
  }
  const uint32_t key = mergeKey(meanCosine(warpSum(squaredSum), members), *threshold);
  const int64_t slot = int64_t(image) * shape.grid.windows + window;
  if (lane == 0) keys[slot] = key;
  if (key == kSingle) return;

  for (int channel = lane * V; channel < shape.channels; channel += 32 * V) {
    float sums[V] = {};
    for (int member = 0; member < members; ++member) {
      const T* row = x + shape.row(image, shape.grid.token(window, member)) * shape.channels;
      const Pack<T, V> pack = loadPack<T, V>(row + channel);
#pragma unroll
      for (int i = 0; i < V; ++i) sums[i] += toFloat(pack.values[i]);
    }
    Pack<T, V> mean;
#pragma unroll
    for (int i = 0; i < V; ++i) mean.values[i] = fromFloat<T>(sums[i] / static_cast<float>(members));
    storePack<T, V>(means + slot * shape.channels + channel, mean);
  }
}

// Pass 2. The keys of the image pass through shared memory tile by tile; eight threads compare their window with all,
// four neighbouring ones at a time. Only among the block's own windows must each index be looked at.
__global__ void __launch_bounds__(kOrderThreads)
    orderKernel(int windows, const uint32_t* __restrict__ keys, int32_t* __restrict__ ranks,
                int32_t* __restrict__ singles) {
  alignas(16) __shared__ uint32_t tile[kOrderThreads];
  __shared__ uint32_t singleBits[kOrderSlices];  // which keys of the tile are kSingle
  const int image = blockIdx.y;
  const int slice = threadIdx.x % kOrderSlices;
  const int firstWindow = blockIdx.x * kOrderWindows, window = firstWindow + threadIdx.x / kOrderSlices;
  const uint32_t* imageKeys = keys + int64_t(image) * windows;
  const uint32_t key = window < windows ? imageKeys[window] : kSingle;
  int rank = 0;
  int single = 0;
  const auto countBelow = [&](uint32_t bound, int from, int to) {
#pragma unroll 2
    for (int i = from + 4 * slice; i < to; i += 4 * kOrderSlices) {
      for (uint32_t other : loadPack<uint32_t, 4>(tile + i).values) rank += other < bound;
    }
  };
  for (int start = 0; start < windows; start += kOrderThreads) {
    const int loaded = start + threadIdx.x;
    const uint32_t loadedKey = loaded < windows ? imageKeys[loaded] : kSingle;
    tile[threadIdx.x] = loadedKey;
    const unsigned bits = __ballot_sync(~0u, loadedKey == kSingle);
    if (threadIdx.x % 32 == 0) singleBits[threadIdx.x / 32] = bits;
    __syncthreads();
    const int end = windows - start < kOrderThreads ? windows - start : kOrderThreads;
    const int own = firstWindow - start;  // where the block's windows are in the tile, if they are
    countBelow(key + 1, 0, own < end ? own : end);
    if (own >= 0 && own < end) {
#pragma unroll
      for (int i = own + slice; i < own + kOrderWindows; i += kOrderSlices) {
        rank += standsBefore(tile[i], start + i, key, window);
      }
    }
    countBelow(key, own < 0 ? 0 : own + kOrderWindows, end);
    single += __popc(singleBits[slice] & bitsBelow(window - start - 32 * slice));
    __syncthreads();
  }
#pragma unroll
  for (int mask = kOrderSlices / 2; mask > 0; mask >>= 1) {
    rank += __shfl_xor_sync(~0u, rank, mask);
    single += __shfl_xor_sync(~0u, single, mask);
  }
  if (slice != 0) return;
  if (window < windows) ranks[int64_t(image) * windows + window] = rank;
  // Window `windows` is one past the last one, and all single ones are of lower index.
  if (window <= windows) singles[int64_t(image) * (windows + 1) + window] = single;
}

// Pass 3. "Window" W of an image are its extra tokens; that warp also writes the image's cu_seqlens.
template <typename T, int V>
__global__ void __launch_bounds__(kWarps * 32)
    scatterKernel(LocalShape shape, const T* __restrict__ x, const uint32_t* __restrict__ keys,
                  const int32_t* __restrict__ ranks, const int32_t* __restrict__ singles, const T* __restrict__ means,
                  T* __restrict__ y, int32_t* __restrict__ sizes, int32_t* __restrict__ cuSeqlens,
                  int32_t* __restrict__ tokenMap, int32_t* __restrict__ count) {
  const int lane = threadIdx.x % 32;
  const int window = (gridDim.x - 1 - blockIdx.x) * kWarps + threadIdx.x / 32;
  const int image = gridDim.y - 1 - blockIdx.y;
  const int windows = shape.grid.windows;
  if (window > windows) return;

  // What says where the window goes, and the counts of the images before, are under way together.
  const int channels = shape.channels;
  const int32_t* imageSingles = singles + int64_t(image) * (windows + 1);
  const int64_t slot = int64_t(image) * windows + (window < windows ? window : 0);
  const uint32_t key = keys[slot];
  const int rank = ranks[slot];
  const int rowStart = window - window % shape.grid.windowsPerRow;
  const int before = imageSingles[window], beforeRow = imageSingles[rowStart], all = imageSingles[windows];
  const auto keptBy = [&](int b) {
    return keptTokens(shape.grid, shape.extraTokens, singles[int64_t(b) * (windows + 1) + windows]);
  };
  const int64_t base = imageOffset(image, lane, keptBy);

  if (window == windows) {
    copyByWarp<T, V>(y + base * channels, x + shape.row(image, -shape.extraTokens) * channels,
                     shape.extraTokens * channels, lane);
    if (lane < shape.extraTokens) sizes[base + lane] = 1;
    if (lane == 0) {
      cuSeqlens[image] = static_cast<int32_t>(base);
      if (image == shape.batch - 1) cuSeqlens[shape.batch] = *count = static_cast<int32_t>(base) + keptBy(image);
    }
    return;
  }

  int32_t* imageMap = tokenMap + int64_t(image) * shape.gridTokens;
  if (key != kSingle) {
    const int place = shape.extraTokens + rank;
    copyByWarp<T, V>(y + (base + place) * channels, means + slot * channels, channels, lane);
    if (lane == 0) sizes[base + place] = shape.grid.members();
    for (int member = lane; member < shape.grid.members(); member += 32) {
      imageMap[shape.grid.token(window, member)] = place;
    }
    return;
  }
  const int firstSingle = shape.extraTokens + windows - all;
  const int afterRow = imageSingles[rowStart + shape.grid.windowsPerRow];
  for (int row = 0; row < shape.grid.windowHeight; ++row) {
    const int place = firstSingle + singlePlace(shape.grid, row, before, beforeRow, afterRow);
    const int token = shape.grid.tokenOfRow(window, row);
    copyByWarp<T, V>(y + (base + place) * channels, x + shape.row(image, token) * channels,
                     shape.grid.windowWidth * channels, lane);
    for (int i = lane; i < shape.grid.windowWidth; i += 32) {
      sizes[base + place + i] = 1;
      imageMap[token + i] = place + i;
    }
  }
}

LocalShape shapeOf(const AlgmLocalMergeParams& p) {
  return {makeWindowGrid(p.grid_height, p.grid_width, p.window_height, p.window_width), p.batch, p.channels,
          p.grid_height * p.grid_width, p.extra_tokens};
}

LocalScratch scratchOf(const AlgmLocalMergeParams& p, void* workspace) {
  const LocalShape shape = shapeOf(p);
  const size_t windows = size_t(p.batch) * shape.grid.windows;
  Workspace space(workspace);
  LocalScratch scratch;
  scratch.keys = space.take<uint32_t>(windows);
  scratch.ranks = space.take<int32_t>(windows);
  scratch.singles = space.take<int32_t>(windows + p.batch);
  scratch.inverseLengths = space.take<float>(size_t(p.batch) * shape.gridTokens);
  scratch.means = space.take<char>(windows * p.channels * elementBytes(p.dtype));
  scratch.bytes = space.bytes();
  return scratch;
}

template <typename T, int V>
AlgmStatus launchSimilarity(const LocalShape& shape, const LocalScratch& scratch, const T* x, const float* threshold,
                            cudaStream_t stream) {
  const dim3 grid(ceilDiv(shape.grid.windows, kWarps), shape.batch);
  const dim3 block(kWarps * 32);
  T* means = static_cast<T*>(scratch.means);
  const int chunks = ceilDiv(shape.channels, 32 * V);
  if constexpr (V > 1) {
    const auto launchQuad = [&](auto kernel) {
      return launch(kernel, grid, block, 0, stream, shape, x, threshold, scratch.keys, means);
    };
    static_assert(kMaxChunks == 4);
    if (shape.grid.members() == kQuad) {
      // Rows of 384 halves, ViT-S's, fill three chunks of half the width, but not two.
      if constexpr (V == 8) {
        if (chunks == 2 && shape.channels <= 384) return launchQuad(quadSimilarityKernel<T, 4, 3>);
      }
      if (chunks == 1) return launchQuad(quadSimilarityKernel<T, V, 1>);
      if (chunks == 2) return launchQuad(quadSimilarityKernel<T, V, 2>);
      if (chunks == 3) return launchQuad(quadSimilarityKernel<T, V, 3>);
      if (chunks == 4) return launchQuad(quadSimilarityKernel<T, V, 4>);
    }
  }
  return launch(windowSimilarityKernel<T, V>, grid, block, 0, stream, shape, x, threshold, scratch.keys, means,
                scratch.inverseLengths);
}

}  // namespace

bool isValid(const AlgmLocalMergeParams* p) {
  if (p == nullptr || !isDtype(p->dtype) || !inRange(p->batch, 1, kMaxBatch)) return false;
  if (!inRange(p->channels, 1, 1 << 20)) return false;
  if (!inRange(p->grid_height, 1, 4096) || !inRange(p->grid_width, 1, 4096)) return false;
  if (!inRange(p->window_height, 1, 64) || !inRange(p->window_width, 1, 64)) return false;
  if (p->grid_height % p->window_height != 0 || p->grid_width % p->window_width != 0) return false;
  if (p->window_height * p->window_width < 2 || !inRange(p->extra_tokens, 1, 2)) return false;
  return inRange(int64_t(p->batch) * (p->extra_tokens + p->grid_height * p->grid_width), 1, kMaxRows);
}

}  // namespace algm

extern "C" size_t algm_local_merge_workspace(const AlgmLocalMergeParams* params) {
  return algm::isValid(params) ? algm::scratchOf(*params, nullptr).bytes : 0;
}

extern "C" AlgmStatus algm_local_merge(const AlgmLocalMergeParams* params, const void* x, const float* threshold,
                                       void* y, int32_t* sizes, int32_t* cu_seqlens, int32_t* token_map, int32_t* count,
                                       void* workspace, size_t workspace_bytes, cudaStream_t stream) {
  using namespace algm;
  if (!isValid(params) || !isUsable(x) || !isUsable(y) || !isUsableScalar(threshold) || !isUsableScalar(sizes) ||
      !isUsableScalar(cu_seqlens) || !isUsableScalar(token_map) || !isUsableScalar(count)) {
    return ALGM_INVALID_ARGUMENT;
  }
  const LocalScratch scratch = scratchOf(*params, workspace);
  ALGM_RETURN_IF_ERROR(checkWorkspace(workspace, workspace_bytes, scratch.bytes));
  const LocalShape shape = shapeOf(*params);
  const int windows = shape.grid.windows;

  return withRowType(params->dtype, shape.channels, [&](auto type) {
    using T = typename decltype(type)::Scalar;
    constexpr int V = decltype(type)::kVector;
    const T* rows = static_cast<const T*>(x);
    ALGM_RETURN_IF_ERROR((launchSimilarity<T, V>(shape, scratch, rows, threshold, stream)));
    const dim3 orderGrid(ceilDiv(windows + 1, kOrderWindows), shape.batch);
    ALGM_RETURN_IF_ERROR(launch(orderKernel, orderGrid, dim3(kOrderThreads), 0, stream, windows, scratch.keys,
                                scratch.ranks, scratch.singles));
    const dim3 scatterGrid(ceilDiv(windows + 1, kWarps), shape.batch);
    return launch(scatterKernel<T, V>, scatterGrid, dim3(kWarps * 32), 0, stream, shape, rows, scratch.keys,
                  scratch.ranks, scratch.singles, static_cast<const T*>(scratch.means), static_cast<T*>(y), sizes,
                  cu_seqlens, token_map, count);
  });
}
