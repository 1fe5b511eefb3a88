// Matrix products on AMX tiles: 32 rows x 32 columns of output at once, over the panels as they
// are.
//
// A tile holds 16 rows of 64 bytes. A panel row of 32 lanes is two rows of B tiles, in the layout
// that the dot products want (pairs of bf16, fours of int8), so weights are used as they lie. Each
// output is its own chain over k: neither its neighbours in the tile nor the undefined rows that
// fill it up change its bits.
#pragma once

#include "cpu/isa/kernels.h"
#include "cpu/isa/simd.h"
#include "cpu/products/parts.h"

namespace branchwise::BRANCHWISE_ISA {
namespace {

constexpr int kTileRows = 16, kPairRows = 2 * kTileRows;
constexpr int kTileBytes = 64;                              // of a row of a tile
constexpr int kTileSteps = kTileBytes / sizeof(Bf16);       // of k, in bf16, that such a row holds
constexpr int kPanelRowBytes = kPanelWidth * 4;             // two rows of B tiles
constexpr int64_t kPanelTile = kTileRows * kPanelRowBytes;  // bytes of a panel per tile of k
constexpr int kTileLines = kPanelTile / 64;
constexpr int kTileBlock = 512;          // rows of a task at most
constexpr int kCutTileBlock = 256;       // the same where k is cut, and of int8
constexpr int64_t kTileCache = 1 << 20;  // bytes of x that a task keeps in L2

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// The thread's tiles while it multiplies: 0 to 3 for sums, 4 and 5 for A, 6 and 7 for B. What
// others had configured comes back afterwards.
class TileScope {
 public:
  // depth: bytes of a row of A.
  explicit TileScope(int depth = kTileBytes) {
    TileConfig ours;
    ours.row_bytes[4] = ours.row_bytes[5] = static_cast<uint16_t>(depth);
    ours.rows[6] = ours.rows[7] = static_cast<uint8_t>(depth / 4);
    _tile_storeconfig(&previous_);
    _tile_loadconfig(&ours);
  }
  ~TileScope() { _tile_loadconfig(&previous_); }

 private:
  TileConfig previous_;
};

// x as A tiles that are read where its rows lie: 16 rows, `stride` bytes apart. Of the last rows,
// if they are fewer than 16, `tail` is a copy with room for 16: what fills it up is undefined.
struct TileRows {
  const char *x, *tail;
  int64_t whole, stride;  // groups of 16 rows in x
  const char* group(int64_t row) const {
    const int64_t g = row / kTileRows;
    return g < whole ? x + g * kTileRows * stride : tail;
  }
};

// How rows are cut into tasks: blocks of pairs of tiles whose x (`row_bytes` a row) stays in L2.
struct TileTasks {
  int64_t rows;
  Parts blocks;
  TileTasks(int64_t rows, int64_t row_bytes) : rows(rows), blocks(pairs(rows), limit(row_bytes)) {}
  int64_t begin(int64_t block) const { return blocks.begin(block) * kPairRows; }
  int64_t end(int64_t block) const {
    const int64_t end = begin(block + 1);
    return end < rows ? end : rows;
  }

 private:
  static int64_t pairs(int64_t rows) { return (rows + kPairRows - 1) / kPairRows; }
  static int64_t limit(int64_t row_bytes) {
    const int64_t fitting = kTileCache / (kPairRows * row_bytes);
    constexpr int64_t kMost = kCutTileBlock / kPairRows;
    return fitting < 1 ? 1 : fitting > kMost ? kMost : fitting;
  }
};

// What two tiles give: sums of products of bf16 in fp32, or of bytes in int32.
enum class Dot { bf16, signed_unsigned, signed_signed };

// Tile `sum` += tile `a` * tile `b`. A macro, since compilers spell these numbers into the
// assembly.
#define BW_TILE_DOT(dot, sum, a, b)                                     \
  do {                                                                  \
    if constexpr (dot == Dot::bf16) _tile_dpbf16ps(sum, a, b);          \
    if constexpr (dot == Dot::signed_unsigned) _tile_dpbsud(sum, a, b); \
    if constexpr (dot == Dot::signed_signed) _tile_dpbssd(sum, a, b);   \
  } while (false)

template <bool kTwo>
BW_INLINE void zero_sums() {
  _tile_zero(0);
  _tile_zero(1);
  if constexpr (kTwo) {
    _tile_zero(2);
    _tile_zero(3);
  }
}

// c: [16 or 32][32] of 4 bytes
template <bool kTwo>
BW_INLINE void load_sums(const void* c) {
  const char* at = static_cast<const char*>(c);
  _tile_loadd(0, at, kPanelRowBytes);
  _tile_loadd(1, at + kTileBytes, kPanelRowBytes);
  if constexpr (kTwo) {
    at += kTileRows * kPanelRowBytes;
    _tile_loadd(2, at, kPanelRowBytes);
    _tile_loadd(3, at + kTileBytes, kPanelRowBytes);
  }
}
template <bool kTwo>
BW_INLINE void store_sums(void* c) {
  char* at = static_cast<char*>(c);
  _tile_stored(0, at, kPanelRowBytes);
  _tile_stored(1, at + kTileBytes, kPanelRowBytes);
  if constexpr (kTwo) {
    at += kTileRows * kPanelRowBytes;
    _tile_stored(2, at, kPanelRowBytes);
    _tile_stored(3, at + kTileBytes, kPanelRowBytes);
  }
}

// Adds one tile step: A tiles of rows that lie `stride` bytes apart, and as many steps of k of a
// panel.
template <Dot kDot, bool kTwo>
BW_INLINE void tile_step(const char* a, const char* a_below, int64_t stride, const char* panel) {
  _tile_loadd(6, panel, kPanelRowBytes);
  _tile_loadd(4, a, stride);
  BW_TILE_DOT(kDot, 0, 4, 6);
  _tile_loadd(7, panel + kTileBytes, kPanelRowBytes);
  BW_TILE_DOT(kDot, 1, 4, 7);
  if constexpr (kTwo) {
    _tile_loadd(5, a_below, stride);
    BW_TILE_DOT(kDot, 2, 5, 6);
    BW_TILE_DOT(kDot, 3, 5, 7);
  }
}

// Into L2: more of L1's few open misses would hold up the loads of tiles.
template <int kLines, int kStep = 1>
BW_INLINE void fetch_lines(const char* at) {
#pragma GCC unroll 32
  for (int line = 0; line < kLines; line += kStep) __builtin_prefetch(at + 64 * line, 0, 2);
}

}  // namespace
}  // namespace branchwise::BRANCHWISE_ISA
