// AlgmGlobalMerge: in each image, tokens at even positions merge into their most similar token at an odd position.
//
// Pass 1, similarityHalfKernel or similarityFloatKernel: best destination of every source, by tiles of the similarity
//   product with a running arg-max; the n/2 x n/2 matrix never reaches memory.
// Pass 2, decideKernel: one block per image. Mean and deviation of the best similarities (sums in fixed order),
//   threshold, who merges, where every token goes, and the composed token_map. Indices and similarities only.
// Pass 3, mergeRowsKernel: one warp per input token. Moves tokens that stay; a destination adds its sources in
//   ascending order, found by scanning the image's list of destinations 32 at a time: no atomics, no sort.
//
// Traffic, X = bytes of x, Y of y: pass 1 reads each image from L2 about n/128 times, from memory once; pass 3 reads X
// and writes Y. Floor: 2 (n/2)^2 C operations an image on tensor cores, X read once, Y written once.
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cub/block/block_reduce.cuh>
#include <cub/block/block_scan.cuh>

#include "algm.h"
#include "common/images.cuh"
#include "common/launch.cuh"
#include "common/rows.cuh"
#include "global_merge/pairing.h"
#include "global_merge/similarity_float.cuh"
#include "global_merge/similarity_half.cuh"

namespace algm {
namespace {

constexpr int kMaxSplits = 8;  // of an image's destinations among blocks
constexpr int kDecideThreads = 512;
constexpr int kWarps = 8;

// Scratch memory; T rows of tokens.
struct GlobalScratch {
  Match* matches;      // (splits, T) at the rows of sources: best destination of each split
  int32_t* targets;    // (T) at begin + s: token that source s of the image merges into, or -1
  int32_t* places;     // (T) place in its image's output; of a source that merges, its destination's
  int32_t* receives;   // (T) at destinations: whether a source merges into it
  int32_t* lengths;    // (B) tokens that each image keeps
  size_t bytes;
};

// Pass 2.
__global__ void __launch_bounds__(kDecideThreads)
    decideKernel(const int32_t* __restrict__ cuSeqlens, const int32_t* __restrict__ tokenMap, int tokens, int maxTokens,
                 int patches, int layer, int extraTokens, int splits, GlobalScratch scratch,
                 int32_t* __restrict__ newTokenMap) {
  using Reduce = cub::BlockReduce<float, kDecideThreads>;
  using Scan = cub::BlockScan<int, kDecideThreads>;
  __shared__ union {
    typename Reduce::TempStorage reduce;
    typename Scan::TempStorage scan;
  } temporary;
  __shared__ float broadcast;

  const int image = blockIdx.x, thread = threadIdx.x;
  const ImageRange range = imageRange(cuSeqlens, image, tokens, maxTokens);
  const Pairing pairing = makePairing(range.count, extraTokens);
  Match* matches = scratch.matches + range.begin;
  int32_t* targets = scratch.targets + range.begin;
  int32_t* places = scratch.places + range.begin;
  int32_t* receives = scratch.receives + range.begin;

  // Sum over the block of what each thread has, the same in all threads.
  const auto blockSum = [&](float value) {
    __syncthreads();
    const float sum = Reduce(temporary.reduce).Sum(value);
    if (thread == 0) broadcast = sum;
    __syncthreads();
    return broadcast;
  };

  // Best match of every source over the splits; a thread reads back only what it wrote itself.
  float threshold = 0.0f;
  if (pairing.canMerge()) {
    const int tiles = ceilDiv(pairing.destinations, kTile);
    const int usedSplits = tiles < splits ? tiles : splits;
    float sum = 0.0f;
    for (int s = thread; s < pairing.sources; s += kDecideThreads) {
      Match best = matches[Pairing::sourceToken(s)];
      for (int split = 1; split < usedSplits; ++split) {
        const Match other = matches[int64_t(split) * tokens + Pairing::sourceToken(s)];
        if (isBetter(other, best)) best = other;
      }
      matches[Pairing::sourceToken(s)] = best;
      sum += best.similarity;
    }
    const float mean = blockSum(sum) / static_cast<float>(pairing.sources);
    float squares = 0.0f;
    for (int s = thread; s < pairing.sources; s += kDecideThreads) {
      const float difference = matches[Pairing::sourceToken(s)].similarity - mean;
      squares += difference * difference;
    }
    const float deviation = sqrtf(blockSum(squares) / static_cast<float>(pairing.sources - 1));
    threshold = mean + deviation / static_cast<float>(layer);
  }

  // Sources that stay take the places behind the extra tokens, in order.
  int staying = 0;
  for (int start = 0; start < pairing.sources; start += kDecideThreads) {
    const int s = start + thread;
    bool stays = false;
    if (s < pairing.sources) {
      const Match match = pairing.canMerge() ? matches[Pairing::sourceToken(s)] : noMatch();
      const bool merges = match.index >= 0 && match.index < pairing.destinations && match.similarity >= threshold;
      targets[s] = merges ? pairing.destinationToken(match.index) : -1;
      stays = !merges;
    }
    int before, total;
    __syncthreads();
    Scan(temporary.scan).ExclusiveSum(int(stays), before, total);
    if (stays) places[Pairing::sourceToken(s)] = pairing.extraTokens + staying + before;
    staying += total;
  }
  for (int token = thread; token < pairing.extraTokens; token += kDecideThreads) places[token] = token;
  for (int d = thread; d < pairing.destinations; d += kDecideThreads) {
    places[pairing.destinationToken(d)] = pairing.destinationPlace(d, staying);
    receives[pairing.destinationToken(d)] = 0;
  }
  __syncthreads();
  for (int s = thread; s < pairing.sources; s += kDecideThreads) {
    const int target = targets[s];
    if (target < 0 || target >= range.count) continue;  // overlapping images of a garbage cu_seqlens share these rows
    places[Pairing::sourceToken(s)] = places[target];
    receives[target] = 1;  // several sources may write it, all the same value
  }
  __syncthreads();

  for (int i = thread; i < patches; i += kDecideThreads) {
    const int64_t at = int64_t(image) * patches + i;
    newTokenMap[at] = range.count > 0 ? places[clampIndex(tokenMap[at], 0, range.count - 1)] : 0;
  }
  if (thread == 0) scratch.lengths[image] = pairing.extraTokens + staying + pairing.destinations;
}

// A destination with all its sources, weighted by their sizes: one warp, kGroup vectors a lane at a time.
template <typename T, int V>
__device__ __forceinline__ void mergeRow(T* target, int32_t* targetSize, const T* image, const int32_t* sizes,
                                         const int32_t* targets, int sources, int token, int channels, int lane) {
  constexpr int kGroup = 4;
  for (int start = 0; start < channels; start += kGroup * 32 * V) {
    float sums[kGroup][V];
    const auto add = [&](int addend, bool first) {
      const float size = static_cast<float>(sizes[addend]);
      const T* row = image + int64_t(addend) * channels;
#pragma unroll
      for (int i = 0; i < kGroup; ++i) {
        const int channel = start + (i * 32 + lane) * V;
        if (channel >= channels) continue;
        const Pack<T, V> pack = loadPack<T, V>(row + channel);
        // Rounded after each operation, as in the definition: FP32 results are those of any other implementation.
#pragma unroll
        for (int j = 0; j < V; ++j) {
          const float product = __fmul_rn(toFloat(pack.values[j]), size);
          sums[i][j] = first ? product : __fadd_rn(sums[i][j], product);
        }
      }
    };
    add(token, true);
    int size = sizes[token];
    float weight = static_cast<float>(size);
    for (int first = 0; first < sources; first += 32) {
      const int s = first + lane;
      unsigned found = __ballot_sync(~0u, s < sources && targets[s] == token);
      for (; found != 0; found &= found - 1) {
        const int source = Pairing::sourceToken(first + __ffs(found) - 1);
        add(source, false);
        size += sizes[source];
        weight += static_cast<float>(sizes[source]);
      }
    }
#pragma unroll
    for (int i = 0; i < kGroup; ++i) {
      const int channel = start + (i * 32 + lane) * V;
      if (channel >= channels) continue;
      Pack<T, V> pack;
#pragma unroll
      for (int j = 0; j < V; ++j) pack.values[j] = fromFloat<T>(sums[i][j] / weight);
      storePack<T, V>(target + channel, pack);
    }
    if (lane == 0) *targetSize = size;
  }
}

// Pass 3.
template <typename T, int V>
__global__ void __launch_bounds__(kWarps * 32)
    mergeRowsKernel(const T* __restrict__ x, const int32_t* __restrict__ sizes, const int32_t* __restrict__ cuSeqlens,
                    int batch, int tokens, int maxTokens, int channels, int extraTokens, GlobalScratch scratch,
                    T* __restrict__ y, int32_t* __restrict__ newSizes, int32_t* __restrict__ newCuSeqlens,
                    int32_t* __restrict__ count) {
  const int lane = threadIdx.x % 32;
  const int token = blockIdx.x * kWarps + threadIdx.x / 32;
  const int image = blockIdx.y;
  const ImageRange range = imageRange(cuSeqlens, image, tokens, maxTokens);
  if (token >= range.count && token > 0) return;

  // The sum may only exceed the buffer when cu_seqlens is garbage and images overlap.
  const auto lengthOf = [&](int b) { return scratch.lengths[b]; };
  const int base = clampIndex(imageOffset(image, lane, lengthOf), 0, tokens);
  if (token == 0 && lane == 0) {
    newCuSeqlens[image] = base;
    if (image == batch - 1) newCuSeqlens[batch] = *count = clampIndex(base + lengthOf(image), 0, tokens);
  }
  if (token >= range.count) return;

  const Pairing pairing = makePairing(range.count, extraTokens);
  const int32_t* targets = scratch.targets + range.begin;
  if (!pairing.isExtra(token) && Pairing::isSource(token) && targets[Pairing::sourceOf(token)] >= 0) return;
  const int row = base + scratch.places[range.begin + token];
  if (row < 0 || row >= tokens) return;
  const T* imageRows = x + int64_t(range.begin) * channels;
  T* target = y + int64_t(row) * channels;
  const bool isDestination = !pairing.isExtra(token) && !Pairing::isSource(token);
  if (isDestination && scratch.receives[range.begin + token] == 1) {
    mergeRow<T, V>(target, newSizes + row, imageRows, sizes + range.begin, targets, pairing.sources, token, channels,
                   lane);
    return;
  }
  copyByWarp<T, V>(target, imageRows + int64_t(token) * channels, channels, lane);
  if (lane == 0) newSizes[row] = sizes[range.begin + token];
}

bool isValid(const AlgmGlobalMergeParams* p) {
  return p != nullptr && isDtype(p->dtype) && inRange(p->batch, 1, kMaxBatch) && inRange(p->tokens, 1, kMaxRows) &&
         inRange(p->channels, 1, 1 << 20) && inRange(p->patches, 1, kMaxRows) && inRange(p->layer, 1, 1024) &&
         inRange(p->extra_tokens, 1, 2) && inRange(p->max_tokens, 1, 1 << 20);
}

// Sources, and destinations, that an image can have at most.
int maxSources(const AlgmGlobalMergeParams& p) { return ceilDiv(p.max_tokens < p.tokens ? p.max_tokens : p.tokens, 2); }

int splitsOf(const AlgmGlobalMergeParams& p) {
  const int tiles = ceilDiv(maxSources(p), kTile);
  return tiles < kMaxSplits ? tiles : kMaxSplits;
}

GlobalScratch scratchOf(const AlgmGlobalMergeParams& p, void* workspace) {
  Workspace space(workspace);
  GlobalScratch scratch;
  scratch.matches = space.take<Match>(size_t(splitsOf(p)) * p.tokens);
  scratch.targets = space.take<int32_t>(p.tokens);
  scratch.places = space.take<int32_t>(p.tokens);
  scratch.receives = space.take<int32_t>(p.tokens);
  scratch.lengths = space.take<int32_t>(p.batch);
  scratch.bytes = space.bytes();
  return scratch;
}

template <typename T, int V>
AlgmStatus launchSimilarity(const AlgmGlobalMergeParams& p, const T* x, const int32_t* cuSeqlens,
                            const GlobalScratch& scratch, cudaStream_t stream) {
  static_assert(kTile == kFloatTile);
  const int splits = splitsOf(p);
  const dim3 grid(ceilDiv(maxSources(p), kTile) * splits, p.batch);
  if constexpr (V == 8) {
    return launch(similarityHalfKernel, grid, dim3(kHalfThreads), 0, stream, x, cuSeqlens, p.tokens, p.max_tokens,
                  p.channels, p.extra_tokens, splits, scratch.matches);
  } else {
    return launch(similarityFloatKernel<T>, grid, dim3(kFloatThreads), 0, stream, x, cuSeqlens, p.tokens, p.max_tokens,
                  p.channels, p.extra_tokens, splits, scratch.matches);
  }
}

}  // namespace
}  // namespace algm

