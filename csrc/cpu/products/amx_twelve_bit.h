// Products of bf16 on AMX tiles, over twelve-bit panels: tiles of weights are unpacked into L1
// while those before them are multiplied. A quarter less is read, and vector units have little else
// to do.
#pragma once

#include "cpu/products/amx.h"
#include "cpu/products/twelve_bit_unpack.h"

namespace branchwise::BRANCHWISE_ISA {
namespace {

static_assert(kTileRoom == kPanelTile);

constexpr int kUnpackAhead = 2, kRingTiles = 4;  // of the only pass over the rows
constexpr int kFewPasses = 2;
constexpr int kFewSliceTiles = 4, kMostSliceTiles = 7;  // of few passes, and of more
constexpr int64_t kTwelveBitFetchAhead = 12288;         // bytes of weights
constexpr int kTwelveBitTileLines = kTwelveBitTileBytes / 64;

// Compilers do not see that tiles are loaded from memory: stores stay on their side of a load.
BW_INLINE void memory_in_order() { __asm__ volatile("" ::: "memory"); }

// The twelve-bit panels of a weight. Tiles are counted through all of them.
struct TwelveBitTiles {
  Unpacker unpacker;
  const char* panels;

  const char* at(int64_t tile) const { return panels + tile * kTwelveBitTileBytes; }

