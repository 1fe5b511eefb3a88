// out = x * W^T + bias with W packed in panels of 32 columns, bf16 or fp32, fp32 accumulation.
//
// Panels: bf16 [n / 32][k / 2][32][2] (k padded to 32; a 32-bit lane holds two steps of k, so that
// one shift or one mask makes fp32), fp32 [n / 32][k][32]. x is repacked as [group of
// rows][k][rows]. Each output is one chain of fused multiply-adds over k in order: neither the
// number of rows nor their grouping changes its bits. A task is a panel and a block of rows: its
// slice of k stays in cache. Twelve-bit panels are unpacked slice by slice.
#include "cpu/isa/isa_entry.h"
#include "cpu/products/micro_tile.h"
#if defined(__AMX_BF16__)
#include "cpu/products/amx_plain.h"
#include "cpu/products/amx_twelve_bit.h"
#else
#include "cpu/products/twelve_bit_unpack.h"
#endif

namespace branchwise::BRANCHWISE_ISA {
namespace {

constexpr int kSlice = 256;       // steps of k per pass over the rows
constexpr int64_t kAhead = 4096;  // words to the weights that are fetched: a slice of bf16
constexpr int kBlockGroups = 8;   // micro tiles of rows in one parallel task

// a[k][m] of rows [begin, begin + m): fp32, or two bf16 per word; zeros up to a whole word.
template <typename Format, typename X>
void pack_rows(const GemmArgs& args, int64_t begin, int64_t m, int64_t words, float* a) {
  for (int64_t i = 0; i < m; ++i) {
    const X* x = static_cast<const X*>(args.x) + (begin + i) * args.k;
    if constexpr (Format::kPairs) {
      const auto bits = [&](int64_t k) { return k < args.k ? x[k].bits : uint16_t{0}; };
      for (int64_t w = 0; w < words; ++w)
        a[w * m + i] =
            __builtin_bit_cast(float, bits(2 * w) | static_cast<uint32_t>(bits(2 * w + 1)) << 16);
    } else {
      for (int64_t k = 0; k < args.k; ++k) a[k * m + i] = to_float(x[k]);
      for (int64_t k = args.k; k < words; ++k) a[k * m + i] = 0;
    }
  }
}

template <typename Format, typename X>
void gemm_typed(const GemmArgs& args) {
  const Parts groups(args.rows, kMaxRows), blocks(groups.count, kBlockGroups);
  const int64_t k_padded = (args.k + Format::kStep - 1) / Format::kStep * Format::kStep;
  const int64_t words = Format::kPairs ? k_padded / 2 : k_padded;  // of a packed row
  const int64_t panel_words = panel_depth(args.dtype, args.k) * kPanelWidth;
  const int64_t n_units = unit_count(args);
  const int panels = unit_panels(args);
#pragma omp for schedule(static)
  for (int64_t g = 0; g < groups.count; ++g) {
    const int64_t begin = groups.begin(g);
    pack_rows<Format, X>(args, begin, groups.begin(g + 1) - begin, words,
                         args.scratch + begin * words);
  }
  constexpr int64_t kTask = kBlockGroups * kMaxRows * kPanelWidth;
  const int64_t depth = round_up(args.k, kBlockSteps) / kBlockSteps;  // tiles of a twelve-bit panel
  alignas(64) char unpacked[kSlice / kBlockSteps * kTileRoom];
  float c[2 * kTask];
#pragma omp for collapse(2) schedule(static)
  for (int64_t block = 0; block < blocks.count; ++block)
    for (int64_t unit = 0; unit < n_units; ++unit) {
      const int64_t first = blocks.begin(block), last = blocks.begin(block + 1);
      const int64_t row_begin = groups.begin(first), row_end = groups.begin(last);
      for (int j = 0; j < panels; ++j) {
        const int64_t p = unit * panels + j;
        const uint32_t* panel = static_cast<const uint32_t*>(args.panels) + p * panel_words;
        float* sums = c + j * kTask;
        for (int64_t i = 0; i < (row_end - row_begin) * kPanelWidth; ++i) sums[i] = 0;
        for (int64_t k = 0; k < k_padded; k += kSlice) {
          const int64_t steps = k_padded - k < kSlice ? k_padded - k : kSlice;
          const void* slice = panel + k / Format::kStep * kPanelWidth;
          if (args.twelve_bit) {
            const int64_t tile = k / kBlockSteps, end = round_up(k + steps, kBlockSteps);
            Unpacker(args.twelve_bit)
                .tiles(args.panels, p * depth + tile, end / kBlockSteps - tile, unpacked);
            slice = unpacked;
          }
          for (int64_t g = first; g < last; ++g) {
            const int64_t begin = groups.begin(g), m = groups.begin(g + 1) - begin;
            const float* a = args.scratch + begin * words + (Format::kPairs ? k / 2 : k) * m;
            multiply_rows<Format>(m, a, slice, steps, args.twelve_bit ? 0 : kAhead,
                                  sums + (begin - row_begin) * kPanelWidth);
          }
        }
      }
      write_unit<X>(args, nullptr, c, kTask, unit, row_begin, row_end);
    }
}

#if defined(__AMX_BF16__)
constexpr int kGroupPanels = 8;  // panels of a task, where k is cut

// Rows [begin, end) of x to `out`, padded with zeros to whole tiles.
void copy_rows(const GemmArgs& args, int64_t begin, int64_t end, int64_t stride, char* out) {
  const int64_t bytes = args.k * sizeof(Bf16);
  for (int64_t row = begin; row < end; ++row, out += stride) {
    __builtin_memcpy(out, static_cast<const char*>(args.x) + row * bytes, bytes);
    __builtin_memset(out + bytes, 0, stride - bytes);
  }
}

// A task is a block of rows and a group of units of panels. Where x of a block outgrows L2, k is
// cut into chunks, each worked off for the whole group.
void gemm_tiles(const GemmArgs& args) {
  const int64_t n_tiles = (args.k + kTileSteps - 1) / kTileSteps, stride = n_tiles * kTileBytes;
  if (args.rows == 0) return;
  const int64_t most = stride * kTileBlock <= kTileCache ? kTileBlock : kCutTileBlock;
  const Parts blocks((args.rows + kPairRows - 1) / kPairRows, most / kPairRows);
  const int64_t block_rows = args.rows < most ? args.rows : most;
  const Parts chunks(n_tiles, kTileCache / (round_up(block_rows, kPairRows) * kTileBytes));
  const int panels = unit_panels(args);
  const Parts groups(unit_count(args), chunks.count == 1 ? 1 : kGroupPanels / panels);
  char* room = reinterpret_cast<char*>(args.scratch);
  const bool in_place = args.k % kTileSteps == 0;
  const int64_t whole = args.rows / kTileRows, whole_rows = whole * kTileRows;
  const TileRows x{in_place ? static_cast<const char*>(args.x) : room,
                   in_place ? room : room + whole_rows * stride, whole, stride};
  if (!in_place) {
#pragma omp for schedule(static)
    for (int64_t row = 0; row < args.rows; ++row)
      copy_rows(args, row, row + 1, stride, room + row * stride);
  } else if (whole_rows < args.rows) {
#pragma omp single
    copy_rows(args, whole_rows, args.rows, stride, room);
  }
  const TileScope scope;
  constexpr int64_t kTask = kTileBlock * kPanelWidth;
  const char* weights = static_cast<const char*>(args.panels);
  const TwelveBitTiles twelve_bit{Unpacker(args.twelve_bit), weights};
  const int64_t n_panels = unit_count(args) * panels;
  UnpackedSlice slice;
  alignas(64) float c[kGroupPanels * kTask];
#pragma omp for collapse(2) schedule(static)
  for (int64_t block = 0; block < blocks.count; ++block)
    for (int64_t group = 0; group < groups.count; ++group) {
      const int64_t begin = blocks.begin(block) * kPairRows;
      const int64_t limit = blocks.begin(block + 1) * kPairRows;
      const int64_t end = limit < args.rows ? limit : args.rows;
      const int64_t first = groups.begin(group) * panels, last = groups.begin(group + 1) * panels;
      for (int64_t chunk = 0; chunk < chunks.count; ++chunk)
        for (int64_t p = first; p < last; ++p) {
          const int64_t k = chunks.begin(chunk), k_end = chunks.begin(chunk + 1);
          float* sums = c + (p - first) * kTask;
          const int64_t then = p + 1 < n_panels ? (p + 1) * n_tiles + k : -1;
          if (args.twelve_bit)
            tiles_times_twelve_bit(x, twelve_bit, p * n_tiles, k, k_end, begin, end, then, slice,
                                   sums);
          else
            tiles_times_panel(x, weights + p * n_tiles * kPanelTile, k, k_end, begin, end, sums);
        }
      for (int64_t p = first; p < last; p += panels)
        write_unit<Bf16>(args, nullptr, c + (p - first) * kTask, kTask, p / panels, begin, end);
    }
}
#endif

}  // namespace

void gemm(const GemmArgs& args) {
  if (args.dtype == Real::f32) return gemm_typed<Fp32Weights, float>(args);
#if defined(__AMX_BF16__)
  gemm_tiles(args);
#elif defined(__AVX512BF16__)
  gemm_typed<Bf16Pairs, Bf16>(args);
#else
  gemm_typed<Bf16Weights, Bf16>(args);
#endif
}

}  // namespace branchwise::BRANCHWISE_ISA
