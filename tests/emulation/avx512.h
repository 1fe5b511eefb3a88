// AVX-512 without a processor that has it: the intrinsics that csrc/cpu uses, from AVX2 and loops.
//
// Force-included into the sources of an instruction set (csrc/cpu/CMakeLists.txt: emulated), so
// that its kernels run on any machine with AVX2, slowly. Meanings are those of the Intel 64 and
// IA-32 Architectures Software Developer's Manual, volume 2. What a processor is free to choose is
// chosen as badly as it may be.
#pragma once

#include <immintrin.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#define __AVX512F__ 1
#define __AVX512BW__ 1
#define __AVX512VL__ 1
#define __AVX512DQ__ 1

namespace emulated {
namespace {

#define EMULATED inline __attribute__((always_inline))

union Register {
  __m512 ps;
  __m512i si;
  __m256 ps256[2];
  __m256i si256[2];
  __m128i si128[4];
  float f32[16];
  uint64_t u64[8];
  int32_t i32[16];
  uint32_t u32[16];
  uint16_t u16[32];
  int8_t i8[64];
  uint8_t u8[64];
};
EMULATED Register of(__m512 v) { return {.ps = v}; }
EMULATED Register of(__m512i v) { return {.si = v}; }

// What works on lanes of 128 bits or less is done half by half.
#define TWICE(kind, name)                                                           \
  EMULATED auto name(decltype(Register::kind) a, decltype(Register::kind) b) {      \
    const Register x = of(a), y = of(b);                                            \
    Register out;                                                                   \
    for (int half = 0; half < 2; ++half)                                            \
      out.kind##256 [half] = _mm256_##name(x.kind##256 [half], y.kind##256 [half]); \
    return out.kind;                                                                \
  }
#define TWICE_SHIFT(name)                                                                       \
  EMULATED __m512i name(__m512i a, int count) {                                                 \
    const Register x = of(a);                                                                   \
    Register out;                                                                               \
    for (int half = 0; half < 2; ++half) out.si256[half] = _mm256_##name(x.si256[half], count); \
    return out.si;                                                                              \
  }
TWICE(ps, max_ps)
TWICE(ps, min_ps)
TWICE(si, madd_epi16)
TWICE(si, maddubs_epi16)
TWICE(si, mul_epu32)
TWICE(si, shuffle_epi8)
TWICE(si, unpacklo_epi8)
TWICE(si, unpackhi_epi8)
TWICE(si, unpacklo_epi32)
TWICE(si, unpackhi_epi32)
TWICE(si, unpacklo_epi64)
TWICE(si, unpackhi_epi64)
TWICE_SHIFT(srli_epi16)
TWICE_SHIFT(slli_epi16)
TWICE_SHIFT(slli_epi32)
TWICE_SHIFT(srli_epi64)
TWICE_SHIFT(slli_epi64)
#undef TWICE
#undef TWICE_SHIFT

EMULATED __m512 fmadd_ps(__m512 a, __m512 b, __m512 c) {
  const Register x = of(a), y = of(b), z = of(c);
  Register out;
  for (int half = 0; half < 2; ++half)
    out.ps256[half] = _mm256_fmadd_ps(x.ps256[half], y.ps256[half], z.ps256[half]);
  return out.ps;
}
EMULATED __m512i and_si512(__m512i a, __m512i b) { return a & b; }
EMULATED __m512i or_si512(__m512i a, __m512i b) { return a | b; }
EMULATED __m512i setzero_si512() { return __m512i{}; }
EMULATED __m512i set1_epi8(char x) {
  Register out;
  std::memset(&out, x, sizeof out);
  return out.si;
}
EMULATED __m512i set1_epi32(int x) {
  Register out;
  for (int32_t& lane : out.i32) lane = x;
  return out.si;
}
EMULATED __m512i broadcast_i32x4(__m128i a) {
  Register out;
  for (__m128i& lane : out.si128) lane = a;
  return out.si;
}
EMULATED __m512i shuffle_i32x4(__m512i a, __m512i b, int which) {
  const Register x = of(a), y = of(b);
  Register out;
  for (int lane = 0; lane < 4; ++lane)
    out.si128[lane] = (lane < 2 ? x : y).si128[which >> (2 * lane) & 3];
  return out.si;
}
EMULATED __m512i mask_blend_epi32(__mmask16 mask, __m512i a, __m512i b) {
  Register out = of(a);
  for (int i = 0; i < 16; ++i)
    if (mask >> i & 1) out.i32[i] = of(b).i32[i];
  return out.si;
}
EMULATED __mmask16 movepi32_mask(__m512i a) {
  unsigned mask = 0;
  for (int i = 0; i < 16; ++i) mask |= of(a).u32[i] >> 31 << i;
  return static_cast<__mmask16>(mask);
}
EMULATED __m512i maskz_compress_epi32(__mmask16 mask, __m512i a) {
  Register out{};
  for (int i = 0, n = 0; i < 16; ++i)
    if (mask >> i & 1) out.i32[n++] = of(a).i32[i];
  return out.si;
}
EMULATED __m512 maskz_compress_ps(__mmask16 mask, __m512 a) {
  return of(maskz_compress_epi32(mask, of(a).si)).ps;
}

EMULATED __m512i loadu_si512(const void* p) {
  Register out;
  std::memcpy(&out, p, sizeof out);
  return out.si;
}
EMULATED void storeu_si512(void* p, __m512i a) { std::memcpy(p, &a, sizeof a); }
EMULATED void storeu_ps(void* p, __m512 a) { std::memcpy(p, &a, sizeof a); }
EMULATED void store_si512(void* p, __m512i a) {  // traps where p is not aligned
  if (reinterpret_cast<uintptr_t>(p) % 64 != 0) __builtin_trap();
  storeu_si512(p, a);
}
EMULATED __m512 maskz_loadu_ps(__mmask16 mask, const float* p) {
  Register out{};
  for (int i = 0; i < 16; ++i)
    if (mask >> i & 1) out.f32[i] = p[i];
  return out.ps;
}
EMULATED void mask_storeu_ps(float* p, __mmask16 mask, __m512 a) {
  for (int i = 0; i < 16; ++i)
    if (mask >> i & 1) p[i] = of(a).f32[i];
}
EMULATED __m256i maskz_loadu_epi16(__mmask16 mask, const void* p) {
  Register out{};
  for (int i = 0; i < 16; ++i)
    if (mask >> i & 1) std::memcpy(&out.u16[i], static_cast<const char*>(p) + 2 * i, 2);
  return out.si256[0];
}

EMULATED __m512 cvtph_ps(__m256i a) {
  Register out, half{};
  half.si256[0] = a;
  for (int i = 0; i < 2; ++i) out.ps256[i] = _mm256_cvtph_ps(half.si128[i]);
  return out.ps;
}
EMULATED __m512i cvtepu16_epi32(__m256i a) {
  Register out, half{};
  half.si256[0] = a;
  for (int i = 0; i < 2; ++i) out.si256[i] = _mm256_cvtepu16_epi32(half.si128[i]);
  return out.si;
}
EMULATED __m512 rcp14_ps(__m512 a) {  // cut off, as far from 1 / a as the manual allows
  Register out;
  for (int i = 0; i < 16; ++i) {
    out.f32[i] = 1.0f / of(a).f32[i];
    if (std::isfinite(out.f32[i])) out.u32[i] &= ~0x1ffu;
  }
  return out.ps;
}
// Lanes half a register apart are paired.
EMULATED float reduce_add_ps(__m512 a) {
  Register x = of(a);
  for (int half = 8; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) x.f32[i] = x.f32[i + half] + x.f32[i];
  return x.f32[0];
}
EMULATED float reduce_max_ps(__m512 a) {
  Register x = of(a);
  for (int half = 8; half > 0; half /= 2)
    for (int i = 0; i < half; ++i)
      x.f32[i] = x.f32[i + half] > x.f32[i] ? x.f32[i + half] : x.f32[i];
  return x.f32[0];
}

// The asm of csrc/cpu/quantised/dot.h: sum += pairs of products, in 32 or in 16 bits.
template <typename V>
EMULATED void multiply_add(bool bytes, V& sum, V a, V b) {
  const auto x = (__m512i)a, y = (__m512i)b;
  Register total = of((__m512i)sum);
  const Register product = of(bytes ? maddubs_epi16(x, y) : madd_epi16(x, y));
  for (int half = 0; half < 2; ++half)
    total.si256[half] = bytes ? _mm256_add_epi16(total.si256[half], product.si256[half])
                              : _mm256_add_epi32(total.si256[half], product.si256[half]);
  sum = (V)total.si;
}

}  // namespace
}  // namespace emulated

