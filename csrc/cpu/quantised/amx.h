// Products with small integers on AMX tiles. The same exact sums and the same chain of fused
// multiply-adds as without tiles, so the same bits.
//
// A group of k is whole tile steps, or one that uses a half or a quarter of the tiles. A batch of
// groups is summed, then scaled.
#pragma once

#include "cpu/products/amx.h"
#include "cpu/quantised/parts.h"

namespace branchwise::BRANCHWISE_ISA {
namespace {

constexpr int kMinTiledRows = 5;  // fewer rows are faster without tiles
constexpr int kBatch = 4;         // groups of k whose sums wait for their scales

// x as tiles of rows of `depth` codes: 64, or a group of k.
struct TiledRows {
  int8_t* codes;  // [rows / 16][k / depth][16][depth]
  float* scale;   // [rows / 16][group of k][16]
  float* sum;     // the same: see quantise_row
  int64_t padded, n_groups, depth;

  TiledRows(const QuantisedGemmArgs& args)
      : padded(args.format.padded(args.k)),
        n_groups(args.format.x_groups(args.k)),
        depth(args.format.group == 0 ? kTileBytes : args.format.group) {
    const int64_t rows = round_up(args.rows, kTileRows);
    codes = reinterpret_cast<int8_t*>(args.scratch);
    scale = args.scratch + rows * padded / 4;
    sum = scale + rows * n_groups;
  }
  int64_t group_bytes() const { return kTileRows * padded; }  // of 16 rows
  int64_t scale_at(int64_t row, int64_t group) const {
    return (row / kTileRows * n_groups + group) * kTileRows + row % kTileRows;
  }

