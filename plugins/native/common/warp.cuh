// Sums over the lanes of a warp.
#ifndef ALGM_NATIVE_COMMON_WARP_H_
#define ALGM_NATIVE_COMMON_WARP_H_

#include <cuda_runtime.h>

namespace algm {

// The same in all lanes. Called by whole warps.
template <typename T>
__device__ __forceinline__ T warpSum(T value) {
#pragma unroll
  for (int mask = 16; mask > 0; mask >>= 1) value += __shfl_xor_sync(~0u, value, mask);
  return value;
}

}  // namespace algm

#endif  // ALGM_NATIVE_COMMON_WARP_H_
