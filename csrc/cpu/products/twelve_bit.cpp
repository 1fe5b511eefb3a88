// Packs bf16 weights into twelve-bit panels, and finds the tables of such panels.
#include "cpu/products/twelve_bit.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>
#include <vector>

#include "core/check.h"
#include "core/large_memory.h"
#include "cpu/isa/kernels.h"

namespace branchwise {
namespace {

constexpr int kCodes = 16, kExponents = 256;
constexpr int kTileSide = 32;  // columns of a tile, and steps of k
constexpr int kTileWeights = kTileSide * kTileSide, kRow = 2 * kTileSide;
constexpr int64_t kTableBytes = 64;      // the exponents, on a cache line of their own
constexpr int64_t kWeightsPerRare = 64;  // with more rare ones, panels are better left as they are

typedef std::array<int64_t, kExponents> Counts;

int exponent_of(uint16_t bits) { return bits >> 7 & 255; }

Counts count_exponents(const uint16_t* weight, int64_t size) {
  Counts total = {};
#pragma omp parallel
  {
    constexpr int kParts = 4;  // neighbours often have the same exponent: they count in turn
    Counts counts[kParts] = {};
#pragma omp for schedule(static)
    for (int64_t i = 0; i < size / kParts; ++i)
      for (int part = 0; part < kParts; ++part)
        ++counts[part][exponent_of(weight[i * kParts + part])];
#pragma omp critical
    for (const Counts& part : counts)
      for (int e = 0; e < kExponents; ++e) total[e] += part[e];
  }
  for (int64_t i = size / 4 * 4; i < size; ++i) ++total[exponent_of(weight[i])];
  return total;
}

// Which exponents have codes.
struct Codes {
  uint8_t exponents[kCodes];
  uint8_t of[kExponents];  // the code, or kCodes
  int64_t rare = 0;        // weights that have none

  explicit Codes(const Counts& counts) {
    int order[kExponents];
    std::iota(order, order + kExponents, 0);
    std::stable_sort(order, order + kExponents,
                     [&](int a, int b) { return counts[a] > counts[b]; });
    std::fill(of, of + kExponents, kCodes);
    for (int i = 0; i < kCodes; ++i) {
      exponents[i] = static_cast<uint8_t>(order[i]);
      of[order[i]] = static_cast<uint8_t>(i);
    }
    for (int i = kCodes; i < kExponents; ++i) rare += counts[order[i]];
  }
};

// Weights as they lie in a plain panel, zeros beyond the matrix.
struct Tile {
  uint16_t rows[kTileSide / 2][kRow];

  Tile(const uint16_t* weight, int64_t n, int64_t k, int64_t column, int64_t step) : rows() {
    const int64_t columns = std::min<int64_t>(n - column, kTileSide);
    const int64_t steps = std::min<int64_t>(k - step, kTileSide);
    for (int64_t c = 0; c < columns; ++c) {
      const uint16_t* from = weight + (column + c) * k + step;
      for (int64_t j = 0; j < steps; ++j) rows[j / 2][2 * c + j % 2] = from[j];
    }
  }
};

void encode(const Tile& tile, const Codes& codes, uint8_t* out, std::vector<RareWeight>& rare) {
  for (int unit = 0; unit < kTwelveBitUnits; ++unit, out += kTwelveBitUnitBytes)
    for (int half = 0; half < 2; ++half) {
      const uint16_t* row = tile.rows[2 * unit + half];
      int seen = 0;
      for (int place = 0; place < kRow; ++place) {
        const int at = twelve_bit_place(place), code = codes.of[exponent_of(row[place])];
        seen |= code;
        out[half * kRow + at] = static_cast<uint8_t>(row[place] << 1 | row[place] >> 15);
        uint8_t& pair = out[2 * kRow + at];
        pair = static_cast<uint8_t>(half == 0 ? code & 15 : pair | code << 4);
      }
      if (seen < kCodes) continue;
      for (int place = 0; place < kRow; ++place)
        if (codes.of[exponent_of(row[place])] == kCodes)
          rare.push_back({static_cast<uint16_t>((2 * unit + half) * kRow + place), row[place]});
    }
}

int64_t bytes_of(int64_t tiles, int64_t rare) {
  return tiles * kTwelveBitTileBytes + kTableBytes + (tiles + 1) * int64_t{sizeof(uint32_t)} +
         rare * int64_t{sizeof(RareWeight)};
}

}  // namespace

TwelveBitPanels pack_twelve_bit(const uint16_t* weight, int64_t n, int64_t k) {
  const int64_t n_panels = (n + kTileSide - 1) / kTileSide, depth = (k + kTileSide - 1) / kTileSide;
  const int64_t tiles = n_panels * depth;
  Counts counts = count_exponents(weight, n * k);
  counts[0] += tiles * kTileWeights - n * k;  // the zeros that fill up the last tiles
  const Codes codes(counts);
  if (codes.rare > n * k / kWeightsPerRare) return {};
  const int64_t bytes = bytes_of(tiles, codes.rare);
  std::shared_ptr<void> panels = large_memory(static_cast<size_t>(bytes));
  uint8_t* const out = static_cast<uint8_t*>(panels.get());
  uint8_t* const table = out + tiles * kTwelveBitTileBytes;
  uint32_t* const first = reinterpret_cast<uint32_t*>(table + kTableBytes);
  std::vector<std::vector<RareWeight>> rare(static_cast<size_t>(n_panels));
#pragma omp parallel for schedule(static)
  for (int64_t p = 0; p < n_panels; ++p)
    for (int64_t t = 0; t < depth; ++t) {
      std::vector<RareWeight>& found = rare[static_cast<size_t>(p)];
      const size_t before = found.size();
      encode({weight, n, k, p * kTileSide, t * kTileSide}, codes,
             out + (p * depth + t) * kTwelveBitTileBytes, found);
      first[p * depth + t + 1] = static_cast<uint32_t>(found.size() - before);
    }
  std::memset(table, 0, kTableBytes);
  std::memcpy(table, codes.exponents, kCodes);
  first[0] = 0;
  std::partial_sum(first, first + tiles + 1, first);
  RareWeight* list = reinterpret_cast<RareWeight*>(first + tiles + 1);
  for (const std::vector<RareWeight>& found : rare)
    list = std::copy(found.begin(), found.end(), list);
  return {panels, bytes};
}

TwelveBitTables twelve_bit_tables(const void* panels, int64_t bytes, int64_t tiles) {
  const int64_t least = bytes_of(tiles, 0);
  CHECK_ARG(bytes >= least, "panels has ", bytes, " bytes, expected ", least, " or more");
  const uint8_t* table = static_cast<const uint8_t*>(panels) + tiles * kTwelveBitTileBytes;
  const uint32_t* first = reinterpret_cast<const uint32_t*>(table + kTableBytes);
  const RareWeight* rare = reinterpret_cast<const RareWeight*>(first + tiles + 1);
  CHECK_ARG(first[0] == 0 && std::is_sorted(first, first + tiles + 1),
            "panels has no list of rare weights where one is expected");
  CHECK_ARG(bytes == bytes_of(tiles, first[tiles]), "panels has ", bytes, " bytes, expected ",
            bytes_of(tiles, first[tiles]));
  for (uint32_t i = 0; i < first[tiles]; ++i)
    CHECK_ARG(rare[i].place < kTileWeights, "panels has a rare weight at ", rare[i].place,
              ", a tile has ", kTileWeights);
  return {table, first, rare};
}

}  // namespace branchwise
