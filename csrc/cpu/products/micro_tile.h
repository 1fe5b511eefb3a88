// A few rows times one panel of weights, in registers: what dense products and attention are made
// of.
//
// Each output is one chain of fused multiply-adds over k in order: neither the number of rows nor
// their grouping changes its bits.
#pragma once

#include "cpu/products/parts.h"

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

// sum[m][kVecs] += a * panel columns, over `steps` steps of k. a: words [k][m], or where kStride is
// not 0 [m][k] with rows so many words apart. ahead: words to the weights to fetch.
template <typename Format, int kStride, int m, int kVecs>
BW_INLINE void multiply_steps(const float* a, const uint32_t* words, int64_t steps, int64_t ahead,
                              Vec (&sum)[m][kVecs]) {
  constexpr int kLocality = kStride == 0 ? 2 : 3;  // to L2: half a slice and packed rows fill L1
  for (const uint32_t* end = words + steps / Format::kStep * kPanelWidth; words < end;
       words += kPanelWidth) {
    for (int v = 0; v < kVecs * kLanes; v += 16)
      __builtin_prefetch(words + ahead + v, 0, kLocality);
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
}

// Calls body(i, v, where that lies in c) for the sums of a micro tile.
template <int m, int kVecs, typename Body>
BW_INLINE void for_sums(float* c, Body body) {
#pragma GCC unroll 16
  for (int i = 0; i < m; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) body(i, v, c + i * kPanelWidth + v * kLanes);
}

// Micro tiles are functions of their own: inlined among others, GCC runs out of registers and keeps
// sums in memory.
#define BW_MICRO __attribute__((noinline)) void

// c[m][32] += packed rows * a slice of a panel, for kVecs registers of columns.
template <typename Format, int m, int kVecs>
BW_MICRO add_slice(const float* a, const uint32_t* slice, int64_t steps, int64_t ahead, float* c) {
  Vec sum[m][kVecs];
  for_sums<m, kVecs>(c, [&](int i, int v, const float* at) { sum[i][v] = load(at); });
  multiply_steps<Format, 0>(a, slice, steps, ahead, sum);
  for_sums<m, kVecs>(c, [&](int i, int v, float* at) { store(at, sum[i][v]); });
}

// Steps of k of a panel in pieces that may lie anywhere, and of the rows that they are multiplied
// with.
struct Pieces {
  const void* const* at;  // [n + 1]: each is fetched during the one before, also what comes last
  int n;
  int64_t steps;   // of k in each
  int64_t stride;  // words from the rows of one piece to those of the next
};

// c[m][32] = rows kStride words apart * a panel, for kVecs registers of columns.
template <typename Format, int kStride, int m, int kVecs>
BW_MICRO multiply_pieces(const float* a, const Pieces& pieces, int column, float* c) {
  Vec sum[m][kVecs];
  for_sums<m, kVecs>(c, [&](int i, int v, const float*) { sum[i][v] = Vec{}; });
  for (int piece = 0; piece < pieces.n; ++piece, a += pieces.stride) {
    const uint32_t* words = static_cast<const uint32_t*>(pieces.at[piece]);
    const int64_t ahead = static_cast<const uint32_t*>(pieces.at[piece + 1]) - words;
    multiply_steps<Format, kStride>(a, words + column, pieces.steps, ahead, sum);
  }
  for_sums<m, kVecs>(c, [&](int i, int v, float* at) { store(at, sum[i][v]); });
}

template <int m>
struct MicroTile {
  static constexpr int kRows = m, kVecs = m <= 2 && 4 * kLanes <= kPanelWidth ? 4 : 2;
};
// Calls body(MicroTile of so many rows, column) until all columns of a panel are done. rows: at
// most kMaxRows
template <int m = kMaxRows, typename Body>
BW_INLINE void for_columns(int64_t rows, Body body) {
  if (rows != m) {
    if constexpr (m > 1) for_columns<m - 1>(rows, body);
    return;
  }
  using Tile = MicroTile<m>;
  for (int column = 0; column < kPanelWidth; column += Tile::kVecs * kLanes) body(Tile{}, column);
}

// c[rows][32] += packed rows * a slice of a panel: `steps` steps of k.
template <typename Format>
BW_INLINE void multiply_rows(int64_t rows, const float* a, const void* slice, int64_t steps,
                             int64_t ahead, float* c) {
  const uint32_t* words = static_cast<const uint32_t*>(slice);
  for_columns(rows, [&](auto tile, int column) {
    add_slice<Format, tile.kRows, tile.kVecs>(a, words + column, steps, ahead, c + column);
  });
}

// c[rows][32] = rows kStride words apart * a panel in pieces.
template <typename Format, int kStride>
BW_INLINE void multiply_rows(int64_t rows, const float* a, const Pieces& pieces, float* c) {
  for_columns(rows, [&](auto tile, int column) {
    multiply_pieces<Format, kStride, tile.kRows, tile.kVecs>(a, pieces, column, c + column);
  });
}

}  // namespace
}  // namespace branchwise::BRANCHWISE_ISA
