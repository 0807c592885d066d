// AlgmUnmerge: packed tokens back to the dense grid, and the appended tokens of each image apart.
//
// One pass, one warp per output row: first the B*N0 rows of the grid, then the B*K appended ones; 16 bytes a lane.
// Traffic = floor: x read once from memory (tokens of several patches again from L1 or L2), both outputs written once.
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "algm.h"
#include "common/launch.cuh"
#include "common/rows.cuh"
#include "common/validity.h"

namespace algm {
namespace {

constexpr int kWarps = 8;

struct UnmergeShape {
  int batch, tokens, channels, patches, appended, drop;
};

template <typename T, int V>
__global__ void __launch_bounds__(kWarps * 32)
    unmergeKernel(UnmergeShape shape, const T* __restrict__ x, const int32_t* __restrict__ cuSeqlens,
                  const int32_t* __restrict__ tokenMap, T* __restrict__ grid, T* __restrict__ appended) {
  const int lane = threadIdx.x % 32;
  const int row = blockIdx.x * kWarps + threadIdx.x / 32;
  const int gridRows = shape.batch * shape.patches;
  if (row >= gridRows + shape.batch * shape.appended) return;
  int source;
  T* target;
  if (row < gridRows) {
    // Unsigned, so that a garbage map wraps instead of overflowing; the clamp below makes any value safe.
    source = int(unsigned(cuSeqlens[row / shape.patches]) + unsigned(tokenMap[row]) - unsigned(shape.drop));
    target = grid + int64_t(row) * shape.channels;
  } else {
    const int tail = row - gridRows;
    source = int(unsigned(cuSeqlens[tail / shape.appended + 1]) - unsigned(shape.appended - tail % shape.appended));
    target = appended + int64_t(tail) * shape.channels;
  }
  source = clampIndex(source, 0, shape.tokens - 1);
  copyByWarp<T, V>(target, x + int64_t(source) * shape.channels, shape.channels, lane);
}

}  // namespace

bool isValid(const AlgmUnmergeParams* p) {
  if (p == nullptr || !isDtype(p->dtype) || !inRange(p->batch, 1, kMaxBatch)) return false;
  if (!inRange(p->tokens, 1, kMaxRows)) return false;
  if (!inRange(p->channels, 1, 1 << 20) || !inRange(p->patches, 1, kMaxRows)) return false;
  if (!inRange(p->appended, 0, 65535) || !inRange(p->drop, 0, 2)) return false;
  return inRange(int64_t(p->batch) * (int64_t(p->patches) + p->appended), 1, kMaxRows);
}

}  // namespace algm

extern "C" size_t algm_unmerge_workspace(const AlgmUnmergeParams*) { return 0; }

extern "C" AlgmStatus algm_unmerge(const AlgmUnmergeParams* params, const void* x, const int32_t* cu_seqlens,
                                   const int32_t* token_map, void* grid, void* appended, void*, size_t,
                                   cudaStream_t stream) {
  using namespace algm;
  if (!isValid(params) || !isUsable(x) || !isUsable(grid) || !isUsableScalar(cu_seqlens) ||
      !isUsableScalar(token_map) || (params->appended > 0 && !isUsable(appended))) {
    return ALGM_INVALID_ARGUMENT;
  }
  const UnmergeShape shape{params->batch,   params->tokens,   params->channels,
                           params->patches, params->appended, params->drop};
  return withRowType(params->dtype, shape.channels, [&](auto type) {
    using T = typename decltype(type)::Scalar;
    constexpr int V = decltype(type)::kVector;
    const int rows = shape.batch * (shape.patches + shape.appended);
    return launch(unmergeKernel<T, V>, dim3(ceilDiv(rows, kWarps)), dim3(kWarps * 32), 0, stream, shape,
                  static_cast<const T*>(x), cu_seqlens, token_map, static_cast<T*>(grid), static_cast<T*>(appended));
  });
}
