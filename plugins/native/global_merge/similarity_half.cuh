// Best destination of every source, FP16 on tensor cores: a running arg-max over tiles of the similarity product.
//
// A block takes 128 sources of an image and every `splits`-th tile of its 128 destinations. Products of raw tokens are
// summed in FP32 by mma.sync; the squared lengths come from the fragments in registers and scale the finished sums. The
// similarity matrix never leaves registers. Tokens come through two stages of shared memory filled by cp.async; rows
// are padded by 16 bytes, so that ldmatrix meets no bank conflict.
//
// A multiprocessor is to hold two blocks, which hide each other's barriers and epilogues. A stage has kDepth channels:
// 64 where there is shared memory for two such blocks, 32 elsewhere (8.6, 8.9, 12.0), with twice the barriers. Products
// are summed in the same order, and results have the same bits. Of 64 channels the compiler puts half of the squares or
// more behind the last multiplication, where the other block keeps the tensor cores busy; of 32, most lie in between.
//
// The grid is as large as the device takes at once, and each block goes through every gridDim.x-th piece of work:
// blocks without work would have to wait for this much shared memory all the same.
#ifndef ALGM_NATIVE_GLOBAL_MERGE_SIMILARITY_HALF_H_
#define ALGM_NATIVE_GLOBAL_MERGE_SIMILARITY_HALF_H_

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "common/launch.cuh"
#include "common/ptx.cuh"
#include "global_merge/global_shape.cuh"
#include "global_merge/pairing.h"

namespace algm {

constexpr int kHalfTile = 128;     // sources and destinations of a tile
constexpr int kWarpTile = 64;      // of these, a warp's
constexpr int kHalfThreads = 128;  // four warps
constexpr int kHalfBlocks = 2;     // of a multiprocessor

// Shared memory of one block.
template <int kDepth>
struct HalfTiles {
  static constexpr int kStride = kDepth + 8;            // an odd number of 16-byte units
  alignas(16) __half rows[2][2 * kHalfTile * kStride];  // stage: source rows, then destination rows
  float inverse[2 * kHalfTile];
  Match best[kHalfTile];  // among the right half of the destinations
};

__device__ __forceinline__ float shuffleXor(float value, int mask) { return __shfl_xor_sync(~0u, value, mask); }
__device__ __forceinline__ Match shuffleXor(Match match, int mask) {
  return {__shfl_xor_sync(~0u, match.similarity, mask), __shfl_xor_sync(~0u, match.index, mask)};
}

// Combines each of eight values over the four lanes of a quad: places 0 and 1 of lane q get the results of values q and
// q + 4. Each step halves the values that a lane has, so that no lane repeats what another one does.
template <typename T, typename Combine>
__device__ __forceinline__ void reduceOverQuad(T (&values)[8], int lane, Combine combine) {
#pragma unroll
  for (int step = 0; step < 2; ++step) {
#pragma unroll
    for (int i = 0; i < 4 >> step; ++i) {
      T kept = values[2 * i], given = values[2 * i + 1];
      if (lane >> step & 1) {
        kept = values[2 * i + 1];
        given = values[2 * i];
      }
      values[i] = combine(kept, shuffleXor(given, 1 << step));
    }
  }
}

// Goes through the pieces of work of all images in order: (tile of sources, split), fewer in short images.
struct WorkList {
  GlobalShape shape;
  const int32_t* cuSeqlens;
  int splits;
  int group = 0;        // of 32 images: those before it have no more work for this block
  unsigned before = 0;  // pieces of work of the groups before it

  __device__ __forceinline__ unsigned piecesOf(int image) const {
    if (image >= shape.batch) return 0;
    const Pairing pairing = shape.pairing(shape.range(cuSeqlens, image));
    const int tiles = ceilDiv(pairing.destinations, kHalfTile);
    return pairing.canMerge() ? unsigned(ceilDiv(pairing.sources, kHalfTile) * (tiles < splits ? tiles : splits)) : 0;
  }

  // Finds the image of a piece and the piece's number in it; false when there are no more. Called by whole warps with
  // rising numbers.
  __device__ __forceinline__ bool find(unsigned piece, int lane, int& image, unsigned& number) {
    for (; group * 32 < shape.batch; ++group) {
      const unsigned pieces = piecesOf(group * 32 + lane);
      unsigned sum = pieces;  // of this and all lower lanes
#pragma unroll
      for (int distance = 1; distance < 32; distance <<= 1) {
        const unsigned other = __shfl_sync(~0u, sum, lane - distance);
        if (lane >= distance) sum += other;
      }
      const unsigned owners = __ballot_sync(~0u, piece < before + sum);
      if (owners != 0) {
        const int owner = __ffs(owners) - 1;
        image = group * 32 + owner;
        number = piece - before - __shfl_sync(~0u, sum - pieces, owner);
        return true;
      }
      before += __shfl_sync(~0u, sum, 31);
    }
    return false;
  }
};

// Which tokens a block works on.
template <int kDepth>
struct TileTask {
  static constexpr int kStride = HalfTiles<kDepth>::kStride;

