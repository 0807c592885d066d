// The functions of common/ptx.cuh for the CPU twin, fragment layouts included. The tests have the instructions behind
// them a second time, for the compiled PTX.
//
// Asynchronous copies happen at the wait or at once, as the seed says: a missing wait then reads old contents, and a
// copy into memory that others still read destroys it.
#ifndef ALGM_NATIVE_CPU_TWIN_PTX_ON_CPU_H_
#define ALGM_NATIVE_CPU_TWIN_PTX_ON_CPU_H_

#include <cuda_fp16.h>

#include "cpu_twin/races.h"

namespace algm {

inline void perform(const twin::PendingCopy& copy) {
  twin::races::access(copy.target, 16, true);
  if (copy.source == nullptr) {
    std::memset(copy.target, 0, 16);
  } else {
    std::memcpy(copy.target, copy.source, 16);
  }
}

inline void copyAsync16(void* shared, const void* source, bool valid) {
  if (reinterpret_cast<uintptr_t>(shared) % 16 != 0) twin::fail("misaligned target of an asynchronous copy");
  if (valid && reinterpret_cast<uintptr_t>(source) % 16 != 0) twin::fail("misaligned source of an asynchronous copy");
  const twin::PendingCopy copy{shared, valid ? source : nullptr};
  twin::races::access(shared, 16, true);
  if (twin::copiesAreEager()) {
    perform(copy);
  } else {
    twin::current->openCopies.push_back(copy);
  }
}

inline void commitCopies() {
  twin::current->groups.push_back(std::move(twin::current->openCopies));
  twin::current->openCopies.clear();
}

template <int kPending>
inline void waitCopies() {
  auto& groups = twin::current->groups;
  while (groups.size() > kPending) {
    for (const twin::PendingCopy& copy : groups.front()) perform(copy);
    groups.erase(groups.begin());
  }
}

inline void loadMatricesOf(uint32_t (&registers)[4], const void* row, bool transposed) {
  if (reinterpret_cast<uintptr_t>(row) % 16 != 0) twin::fail("misaligned row of a matrix load");
  const unsigned char* lanes = twin::exchange(&row, sizeof(row), twin::kLoadMatrix);
  const int lane = twin::current->lane;
  for (int matrix = 0; matrix < 4; ++matrix) {
    uint32_t halves[2];
    for (int i = 0; i < 2; ++i) {
      const int r = transposed ? lane % 4 * 2 + i : lane / 4;
      const int c = transposed ? lane / 4 : lane % 4 * 2 + i;
      halves[i] = twin::laneValue<const uint16_t*>(lanes, 8 * matrix + r)[c];
    }
    registers[matrix] = halves[0] | halves[1] << 16;
  }
  // On the device the load is over for all lanes here; a lane that runs on must not overwrite what others still read.
  twin::exchange(nullptr, 0, twin::kLoadMatrix);
}

inline void loadMatrices(uint32_t (&registers)[4], const void* row) { loadMatricesOf(registers, row, false); }
inline void loadMatricesTransposed(uint32_t (&registers)[4], const void* row) { loadMatricesOf(registers, row, true); }

inline float halfOf(uint32_t pair, int which) { return __half2float({uint16_t(which ? pair >> 16 : pair & 0xFFFF)}); }

inline void multiplyAdd(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  struct Fragments { float a[8], b[4]; };
  Fragments mine;
  static_assert(sizeof(Fragments) <= twin::kLaneBytes);
  for (int i = 0; i < 8; ++i) mine.a[i] = halfOf(a[i / 2], i % 2);
  for (int i = 0; i < 4; ++i) mine.b[i] = halfOf(i < 2 ? b0 : b1, i % 2);
  const unsigned char* lanes = twin::exchange(&mine, sizeof(mine), twin::kMultiply);
  const auto fragments = [lanes](int lane) {
    return reinterpret_cast<const Fragments*>(lanes + twin::kLaneBytes * lane);
  };
  const int group = twin::current->lane / 4, quad = twin::current->lane % 4;
  for (int i = 0; i < 4; ++i) {
    const int upper = i / 2;  // row group or group + 8
    const int column = 2 * quad + i % 2;
    float total = 0;
    for (int k = 0; k < 16; ++k) {
      const float left = fragments(4 * group + k % 8 / 2)->a[4 * (k / 8) + 2 * upper + k % 2];
      const float right = fragments(4 * column + k % 8 / 2)->b[2 * (k / 8) + k % 2];
      total += left * right;
    }
    sum[i] += total;
  }
}

inline float fastExp2(float x) { return std::exp2(x); }
inline uint32_t packHalves(float low, float high) {
  return __float2half_rn(low).bits | uint32_t(__float2half_rn(high).bits) << 16;
}

}  // namespace algm

#endif  // ALGM_NATIVE_CPU_TWIN_PTX_ON_CPU_H_
