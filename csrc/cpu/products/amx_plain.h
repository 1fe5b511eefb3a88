// Products of bf16 on AMX tiles, over plain panels: tiles are loaded from where they lie.
#pragma once

#include "cpu/products/amx.h"

namespace branchwise::BRANCHWISE_ISA {
namespace {

constexpr int kSliceTiles = 6;  // tiles of k per pass over the rows
constexpr int64_t kSliceFetchAhead = 2 * kSliceTiles * kPanelTile;  // bytes of weights
constexpr int kTileFetchAhead = 8192;  // bytes of weights that are fetched in advance

// c[16 or 32][32] (+)= rows * slice, over n tiles of k. a, a_below: of 16 rows each, `stride` bytes
// apart. kLines cache lines are fetched per tile from `ahead` on: weights that come later.
template <bool kTwo, int kLines>
void tiles_times_slice(const char* a, const char* a_below, int64_t stride, const char* slice,
                       int64_t n, bool first, const char* ahead, void* c) {
  // Where one pass reads all weights, every fourth line will do: the processor's own prefetcher
  // brings those between, and takes none of L1's open misses for it.
  constexpr int kStep = kLines == kTileLines ? 4 : 1;
  first ? zero_sums<kTwo>() : load_sums<kTwo>(c);
  for (int64_t k = 0; k < n; ++k) {
    tile_step<Dot::bf16, kTwo>(a, a_below, stride, slice);
    fetch_lines<kLines, kStep>(ahead);
    ahead += 64 * kLines;
    slice += kPanelTile;
    a += kTileBytes;
    a_below += kTileBytes;
  }
  store_sums<kTwo>(c);
}

template <bool kTwo>
BW_INLINE auto slice_product(int lines) {
  return lines > 16  ? tiles_times_slice<kTwo, kTileLines>
         : lines > 8 ? tiles_times_slice<kTwo, 16>
         : lines > 4 ? tiles_times_slice<kTwo, 8>
                     : tiles_times_slice<kTwo, 4>;
}

// Tiles [k_begin, k_end) of k of all rows [begin, end) of a task against one panel, on top of what
// c holds unless k_begin is 0. c: [end - begin][32]. The passes over the rows share the work of
// fetching the slices that come next.
void tiles_times_panel(const TileRows& x, const char* panel, int64_t k_begin, int64_t k_end,
                       int64_t begin, int64_t end, float* c) {
  const int64_t passes = (end - begin + kPairRows - 1) / kPairRows;
  const int64_t slice_tiles = passes == 1 ? k_end - k_begin : kSliceTiles;
  const int lines = static_cast<int>((kTileLines + passes - 1) / passes);
  for (int64_t k = k_begin; k < k_end; k += slice_tiles) {
    const int64_t n = k_end - k < slice_tiles ? k_end - k : slice_tiles;
    const char* slice = panel + k * kPanelTile;
    // As far ahead of the last slice, which may be shorter, as of the others: else a part of the
    // next panel would never be fetched.
    const char* ahead = slice + (passes == 1 ? kTileFetchAhead : kSliceFetchAhead);
    for (int64_t row = begin; row < end; row += kPairRows) {
      const auto multiply =
          row + kTileRows < end ? slice_product<true>(lines) : slice_product<false>(lines);
      multiply(x.group(row) + k * kTileBytes, x.group(row + kTileRows) + k * kTileBytes, x.stride,
               slice, n, k == 0, ahead, c + (row - begin) * kPanelWidth);
      ahead += n * lines * 64;
    }
  }
}

}  // namespace
}  // namespace branchwise::BRANCHWISE_ISA
