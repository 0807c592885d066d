// The extents of AlgmGlobalMerge, and from them the rows and the pairing of each image.
#ifndef ALGM_NATIVE_GLOBAL_MERGE_GLOBAL_SHAPE_H_
#define ALGM_NATIVE_GLOBAL_MERGE_GLOBAL_SHAPE_H_

#include <cuda_runtime.h>

#include "common/images.cuh"
#include "global_merge/pairing.h"

namespace algm {

struct GlobalShape {
  int batch;
  int tokens;     // T
  int maxTokens;  // of an image
  int channels;
  int patches;      // N0
  int extraTokens;  // E

  __device__ __forceinline__ ImageRange range(const int32_t* cuSeqlens, int image) const {
    return imageRange(cuSeqlens, image, tokens, maxTokens);
  }
  __device__ __forceinline__ Pairing pairing(ImageRange range) const { return makePairing(range.count, extraTokens); }

  // Tokens that an image can have at most; sources, and destinations, likewise.
  int longest() const { return maxTokens < tokens ? maxTokens : tokens; }
  int mostSources() const { return ceilDiv(longest(), 2); }
};

}  // namespace algm

#endif  // ALGM_NATIVE_GLOBAL_MERGE_GLOBAL_SHAPE_H_
