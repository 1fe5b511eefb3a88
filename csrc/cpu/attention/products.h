// The two matrix products of attention, queries * keys and weights * values, in vector registers or
// AMX tiles: how queries, scores and weights are laid out and multiplied.
#pragma once

#include "cpu/attention/tile.h"

namespace branchwise::BRANCHWISE_ISA {
namespace {

// In vector registers. Weight lanes are of `Format`.
template <typename Format, typename Element>
struct VectorProduct {
  using T = Element;
  struct Scope {};
  static constexpr bool kPairs = Format::kPairs;
  static constexpr bool kFetches = true;  // the keys and values that come next, while it multiplies

  static void pack_query(Tile& tile, int i, const T* q, int head_dim) {
    if constexpr (kPairs)
      __builtin_memcpy(tile.q[i], q, head_dim * sizeof(T));
    else
      for (int d = 0; d < head_dim; ++d) tile.q[i][d] = to_float(q[d]);
  }
  // The scores of a block. keys: its own, and what is multiplied next
  static void score(const Tile& tile, View& view, int block, const void* const* keys,
                    int head_dim) {
    const Pieces pieces{keys, 1, head_dim, 0};
    for (int i = 0; i < view.n; i += kMaxRows) {
      const int m = view.n - i < kMaxRows ? view.n - i : kMaxRows;
      multiply_rows<Format, kQueryWords>(m, tile.q[view.first + i], pieces, view.s[block][i]);
    }
  }
  // view.o = weights * one panel of the values. values: of the view's blocks, and what is
  // multiplied next
  static void weigh(View& view, const void* const* values) {
    const Pieces pieces{values, view.block_end - view.block_begin, kBlockSlots,
                        kTileQueries * kBlockSlots};
    for (int i = 0; i < view.n; i += kMaxRows) {
      const int m = view.n - i < kMaxRows ? view.n - i : kMaxRows;
      multiply_rows<Format, kBlockSlots>(m, view.s[view.block_begin][i], pieces, view.o[i]);
    }
  }
};

#if defined(__AMX_BF16__)
// In AMX tiles: 32 queries by 32 keys or columns at once. Rows beyond the view's hold anything.
struct TileProduct {
  using T = Bf16;
  using Scope = TileScope;
  static constexpr bool kPairs = true, kFetches = false;

  static void pack_query(Tile& tile, int i, const T* q, int head_dim) {
    T* out = reinterpret_cast<T*>(tile.q[i]);
    for (int d = 0; d < head_dim; d += kTileSteps) store_steps(q + d, head_dim - d, out + d);
  }
  static void score(const Tile& tile, View& view, int block, const void* const* keys,
                    int head_dim) {
    view.n > kTileRows ? score_tiles<true>(tile, view, block, *keys, head_dim)
                       : score_tiles<false>(tile, view, block, *keys, head_dim);
  }
  static void weigh(View& view, const void* const* values) {
    view.n > kTileRows ? weigh_tiles<true>(view, values) : weigh_tiles<false>(view, values);
  }

 private:
  static void store_steps(const T* q, int n, T* out) {
    if (n >= kTileSteps) return static_cast<void>(__builtin_memcpy(out, q, kTileBytes));
    __builtin_memset(out, 0, kTileBytes);
    __builtin_memcpy(out, q, n * sizeof(T));
  }
  template <bool kTwo>
  static void score_tiles(const Tile& tile, View& view, int block, const void* keys, int head_dim) {
    constexpr int kStride = kQueryWords * sizeof(float);
    const char* q = reinterpret_cast<const char*>(tile.q[view.first]);
    const char* panel = static_cast<const char*>(keys);
    zero_sums<kTwo>();
    for (int d = 0; d < head_dim; d += kTileSteps, q += kTileBytes, panel += kPanelTile)
      tile_step<Dot::bf16, kTwo>(q, q + kTileRows * kStride, kStride, panel);
    store_sums<kTwo>(view.s[block]);
  }
  template <bool kTwo>
  static void weigh_tiles(View& view, const void* const* values) {
    constexpr int kStride = kBlockSlots * sizeof(float);
    zero_sums<kTwo>();
    for (int block = view.block_begin; block < view.block_end; ++block, ++values) {
      const char* p = reinterpret_cast<const char*>(view.s[block]);
      tile_step<Dot::bf16, kTwo>(p, p + kTileRows * kStride, kStride,
                                 static_cast<const char*>(*values));
    }
    store_sums<kTwo>(view.o);
  }
};
#endif

}  // namespace
}  // namespace branchwise::BRANCHWISE_ISA
