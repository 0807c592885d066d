// What every launcher does: check arguments, divide the workspace, start kernels and report launch errors.
#ifndef ALGM_NATIVE_COMMON_LAUNCH_H_
#define ALGM_NATIVE_COMMON_LAUNCH_H_

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "algm.h"
#include "common/host_device.h"

namespace algm {

constexpr int kMaxBatch = 65535;            // images lie along a grid axis of that size
constexpr int64_t kMaxRows = INT32_MAX / 2;  // leaves room for index arithmetic in int
constexpr size_t kDefaultSharedBytes = 48 * 1024;

inline bool isDtype(int dtype) { return dtype == ALGM_FLOAT32 || dtype == ALGM_FLOAT16; }
inline size_t elementBytes(int dtype) { return dtype == ALGM_FLOAT16 ? 2 : 4; }
inline bool inRange(int64_t value, int64_t low, int64_t high) { return value >= low && value <= high; }

// A pointer that a launcher may use: not NULL and on a 16-byte boundary.
inline bool isUsable(const void* pointer) {
  return pointer != nullptr && reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
}

// Pointers to scalars and to rows inside int32 tensors need no more than their own alignment.
inline bool isUsableScalar(const void* pointer) {
  return pointer != nullptr && reinterpret_cast<uintptr_t>(pointer) % 4 == 0;
}

// Deals out a workspace in 256-byte steps. Without a base it only measures.
class Workspace {
 public:
  explicit Workspace(void* base) : base_(static_cast<char*>(base)) {}

  template <typename T>
  T* take(size_t count) {
    char* start = base_ == nullptr ? nullptr : base_ + bytes_;
    bytes_ += (count * sizeof(T) + 255) / 256 * 256;
    return reinterpret_cast<T*>(start);
  }

  size_t bytes() const { return bytes_; }

 private:
  char* base_;
  size_t bytes_ = 0;
};

inline AlgmStatus checkWorkspace(const void* workspace, size_t given, size_t needed) {
  if (needed == 0) return ALGM_OK;
  if (given < needed) return ALGM_WORKSPACE_TOO_SMALL;
  return workspace != nullptr && reinterpret_cast<uintptr_t>(workspace) % 256 == 0 ? ALGM_OK : ALGM_INVALID_ARGUMENT;
}

// Keeps the text for algm_last_cuda_error().
void rememberCudaError(const char* text);

#ifndef ALGM_CPU_TWIN
inline AlgmStatus checkCuda(cudaError_t error) {
  if (error == cudaSuccess) return ALGM_OK;
  cudaGetLastError();  // a call that failed leaves its error there, and the next launch would be blamed for it
  rememberCudaError(cudaGetErrorString(error));
  return ALGM_CUDA_ERROR;
}
#endif

// Starts a kernel; more than 48 KB of dynamic shared memory is asked for first.
template <typename... Parameters, typename... Arguments>
AlgmStatus launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t sharedBytes, cudaStream_t stream,
                  Arguments... arguments) {
#ifdef ALGM_CPU_TWIN
  (void)stream;
  twin::launch(kernel, grid, block, sharedBytes, static_cast<Parameters>(arguments)...);
  return ALGM_OK;
#else
  if (sharedBytes > kDefaultSharedBytes) {
    const AlgmStatus status = checkCuda(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(sharedBytes)));
    if (status != ALGM_OK) return status;
  }
  kernel<<<grid, block, sharedBytes, stream>>>(static_cast<Parameters>(arguments)...);
  return checkCuda(cudaGetLastError());
#endif
}

}  // namespace algm

// Leaves a launcher with the status of a step that failed.
#define ALGM_RETURN_IF_ERROR(step)               \
  do {                                           \
    const AlgmStatus status_ = (step);           \
    if (status_ != ALGM_OK) return status_;      \
  } while (false)

#ifdef ALGM_CPU_TWIN
#define ALGM_DYNAMIC_SHARED(name) unsigned char* name = twin::dynamicShared()
#else
#define ALGM_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#endif

#endif  // ALGM_NATIVE_COMMON_LAUNCH_H_
