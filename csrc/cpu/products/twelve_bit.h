// bf16 weights in 12 bits, without loss: how their panels look, and how they are made.
//
// The weights of a matrix have few exponents. Sixteen of them stand for all but a few weights in
// ten thousand, and four bits for each of the sixteen. Turned left by one bit, a bf16 number is a
// byte of exponent and a byte of the rest, mantissa and sign: that byte is kept as it is. Weights
// with another exponent are rare: they stand in a list, and are written over what their code gives.
//
// A tile of a panel, 32 steps of k of 32 columns, is 16 rows of 64 weights, and in here 8 units of
// two rows: [64] bytes of the rest of each row, then [64] codes, low four bits for the first row.
// The bytes of a row lie so that interleaving them with exponents, in lanes of 16 bytes, gives the
// row in order: see twelve_bit_place. Behind the tiles of all panels come the tables.
#pragma once

#include <cstdint>
#include <memory>

namespace branchwise {

inline constexpr int kTwelveBitUnits = 8;        // of a tile
inline constexpr int kTwelveBitUnitBytes = 192;  // 256 when unpacked
inline constexpr int kTwelveBitTileBytes = kTwelveBitUnits * kTwelveBitUnitBytes;

struct RareWeight {
  uint16_t place;  // in its tile, as unpacked
  uint16_t bits;
};

struct TwelveBitTables {
  const uint8_t* exponents;  // [16] by code
  const uint32_t* first;     // [tiles + 1], of each tile in rare
  const RareWeight* rare;
};

// Where the weight at `place` of a row of 64 lies among its bytes.
static inline constexpr int twelve_bit_place(int place) {
  return place % 32 / 8 * 16 + place / 32 * 8 + place % 8;
}

struct TwelveBitPanels {
  std::shared_ptr<void> panels;  // null: too many weights would be rare
  int64_t bytes = 0;
};
// Packs weight: [n, k] bf16.
TwelveBitPanels pack_twelve_bit(const uint16_t* weight, int64_t n, int64_t k);

// The tables in panels of so many tiles. Throws std::invalid_argument if they are none.
TwelveBitTables twelve_bit_tables(const void* panels, int64_t bytes, int64_t tiles);

}  // namespace branchwise
