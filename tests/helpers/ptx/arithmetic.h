// Arithmetic of the PTX ISA where C++ has another or none. Registers are unsigned integers.
#ifndef ALGM_TESTS_PTX_ARITHMETIC_H_
#define ALGM_TESTS_PTX_ARITHMETIC_H_

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

namespace ptx {

inline float real(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

inline uint32_t bitsOf(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

// The result of an operation in a register: there is one NaN.
inline uint32_t number(float value) { return value == value ? bitsOf(value) : 0x7FFFFFFFu; }

inline bool unordered(float a, float b) { return a != a || b != b; }

// A NaN gives way to a number, and -0 is below +0.
inline float smaller(float a, float b) {
  if (unordered(a, b)) return a == a ? a : b;
  return a < b || (a == b && std::signbit(a)) ? a : b;
}

// .ftz: what has no normal representation is a zero of its sign.
inline float flushed(float value) {
  return std::fabs(value) < std::numeric_limits<float>::min() ? std::copysign(0.0f, value) : value;
}

inline float fromHalf(uint16_t half) {
  const uint32_t sign = uint32_t(half & 0x8000) << 16, magnitude = half & 0x7FFF;
  if (magnitude > 0x7C00) return real(0x7FFFFFFFu);
  if (magnitude == 0x7C00) return real(sign | 0x7F800000u);
  if (magnitude < 0x0400) return std::copysign(float(magnitude) * 0x1p-24f, real(sign | 0x3F800000u));
  return real(sign | ((magnitude << 13) + (112u << 23)));  // exponents begin at -14 instead of -126
}

// To the nearest half, the even one of two.
inline uint16_t toHalf(float value) {
  const uint32_t bits = bitsOf(value), magnitude = bits & 0x7FFFFFFFu;
  const uint16_t sign = uint16_t(bits >> 16 & 0x8000);
  if (value != value) return 0x7FFF;
  if (magnitude >= bitsOf(65520.0f)) return sign | 0x7C00;
  // The sum's last place is that of a subnormal half, 2^-24, and rounding carries into the exponent as it should.
  if (magnitude < bitsOf(0x1p-14f)) return sign | uint16_t(bitsOf(real(magnitude) + 0.5f) - bitsOf(0.5f));
  return sign | uint16_t((magnitude - (112u << 23) + 0xFFF + (magnitude >> 13 & 1)) >> 13);
}

// A shift by more than the width is one by the width.
template <typename T>
T shiftLeft(T value, uint32_t by) {
  return by < 8 * sizeof(T) ? T(value << by) : T(0);
}

template <typename T>
T shiftRight(T value, uint32_t by) {
  const uint32_t width = 8 * sizeof(T);
  if (by < width) return T(value >> by);
  return value < 0 ? T(-1) : T(0);
}

inline uint32_t reversed(uint32_t bits) {
  uint32_t result = 0;
  for (int i = 0; i < 32; ++i) result |= (bits >> i & 1) << (31 - i);
  return result;
}

// `into` with the lowest `length` bits of `bits` from bit `position` on.
inline uint32_t inserted(uint32_t bits, uint32_t into, uint32_t position, uint32_t length) {
  position &= 255;
  length &= 255;
  for (uint32_t i = 0; i < length && position + i < 32; ++i) {
    const uint32_t one = 1u << (position + i);
    into = bits >> i & 1 ? into | one : into & ~one;
  }
  return into;
}

}  // namespace ptx

#endif  // ALGM_TESTS_PTX_ARITHMETIC_H_
