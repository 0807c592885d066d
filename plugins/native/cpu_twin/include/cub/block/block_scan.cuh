// cub::BlockScan for the CPU twin: the part of the interface that the kernels use.
#ifndef ALGM_NATIVE_CPU_TWIN_CUB_BLOCK_SCAN_H_
#define ALGM_NATIVE_CPU_TWIN_CUB_BLOCK_SCAN_H_

#include "../../../cuda_on_cpu.h"

namespace cub {

template <typename T, int kThreads>
class BlockScan {
 public:
  struct TempStorage { T values[kThreads]; };
  explicit BlockScan(TempStorage& storage) : storage_(storage) {}

  // The storage is free again after the caller's next barrier: as in CUB.
  void ExclusiveSum(T value, T& before, T& total) {
    storage_.values[threadIdx.x] = value;
    __syncthreads();
    before = T{};
    total = T{};
    for (unsigned i = 0; i < kThreads; ++i) {
      if (i == threadIdx.x) before = total;
      total += storage_.values[i];
    }
  }

 private:
  TempStorage& storage_;
};

}  // namespace cub

#endif  // ALGM_NATIVE_CPU_TWIN_CUB_BLOCK_SCAN_H_
