// AlgmAppendTokens: leaves out the first tokens of each image and appends the same K rows to it.
//
// One pass, one warp per output row, 16 bytes a lane. Traffic = floor: kept rows read once, output written once;
// `tokens` comes from L2.
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "algm.h"
#include "common/images.cuh"
#include "common/launch.cuh"
#include "common/rows.cuh"
#include "common/validity.h"

namespace algm {
namespace {

constexpr int kWarps = 8;

struct AppendShape {
  int batch, tokens, channels, appended, drop;

  ALGM_HD int rows() const { return tokens + batch * (appended - drop); }

  // First output row of image b; b = batch gives the end of the last image.
  ALGM_HD int start(const int32_t* cuSeqlens, int b) const {
    return clampIndex(cuSeqlens[b], 0, tokens) + b * (appended - drop);
  }
};

template <typename T, int V>
__global__ void __launch_bounds__(kWarps * 32)
    appendKernel(AppendShape shape, const T* __restrict__ x, const int32_t* __restrict__ cuSeqlens,
                 const T* __restrict__ tokens, T* __restrict__ y, int32_t* __restrict__ newCuSeqlens) {
  const int lane = threadIdx.x % 32;
  const int64_t warp = int64_t(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (warp <= shape.batch && lane == 0) {
    newCuSeqlens[warp] = clampIndex(shape.start(cuSeqlens, int(warp)), 0, shape.rows());
  }
  if (warp >= shape.rows()) return;
  const int row = int(warp);

  // The row's image is the number of later images that start at or before it.
  int image = 0;
  for (int first = 1; first < shape.batch; first += 32) {
    const int b = first + lane;
    image += __popc(__ballot_sync(~0u, b < shape.batch && shape.start(cuSeqlens, b) <= row));
  }
  const ImageRange range = imageRange(cuSeqlens, image, shape.tokens, shape.tokens);
  const int kept = range.count > shape.drop ? range.count - shape.drop : 0;
  const int place = row - shape.start(cuSeqlens, image);
  if (place < 0 || place >= kept + shape.appended) return;
  const T* source = place < kept ? x + int64_t(range.begin + shape.drop + place) * shape.channels
                                 : tokens + int64_t(place - kept) * shape.channels;
  copyByWarp<T, V>(y + int64_t(row) * shape.channels, source, shape.channels, lane);
}

}  // namespace

bool isValid(const AlgmAppendTokensParams* p) {
  if (p == nullptr || !isDtype(p->dtype) || !inRange(p->batch, 1, kMaxBatch)) return false;
  if (!inRange(p->tokens, 1, kMaxRows)) return false;
  if (!inRange(p->channels, 1, 1 << 20) || !inRange(p->appended, 1, 65535) || !inRange(p->drop, 0, 2)) return false;
  return inRange(p->tokens + int64_t(p->batch) * (p->appended - p->drop), 1, kMaxRows);
}

}  // namespace algm

extern "C" size_t algm_append_tokens_workspace(const AlgmAppendTokensParams*) { return 0; }

extern "C" AlgmStatus algm_append_tokens(const AlgmAppendTokensParams* params, const void* x, const int32_t* cu_seqlens,
                                         const void* tokens, void* y, int32_t* new_cu_seqlens, void*, size_t,
                                         cudaStream_t stream) {
  using namespace algm;
  if (!isValid(params) || !isUsable(x) || !isUsable(tokens) || !isUsable(y) || !isUsableScalar(cu_seqlens) ||
      !isUsableScalar(new_cu_seqlens)) {
    return ALGM_INVALID_ARGUMENT;
  }
  const AppendShape shape{params->batch, params->tokens, params->channels, params->appended, params->drop};
  return withRowType(params->dtype, shape.channels, [&](auto type) {
    using T = typename decltype(type)::Scalar;
    constexpr int V = decltype(type)::kVector;
    const int warps = shape.rows() > shape.batch ? shape.rows() : shape.batch + 1;
    return launch(appendKernel<T, V>, dim3(ceilDiv(warps, kWarps)), dim3(kWarps * 32), 0, stream, shape,
                  static_cast<const T*>(x), cu_seqlens, static_cast<const T*>(tokens), static_cast<T*>(y),
                  new_cu_seqlens);
  });
}
