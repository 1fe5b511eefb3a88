// One register of floats for the instruction set of this translation unit, and what we do with it.
//
// Included inside ISA sources only. Everything has internal linkage, so that the linker never
// replaces one instruction set's copy by another's. Fused multiply-adds are explicit: the sources
// are compiled with -ffp-contract=off, so that equal arithmetic gives equal bits in every tile
// size.
#pragma once

#include <cstdint>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#define BW_INLINE inline __attribute__((always_inline))

namespace branchwise::BRANCHWISE_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
constexpr int kRegisters = 32;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
constexpr int kRegisters = 16;
#else
constexpr int kLanes = 4;
constexpr int kRegisters = 16;
#endif

typedef float Vec __attribute__((vector_size(4 * kLanes)));
typedef int32_t IVec __attribute__((vector_size(4 * kLanes)));
typedef uint32_t UVec __attribute__((vector_size(4 * kLanes)));
typedef uint16_t HVec __attribute__((vector_size(2 * kLanes)));
typedef float VecAt __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
typedef uint32_t UVecAt __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
typedef uint16_t HVecAt __attribute__((vector_size(2 * kLanes), aligned(2), may_alias));

struct Bf16 {
  uint16_t bits;
};

BW_INLINE Vec splat(float x) { return x - Vec{}; }
BW_INLINE UVec splat_bits(uint32_t x) { return x - UVec{}; }
BW_INLINE IVec iota() {
#if defined(__AVX512F__)
  return IVec{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
#elif defined(__AVX2__)
  return IVec{0, 1, 2, 3, 4, 5, 6, 7};
#else
  return IVec{0, 1, 2, 3};
#endif
}

BW_INLINE Vec fma(Vec a, Vec b, Vec c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(__FMA__)
  return _mm256_fmadd_ps(a, b, c);
#else
  return a * b + c;
#endif
}

// sum += a * b. With 16 registers GCC lets sums wander from one to the next and spills some: this
// way each stays where it is.
BW_INLINE void accumulate(Vec& sum, Vec a, Vec b) {
#if defined(__FMA__) && !defined(__AVX512F__)
  asm("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b));
#else
  sum = fma(a, b, sum);
#endif
}

// max(a, b); b where either is NaN.
BW_INLINE Vec vmax(Vec a, Vec b) {
#if defined(__AVX512F__)
  return _mm512_max_ps(a, b);
#elif defined(__AVX2__)
  return _mm256_max_ps(a, b);
#elif defined(__SSE2__)
  return _mm_max_ps(a, b);
#else
  return a > b ? a : b;
#endif
}
// min(a, b); b where either is NaN.
BW_INLINE Vec vmin(Vec a, Vec b) {
#if defined(__AVX512F__)
  return _mm512_min_ps(a, b);
#elif defined(__AVX2__)
  return _mm256_min_ps(a, b);
#elif defined(__SSE2__)
  return _mm_min_ps(a, b);
#else
  return a < b ? a : b;
#endif
}
// x in [low, high]; NaN stays NaN.
BW_INLINE Vec clamp(Vec x, float low, float high) { return vmin(splat(high), vmax(splat(low), x)); }

// One bit per lane of a comparison's result, lane 0 lowest.
BW_INLINE uint32_t lane_bits(IVec mask) {
#if defined(__AVX512F__)
  return _mm512_movepi32_mask((__m512i)mask);
#elif defined(__AVX2__)
  return static_cast<uint32_t>(_mm256_movemask_ps((__m256)mask));
#elif defined(__SSE2__)
  return static_cast<uint32_t>(_mm_movemask_ps((__m128)mask));
#else
  uint32_t bits = 0;
  for (int i = 0; i < kLanes; ++i) bits |= (mask[i] ? 1u : 0u) << i;
  return bits;
#endif
}

BW_INLINE Vec load(const float* p) { return *reinterpret_cast<const VecAt*>(p); }
BW_INLINE void store(float* p, Vec v) { *reinterpret_cast<VecAt*>(p) = v; }

BW_INLINE Vec load(const Bf16* p) {
  const HVec half = *reinterpret_cast<const HVecAt*>(p);
  return (Vec)(__builtin_convertvector(half, UVec) << 16);
}
// Round to nearest, ties to even; NaN stays NaN. AVX-512-BF16 makes subnormal numbers 0.
BW_INLINE HVec to_bf16(Vec v) {
#if defined(__AVX512BF16__)
  return (HVec)_mm512_cvtneps_pbh(v);
#else
  const UVec bits = (UVec)v;
  const UVec rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const UVec quiet = (bits >> 16) | 0x40;
  return __builtin_convertvector((v == v) ? rounded : quiet, HVec);
#endif
}
BW_INLINE void store(Bf16* p, Vec v) { *reinterpret_cast<HVecAt*>(p) = to_bf16(v); }

// Two vectors as the cache line at p, past the caches; other threads see it after stream_end.
#if defined(__AVX512BF16__)
constexpr bool kCanStream = true;
BW_INLINE void stream(void* p, Vec low, Vec high) {
  _mm512_stream_si512(static_cast<__m512i*>(p), (__m512i)_mm512_cvtne2ps_pbh(high, low));
}
BW_INLINE void stream_end() { _mm_sfence(); }
#else
constexpr bool kCanStream = false;
BW_INLINE void stream(void*, Vec, Vec) {}
BW_INLINE void stream_end() {}
#endif

BW_INLINE Vec absolute(Vec v) { return (Vec)((UVec)v & 0x7fffffffu); }

// kLanes halves as fp32.
BW_INLINE Vec load_half(const uint16_t* p) {
#if defined(__AVX512F__)
  return (Vec)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__F16C__)
  return (Vec)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else  // shifted into place, with 2^112 for the difference of the exponents' biases
  const UVec half = __builtin_convertvector(*reinterpret_cast<const HVecAt*>(p), UVec);
  const Vec magnitude = (Vec)((half & 0x7fffu) << 13) * 0x1p112f;
  return (Vec)((UVec)magnitude | (half & 0x8000u) << 16);
#endif
}

BW_INLINE float to_float(float x) { return x; }
BW_INLINE float to_float(Bf16 x) {
  return __builtin_bit_cast(float, static_cast<uint32_t>(x.bits) << 16);
}
BW_INLINE void from_float(float& out, float x) { out = x; }
BW_INLINE void from_float(Bf16& out, float x) { out.bits = to_bf16(splat(x))[0]; }

// The first n < kLanes elements; the other lanes are 0 or not written.
BW_INLINE Vec load_n(const float* p, int n) {
#if defined(__AVX512F__)
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), p);
#else
  float part[kLanes] = {};
  for (int i = 0; i < n; ++i) part[i] = p[i];
  return load(part);
