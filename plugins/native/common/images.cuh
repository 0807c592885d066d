// Where the images of a packed batch begin, read safely, and offsets of images whose lengths lie in the workspace.
#ifndef ALGM_NATIVE_COMMON_IMAGES_H_
#define ALGM_NATIVE_COMMON_IMAGES_H_

#include <cuda_runtime.h>

#include <cstdint>

#include "common/host_device.h"
#include "common/warp.cuh"

namespace algm {

// Rows begin .. begin + count of a packed tensor belong to one image.
struct ImageRange {
  int begin;
  int count;
};

// Range of image b, inside [0, tokens) and no longer than maxTokens whatever cuSeqlens holds.
ALGM_HD ImageRange imageRange(const int32_t* cuSeqlens, int b, int tokens, int maxTokens) {
  const int begin = clampIndex(cuSeqlens[b], 0, tokens);
  const int end = clampIndex(cuSeqlens[b + 1], begin, tokens);
  return {begin, end - begin < maxTokens ? end - begin : maxTokens};
}

// Sum of length(i) over the images before b, the same in all lanes. Called by whole warps: with up to 32 images it is
// one load a lane and five shuffles, which saves a kernel that would only add up a handful of numbers.
template <typename Length>
__device__ __forceinline__ int imageOffset(int b, int lane, Length length) {
  int sum = 0;
  for (int image = lane; image < b; image += 32) sum += length(image);
  return warpSum(sum);
}

}  // namespace algm

#endif  // ALGM_NATIVE_COMMON_IMAGES_H_
