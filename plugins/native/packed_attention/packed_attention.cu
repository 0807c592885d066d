// AlgmPackedAttention: softmax attention inside each image of a packed batch, straight from qkv, without transposes.
//
// One pass; attention_half.cuh (tensor cores) and attention_float.cuh (CUDA cores) say how. The grid covers max_tokens
// queries of every head of every image; blocks beyond an image's end leave at once.
//
// Traffic: qkv read once from memory (keys and values again from L2, once per 128 or 32 queries), y written once.
// Floor: 4 n^2 C operations an image on tensor cores.
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cmath>

#include "algm.h"
#include "common/launch.cuh"
#include "common/validity.h"
#include "packed_attention/attention_float.cuh"
#include "packed_attention/attention_half.cuh"

namespace algm {
namespace {

template <int D>
AlgmStatus launchAttention(const AlgmPackedAttentionParams& p, const void* qkv, const int32_t* cuSeqlens, void* y,
                           cudaStream_t stream) {
  const int longest = p.max_tokens < p.tokens ? p.max_tokens : p.tokens;
  const float scale = static_cast<float>(1.4426950408889634 / std::sqrt(static_cast<double>(D)));
  if (p.dtype == ALGM_FLOAT16) {
    using Shape = HalfShape<D>;
    const dim3 grid(ceilDiv(longest, Shape::kQueries), p.heads, p.batch);
    return launch(attentionHalfKernel<D>, grid, dim3(Shape::kThreads), Shape::kSharedBytes, stream,
                  static_cast<const __half*>(qkv), cuSeqlens, p.tokens, p.max_tokens, p.channels, scale,
                  static_cast<__half*>(y));
  }
  using Shape = FloatShape<D>;
  const dim3 grid(ceilDiv(longest, Shape::kQueries), p.heads, p.batch);
  return launch(attentionFloatKernel<D>, grid, dim3(Shape::kThreads), Shape::kSharedBytes, stream,
                static_cast<const float*>(qkv), cuSeqlens, p.tokens, p.max_tokens, p.channels, scale,
                static_cast<float*>(y));
}

}  // namespace

bool isValid(const AlgmPackedAttentionParams* p) {
  return p != nullptr && isDtype(p->dtype) && inRange(p->batch, 1, kMaxBatch) && inRange(p->tokens, 1, kMaxRows) &&
         inRange(p->channels, 1, 1 << 20) && inRange(p->heads, 1, 1024) && p->channels % p->heads == 0 &&
         inRange(p->max_tokens, 1, 1 << 20);
}

}  // namespace algm

extern "C" size_t algm_packed_attention_workspace(const AlgmPackedAttentionParams*) { return 0; }

extern "C" AlgmStatus algm_packed_attention(const AlgmPackedAttentionParams* params, const void* qkv,
                                            const int32_t* cu_seqlens, void* y, void*, size_t, cudaStream_t stream) {
  using namespace algm;
  if (!isValid(params) || !isUsable(qkv) || !isUsable(y) || !isUsableScalar(cu_seqlens)) return ALGM_INVALID_ARGUMENT;
  switch (params->channels / params->heads) {
    case 32:
      return launchAttention<32>(*params, qkv, cu_seqlens, y, stream);
    case 48:
      return launchAttention<48>(*params, qkv, cu_seqlens, y, stream);
    case 64:
      return launchAttention<64>(*params, qkv, cu_seqlens, y, stream);
    case 80:
      return launchAttention<80>(*params, qkv, cu_seqlens, y, stream);
    case 96:
      return launchAttention<96>(*params, qkv, cu_seqlens, y, stream);
    case 128:
      return launchAttention<128>(*params, qkv, cu_seqlens, y, stream);
    default:
      return ALGM_UNSUPPORTED;
  }
}
