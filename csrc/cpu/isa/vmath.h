// Vector exp2, exp, log, tanh: polynomials after range reduction, errors below 2 ulp.
//
// Coefficients: Chebyshev (minimax-like) fits on the reduced interval, the classic forms of Cephes
// for exp, log and tanh. tests/kernels/test_vector_math.py holds the stated errors.
#pragma once

#include "cpu/isa/simd.h"

namespace branchwise::BRANCHWISE_ISA {
namespace {

// Nearest integer, valid for |x| < 2^22.
BW_INLINE Vec round_small(Vec x) {
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: the sum's last bit is worth 1
  return (x + kMagic) - kMagic;
}
// 2^n for integral n in [-126, 127].
BW_INLINE Vec power_of_two(Vec n) {
  constexpr float kMagic = 12582912.0f;
  const IVec k = (IVec)(n + kMagic);  // low bits hold n
  return (Vec)((k + 127) << 23);
}

// 2^x for x <= 127. Below -126 the result is 0. Relative error < 1.2e-7.
BW_INLINE Vec exp2(Vec x) {
  const Vec clamped = clamp(x, -126.0f, 127.0f);
  const Vec n = round_small(clamped);
  const Vec f = clamped - n;
  Vec p = splat(1.54614478e-4f);
  p = fma(p, f, splat(1.33908668e-3f));
  p = fma(p, f, splat(9.61805694e-3f));
  p = fma(p, f, splat(5.55035695e-2f));
  p = fma(p, f, splat(2.40226507e-1f));
  p = fma(p, f, splat(6.93147182e-1f));
  p = fma(p, f, splat(1.0f));
  return (x < -126.0f) ? Vec{} : p * power_of_two(n);
}

// 2^x for x <= 127 within 8e-5: little beside rounding to bf16, and half the work. Below -126.4 it
// is a subnormal number, which AVX-512-BF16 rounds to 0.
BW_INLINE Vec rough_exp2(Vec x) {
  constexpr float kMagic = 12582912.0f;
  x = vmax(splat(-126.4f), x);
  const Vec shifted = x + kMagic;  // low bits hold the nearest integer
  const Vec f = x - (shifted - kMagic);
  Vec p = fma(splat(0.05517165f), f, splat(0.24261112f));
  p = fma(p, f, splat(0.69326099f));
  p = fma(p, f, splat(0.99992807f));
  return (Vec)((IVec)p + ((IVec)shifted << 23));
}
// 1 / x for normal x > 0 with a normal inverse, within 7e-5.
BW_INLINE Vec rough_inverse(Vec x) {
#if defined(__AVX512F__)
  return _mm512_rcp14_ps(x);
#else
  return 1.0f / x;
#endif
}

// e^x. Below -87.3 the result is 0, above 88.3 about 3e38. Relative error < 1.2e-7.
BW_INLINE Vec exp(Vec x) {
  const Vec clamped = clamp(x, -87.3f, 88.3f);
  const Vec n = round_small(clamped * 1.44269504f);
  Vec r = fma(n, splat(-0.693359375f), clamped);  // ln 2 in two parts
  r = fma(n, splat(2.12194440e-4f), r);
  Vec p = splat(1.9875691500e-4f);
  p = fma(p, r, splat(1.3981999507e-3f));
  p = fma(p, r, splat(8.3334519073e-3f));
  p = fma(p, r, splat(4.1665795894e-2f));
  p = fma(p, r, splat(1.6666665459e-1f));
  p = fma(p, r, splat(5.0000001201e-1f));
  p = fma(p, r * r, r) + 1.0f;
  return (x < -87.3f) ? Vec{} : p * power_of_two(n);
}

// ln x for normal x > 0. Relative error < 2e-7 (near 1 too: x - 1 is exact there).
BW_INLINE Vec log(Vec x) {
  const IVec bits = (IVec)x;
  IVec exponent = (bits >> 23) - 127;
  Vec m = (Vec)((bits & 0x007fffff) | 0x3f800000);  // [1, 2)
  const IVec high = m > 1.41421356f;
  m = high ? m * 0.5f : m;
  exponent = exponent - high;  // true is -1
  const Vec f = m - 1.0f;
  const Vec e = __builtin_convertvector(exponent, Vec);
  Vec p = splat(7.0376836292e-2f);
  p = fma(p, f, splat(-1.1514610310e-1f));
  p = fma(p, f, splat(1.1676998740e-1f));
  p = fma(p, f, splat(-1.2420140846e-1f));
  p = fma(p, f, splat(1.4249322787e-1f));
  p = fma(p, f, splat(-1.6668057665e-1f));
  p = fma(p, f, splat(2.0000714765e-1f));
  p = fma(p, f, splat(-2.4999993993e-1f));
  p = fma(p, f, splat(3.3333331174e-1f));
  const Vec f2 = f * f;
  Vec tail = p * f2 * f;
  tail = fma(e, splat(-2.12194440e-4f), tail);
  tail = fma(f2, splat(-0.5f), tail);
  return fma(e, splat(0.693359375f), f + tail);
}

// tanh x. Relative error < 3e-7.
BW_INLINE Vec tanh(Vec x) {
  const Vec x2 = x * x;
  Vec p = splat(-5.70498872745e-3f);
  p = fma(p, x2, splat(2.06390887954e-2f));
  p = fma(p, x2, splat(-5.37397155531e-2f));
  p = fma(p, x2, splat(1.33314422036e-1f));
  p = fma(p, x2, splat(-3.33332819422e-1f));
  const Vec near = fma(p * x2, x, x);
  const Vec far = 1.0f - 2.0f / (exp(vmin(splat(40.0f), x + x)) + 1.0f);
  return (x2 < 0.390625f) ? near : far;
}

}  // namespace
}  // namespace branchwise::BRANCHWISE_ISA
