// The half-precision functions that the kernels use, for the CPU twin. Conversion rounds to nearest even, as on the
// device.
#ifndef ALGM_NATIVE_CPU_TWIN_CUDA_FP16_H_
#define ALGM_NATIVE_CPU_TWIN_CUDA_FP16_H_

#include "../cuda_on_cpu.h"

struct __half { uint16_t bits; };
struct alignas(4) __half2 { __half x, y; };

inline float __half2float(__half h) {
  const uint32_t sign = uint32_t(h.bits & 0x8000) << 16;
  const uint32_t exponent = h.bits >> 10 & 31;
  const uint32_t mantissa = h.bits & 1023;
  if (exponent == 31) return __uint_as_float(sign | 0x7F800000 | mantissa << 13);
  const float magnitude = exponent == 0 ? std::ldexp(float(mantissa), -24)
                                        : std::ldexp(float(1024 + mantissa), int(exponent) - 25);
  return sign ? -magnitude : magnitude;
}

inline __half __float2half_rn(float value) {
  const uint32_t bits = __float_as_uint(value);
  const uint16_t sign = uint16_t(bits >> 16 & 0x8000);
  const float magnitude = std::fabs(value);
  if (value != value) return {uint16_t(sign | 0x7E00)};
  if (magnitude >= 65520.0f) return {uint16_t(sign | 0x7C00)};
  int exponent;
  std::frexp(magnitude, &exponent);
  const int unit = (exponent < -13 ? -13 : exponent) - 11;  // exponent of the last mantissa bit
  const float steps = std::nearbyint(std::ldexp(magnitude, -unit));
  const float rounded = std::ldexp(steps, unit);
  if (rounded < std::ldexp(1.0f, -14)) return {uint16_t(sign | uint16_t(std::ldexp(rounded, 24)))};
  const float fraction = std::frexp(rounded, &exponent);  // [0.5, 1)
  return {uint16_t(sign | (exponent + 14) << 10 | (uint16_t(std::ldexp(fraction, 11)) & 1023))};
}

inline __half2 __floats2half2_rn(float x, float y) { return {__float2half_rn(x), __float2half_rn(y)}; }
inline float2 __half22float2(__half2 pair) { return {__half2float(pair.x), __half2float(pair.y)}; }

#endif  // ALGM_NATIVE_CPU_TWIN_CUDA_FP16_H_
