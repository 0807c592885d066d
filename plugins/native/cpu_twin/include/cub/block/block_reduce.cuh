// cub::BlockReduce for the CPU twin: the part of the interface that the kernels use, with a fixed order of summation.
#ifndef ALGM_NATIVE_CPU_TWIN_CUB_BLOCK_REDUCE_H_
#define ALGM_NATIVE_CPU_TWIN_CUB_BLOCK_REDUCE_H_

#include "../../../cuda_on_cpu.h"

namespace cub {

template <typename T, int kThreads>
class BlockReduce {
 public:
  struct TempStorage { T values[kThreads]; };
  explicit BlockReduce(TempStorage& storage) : storage_(storage) {}

  // The sum is valid in thread 0 only, and the storage is free again after the caller's next barrier: as in CUB.
  T Sum(T value) {
    storage_.values[threadIdx.x] = value;
    __syncthreads();
    T total{};
    if (threadIdx.x == 0) {
      for (int i = 0; i < kThreads; ++i) total += storage_.values[i];
    }
    return total;
  }

 private:
  TempStorage& storage_;
};

}  // namespace cub

#endif  // ALGM_NATIVE_CPU_TWIN_CUB_BLOCK_REDUCE_H_