extern "C" size_t algm_global_merge_workspace(const AlgmGlobalMergeParams* params) {
  return algm::isValid(params) ? algm::scratchOf(*params, nullptr).bytes : 0;
}

extern "C" AlgmStatus algm_global_merge(const AlgmGlobalMergeParams* params, const void* x, const int32_t* sizes,
                                        const int32_t* cu_seqlens, const int32_t* token_map, void* y,
                                        int32_t* new_sizes, int32_t* new_cu_seqlens, int32_t* new_token_map,
                                        int32_t* count, void* workspace, size_t workspace_bytes, cudaStream_t stream) {
  using namespace algm;
  if (!isValid(params) || !isUsable(x) || !isUsable(y) || !isUsableScalar(sizes) || !isUsableScalar(cu_seqlens) ||
      !isUsableScalar(token_map) || !isUsableScalar(new_sizes) || !isUsableScalar(new_cu_seqlens) ||
      !isUsableScalar(new_token_map) || !isUsableScalar(count)) {
    return ALGM_INVALID_ARGUMENT;
  }
  const AlgmGlobalMergeParams& p = *params;
  const GlobalScratch scratch = scratchOf(p, workspace);
  ALGM_RETURN_IF_ERROR(checkWorkspace(workspace, workspace_bytes, scratch.bytes));

  return withRowType(p.dtype, p.channels, [&](auto type) {
    using T = typename decltype(type)::Scalar;
    constexpr int V = decltype(type)::kVector;
    const T* rows = static_cast<const T*>(x);
    ALGM_RETURN_IF_ERROR((launchSimilarity<T, V>(p, rows, cu_seqlens, scratch, stream)));
    ALGM_RETURN_IF_ERROR(launch(decideKernel, dim3(p.batch), dim3(kDecideThreads), 0, stream, cu_seqlens, token_map,
                                p.tokens, p.max_tokens, p.patches, p.layer, p.extra_tokens, splitsOf(p), scratch,
                                new_token_map));
    const dim3 grid(ceilDiv(p.max_tokens < p.tokens ? p.max_tokens : p.tokens, kWarps), p.batch);
    return launch(mergeRowsKernel<T, V>, grid, dim3(kWarps * 32), 0, stream, rows, sizes, cu_seqlens, p.batch, p.tokens,
                  p.max_tokens, p.channels, p.extra_tokens, scratch, static_cast<T*>(y), new_sizes, new_cu_seqlens,
                  count);
  });
}
