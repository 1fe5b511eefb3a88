// fp16 as bits, for code that is compiled without instructions for it.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace branchwise {

// Round to nearest, ties to even; magnitudes beyond fp16 become infinite.
inline uint16_t to_half(float x) {
  const uint32_t sign = std::bit_cast<uint32_t>(x) >> 16 & 0x8000u;
  const float magnitude = std::fabs(x);
  if (!(magnitude < 65520.0f)) return static_cast<uint16_t>(sign | (x != x ? 0x7e00u : 0x7c00u));
  if (magnitude < 0x1p-14f)  // subnormal: units of 2^-24
    return static_cast<uint16_t>(sign | static_cast<uint32_t>(std::nearbyint(magnitude * 0x1p24f)));
  uint32_t bits = std::bit_cast<uint32_t>(magnitude);
  bits += 0xfffu + (bits >> 13 & 1u);
  return static_cast<uint16_t>(sign | ((bits >> 13) - (112u << 10)));
}

inline float from_half(uint16_t half) {
  const uint32_t magnitude = half & 0x7fffu, sign = (half & 0x8000u) << 16;
  if (magnitude < 0x400u)
    return std::copysign(static_cast<float>(magnitude) * 0x1p-24f, std::bit_cast<float>(sign));
  const uint32_t exponent = magnitude < 0x7c00u ? 112u << 23 : 224u << 23;  // infinite or NaN
  return std::bit_cast<float>(sign | ((magnitude << 13) + exponent));
}

}  // namespace branchwise