  const __half* image;  // first token
  Pairing pairing;
  int channels;
  int firstSource;

  // Starts the copies of one stage: a thread the same 16 bytes of every kStep-th row. Channels that do not exist become
  // zeros; for rows that do not exist stands the last one, and what comes of it is not used.
  __device__ __forceinline__ void startStage(__half* stage, int firstDestination, int firstChannel) const {
    constexpr int kChunks = kDepth / 8, kStep = kHalfThreads / kChunks;
    const int first = threadIdx.x / kChunks, column = threadIdx.x % kChunks * 8;
    const bool inside = firstChannel + column < channels;
    const char* from = reinterpret_cast<const char*>(image + firstChannel + column);
    __half* target = stage + first * kStride + column;
    const auto copy = [&](int row, int token) {
      copyAsync16(target + row * kStride, from + int64_t(token) * (2 * channels), inside);
    };
    // Not all eight of a long stage: the compiler would keep the addresses of all sources from stage to stage.
#pragma unroll 4
    for (int i = 0; i < kHalfTile; i += kStep) {
      copy(i, Pairing::sourceToken(smaller(firstSource + first + i, pairing.sources - 1)));
      copy(kHalfTile + i, pairing.destinationToken(smaller(firstDestination + first + i, pairing.destinations - 1)));
    }
  }

  __device__ __forceinline__ static int smaller(int a, int b) { return a < b ? a : b; }
};

// What a warp computes: 64 sources times 64 destinations. The two warps that share rows each sum half of their squares:
// of a fragment's 16 rows, the warps of the left and upper half take the first eight.
template <int kDepth>
struct WarpProduct {
  static constexpr int kStride = HalfTiles<kDepth>::kStride;

  int lane, down, across;  // which half of the sources, of the destinations
  float sums[4][8][4];     // fragment of 16 sources, of 8 destinations, element
  float squares[8];     // of this lane's columns: a row of each of 4 source fragments, of each of 4 destination pairs
  Match best[8];        // of this lane's columns so far; similarities yet to be scaled by the source's length
  float poison = 0.0f;  // NaN once there was a destination without a finite length

  __device__ __forceinline__ WarpProduct(int lane, int warp) : lane(lane), down(warp / 2), across(warp % 2) {
#pragma unroll
    for (int i = 0; i < 8; ++i) best[i] = noMatch();
    clear();
  }

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < 128; ++i) sums[i / 32][i / 4 % 8][i % 4] = 0.0f;
#pragma unroll
    for (int i = 0; i < 8; ++i) squares[i] = 0.0f;
  }

  __device__ __forceinline__ static void addSquares(float& sum, uint32_t pair) {
    const float2 values = __half22float2(*reinterpret_cast<const __half2*>(&pair));
    sum += values.x * values.x;
    sum += values.y * values.y;
  }

  // Adds the products of one stage.
  __device__ __forceinline__ void multiply(const __half* stage) {
    const __half* sources = stage + (down * kWarpTile + lane % 16) * kStride + lane / 16 * 8;
    const __half* destinations =
        stage + (kHalfTile + across * kWarpTile + lane / 16 * 8 + lane % 8) * kStride + lane / 8 % 2 * 8;
#pragma unroll
    for (int k = 0; k < kDepth; k += 16) {
      uint32_t a[4][4], b[4][4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        loadMatrices(a[i], sources + i * 16 * kStride + k);
        loadMatrices(b[i], destinations + i * 16 * kStride + k);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 8; ++j) multiplyAdd(sums[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
        addSquares(squares[i], across == 0 ? a[i][0] : a[i][1]);
        addSquares(squares[i], across == 0 ? a[i][2] : a[i][3]);
        addSquares(squares[4 + i], down == 0 ? b[i][0] : b[i][2]);
        addSquares(squares[4 + i], down == 0 ? b[i][1] : b[i][3]);
      }
    }
  }

  // Writes 1 / length of this warp's share of the tile's rows; NaN where the length is not finite.
  __device__ __forceinline__ void writeInverse(float* inverse) {
    reduceOverQuad(squares, lane, [](float a, float b) { return a + b; });
    const int source = down * kWarpTile + lane % 4 * 16 + across * 8 + lane / 4;
    const int destination = kHalfTile + across * kWarpTile + lane % 4 * 16 + down * 8 + lane / 4;
    inverse[source] = inverseLength(squares[0]) + squares[0] * 0.0f;
    inverse[destination] = inverseLength(squares[1]) + squares[1] * 0.0f;
  }

  // Compares what is finished of a tile with the best so far. Columns come in rising order: the first of equals stays.
  __device__ __forceinline__ void compare(const float* inverse, int firstDestination, int destinations) {
    const int firstColumn = across * kWarpTile + lane % 4 * 2;
    float scales[16];
#pragma unroll
    for (int j = 0; j < 16; ++j) scales[j] = inverse[kHalfTile + firstColumn + j / 2 * 8 + j % 2];
#pragma unroll
    for (int j = 0; j < 16; ++j) {
      const int column = firstDestination + firstColumn + j / 2 * 8 + j % 2;
      const bool exists = column < destinations;
      const float scale = exists ? scales[j] : NAN;
      if (exists) poison += scale * 0.0f;
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const float similarity = sums[i / 2][j / 2][i % 2 * 2 + j % 2] * scale;
        if (similarity > best[i].similarity) best[i].index = column;
        best[i].similarity = fmaxf(best[i].similarity, similarity);
      }
    }
  }

  // Finds the best match of rows rowOf(0) and rowOf(1) over the warp's columns: best[0] and best[1]. NaN with any index
  // if the source or a destination has no finite length.
  __device__ __forceinline__ void finish(const float* inverse) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      best[i].similarity = best[i].similarity * inverse[down * kWarpTile + i * 8 + lane / 4] + poison;
      if (best[i].similarity != best[i].similarity) best[i].index = 0;
    }
    reduceOverQuad(best, lane, [](Match a, Match b) { return isBetter(b, a) ? b : a; });
  }

  // Row of the tile that a lane has the best match of in the end; i is 0 or 1.
  __device__ __forceinline__ int rowOf(int i) const { return down * kWarpTile + (i * 4 + lane % 4) * 8 + lane / 4; }
};