#endif
}
BW_INLINE Vec load_n(const Bf16* p, int n) {
#if defined(__AVX512F__)
  const __mmask16 mask = static_cast<__mmask16>((1u << n) - 1);
  return (Vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, p)), 16);
#else
  Bf16 part[kLanes] = {};
  for (int i = 0; i < n; ++i) part[i] = p[i];
  return load(part);
#endif
}
template <typename T>
BW_INLINE void store_n(T* p, Vec v, int n) {
  T part[kLanes];
  store(part, v);
  for (int i = 0; i < n; ++i) p[i] = part[i];
}

#if defined(__AVX512F__)
BW_INLINE void store_n(float* p, Vec v, int n) {
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), v);
}
#endif

// Reductions pair lanes half a register apart: an order that is fixed.
#if defined(__AVX512F__)
BW_INLINE float reduce_add(Vec v) { return _mm512_reduce_add_ps(v); }
BW_INLINE float reduce_max(Vec v) { return _mm512_reduce_max_ps(v); }
#else
BW_INLINE float reduce_add(Vec v) {
  float lane[kLanes];
  store(lane, v);
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) lane[i] += lane[i + half];
  return lane[0];
}
BW_INLINE float reduce_max(Vec v) {
  float lane[kLanes];
  store(lane, v);
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) lane[i] = lane[i] > lane[i + half] ? lane[i] : lane[i + half];
  return lane[0];
}
#endif

template <typename T>
BW_INLINE Vec load_up_to(const T* p, int lanes) {
  return lanes == kLanes ? load(p) : load_n(p, lanes);
}
template <typename T>
BW_INLINE void store_up_to(T* p, Vec v, int lanes) {
  if (lanes == kLanes)
    store(p, v);
  else
    store_n(p, v, lanes);
}
// Calls body(offset, lanes) over [0, n) in steps of kLanes; the last step may be shorter.
template <typename Body>
BW_INLINE void for_lanes(int64_t n, Body body) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) body(i, kLanes);
  if (i < n) body(i, static_cast<int>(n - i));
}

}  // namespace
}  // namespace branchwise::BRANCHWISE_ISA