  // Unpacks a tile, but for the weights that have no code.
  BW_INLINE void unpack(const char* from, char* to) const {
    memory_in_order();
#pragma GCC unroll 8
    for (int u = 0; u < kTwelveBitUnits; ++u)
      unpacker.unit(from + u * kTwelveBitUnitBytes, to + u * kUnitRoom);
    memory_in_order();
  }
  BW_INLINE void finish(int64_t tile, char* to) const {
    unpacker.rare(tile, to);
    memory_in_order();
  }
};

// c[16 or 32][32] (+)= rows * n tiles, `tile` the first. a, a_below: of 16 rows each, `stride`
// bytes apart. Each tile is unpacked while those before it are multiplied.
template <bool kTwo>
void rows_times_twelve_bit(const char* a, const char* a_below, int64_t stride,
                           const TwelveBitTiles& weights, int64_t tile, int64_t n, bool first,
                           void* c) {
  alignas(64) char ring[kRingTiles * kPanelTile];
  const auto room = [&](int64_t k) { return ring + k % kRingTiles * kPanelTile; };
  first ? zero_sums<kTwo>() : load_sums<kTwo>(c);
  for (int64_t next = 0; next < n + kUnpackAhead; ++next) {
    if (next < n) {
      const char* from = weights.at(tile + next);
      weights.unpack(from, room(next));
      weights.finish(tile + next, room(next));
      fetch_lines<kTwelveBitTileLines>(from + kTwelveBitFetchAhead);
    }
    const int64_t k = next - kUnpackAhead;
    if (k >= 0)
      tile_step<Dot::bf16, kTwo>(a + k * kTileBytes, a_below + k * kTileBytes, stride, room(k));
  }
  store_sums<kTwo>(c);
}

// A slice of a panel in L1, unpacked; it outlives the panel, for it may be the next one's first.
struct UnpackedSlice {
  alignas(64) char room[kMostSliceTiles * kPanelTile];
  int64_t tile = -1, tiles = 0;
};

// c[16 or 32][32] (+)= rows * slice. At every step kLines lines are fetched from `ahead` on. kLast:
// it is the last pass over the rows, so every tile then makes room for one of the n_next at `next`.
template <bool kTwo, bool kLast, int kLines>
void rows_times_slice(const char* a, const char* a_below, int64_t stride,
                      const TwelveBitTiles& weights, UnpackedSlice& slice, bool first,
                      const char* next, int64_t n_next, const char* ahead, void* c) {
  first ? zero_sums<kTwo>() : load_sums<kTwo>(c);
  for (int64_t k = 0; k < slice.tiles; ++k) {
    char* const tile = slice.room + k * kPanelTile;
    tile_step<Dot::bf16, kTwo>(a + k * kTileBytes, a_below + k * kTileBytes, stride, tile);
    if (kLast && k < n_next) weights.unpack(next + k * kTwelveBitTileBytes, tile);
    fetch_lines<kLines>(ahead + k * kLines * 64);
  }
  store_sums<kTwo>(c);
}
template <bool kTwo, bool kLast>
BW_INLINE auto slice_pass(int64_t lines) {
  return lines > 8   ? rows_times_slice<kTwo, kLast, 12>
         : lines > 6 ? rows_times_slice<kTwo, kLast, 8>
         : lines > 4 ? rows_times_slice<kTwo, kLast, 6>
         : lines > 3 ? rows_times_slice<kTwo, kLast, 4>
         : lines > 2 ? rows_times_slice<kTwo, kLast, 3>
                     : rows_times_slice<kTwo, kLast, 2>;
}
BW_INLINE auto slice_pass(bool two, bool last, int64_t lines) {
  return two    ? last ? slice_pass<true, true>(lines) : slice_pass<true, false>(lines)
         : last ? slice_pass<false, true>(lines)
                : slice_pass<false, false>(lines);
}

// Several passes over the rows, slice by slice. The sums of a pass are written and read again,
// which takes as long as two or three steps: slices are as long as L1 allows beside the rows.
void passes_times_twelve_bit(const TileRows& x, const TwelveBitTiles& weights, int64_t panel,
                             int64_t k_begin, int64_t k_end, int64_t begin, int64_t end,
                             int64_t then, UnpackedSlice& slice, float* c) {
  const int64_t passes = (end - begin + kPairRows - 1) / kPairRows;
  const int64_t lines = (kTwelveBitTileLines + passes - 1) / passes;
  const Parts slices(k_end - k_begin, passes <= kFewPasses ? kFewSliceTiles : kMostSliceTiles);
  const auto size = [&](int64_t s) { return slices.begin(s + 1) - slices.begin(s); };
  const auto complete = [&](int64_t tile, int64_t unpacked, int64_t n) {
    for (int64_t k = 0; k < n; ++k) {
      char* const room = slice.room + k * kPanelTile;
      if (k >= unpacked) weights.unpack(weights.at(tile + k), room);
      weights.finish(tile + k, room);
    }
    slice.tile = tile, slice.tiles = n;
  };
  const int64_t first = panel + k_begin;
  if (slice.tile != first || slice.tiles != size(0)) complete(first, 0, size(0));
  for (int64_t s = 0; s < slices.count; ++s) {
    const int64_t k = k_begin + slices.begin(s), n = slice.tiles;
    const bool more = s + 1 < slices.count;
    const int64_t next = more ? first + slices.begin(s + 1) : then < 0 ? first : then;
    const int64_t n_next = more ? size(s + 1) : then < 0 ? 0 : size(0);
    const char* ahead = weights.at(next + n_next);
    for (int64_t row = begin; row < end; row += kPairRows, ahead += n * lines * 64)
      slice_pass(row + kTileRows < end, row + kPairRows >= end, lines)(
          x.group(row) + k * kTileBytes, x.group(row + kTileRows) + k * kTileBytes, x.stride,
          weights, slice, k == 0, weights.at(next), n_next, ahead, c + (row - begin) * kPanelWidth);
    complete(next, n, n_next);
  }
}

// Tiles [k, k_end) of k of all rows [begin, end) of a task against the panel whose first tile is
// `panel`, on top of what c holds unless k is 0. c: [end - begin][32]. then: the tile at which the
// task is likely to go on, or -1.
void tiles_times_twelve_bit(const TileRows& x, const TwelveBitTiles& weights, int64_t panel,
                            int64_t k, int64_t k_end, int64_t begin, int64_t end, int64_t then,
                            UnpackedSlice& slice, float* c) {
  if (end - begin > kPairRows)
    return passes_times_twelve_bit(x, weights, panel, k, k_end, begin, end, then, slice, c);
  const auto multiply =
      end - begin > kTileRows ? rows_times_twelve_bit<true> : rows_times_twelve_bit<false>;
  multiply(x.group(begin) + k * kTileBytes, x.group(begin + kTileRows) + k * kTileBytes, x.stride,
           weights, panel + k, k_end - k, k == 0, c);
}

}  // namespace
}  // namespace branchwise::BRANCHWISE_ISA
