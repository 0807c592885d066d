// Rows of activations: 16 bytes a lane where the rows allow it, single elements otherwise; arithmetic in float.
#ifndef ALGM_NATIVE_COMMON_ROWS_H_
#define ALGM_NATIVE_COMMON_ROWS_H_

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "algm.h"

namespace algm {

// V elements of type T that are loaded and stored as one.
template <typename T, int V>
struct alignas(sizeof(T) * V) Pack {
  T values[V];
};

template <typename T, int V>
__device__ __forceinline__ Pack<T, V> loadPack(const T* __restrict__ source) {
  return *reinterpret_cast<const Pack<T, V>*>(source);
}

template <typename T, int V>
__device__ __forceinline__ void storePack(T* __restrict__ target, const Pack<T, V>& pack) {
  *reinterpret_cast<Pack<T, V>*>(target) = pack;
}

__device__ __forceinline__ float toFloat(float value) { return value; }
__device__ __forceinline__ float toFloat(__half value) { return __half2float(value); }

template <typename T>
__device__ __forceinline__ T fromFloat(float value);
template <>
__device__ __forceinline__ float fromFloat<float>(float value) {
  return value;
}
template <>
__device__ __forceinline__ __half fromFloat<__half>(float value) {
  return __float2half_rn(value);
}

// V elements as whole registers: the type for what is only copied, since the compiler takes packs of halves that are
// loaded under a condition apart, and puts them together again, with two instructions a register.
template <typename T, int V>
using Words = std::conditional_t<sizeof(T) * V % 4 == 0, Pack<uint32_t, int(sizeof(T)) * V / 4>, Pack<T, V>>;

template <typename T, int V>
__device__ __forceinline__ Words<T, V> loadWords(const T* __restrict__ source) {
  return *reinterpret_cast<const Words<T, V>*>(source);
}

template <typename T, int V>
__device__ __forceinline__ Pack<T, V> elementsOf(const Words<T, V>& words) {
  Pack<T, V> pack;
  memcpy(&pack, &words, sizeof(pack));
  return pack;
}

// Copies `length` contiguous elements, one warp. The loads of a round are issued before its stores.
template <typename T, int V>
__device__ __forceinline__ void copyByWarp(T* __restrict__ target, const T* __restrict__ source, int length, int lane) {
  constexpr int kRound = 4;
#pragma unroll 1
  for (int start = lane * V; start < length; start += kRound * 32 * V) {
    Words<T, V> packs[kRound];
#pragma unroll
    for (int i = 0; i < kRound; ++i) {
      if (start + i * 32 * V < length) packs[i] = loadWords<T, V>(source + start + i * 32 * V);
    }
#pragma unroll
    for (int i = 0; i < kRound; ++i) {
      if (start + i * 32 * V < length) *reinterpret_cast<Words<T, V>*>(target + start + i * 32 * V) = packs[i];
    }
  }
}

// 1 / max(length, 1e-12) of a token from the sum of its squares.
__device__ __forceinline__ float inverseLength(float squares) { return 1.0f / fmaxf(sqrtf(squares), 1e-12f); }

template <typename T, int V>
struct RowType {
  using Scalar = T;
  static constexpr int kVector = V;
};

// Calls body(RowType) with 16-byte vectors where `channels` fill whole ones (base pointers are aligned by contract).
template <typename Body>
AlgmStatus withRowType(int dtype, int channels, Body&& body) {
  if (dtype == ALGM_FLOAT16) return channels % 8 == 0 ? body(RowType<__half, 8>{}) : body(RowType<__half, 1>{});
  return channels % 4 == 0 ? body(RowType<float, 4>{}) : body(RowType<float, 1>{});
}

}  // namespace algm

#endif  // ALGM_NATIVE_COMMON_ROWS_H_
