// out = x * W^T + bias with W packed in panels of 32 columns, bf16 or fp32, fp32 accumulation.
//
// Panels: bf16 [n / 32][k / 2][32][2] (k padded to 32; a 32-bit lane holds two steps of k, so that
// one shift or one mask makes fp32), fp32 [n / 32][k][32]. x is repacked as [group of
// rows][k][rows]. Each output is one chain of fused multiply-adds over k in order: neither the
// number of rows nor their grouping changes its bits. A task is a panel and a block of rows: its
// slice of k stays in cache.
#include "cpu/gemm_parts.h"
#include "cpu/isa_entry.h"
#if defined(__AMX_BF16__)
#include "cpu/gemm_amx.h"
#endif

namespace branchwise::BRANCHWISE_ISA {
namespace {

constexpr int kMaxRows = kRegisters == 32 ? 12 : 6;  // rows of a micro tile: x 2 accumulators
constexpr int kSlice = 256;                          // steps of k per pass over the rows
constexpr int kBlockGroups = 8;                      // micro tiles of rows in one parallel task
constexpr int64_t kMinParallelWork = 1 << 16;        // multiply-adds

// How a 32-bit lane of a panel becomes multiply-adds with x[k]. A lane holds kStep steps of k, that
// are worked off in kHalves rounds; kPairs: x comes as pairs of bf16 too.
struct Fp32Weights {
  static constexpr int kStep = 1, kHalves = 1;
  static constexpr bool kPairs = false;
  static BW_INLINE Vec unpack(UVec lane, int) { return (Vec)lane; }
  static BW_INLINE Vec multiply_add(Vec x, Vec weight, Vec sum) { return fma(x, weight, sum); }
};
struct Bf16Weights : Fp32Weights {
  static constexpr int kStep = 2, kHalves = 2;
  static BW_INLINE Vec unpack(UVec lane, int half) {
    return half == 0 ? (Vec)(lane << 16) : (Vec)(lane & 0xffff0000u);
  }
};
#if defined(__AVX512BF16__)
struct Bf16Pairs : Fp32Weights {
  static constexpr int kStep = 2;
  static constexpr bool kPairs = true;
  static BW_INLINE Vec multiply_add(Vec x, Vec weight, Vec sum) {
    return _mm512_dpbf16_ps(sum, (__m512bh)x, (__m512bh)weight);
  }
};
#endif

// c[m][kVecs * kLanes] += a[k][m] * panel columns, over `steps` steps of k.
template <int m, int kVecs, typename Format>
void micro(const float* a, const void* panel, int64_t steps, float* c) {
  Vec sum[m][kVecs];
#pragma GCC unroll 16
  for (int i = 0; i < m; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) sum[i][v] = load(c + i * kPanelWidth + v * kLanes);
  const uint32_t* words = static_cast<const uint32_t*>(panel);
  for (int64_t k = 0; k < steps; k += Format::kStep, words += kPanelWidth)
#pragma GCC unroll 2
    for (int half = 0; half < Format::kHalves; ++half, a += m) {
      Vec weight[kVecs];
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v)
        weight[v] = Format::unpack(*reinterpret_cast<const UVecAt*>(words + v * kLanes), half);
#pragma GCC unroll 16
      for (int i = 0; i < m; ++i) {
        const Vec x = splat(a[i]);
#pragma GCC unroll 4
        for (int v = 0; v < kVecs; ++v) sum[i][v] = Format::multiply_add(x, weight[v], sum[i][v]);
      }
    }
#pragma GCC unroll 16
  for (int i = 0; i < m; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) store(c + i * kPanelWidth + v * kLanes, sum[i][v]);
}

// One group of m rows against all 32 columns of a panel's slice.
template <int m, typename Format>
void group_times_panel(const float* a, const void* panel, int64_t steps, float* c) {
  constexpr int kVecs = m <= 2 && 4 * kLanes <= kPanelWidth ? 4 : 2;
  for (int column = 0; column < kPanelWidth; column += kVecs * kLanes)
    micro<m, kVecs, Format>(a, static_cast<const uint32_t*>(panel) + column, steps, c + column);
}

template <typename Format>
void dispatch(int64_t m, const float* a, const void* panel, int64_t steps, float* c) {
  switch (m) {
    case 1:
      return group_times_panel<1, Format>(a, panel, steps, c);
    case 2:
      return group_times_panel<2, Format>(a, panel, steps, c);
    case 3:
      return group_times_panel<3, Format>(a, panel, steps, c);
    case 4:
      return group_times_panel<4, Format>(a, panel, steps, c);
    case 5:
      return group_times_panel<5, Format>(a, panel, steps, c);
    case 6:
      return group_times_panel<6, Format>(a, panel, steps, c);
#if defined(__AVX512F__)
    case 7:
      return group_times_panel<7, Format>(a, panel, steps, c);
    case 8:
      return group_times_panel<8, Format>(a, panel, steps, c);
    case 9:
      return group_times_panel<9, Format>(a, panel, steps, c);
    case 10:
      return group_times_panel<10, Format>(a, panel, steps, c);
    case 11:
      return group_times_panel<11, Format>(a, panel, steps, c);
    case 12:
      return group_times_panel<12, Format>(a, panel, steps, c);
#endif
  }
}

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

template <typename Format, typename X, typename Out>
void gemm_typed(const GemmArgs& args) {
  const Parts groups(args.rows, kMaxRows), blocks(groups.count, kBlockGroups);
  const int64_t k_padded = (args.k + Format::kStep - 1) / Format::kStep * Format::kStep;
  const int64_t words = Format::kPairs ? k_padded / 2 : k_padded;  // of a packed row
  const int64_t panel_words = panel_depth(args.weight_dtype, args.k) * kPanelWidth;
  const int64_t n_panels = (args.n + kPanelWidth - 1) / kPanelWidth;
#pragma omp parallel if (args.rows * args.n * args.k >= kMinParallelWork)
  {
#pragma omp for schedule(static)
    for (int64_t g = 0; g < groups.count; ++g) {
      const int64_t begin = groups.begin(g);
      pack_rows<Format, X>(args, begin, groups.begin(g + 1) - begin, words,
                           args.scratch + begin * words);
    }
    float c[kBlockGroups * kMaxRows * kPanelWidth];
#pragma omp for collapse(2) schedule(static)
    for (int64_t block = 0; block < blocks.count; ++block)
      for (int64_t p = 0; p < n_panels; ++p) {
        const uint32_t* panel = static_cast<const uint32_t*>(args.panels) + p * panel_words;
        const int64_t first = blocks.begin(block), last = blocks.begin(block + 1);
        const int64_t row_begin = groups.begin(first), row_end = groups.begin(last);
        for (int64_t i = 0; i < (row_end - row_begin) * kPanelWidth; ++i) c[i] = 0;
        for (int64_t k = 0; k < k_padded; k += kSlice) {
          const int64_t steps = k_padded - k < kSlice ? k_padded - k : kSlice;
          const uint32_t* slice = panel + k / Format::kStep * kPanelWidth;
          for (int64_t g = first; g < last; ++g) {
            const int64_t begin = groups.begin(g), m = groups.begin(g + 1) - begin;
            const float* a = args.scratch + begin * words + (Format::kPairs ? k / 2 : k) * m;
            dispatch<Format>(m, a, slice, steps, c + (begin - row_begin) * kPanelWidth);
          }
        }
        for (int64_t row = row_begin; row < row_end; ++row)
          write_row<X, Out>(args, nullptr, c + (row - row_begin) * kPanelWidth, row,
                            p * kPanelWidth);
      }
  }
}

#if defined(__AMX_BF16__)
template <typename Out>
void gemm_tiles(const GemmArgs& args) {
  constexpr int kSteps = kTileBytes / sizeof(Bf16);  // of k that a row of a tile holds
  const int64_t n_tiles = (args.k + kSteps - 1) / kSteps, group_bytes = n_tiles * kATile;
  const int64_t n_panels = (args.n + kPanelWidth - 1) / kPanelWidth;
  const TileTasks tasks(args.rows, n_tiles * kTileBytes);
  char* a = reinterpret_cast<char*>(args.scratch);
#pragma omp parallel if (args.rows * args.n * args.k >= kMinParallelWork)
  {
#pragma omp for schedule(static)
    for (int64_t row = 0; row < args.rows; ++row) {  // what fills up the last tile stays undefined
      const Bf16* x = static_cast<const Bf16*>(args.x) + row * args.k;
      char* tile = a + row / kTileRows * group_bytes + row % kTileRows * kTileBytes;
      for (int64_t k = 0; k < args.k; k += kSteps, tile += kATile) {
        if (k + kSteps > args.k) __builtin_memset(tile, 0, kTileBytes);
        const int64_t steps = args.k - k < kSteps ? args.k - k : kSteps;
        __builtin_memcpy(tile, x + k, steps * sizeof(Bf16));
      }
    }
    const TileScope scope;
    alignas(64) float c[kTileBlock * kPanelWidth];
#pragma omp for collapse(2) schedule(static)
    for (int64_t block = 0; block < tasks.blocks.count; ++block)
      for (int64_t p = 0; p < n_panels; ++p) {
        const char* panel = static_cast<const char*>(args.panels) + p * n_tiles * kPanelTile;
        const int64_t begin = tasks.begin(block), end = tasks.end(block);
        tiles_times_panel<Dot::bf16>(a, group_bytes, panel, n_tiles, begin, end, c);
        for (int64_t row = begin; row < end; ++row)
          write_row<Bf16, Out>(args, nullptr, c + (row - begin) * kPanelWidth, row,
                               p * kPanelWidth);
      }
  }
}
#endif

template <typename Format, typename X>
void gemm_out(const GemmArgs& args) {
  args.out_dtype == Real::f32 ? gemm_typed<Format, X, float>(args)
                              : gemm_typed<Format, X, Bf16>(args);
}

}  // namespace

void gemm(const GemmArgs& args) {
  if (args.weight_dtype == Real::f32)
    return args.x_dtype == Real::f32 ? gemm_out<Fp32Weights, float>(args)
                                     : gemm_out<Fp32Weights, Bf16>(args);
  if (args.x_dtype == Real::f32) return gemm_out<Bf16Weights, float>(args);
#if defined(__AMX_BF16__)
  return args.out_dtype == Real::f32 ? gemm_tiles<float>(args) : gemm_tiles<Bf16>(args);
#elif defined(__AVX512BF16__)
  return gemm_out<Bf16Pairs, Bf16>(args);
#else
  return gemm_out<Bf16Weights, Bf16>(args);
#endif
}

}  // namespace branchwise::BRANCHWISE_ISA