#define BW_MULTIPLY_ADD(multiply, add, sum, a, b) \
  emulated::multiply_add(add[5] == 'w', sum, decltype(sum + sum)(a), decltype(sum + sum)(b))

#define _mm256_maskz_loadu_epi16 emulated::maskz_loadu_epi16
#define _mm512_and_si512 emulated::and_si512
#undef _mm512_broadcast_i32x4
#define _mm512_broadcast_i32x4 emulated::broadcast_i32x4
#define _mm512_cvtepu16_epi32 emulated::cvtepu16_epi32
#define _mm512_cvtph_ps emulated::cvtph_ps
#define _mm512_fmadd_ps emulated::fmadd_ps
#define _mm512_loadu_si512 emulated::loadu_si512
#define _mm512_madd_epi16 emulated::madd_epi16
#define _mm512_mask_blend_epi32 emulated::mask_blend_epi32
#define _mm512_mask_storeu_ps emulated::mask_storeu_ps
#define _mm512_maskz_compress_epi32 emulated::maskz_compress_epi32
#define _mm512_maskz_compress_ps emulated::maskz_compress_ps
#define _mm512_maskz_loadu_ps emulated::maskz_loadu_ps
#define _mm512_max_ps emulated::max_ps
#define _mm512_min_ps emulated::min_ps
#define _mm512_movepi32_mask emulated::movepi32_mask
#define _mm512_mul_epu32 emulated::mul_epu32
#define _mm512_or_si512 emulated::or_si512
#define _mm512_rcp14_ps emulated::rcp14_ps
#define _mm512_reduce_add_ps emulated::reduce_add_ps
#define _mm512_reduce_max_ps emulated::reduce_max_ps
#define _mm512_set1_epi32 emulated::set1_epi32
#define _mm512_set1_epi8 emulated::set1_epi8
#define _mm512_setzero_si512 emulated::setzero_si512
#define _mm512_shuffle_epi8 emulated::shuffle_epi8
#undef _mm512_shuffle_i32x4
#define _mm512_shuffle_i32x4 emulated::shuffle_i32x4
#undef _mm512_slli_epi16
#define _mm512_slli_epi16 emulated::slli_epi16
#undef _mm512_slli_epi32
#define _mm512_slli_epi32 emulated::slli_epi32
#undef _mm512_slli_epi64
#define _mm512_slli_epi64 emulated::slli_epi64
#undef _mm512_srli_epi16
#define _mm512_srli_epi16 emulated::srli_epi16
#undef _mm512_srli_epi64
#define _mm512_srli_epi64 emulated::srli_epi64
#define _mm512_store_si512 emulated::store_si512
#define _mm512_storeu_ps emulated::storeu_ps
#define _mm512_storeu_si512 emulated::storeu_si512
#define _mm512_stream_si512 emulated::store_si512
#define _mm512_unpackhi_epi32 emulated::unpackhi_epi32
#define _mm512_unpackhi_epi64 emulated::unpackhi_epi64
#define _mm512_unpackhi_epi8 emulated::unpackhi_epi8
#define _mm512_unpacklo_epi32 emulated::unpacklo_epi32
#define _mm512_unpacklo_epi64 emulated::unpacklo_epi64
#define _mm512_unpacklo_epi8 emulated::unpacklo_epi8
