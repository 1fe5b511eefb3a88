// Twelve-bit weights back to bf16, tile by tile.
#pragma once

#include "cpu/isa/kernels.h"
#include "cpu/isa/simd.h"
#include "cpu/products/twelve_bit.h"

namespace branchwise::BRANCHWISE_ISA {
namespace {

constexpr int kTileRoom = kPanelWidth * kBlockSteps * sizeof(Bf16);  // of a tile, unpacked
constexpr int kUnitRoom = kTileRoom / kTwelveBitUnits;

class Unpacker {
 public:
  // tables: null where nothing will be unpacked.
  explicit Unpacker(const TwelveBitTables* tables) : tables_(tables) {
#if defined(__AVX512BW__)
    exponents_ = _mm512_setzero_si512();
    if (tables)
      exponents_ = _mm512_broadcast_i32x4(
          _mm_loadu_si128(reinterpret_cast<const __m128i*>(tables->exponents)));
#endif
  }

  // One unit: two rows of a tile, 128 bytes each on a cache line.
  BW_INLINE void unit(const char* from, char* to) const {
#if defined(__AVX512BW__)
    const __m512i low = _mm512_set1_epi8(15), codes = _mm512_loadu_si512(from + 128);
    row(_mm512_loadu_si512(from), _mm512_and_si512(codes, low), to);
    row(_mm512_loadu_si512(from + 64), _mm512_and_si512(_mm512_srli_epi16(codes, 4), low),
        to + kUnitRoom / 2);
#else
    const uint8_t* bytes = reinterpret_cast<const uint8_t*>(from);
    uint16_t* out = reinterpret_cast<uint16_t*>(to);
    for (int row = 0; row < 2; ++row)
      for (int place = 0; place < 64; ++place) {
        const int at = twelve_bit_place(place);
        const uint32_t exponent = tables_->exponents[bytes[128 + at] >> (4 * row) & 15];
        const uint32_t turned = exponent << 8 | bytes[64 * row + at];
        *out++ = static_cast<uint16_t>(turned >> 1 | turned << 15);
      }
#endif
  }

  // The weights of tile `tile` that have no code, once its units are in place.
  BW_INLINE void rare(int64_t tile, char* to) const {
    uint16_t* weights = reinterpret_cast<uint16_t*>(to);
    for (uint32_t i = tables_->first[tile]; i < tables_->first[tile + 1]; ++i)
      weights[tables_->rare[i].place] = tables_->rare[i].bits;
  }

  // Tiles [tile, tile + n) of all panels.
  void tiles(const void* panels, int64_t tile, int64_t n, char* to) const {
    const char* from = static_cast<const char*>(panels) + tile * kTwelveBitTileBytes;
    for (const int64_t end = tile + n; tile < end; ++tile, to += kTileRoom) {
      for (int u = 0; u < kTwelveBitUnits; ++u, from += kTwelveBitUnitBytes)
        unit(from, to + u * kUnitRoom);
      rare(tile, to);
    }
  }

 private:
  const TwelveBitTables* tables_;
#if defined(__AVX512BW__)
  __m512i exponents_;

  static BW_INLINE __m512i turn_right(__m512i x) {
#if defined(__AVX512VBMI2__)
    return _mm512_shrdi_epi16(x, x, 1);
#else
    return _mm512_or_si512(_mm512_srli_epi16(x, 1), _mm512_slli_epi16(x, 15));
#endif
  }
  BW_INLINE void row(__m512i rest, __m512i codes, char* to) const {
    const __m512i high = _mm512_shuffle_epi8(exponents_, codes);
    _mm512_store_si512(to, turn_right(_mm512_unpacklo_epi8(rest, high)));
    _mm512_store_si512(to + 64, turn_right(_mm512_unpackhi_epi8(rest, high)));
  }
#endif
};

}  // namespace
}  // namespace branchwise::BRANCHWISE_ISA
