// AVX-512-BF16 and VNNI on top of the emulated AVX-512.
#pragma once

#include "avx512.h"

#define __AVX512BF16__ 1
#define __AVX512VNNI__ 1

namespace emulated {
namespace {

EMULATED float from_bf16(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}
// Nearest, ties to even; subnormal numbers are 0, NaN stays NaN.
EMULATED uint16_t to_bf16(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  if (std::isnan(x)) return static_cast<uint16_t>(bits >> 16 | 0x40);
  if (std::fpclassify(x) == FP_SUBNORMAL) return static_cast<uint16_t>(bits >> 16 & 0x8000);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

EMULATED __m256i cvtneps_pbh(__m512 a) {
  Register out{};
  for (int i = 0; i < 16; ++i) out.u16[i] = to_bf16(of(a).f32[i]);
  return out.si256[0];
}
EMULATED __m512bh cvtne2ps_pbh(__m512 high, __m512 low) {
  Register out;
  out.si256[0] = cvtneps_pbh(low), out.si256[1] = cvtneps_pbh(high);
  return (__m512bh)out.si;
}
EMULATED __m512 dpbf16_ps(__m512 sum, __m512bh a, __m512bh b) {
  const Register x = of((__m512i)a), y = of((__m512i)b);
  Register out = of(sum);
  for (int odd = 1; odd >= 0; --odd)
    for (int i = 0; i < 16; ++i)
      out.f32[i] =
          std::fma(from_bf16(x.u16[2 * i + odd]), from_bf16(y.u16[2 * i + odd]), out.f32[i]);
  return out.ps;
}
EMULATED __m512i dpbusd_epi32(__m512i sum, __m512i a, __m512i b) {
  const Register x = of(a), y = of(b);
  Register out = of(sum);
  for (int i = 0; i < 64; ++i) out.i32[i / 4] += x.u8[i] * y.i8[i];
  return out.si;
}

}  // namespace
}  // namespace emulated

#define _mm512_cvtne2ps_pbh emulated::cvtne2ps_pbh
#define _mm512_cvtneps_pbh emulated::cvtneps_pbh
#define _mm512_dpbf16_ps emulated::dpbf16_ps
#define _mm512_dpbusd_epi32 emulated::dpbusd_epi32
