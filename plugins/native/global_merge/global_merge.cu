// AlgmGlobalMerge: in each image, tokens at even positions merge into their most similar token at an odd position.
//
// Pass 1, similarityHalfKernel or similarityFloatKernel: best destination of every source, by tiles of the similarity
//   product with a running arg-max; the n/2 x n/2 matrix never reaches memory.
// Pass 2, decideKernel: one block per image. Mean and deviation of the best similarities (sums in fixed order),
//   threshold, who merges, how many tokens are left. Similarities only.
// Pass 3, mergeRowsKernel: a block per 32 tokens of an image. Moves tokens that stay; a destination adds its sources in
//   ascending order, found by scanning the image's list of them: no atomics, no sort. Also the composed token_map.
//
// Traffic, X = bytes of x, Y of y: pass 1 reads each image from L2 about n/256 times, from memory once; pass 3 reads X
// and writes Y. Floor: 2 (n/2)^2 C operations an image on tensor cores, X read once, Y written once.
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cub/block/block_reduce.cuh>
#include <cub/block/block_scan.cuh>
#include <type_traits>

#include "algm.h"
#include "common/images.cuh"
#include "common/launch.cuh"
#include "common/rows.cuh"
#include "common/validity.h"
#include "global_merge/global_shape.cuh"
#include "global_merge/pairing.h"
#include "global_merge/similarity_float.cuh"
#include "global_merge/similarity_half.cuh"

namespace algm {
namespace {

constexpr int kMaxImageTokens = 1 << 20;
constexpr int kMaxSplits = 16;  // of an image's destinations among blocks: a tile each in images of up to 4096 tokens
// Pieces of work of pass 1 are counted in 32 bits, with room for a last round of the grid.
static_assert((uint64_t(kMaxImageTokens / 2 / kHalfTile) * kMaxSplits + 1) * kMaxBatch < uint64_t(1) << 32);
constexpr int kDecideThreads = 512;
constexpr int kSplitsAtOnce = 8;  // of which the deciding block reads the matches
constexpr int kCachedMatches = 2048;  // in shared memory of the deciding block; of longer images the others in scratch
constexpr int kWarps = 8;
constexpr int kRowsPerWarp = 4;
constexpr int kRowBlocks = 4;  // of pass 3 on a multiprocessor
constexpr int kSumVectors = 3;  // of a row that is summed, a lane's at a time

// Scratch memory; T rows of tokens.
struct GlobalScratch {
  Match* matches;     // (splits, T) at begin + s: of source s of the image, its best destination of each split
  int32_t* codes;     // (T) at begin + s: of source s of the image, see Pairing::placeOf
  int32_t* receives;  // (T) at begin + d: whether a source merges into destination d of the image
  int32_t* lengths;   // (B) tokens that each image keeps
  size_t bytes;
};

// The best match of every source of an image; a thread reads only what it wrote itself.
struct MatchStore {
  Match* cached;   // shared memory
  Match* scratch;  // of the image

