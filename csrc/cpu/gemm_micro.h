// A few rows times one panel of weights, in registers: what dense products and attention are made
// of.
//
// Each output is one chain of fused multiply-adds over k in order: neither the number of rows nor
// their grouping changes its bits.
#pragma once

#include "cpu/gemm_parts.h"

namespace branchwise::BRANCHWISE_ISA {
namespace {

constexpr int kMaxRows = kRegisters == 32 ? 12 : 6;  // rows of a micro tile: x 2 accumulators

// How a 32-bit lane of a panel becomes multiply-adds with x[k]. A lane holds kStep steps of k, that
// are worked off in kHalves rounds; kPairs: x comes as pairs of bf16 too.
struct Fp32Weights {
  static constexpr int kStep = 1, kHalves = 1;
  static constexpr bool kPairs = false;
  static BW_INLINE Vec unpack(UVec lane, int) { return (Vec)lane; }
  static BW_INLINE void multiply_add(Vec& sum, Vec x, Vec weight) { accumulate(sum, x, weight); }
};
struct Bf16Weights : Fp32Weights {
  static constexpr int kStep = 2, kHalves = 2;
  static BW_INLINE Vec unpack(UVec lane, int half) {
    return half == 0 ? (Vec)(lane << 16) : (Vec)(lane & 0xffff0000u);
  }
};
#if defined(__AVX512BF16__)
struct Bf16Pairs : Fp32Weights {
  static constexpr int kStep = 2;
  static constexpr bool kPairs = true;
  static BW_INLINE void multiply_add(Vec& sum, Vec x, Vec weight) {
    sum = _mm512_dpbf16_ps(sum, (__m512bh)x, (__m512bh)weight);
  }
};
#endif

// c[m][kVecs * kLanes] += a * panel columns, over `steps` steps of k. a: words [k][m], or where
// kStride is not 0 [m][k] with rows so many words apart. ahead: words to the weights to fetch.
template <int m, int kVecs, typename Format, int kStride>
void micro(const float* a, const void* panel, int64_t steps, int64_t ahead, float* c) {
  Vec sum[m][kVecs];
#pragma GCC unroll 16
  for (int i = 0; i < m; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) sum[i][v] = load(c + i * kPanelWidth + v * kLanes);
  const uint32_t* words = static_cast<const uint32_t*>(panel);
  for (int64_t k = 0; k < steps; k += Format::kStep, words += kPanelWidth) {
    if constexpr (kStride == 0)  // to L2: half a slice and x fill L1
      for (int v = 0; v < kVecs * kLanes; v += 16) __builtin_prefetch(words + ahead + v, 0, 2);
#pragma GCC unroll 2
    for (int half = 0; half < Format::kHalves; ++half, a += kStride ? 1 : m) {
      Vec weight[kVecs];
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v)
        weight[v] = Format::unpack(*reinterpret_cast<const UVecAt*>(words + v * kLanes), half);
#pragma GCC unroll 16
      for (int i = 0; i < m; ++i) {
        const Vec x = splat(a[kStride ? i * kStride : i]);
#pragma GCC unroll 4
        for (int v = 0; v < kVecs; ++v) Format::multiply_add(sum[i][v], x, weight[v]);
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < m; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) store(c + i * kPanelWidth + v * kLanes, sum[i][v]);
}

// One group of m rows against all 32 columns of a panel's slice.
template <int m, typename Format, int kStride>
void group_times_panel(const float* a, const void* panel, int64_t steps, int64_t ahead, float* c) {
  constexpr int kVecs = m <= 2 && 4 * kLanes <= kPanelWidth ? 4 : 2;
  for (int column = 0; column < kPanelWidth; column += kVecs * kLanes)
    micro<m, kVecs, Format, kStride>(a, static_cast<const uint32_t*>(panel) + column, steps, ahead,
                                     c + column);
}

// The same for any number of rows up to kMaxRows.
template <typename Format, int kStride = 0, int m = kMaxRows>
BW_INLINE void multiply_rows(int64_t rows, const float* a, const void* panel, int64_t steps,
                             float* c, int64_t ahead = 0) {
  if (rows == m) return group_times_panel<m, Format, kStride>(a, panel, steps, ahead, c);
  if constexpr (m > 1) multiply_rows<Format, kStride, m - 1>(rows, a, panel, steps, c, ahead);
}

}  // namespace
}  // namespace branchwise::BRANCHWISE_ISA
