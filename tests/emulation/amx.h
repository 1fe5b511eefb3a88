// AMX tiles, and AVX-512-VBMI2, on top of the emulated AVX-512.
//
// Tiles that are not configured, or whose shapes do not match, trap as they do on a processor.
#pragma once

#include "avx512_bf16.h"

#define __AVX512VBMI2__ 1
#define __AMX_TILE__ 1
#define __AMX_BF16__ 1
#define __AMX_INT8__ 1

namespace emulated {
namespace {

EMULATED __m512i shrdi_epi16(__m512i a, __m512i b, int count) {
  const Register x = of(a), y = of(b);
  Register out;
  for (int i = 0; i < 32; ++i)
    out.u16[i] = static_cast<uint16_t>((x.u16[i] | static_cast<uint32_t>(y.u16[i]) << 16) >> count);
  return out.si;
}

struct TileFile {
  struct Config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
  } config = {};
  union Tile {
    uint8_t u8[16][64];
    int8_t i8[16][64];
    uint16_t u16[16][32];
    int32_t i32[16][16];
    float f32[16][16];
  } tiles[8] = {};

  int rows(int tile) const {
    check(config.palette == 1 && config.rows[tile] > 0);
    return config.rows[tile];
  }
  int row_bytes(int tile) const { return rows(tile) > 0 ? config.row_bytes[tile] : 0; }
  static void check(bool good) {
    if (!good) __builtin_trap();
  }
};
static_assert(sizeof(TileFile::Config) == 64);
inline thread_local TileFile tile_file;

inline void tile_loadconfig(const void* from) {
  tile_file = {};
  std::memcpy(&tile_file.config, from, sizeof tile_file.config);
  for (int tile = 0; tile < 8; ++tile)
    TileFile::check(tile_file.config.rows[tile] <= 16 && tile_file.config.row_bytes[tile] <= 64);
}
inline void tile_storeconfig(void* to) {
  std::memcpy(to, &tile_file.config, sizeof tile_file.config);
}
inline void tile_zero(int tile) {
  tile_file.rows(tile);
  tile_file.tiles[tile] = {};
}
inline void tile_loadd(int tile, const void* from, int64_t stride) {
  tile_zero(tile);
  for (int row = 0; row < tile_file.rows(tile); ++row)
    std::memcpy(tile_file.tiles[tile].u8[row], static_cast<const char*>(from) + row * stride,
                tile_file.row_bytes(tile));
}
inline void tile_stored(int tile, void* to, int64_t stride) {
  for (int row = 0; row < tile_file.rows(tile); ++row)
    std::memcpy(static_cast<char*>(to) + row * stride, tile_file.tiles[tile].u8[row],
                tile_file.row_bytes(tile));
}

// Calls body(sums of a row, row, word of k, columns) in the order of a dot product.
template <typename Body>
EMULATED void tile_dot(int c, int a, int b, Body body) {
  const int m = tile_file.rows(c), n = tile_file.row_bytes(c) / 4, k = tile_file.rows(b);
  TileFile::check(tile_file.rows(a) == m && tile_file.row_bytes(b) == 4 * n &&
                  tile_file.row_bytes(a) == 4 * k && c != a && c != b && a != b);
  for (int row = 0; row < m; ++row) body(tile_file.tiles[c], row, k, n);
}
inline void tile_dpbf16ps(int c, int a, int b) {
  tile_dot(c, a, b, [=](TileFile::Tile& sums, int row, int k, int n) {
    float even[16] = {}, odd[16] = {};
    for (int step = 0; step < k; ++step)
      for (int i = 0; i < n; ++i) {
        const uint16_t* x = &tile_file.tiles[a].u16[row][2 * step];
        const uint16_t* y = &tile_file.tiles[b].u16[step][2 * i];
        even[i] = std::fma(from_bf16(x[0]), from_bf16(y[0]), even[i]);
        odd[i] = std::fma(from_bf16(x[1]), from_bf16(y[1]), odd[i]);
      }
    for (int i = 0; i < n; ++i) sums.f32[row][i] += even[i] + odd[i];
  });
}
template <bool kSigned>
inline void tile_dpb(int c, int a, int b) {
  tile_dot(c, a, b, [=](TileFile::Tile& sums, int row, int k, int n) {
    for (int step = 0; step < k; ++step)
      for (int i = 0; i < n; ++i)
        for (int byte = 0; byte < 4; ++byte) {
          const int x = tile_file.tiles[a].i8[row][4 * step + byte];
          const int y = kSigned ? tile_file.tiles[b].i8[step][4 * i + byte]
                                : tile_file.tiles[b].u8[step][4 * i + byte];
          sums.i32[row][i] += x * y;
        }
  });
}

}  // namespace
}  // namespace emulated

#define _mm512_shrdi_epi16 emulated::shrdi_epi16
#define _tile_loadconfig emulated::tile_loadconfig
#define _tile_storeconfig emulated::tile_storeconfig
#undef _tile_loadd
#define _tile_loadd emulated::tile_loadd
#undef _tile_stored
#define _tile_stored emulated::tile_stored
#undef _tile_zero
#define _tile_zero emulated::tile_zero
#undef _tile_dpbf16ps
#define _tile_dpbf16ps emulated::tile_dpbf16ps
#undef _tile_dpbssd
#define _tile_dpbssd emulated::tile_dpb<true>
#undef _tile_dpbsud
#define _tile_dpbsud emulated::tile_dpb<false>
