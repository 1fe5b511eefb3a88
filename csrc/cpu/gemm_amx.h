// The bf16 GEMM on AMX tiles: 32 rows x 32 columns of output at once, over the same panels.
//
// A tile holds 16 rows of 64 bytes. A panel row of 32 lanes is two rows of B tiles, in the pair
// layout that the dot product wants, so weights are used as they lie. Each output is its own chain
// over k: neither its neighbours in the tile nor the undefined rows that fill it up change its
// bits.
#pragma once

#include "cpu/kernels.h"
#include "cpu/simd.h"

namespace branchwise::BRANCHWISE_ISA {
namespace {

constexpr int kTileRows = 16, kTileSteps = 32;  // rows of a tile, and the k that a row of A holds
constexpr int kTileSize = kTileRows * kTileSteps;  // also the words of a panel per tile step
constexpr int kFetchAhead = 1024;                  // words of weights that are fetched in advance
constexpr int kTileBlock = 256;                    // rows of a task at most
constexpr int64_t kTileCache = 1 << 20;            // bytes of x that a task keeps in L2

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// The thread's tiles while it multiplies; what others had configured comes back afterwards.
class TileScope {
 public:
  TileScope() {
    const TileConfig ours;
    _tile_storeconfig(&previous_);
    _tile_loadconfig(&ours);
  }
  ~TileScope() { _tile_loadconfig(&previous_); }

 private:
  TileConfig previous_;
};

// c[16 or 32][32] (+)= a * slice. a: tiles [rows / 16][k / 32][16][32] bf16, groups of rows
// `group_size` elements apart; slice: [steps / 2][32][2] bf16. kFetch: weights come from memory.
template <bool kTwo, bool kFetch>
void tiles_times_slice(const Bf16* a, int64_t group_size, const uint32_t* slice, int64_t steps,
                       bool first, float* c) {
  constexpr int64_t kRowBytes = kPanelWidth * 4, kHalf = kPanelWidth / 2, kTileBytes = 64;
  float* const c_below = c + kTileRows * kPanelWidth;
  const Bf16* a_below = a + group_size;
  if (first) {
    _tile_zero(0);
    _tile_zero(1);
    if constexpr (kTwo) {
      _tile_zero(2);
      _tile_zero(3);
    }
  } else {
    _tile_loadd(0, c, kRowBytes);
    _tile_loadd(1, c + kHalf, kRowBytes);
    if constexpr (kTwo) {
      _tile_loadd(2, c_below, kRowBytes);
      _tile_loadd(3, c_below + kHalf, kRowBytes);
    }
  }
  for (int64_t k = 0; k < steps; k += kTileSteps) {
    _tile_loadd(6, slice, kRowBytes);
    _tile_loadd(4, a, kTileBytes);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, slice + kHalf, kRowBytes);
    _tile_dpbf16ps(1, 4, 7);
    if constexpr (kTwo) {
      _tile_loadd(5, a_below, kTileBytes);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
    if constexpr (kFetch)
#pragma GCC unroll 32
      for (int line = 0; line < kTileSize / 16; ++line)
        __builtin_prefetch(slice + kFetchAhead + line * 16);
    slice += kTileSize;
    a += kTileSize;
    a_below += kTileSize;
  }
  _tile_stored(0, c, kRowBytes);
  _tile_stored(1, c + kHalf, kRowBytes);
  if constexpr (kTwo) {
    _tile_stored(2, c_below, kRowBytes);
    _tile_stored(3, c_below + kHalf, kRowBytes);
  }
}

}  // namespace
}  // namespace branchwise::BRANCHWISE_ISA
