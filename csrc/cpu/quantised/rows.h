// Few rows times codes that are unpacked in registers and go nowhere else.
//
// A product of few rows is bound by reading weights, as long as whoever unpacks them keeps up: here
// a block is read, unpacked and multiplied at once, and what comes later is fetched evenly. Sums
// are those of other products to the bit.
#pragma once

#include "cpu/quantised/dot.h"
#include "cpu/quantised/parts.h"

namespace branchwise::BRANCHWISE_ISA {
namespace {

constexpr bool kFewInRegisters = kLanes > 4;
constexpr int kFewRows = 8, kFewBytes = 2;
// So many rows are better multiplied this way, one group after the other, than by unpacked slices.
BW_INLINE int few_rows(QuantisedFormat format) {
  return format.group == 0 ? 0 : format.bits == 8 ? kFewBytes : kFewRows;
}

// Codes of a word of columns at quarter-blocks k4 and k4 + 4 of a block, k4 < 4 (see unpack_codes).
struct CodePair {
  UVec low, high;
};
template <int bits>
BW_INLINE CodePair codes_at(const uint8_t* block, int k4, int column) {
  constexpr int kHigh = bits - 4, kPlane = 32 * kHigh;
  const auto at = [&](int64_t byte) { return *reinterpret_cast<const UVecAt*>(block + byte); };
  const auto above = [&](int word) {  // the code's bits beyond the first four, in their place
    if constexpr (kHigh > 0) {
      const UVec plane = at(kBlockCodes / 2 + 4 * (word % kPlane + column));
      const int up = 4 - kHigh * (word / kPlane);
      return (up >= 0 ? plane << up : plane >> -up) & ((1 << kHigh) - 1) * 0x10101010u;
    } else {
      return UVec{};
    }
  };
  const UVec both = at(4 * (k4 * kPanelWidth + column));
  if constexpr (bits == 8) {
    return {both, at(4 * ((k4 + 4) * kPanelWidth + column))};
  } else {
    return {(both & 0x0f0f0f0fu) | above(k4 * kPanelWidth),
            (both >> 4 & 0x0f0f0f0fu) | above((k4 + 4) * kPanelWidth)};
  }
}

// c[m] += a group's sum times the scales of its weights and of x, as add_group of
// quantised_gemm.cpp does: shared, it cost four rows an eighth.
template <bool kMin>
BW_INLINE void add_scaled(IVec sum, const uint16_t* factor, const uint16_t* minimum, float scale,
                          float x_sum, float* c) {
  const Vec product = __builtin_convertvector(sum, Vec) * load_half(factor);
  Vec total = fma(product, splat(scale), load(c));
  if constexpr (kMin) total = fma(load_half(minimum), splat(x_sum), total);
  store(c, total);
}

// c[m][32] += m rows times a block. words: of x, [8][m]; scale, x_sum: [32 / kGroup][m]
template <int bits, int kGroup, bool kMin, int m>
BW_INLINE void rows_times_block(const int32_t* words, const float* scale, const float* x_sum,
                                const uint8_t* block, float* c) {
  using Kind = CodeDot<bits, kGroup>;
  constexpr QuantisedFormat kFormat{bits, kGroup, kMin};
  constexpr int kSteps = 4, kRun = Kind::kRun < kSteps ? Kind::kRun : kSteps;
  constexpr int64_t kBytes = block_bytes(kFormat), kScales = block_scales(kFormat);
  const uint16_t* factors = reinterpret_cast<const uint16_t*>(block + code_bytes(kFormat));
  for (int column = 0; column < kPanelWidth; column += kLanes) {
    // All lines in every turn: up to 1.4 times as fast as once (Zen 3), as if some got lost.
    for (int64_t line = 0; line < kBytes; line += 64)
      __builtin_prefetch(block + kCodesAhead + line, 0, 2);
    IVec low[m], high[m];
#pragma GCC unroll 8
    for (int i = 0; i < m; ++i) {
      const auto start = [&](int group) {
        return kMin ? IVec{} : __builtin_bit_cast(int32_t, x_sum[group * m + i]) - IVec{};
      };
      low[i] = start(0);
      high[i] = kGroup == 16 ? start(1) : IVec{};
    }
#pragma GCC unroll 8
    for (int begin = 0; begin < kSteps; begin += kRun) {
      IVec low_part[m], high_part[m];
#pragma GCC unroll 8
      for (int i = 0; i < m; ++i)
        low_part[i] = Kind::open(low[i]), high_part[i] = Kind::open(high[i]);
#pragma GCC unroll 8
      for (int k4 = begin; k4 < begin + kRun; ++k4) {
        const CodePair codes = codes_at<bits>(block, k4, column);
#pragma GCC unroll 8
        for (int i = 0; i < m; ++i) {
          Kind::add(low_part[i], Kind::weight(codes.low),
                    Kind::x(words + (k4 * m + i) * Kind::kWords));
          Kind::add(high_part[i], Kind::weight(codes.high),
                    Kind::x(words + ((k4 + 4) * m + i) * Kind::kWords));
        }
      }
#pragma GCC unroll 8
      for (int i = 0; i < m; ++i)
        low[i] = Kind::close(low[i], low_part[i]), high[i] = Kind::close(high[i], high_part[i]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < m; ++i) {
      float* out = c + i * kPanelWidth + column;
      const uint16_t *factor = factors + column, *minimum = factor + kScales;
      if constexpr (kGroup == 16) {
        add_scaled<kMin>(low[i], factor, minimum, scale[i], x_sum[i], out);
        add_scaled<kMin>(high[i], factor + kPanelWidth, minimum + kPanelWidth, scale[m + i],
                         x_sum[m + i], out);
      } else {
        add_scaled<kMin>(low[i] + high[i], factor, minimum, scale[i], x_sum[i], out);
      }
    }
  }
}

template <int bits, int kGroup, bool kMin, int m>
__attribute__((noinline)) void rows_times_panel(const int32_t* words, const float* scale,
                                                const float* x_sum, const uint8_t* block,
                                                int64_t n_blocks, float* c) {
  for (int64_t b = 0; b < n_blocks; ++b, block += block_bytes({bits, kGroup, kMin})) {
    rows_times_block<bits, kGroup, kMin, m>(words, scale, x_sum, block, c);
    words += kBlockSteps / 4 * m * CodeDot<bits, kGroup>::kWords;
    scale += kBlockSteps / kGroup * m;
    x_sum += kBlockSteps / kGroup * m;
  }
}

// Panels of codes of `bits` bits, with groups.
template <int bits>
struct FewRows {
  static constexpr int kTile = CodeDot<bits, 32>::kRows;
  static constexpr int kMost = kTile < kFewRows ? kTile : kFewRows;

  template <int m = bits == 8 ? kFewBytes : kMost, typename... Rest>
  static void multiply(QuantisedFormat format, int64_t rows, Rest... rest) {
    if (rows != m) {
      if constexpr (m > 1) multiply<m - 1>(format, rows, rest...);
      return;
    }
    if (format.group == 16) return rows_times_panel<bits, 16, false, m>(rest...);
    format.has_min ? rows_times_panel<bits, 32, true, m>(rest...)
                   : rows_times_panel<bits, 32, false, m>(rest...);
  }
};

}  // namespace
}  // namespace branchwise::BRANCHWISE_ISA