  template <typename X>
  void pack(const QuantisedGemmArgs& args, int64_t row) const {
    int8_t* tiles = codes + row / kTileRows * group_bytes() + row % kTileRows * depth;
    quantise_row<X>(
        args, row,
        [&](int64_t k, int n, const int8_t* values) {
          __builtin_memcpy(tiles + k * kTileRows, values, n);
        },
        [&](int64_t group, float factor, float total) {
          scale[scale_at(row, group)] = factor;
          sum[scale_at(row, group)] = total;
        });
  }
};

typedef int32_t Sums[kPairRows][kPanelWidth];  // of a group of k, for two tiles of rows

// c[rows][32] += kCount groups' sums, scaled. scale, x_sum: of x, [group][16]. factors, minima: of
// the weights, [group][32], if kGroup is not 0.
template <int kGroup, bool kMin, int kCount>
void add_groups(const Sums* sums, int first_row, const float* factors, const float* minima,
                const float* scale, const float* x_sum, int64_t rows, float* c) {
  for (int v = 0; v < kPanelWidth; v += kLanes) {
    Vec factor[kCount], minimum[kCount];
#pragma GCC unroll 4
    for (int j = 0; j < kCount; ++j) {
      factor[j] = kGroup == 0 ? Vec{} : load(factors + j * kPanelWidth + v);
      minimum[j] = kMin ? load(minima + j * kPanelWidth + v) : Vec{};
    }
    for (int64_t i = 0; i < rows; ++i) {
      Vec total = load(c + i * kPanelWidth + v);
#pragma GCC unroll 4
      for (int j = 0; j < kCount; ++j) {
        IVec sum = *reinterpret_cast<const IVec*>(&sums[j][first_row + i][v]);
        if constexpr (kGroup == 0)
          sum += __builtin_bit_cast(int32_t, x_sum[j * kTileRows + i]) - IVec{};
        Vec product = __builtin_convertvector(sum, Vec);
        if constexpr (kGroup != 0) product *= factor[j];
        total = fma(product, splat(scale[j * kTileRows + i]), total);
        if constexpr (kMin) total = fma(minimum[j], splat(x_sum[j * kTileRows + i]), total);
      }
      store(c + i * kPanelWidth + v, total);
    }
  }
}

// sums[16 or 32][32] = x * codes over one group of n tile steps, each of which fetches kLines cache
// lines from `ahead` on.
template <int kGroup, bool kMin, bool kTwo, int kLines>
BW_INLINE void sum_group(const char* a, int64_t group_bytes, const char* codes, int64_t n,
                         const char* ahead, Sums& sums) {
  // Codes of groups are unpacked on the way, and come centred.
  constexpr Dot kDot = kMin || kGroup == 0 ? Dot::signed_unsigned : Dot::signed_signed;
  constexpr int kDepth = kGroup == 0 ? kTileBytes : kGroup;
  zero_sums<kTwo>();
  for (int64_t step = 0; step < n; ++step) {
    tile_step<kDot, kTwo>(a, a + group_bytes, kDepth, codes);
    fetch_lines<kLines>(ahead);
    ahead += 64 * kLines;
    a += kTileRows * kDepth;
    codes += kDepth / 4 * kPanelRowBytes;
  }
  store_sums<kTwo>(sums);
}

// c[rows][32] += rows [row, row + rows) of x, at most 16 or 32, times a slice whose first group is
// `first`.
template <int kGroup, bool kMin, bool kTwo, int kLines>
void add_slice(const TiledRows& x, int64_t row, int64_t rows, int64_t first, const Slice& slice,
               const char* ahead, float* c) {
  const int64_t group = kGroup == 0 ? slice.steps : kGroup, n_groups = slice.steps / group;
  const int64_t n_steps = kGroup == 0 ? group / kTileBytes : 1;
  const char* a = reinterpret_cast<const char*>(x.codes) + row / kTileRows * x.group_bytes() +
                  first * kTileRows * (kGroup == 0 ? QuantisedFormat::kWholeGroup : kGroup);
  const char* codes = reinterpret_cast<const char*>(slice.codes);
  alignas(64) Sums sums[kBatch];
  for (int64_t g = 0; g < n_groups; g += kBatch) {
    const int count = n_groups - g < kBatch ? static_cast<int>(n_groups - g) : kBatch;
    for (int j = 0; j < count; ++j, a += group * kTileRows, codes += group * kPanelWidth) {
      sum_group<kGroup, kMin, kTwo, kLines>(a, x.group_bytes(), codes, n_steps, ahead, sums[j]);
      ahead += n_steps * kLines * 64;
    }
    for (int begin = 0; begin < rows; begin += kTileRows) {
      const int64_t n = rows - begin < kTileRows ? rows - begin : kTileRows;
      const auto add = [&]<int kCount>(int j) {
        const int64_t at = x.scale_at(row + begin, first + g + j), w = (g + j) * kPanelWidth;
        add_groups<kGroup, kMin, kCount>(sums + j, begin, slice.scales + w, slice.minima + w,
                                         x.scale + at, x.sum + at, n, c + begin * kPanelWidth);
      };
      if (count == kBatch)
        add.template operator()<kBatch>(0);
      else
        for (int j = 0; j < count; ++j) add.template operator()<1>(j);
    }
  }
}

template <int kGroup, bool kMin, bool kTwo>
BW_INLINE auto slice_sum(int lines) {
  return lines == 0   ? add_slice<kGroup, kMin, kTwo, 0>
         : lines > 16 ? add_slice<kGroup, kMin, kTwo, 32>
         : lines > 8  ? add_slice<kGroup, kMin, kTwo, 16>
                      : add_slice<kGroup, kMin, kTwo, 8>;
}

// c = rows [begin, end) times a panel. Of codes that are used as they lie, the passes over the rows
// share the work of fetching those that come next; unpacking fetches the others.
template <int kGroup, bool kMin>
void tiles_times_codes(const QuantisedFormat format, const TiledRows& x, const uint8_t* panel,
                       int64_t begin, int64_t end, Room& room, float* c) {
  const int64_t n_blocks = x.padded / kBlockSteps;
  const int64_t passes = (end - begin + kPairRows - 1) / kPairRows;
  const int lines = kGroup == 0 ? static_cast<int>((kTileLines + passes - 1) / passes) : 0;
  for (int64_t i = 0; i < (end - begin) * kPanelWidth; ++i) c[i] = 0;
  for (int64_t b = 0; b < n_blocks; b += kSliceBlocks) {
    const int64_t count = n_blocks - b < kSliceBlocks ? n_blocks - b : kSliceBlocks;
    const uint8_t* block = panel + b * block_bytes(format);
    const Slice slice = kGroup == 0 ? Slice{block, nullptr, nullptr, count * kBlockSteps, 0}
                                    : unpack<true>(format, block, count, room);
    const char* ahead = reinterpret_cast<const char*>(block) + kCodesAhead;
    for (int64_t row = begin; row < end; row += kPairRows) {
      const int64_t rows = end - row < kPairRows ? end - row : kPairRows;
      const auto add = rows > kTileRows ? slice_sum<kGroup, kMin, true>(lines)
                                        : slice_sum<kGroup, kMin, false>(lines);
      add(x, row, rows, b * kBlockSteps / format.x_group(), slice, ahead,
          c + (row - begin) * kPanelWidth);
      ahead += count * kBlockSteps / kTileBytes * lines * 64;
    }
  }
}

template <typename X>
void quantised_gemm_tiles(const QuantisedGemmArgs& args) {
  const QuantisedFormat format = args.format;
  const TiledRows x(args);
  const int64_t n_units = unit_count(args);
  const int panels = unit_panels(args);
  const int64_t panel_bytes = x.padded / kBlockSteps * block_bytes(format);
  const TileTasks tasks(args.rows, x.padded);
  const auto multiply = format.group == 0    ? tiles_times_codes<0, false>
                        : format.group == 16 ? tiles_times_codes<16, false>
                        : format.has_min     ? tiles_times_codes<32, true>
                                             : tiles_times_codes<32, false>;
#pragma omp for schedule(static)
  for (int64_t row = 0; row < args.rows; ++row) x.pack<X>(args, row);
  const TileScope scope(static_cast<int>(x.depth));
  Room room;
  constexpr int64_t kTask = kCutTileBlock * kPanelWidth;
  alignas(64) float c[2 * kTask];
#pragma omp for collapse(2) schedule(static)
  for (int64_t block = 0; block < tasks.blocks.count; ++block)
    for (int64_t unit = 0; unit < n_units; ++unit) {
      const int64_t begin = tasks.begin(block), end = tasks.end(block);
      for (int j = 0; j < panels; ++j)
        multiply(format, x, args.panels + (unit * panels + j) * panel_bytes, begin, end, room,
                 c + j * kTask);
      write_unit<X>(args, args.column_scale, c, kTask, unit, begin, end);
    }
}

}  // namespace
}  // namespace branchwise::BRANCHWISE_ISA