  __device__ __forceinline__ Match load(int s) const {
    return s < kCachedMatches ? cached[s] : scratch[s];
  }
  __device__ __forceinline__ void store(int s, Match match) const {
    if (s < kCachedMatches) {
      cached[s] = match;
    } else {
      scratch[s] = match;
    }
  }
};

// Pass 2. `tile`: destinations of a tile of pass 1. There are few blocks, an image each: registers are plenty.
__global__ void __launch_bounds__(kDecideThreads, 1)
    decideKernel(GlobalShape shape, const int32_t* __restrict__ cuSeqlens, int layer, int splits, int tile,
                 GlobalScratch scratch) {
  using Reduce = cub::BlockReduce<float, kDecideThreads>;
  using Scan = cub::BlockScan<int, kDecideThreads>;
  // The two sums have places of their own and scans take turns: no barrier has to free a place before it is used again.
  __shared__ typename Reduce::TempStorage reduce[2];
  __shared__ typename Scan::TempStorage scan[2];
  __shared__ float broadcast[2];
  __shared__ Match cached[kCachedMatches];

  const int image = blockIdx.x, thread = threadIdx.x;
  const ImageRange range = shape.range(cuSeqlens, image);
  const Pairing pairing = shape.pairing(range);
  const Match* candidates = scratch.matches + range.begin;
  const MatchStore matches{cached, scratch.matches + range.begin};
  int32_t* codes = scratch.codes + range.begin;
  int32_t* receives = scratch.receives + range.begin;

  // Sum over the block of what each thread has, the same in all threads.
  const auto blockSum = [&](float value, int place) {
    const float sum = Reduce(reduce[place]).Sum(value);
    if (thread == 0) broadcast[place] = sum;
    __syncthreads();
    return broadcast[place];
  };

  for (int d = thread; d < pairing.destinations; d += kDecideThreads) receives[d] = 0;
  float threshold = 0.0f;
  if (pairing.canMerge()) {
    const int tiles = ceilDiv(pairing.destinations, tile);
    const int usedSplits = tiles < splits ? tiles : splits;
    float sum = 0.0f;
    for (int s = thread; s < pairing.sources; s += kDecideThreads) {
      Match best = noMatch();
      int64_t place = s;  // among the candidates, of the next split
#pragma unroll 1
      for (int first = 0; first < usedSplits; first += kSplitsAtOnce) {
        // Without branches, so that they are under way at once, and none is loaded in vain.
        Match found[kSplitsAtOnce];
#pragma unroll
        for (int i = 0; i < kSplitsAtOnce; ++i, place += shape.tokens) {
          found[i] = noMatch();
          if (first + i < usedSplits) found[i] = candidates[place];
        }
#pragma unroll
        for (int i = 0; i < kSplitsAtOnce; ++i) {
          if (isBetter(found[i], best)) best = found[i];
        }
      }
      matches.store(s, best);
      sum += best.similarity;
    }
    const float mean = blockSum(sum, 0) / static_cast<float>(pairing.sources);
    float squares = 0.0f;
    for (int s = thread; s < pairing.sources; s += kDecideThreads) {
      const float difference = matches.load(s).similarity - mean;
      squares += difference * difference;
    }
    const float deviation = sqrtf(blockSum(squares, 1) / static_cast<float>(pairing.sources - 1));
    threshold = mean + deviation / static_cast<float>(layer);
  }

  // Sources that stay take the places behind the extra tokens, in order. The scan's barrier also keeps this block's
  // zeros of `receives` before its ones.
  int staying = 0, turn = 0;
  for (int start = 0; start < pairing.sources; start += kDecideThreads) {
    const int s = start + thread;
    const Match match = s < pairing.sources && pairing.canMerge() ? matches.load(s) : noMatch();
    const bool merges = match.index >= 0 && match.index < pairing.destinations && match.similarity >= threshold;
    const bool stays = s < pairing.sources && !merges;
    int before, total;
    Scan(scan[turn]).ExclusiveSum(int(stays), before, total);
    turn ^= 1;  // the other scan's barrier is between this one's reads and the next writes to its place
    if (stays) codes[s] = staying + before;
    if (merges) {
      codes[s] = Pairing::mergesInto(match.index);
      receives[match.index] = 1;  // several sources may write it, all the same value
    }
    staying += total;
  }
  if (thread == 0) scratch.lengths[image] = pairing.extraTokens + staying + pairing.destinations;
}

// sum / weight as division rounds it; `inverse` is 1 / weight. With halves there is no need for the cases that division
// looks out for: a token that is not finite merges with none, and no sum of halves leaves the range of float.
template <typename T>
__device__ __forceinline__ float weightedMean(float sum, float weight, float inverse) {
  if constexpr (std::is_same_v<T, float>) return sum / weight;
  const float quotient = sum * inverse;
  return fmaf(-fmaf(weight, quotient, -sum), inverse, quotient);
}

// An image as pass 3 reads it.
template <typename T>
struct ImageTokens {
  const T* rows;
  const int32_t* sizes;
  const int32_t* codes;  // of its sources
  Pairing pairing;
};

// A destination with all its sources, weighted by their sizes: one warp.
template <typename T, int V>
__device__ __forceinline__ void mergeRow(T* target, int32_t* targetSize, const ImageTokens<T>& image, int token,
                                         int channels, int lane) {
  constexpr int kScan = 4;
  const int32_t* sizes = image.sizes;
  const int code = Pairing::mergesInto(image.pairing.destinationOf(token));
  for (int start = 0; start < channels; start += kSumVectors * 32 * V) {
    float sums[kSumVectors][V];
    const auto add = [&](int addend, bool first) {
      const float size = static_cast<float>(sizes[addend]);
      const T* row = image.rows + int64_t(addend) * channels;
      Words<T, V> words[kSumVectors];  // lanes beyond the row read its begin: without a branch, all loads start at once
#pragma unroll
      for (int i = 0; i < kSumVectors; ++i) {
        const int channel = start + (i * 32 + lane) * V;
        words[i] = loadWords<T, V>(row + (channel < channels ? channel : 0));
      }
#pragma unroll
      for (int i = 0; i < kSumVectors; ++i) {
        const Pack<T, V> pack = elementsOf<T, V>(words[i]);
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
    for (int first = 0; first < image.pairing.sources; first += kScan * 32) {
      int candidates[kScan];
#pragma unroll
      for (int i = 0; i < kScan; ++i) {
        const int s = first + i * 32 + lane;
        candidates[i] = s < image.pairing.sources ? image.codes[s] : 0;  // which no destination has
      }
#pragma unroll
      for (int i = 0; i < kScan; ++i) {
        for (unsigned found = __ballot_sync(~0u, candidates[i] == code); found != 0; found &= found - 1) {
          const int source = Pairing::sourceToken(first + i * 32 + __ffs(found) - 1);
          add(source, false);
          size += sizes[source];
          weight += static_cast<float>(sizes[source]);
        }
      }
    }
    const float inverse = 1.0f / weight;
#pragma unroll
    for (int i = 0; i < kSumVectors; ++i) {
      const int channel = start + (i * 32 + lane) * V;
      if (channel >= channels) continue;
      Pack<T, V> pack;
#pragma unroll
      for (int j = 0; j < V; ++j) pack.values[j] = fromFloat<T>(weightedMean<T>(sums[i][j], weight, inverse));
      storePack<T, V>(target + channel, pack);
    }
    if (lane == 0) *targetSize = size;
  }
}

// Copies rows first .. first + kRowsPerWarp to target rows `places`, those that are not negative: one warp. The loads
// of a round are issued before its stores.
template <typename T, int V>
__device__ __forceinline__ void moveRows(T* y, const T* first, const int (&places)[kRowsPerWarp], int channels,
                                         int lane) {
  constexpr int kRound = 2;
  for (int start = lane * V; start < channels; start += kRound * 32 * V) {
    Pack<T, V> packs[kRowsPerWarp][kRound];
#pragma unroll
    for (int i = 0; i < kRowsPerWarp * kRound; ++i) {
      const int row = i / kRound, channel = start + i % kRound * 32 * V;
      if (places[row] >= 0 && channel < channels) {
        packs[row][i % kRound] = loadPack<T, V>(first + int64_t(row) * channels + channel);
      }
    }
#pragma unroll
    for (int i = 0; i < kRowsPerWarp * kRound; ++i) {
      const int row = i / kRound, channel = start + i % kRound * 32 * V;
      if (places[row] >= 0 && channel < channels) {
        storePack<T, V>(y + int64_t(places[row]) * channels + channel, packs[row][i % kRound]);
      }
    }
  }
}

// Pass 3. Grid: 32 tokens each, images. Vectors of V where rows are copied, of kSumVector where they are summed.
template <typename T, int V, int kSumVector>
__global__ void __launch_bounds__(kWarps * 32, kRowBlocks)
    mergeRowsKernel(GlobalShape shape, const T* __restrict__ x, const int32_t* __restrict__ sizes,
                    const int32_t* __restrict__ cuSeqlens, const int32_t* __restrict__ tokenMap, GlobalScratch scratch,
                    T* __restrict__ y, int32_t* __restrict__ newSizes, int32_t* __restrict__ newCuSeqlens,
                    int32_t* __restrict__ newTokenMap, int32_t* __restrict__ count) {
  const int lane = threadIdx.x % 32, image = blockIdx.y;
  const int tokens = shape.tokens, channels = shape.channels, patches = shape.patches;
  const ImageRange range = shape.range(cuSeqlens, image);
  const Pairing pairing = shape.pairing(range);
  const int32_t* codes = scratch.codes + range.begin;
  const auto lengthOf = [&](int b) { return scratch.lengths[b]; };
  const int length = lengthOf(image);
  const int staying = length - pairing.extraTokens - pairing.destinations;

  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < patches; i += gridDim.x * blockDim.x) {
    const int64_t at = int64_t(image) * patches + i;
    newTokenMap[at] =
        range.count > 0 ? pairing.placeOf(clampIndex(tokenMap[at], 0, range.count - 1), staying, codes) : 0;
  }
  const int firstToken = (blockIdx.x * kWarps + threadIdx.x / 32) * kRowsPerWarp;
  if (firstToken >= range.count && firstToken > 0) return;

  // The sum may only exceed the buffer when cu_seqlens is garbage and images overlap.
  const int base = clampIndex(imageOffset(image, lane, lengthOf), 0, tokens);
  if (firstToken == 0 && lane == 0) {
    newCuSeqlens[image] = base;
    if (image == shape.batch - 1) newCuSeqlens[shape.batch] = *count = clampIndex(base + length, 0, tokens);
  }

  // Where the warp's tokens go, one a lane: sources that merge go nowhere, destinations that receive are summed.
  int place = -1;
  bool receives = false;
  const int token = firstToken + lane;
  if (lane < kRowsPerWarp && token < range.count) {
    const bool isExtra = pairing.isExtra(token), isSource = !isExtra && Pairing::isSource(token);
    const bool leaves = isSource && codes[Pairing::sourceOf(token)] < 0;
    receives = !isExtra && !isSource && scratch.receives[range.begin + pairing.destinationOf(token)] != 0;
    place = leaves ? -1 : base + pairing.placeOf(token, staying, codes);
    if (place >= tokens) place = -1;
    if (place >= 0 && !receives) newSizes[place] = sizes[range.begin + token];
  }
  int moved[kRowsPerWarp];
#pragma unroll
  for (int i = 0; i < kRowsPerWarp; ++i) moved[i] = __shfl_sync(~0u, receives ? -1 : place, i);
  const ImageTokens<T> input{x + int64_t(range.begin) * channels, sizes + range.begin, codes, pairing};
  moveRows<T, V>(y, input.rows + int64_t(firstToken) * channels, moved, channels, lane);
#pragma unroll 1
  for (unsigned left = __ballot_sync(~0u, receives && place >= 0); left != 0; left &= left - 1) {
    const int owner = __ffs(left) - 1;
    const int summed = __shfl_sync(~0u, place, owner);
    mergeRow<T, kSumVector>(y + int64_t(summed) * channels, newSizes + summed, input, firstToken + owner, channels,
                            lane);
  }
}

GlobalShape shapeOf(const AlgmGlobalMergeParams& p) {
  return {p.batch, p.tokens, p.max_tokens, p.channels, p.patches, p.extra_tokens};
}

bool usesTensorCores(const AlgmGlobalMergeParams& p) { return p.dtype == ALGM_FLOAT16 && p.channels % 8 == 0; }

int tileOf(const AlgmGlobalMergeParams& p) { return usesTensorCores(p) ? kHalfTile : kFloatTile; }

int splitsOf(const AlgmGlobalMergeParams& p) {
  const int tiles = ceilDiv(shapeOf(p).mostSources(), tileOf(p));
  return tiles < kMaxSplits ? tiles : kMaxSplits;
}

GlobalScratch scratchOf(const AlgmGlobalMergeParams& p, void* workspace) {
  Workspace space(workspace);
  GlobalScratch scratch;
  scratch.matches = space.take<Match>(size_t(splitsOf(p)) * p.tokens);
  scratch.codes = space.take<int32_t>(p.tokens);
  scratch.receives = space.take<int32_t>(p.tokens);
  scratch.lengths = space.take<int32_t>(p.batch);
  scratch.bytes = space.bytes();
  return scratch;
}

struct Device {
  int multiprocessors;
  int sharedBytes;  // of each
};

// The current device. The CPU twin has few multiprocessors, so that a block finds several pieces of work.
AlgmStatus describeDevice(Device& device) {
#ifdef ALGM_CPU_TWIN
  device = {2, twin::sharedBytesOfMultiprocessor};
  return ALGM_OK;
#else
  int number;
  ALGM_RETURN_IF_ERROR(checkCuda(cudaGetDevice(&number)));
  ALGM_RETURN_IF_ERROR(
      checkCuda(cudaDeviceGetAttribute(&device.multiprocessors, cudaDevAttrMultiProcessorCount, number)));
  return checkCuda(cudaDeviceGetAttribute(&device.sharedBytes, cudaDevAttrMaxSharedMemoryPerMultiprocessor, number));
#endif
}

// Whether a multiprocessor has room for two blocks with stages of `kDepth` channels.
template <int kDepth>
bool hasRoom(const Device& device) {
  constexpr int kReserved = 1024;  // CUDA's own part of the shared memory of every block
  return kHalfBlocks * (int(sizeof(HalfTiles<kDepth>)) + kReserved) <= device.sharedBytes;
}

template <typename T, int V>
AlgmStatus launchSimilarity(const AlgmGlobalMergeParams& p, const T* x, const int32_t* cuSeqlens,
                            const GlobalScratch& scratch, cudaStream_t stream) {
  const GlobalShape shape = shapeOf(p);
  const int splits = splitsOf(p), tiles = ceilDiv(shape.mostSources(), tileOf(p)) * splits;
  if constexpr (V == 8) {
    Device device;
    ALGM_RETURN_IF_ERROR(describeDevice(device));
    const int64_t pieces = int64_t(tiles) * p.batch, atOnce = int64_t(kHalfBlocks) * device.multiprocessors;
    const dim3 grid(unsigned(pieces < atOnce ? pieces : atOnce));
    const auto launchHalf = [&](auto kernel, size_t sharedBytes) {
      return launch(kernel, grid, dim3(kHalfThreads), sharedBytes, stream, shape, x, cuSeqlens, splits,
                    scratch.matches);
    };
    return hasRoom<64>(device) ? launchHalf(similarityHalfKernel<64>, sizeof(HalfTiles<64>))
                               : launchHalf(similarityHalfKernel<32>, sizeof(HalfTiles<32>));
  } else {
    return launch(similarityFloatKernel<T>, dim3(tiles, p.batch), dim3(kFloatThreads), 0, stream, shape, x, cuSeqlens,
                  splits, scratch.matches);
  }
}

}  // namespace

bool isValid(const AlgmGlobalMergeParams* p) {
  return p != nullptr && isDtype(p->dtype) && inRange(p->batch, 1, kMaxBatch) && inRange(p->tokens, 1, kMaxRows) &&
         inRange(p->channels, 1, 1 << 20) && inRange(p->patches, 1, kMaxRows) && inRange(p->layer, 1, 1024) &&
         inRange(p->extra_tokens, 1, 2) && inRange(p->max_tokens, 1, kMaxImageTokens);
}

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
  const GlobalShape shape = shapeOf(p);

