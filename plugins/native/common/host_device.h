// Marks index functions that the kernels and a plain C++ compiler both take.
#ifndef ALGM_NATIVE_COMMON_HOST_DEVICE_H_
#define ALGM_NATIVE_COMMON_HOST_DEVICE_H_

#ifdef __CUDACC__
#define ALGM_HD __host__ __device__ __forceinline__
#else
#define ALGM_HD inline
#endif

namespace algm {

ALGM_HD int clampIndex(int value, int low, int high) { return value < low ? low : value > high ? high : value; }

ALGM_HD int ceilDiv(int value, int step) { return (value + step - 1) / step; }

}  // namespace algm

#endif  // ALGM_NATIVE_COMMON_HOST_DEVICE_H_