// matches[split][begin of the image + source] = best destination among the tiles of that split.
template <int kDepth>
__global__ void __launch_bounds__(kHalfThreads, kHalfBlocks)
    similarityHalfKernel(GlobalShape shape, const __half* __restrict__ x, const int32_t* __restrict__ cuSeqlens,
                         int splits, Match* __restrict__ matches) {
  ALGM_DYNAMIC_SHARED(sharedBytes);
  HalfTiles<kDepth>& shared = *reinterpret_cast<HalfTiles<kDepth>*>(sharedBytes);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int depthSteps = ceilDiv(shape.channels, kDepth);
  WorkList work{shape, cuSeqlens, splits};
  int image;
  unsigned number;
  for (unsigned piece = blockIdx.x; work.find(piece, lane, image, number); piece += gridDim.x) {
    const ImageRange range = shape.range(cuSeqlens, image);
    const unsigned begin = range.begin;  // a sign would take a register more in 64 bits
    const Pairing pairing = shape.pairing(range);
    const int tiles = ceilDiv(pairing.destinations, kHalfTile);
    const int usedSplits = tiles < splits ? tiles : splits;
    const int split = int(number) % usedSplits;
    const TileTask<kDepth> task{x + uint64_t(begin) * shape.channels, pairing, shape.channels,
                                int(number) / usedSplits * kHalfTile};
    const int steps = ceilDiv(tiles - split, usedSplits) * depthSteps;

    WarpProduct<kDepth> product(lane, warp);
    int tile = split, depth = 0;  // of the stage that is used
    task.startStage(shared.rows[0], tile * kHalfTile, 0);
    commitCopies();
    for (int step = 0; step < steps; ++step) {
      waitCopies<0>();
      __syncthreads();  // this stage is complete, and nobody reads the other one any more
      const bool last = depth + 1 == depthSteps;
      if (step + 1 < steps) {
        task.startStage(shared.rows[(step + 1) % 2], (last ? tile + usedSplits : tile) * kHalfTile,
                        last ? 0 : (depth + 1) * kDepth);
      }
      commitCopies();
      product.multiply(shared.rows[step % 2]);
      ++depth;
      if (!last) continue;

      product.writeInverse(shared.inverse);
      __syncthreads();
      product.compare(shared.inverse, tile * kHalfTile, pairing.destinations);
      product.clear();
      tile += usedSplits;
      depth = 0;
    }

    // The warps of the right half of the destinations hand their matches to those of the left.
    product.finish(shared.inverse);
    if (product.across == 1) {
      for (int i = 0; i < 2; ++i) shared.best[product.rowOf(i)] = product.best[i];
    }
    __syncthreads();
    if (product.across == 1) continue;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int source = task.firstSource + product.rowOf(i);
      if (source >= pairing.sources) continue;
      const Match other = shared.best[product.rowOf(i)];
      matches[int64_t(split) * shape.tokens + begin + source] =
          isBetter(other, product.best[i]) ? other : product.best[i];
    }
  }
}

}  // namespace algm

#endif  // ALGM_NATIVE_GLOBAL_MERGE_SIMILARITY_HALF_H_
