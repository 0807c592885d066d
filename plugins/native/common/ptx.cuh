// The instructions without a C++ name that the tensor-core kernels use; all exist from sm_80 on.
//
// Layouts, for lane = 4 * group + quad: a fragment of A (16 x 16) holds rows group and group + 8, columns 2 quad and
// 2 quad + 8; of B (16 x 8) column group, rows 2 quad and 2 quad + 8; of the result (16 x 8) rows group and group + 8,
// columns 2 quad. Each register is a pair of neighbours along the row of A, the column of B, the row of the result.
#ifndef ALGM_NATIVE_COMMON_PTX_H_
#define ALGM_NATIVE_COMMON_PTX_H_

#ifdef ALGM_CPU_TWIN
#include "cpu_twin/ptx_on_cpu.h"
#else

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace algm {

__device__ __forceinline__ uint32_t sharedAddress(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Starts copying 16 bytes from global to shared memory, or writes zeros without touching `source`.
__device__ __forceinline__ void copyAsync16(void* shared, const void* source, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(sharedAddress(shared)), "l"(source),
               "r"(valid ? 16 : 0)
               : "memory");
}

__device__ __forceinline__ void commitCopies() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }

// Waits until at most `kPending` of this thread's committed groups are still under way.
template <int kPending>
__device__ __forceinline__ void waitCopies() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending) : "memory");
}

// Four 8 x 8 matrices of halves; lane i gives the address of row i % 8 of matrix i / 8.
__device__ __forceinline__ void loadMatrices(uint32_t (&registers)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
               : "r"(sharedAddress(row))
               : "memory");
}

__device__ __forceinline__ void loadMatricesTransposed(uint32_t (&registers)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
               : "r"(sharedAddress(row))
               : "memory");
}

// sum (16 x 8, float) += a (16 x 16, half) * b (16 x 8, half).
__device__ __forceinline__ void multiplyAdd(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};\n"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// 2^x, to about two units in the last place.
__device__ __forceinline__ float fastExp2(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(result) : "f"(x));
  return result;
}

__device__ __forceinline__ uint32_t packHalves(float low, float high) {
  const __half2 pair = __floats2half2_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

}  // namespace algm

#endif  // ALGM_CPU_TWIN
#endif  // ALGM_NATIVE_COMMON_PTX_H_