  return withRowType(p.dtype, p.channels, [&](auto type) {
    using T = typename decltype(type)::Scalar;
    constexpr int V = decltype(type)::kVector;
    const T* rows = static_cast<const T*>(x);
    ALGM_RETURN_IF_ERROR((launchSimilarity<T, V>(p, rows, cu_seqlens, scratch, stream)));
    ALGM_RETURN_IF_ERROR(launch(decideKernel, dim3(p.batch), dim3(kDecideThreads), 0, stream, shape, cu_seqlens,
                                p.layer, splitsOf(p), tileOf(p), scratch));
    const dim3 grid(ceilDiv(shape.longest(), kWarps * kRowsPerWarp), p.batch);
    const auto launchRows = [&](auto kernel) {
      return launch(kernel, grid, dim3(kWarps * 32), 0, stream, shape, rows, sizes, cu_seqlens, token_map, scratch,
                    static_cast<T*>(y), new_sizes, new_cu_seqlens, new_token_map, count);
    };
    // Rows of up to 384 halves, ViT-S's, would leave half of the lanes without.
    if constexpr (V > 1) {
      if (shape.channels <= kSumVectors * 32 * V / 2) return launchRows(mergeRowsKernel<T, V, V / 2>);
    }
    return launchRows(mergeRowsKernel<T, V, V>);
  });
}
