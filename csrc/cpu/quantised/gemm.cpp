// out = x * W^T + bias with W as small integers (csrc/cpu/isa/kernels.h: QuantisedFormat).
//
// x is quantised on the way in: int8, one scale per row and group of k. Products are summed as
// integers within a group, exactly; groups are summed in fp32, in order of k. So the bits of an
// output depend on its row alone, and are the same on every instruction set with fused
// multiply-adds.
//
// A slice of a panel is unpacked to bytes in L1 and serves all rows of the task; for few rows codes
// are unpacked in registers (code_rows.h).
#include "cpu/isa/isa_entry.h"
#include "cpu/products/parts.h"
#include "cpu/quantised/dot.h"
#include "cpu/quantised/parts.h"
#include "cpu/quantised/rows.h"
#if defined(__AMX_INT8__)
#include "cpu/quantised/amx.h"
#endif

namespace branchwise::BRANCHWISE_ISA {
namespace {

constexpr int kBlockGroups = 8;                   // micro tiles of rows in one parallel task
constexpr int kMostRows = CodeDot<4, 32>::kRows;  // of a micro tile of any format

// How x is laid out for a format.
struct Layout {
  int rows;   // of a micro tile
  int words;  // for four steps of k
};
Layout layout_of(QuantisedFormat format) {
  if (format.bits == 8) return {CodeDot<8, 0>::kRows, CodeDot<8, 0>::kWords};
  return {CodeDot<4, 32>::kRows, CodeDot<4, 32>::kWords};
}

// A group of m rows of x, quantised. The codes' offset, or their minimum, needs the sum over x.
struct Rows {
  int32_t* words;  // [k / 4][m][layout's]: four codes, or the even and the odd ones in 16 bits each
  float* scale;    // [group of k][m]
  float* sum;      // [group of k][m]: fp32 sum of x for minima, else int32: what offsets add
};

template <typename X>
void pack_rows(const QuantisedGemmArgs& args, int64_t begin, int64_t m, int n_words, Rows rows) {
  for (int64_t i = 0; i < m; ++i)
    quantise_row<X>(
        args, begin + i,
        [&](int64_t k, int n, const int8_t* codes) {
          int32_t* words = rows.words + (k / 4 * m + i) * n_words;
          for (int step = 0; step < n; step += 4, words += m * n_words)
            if (n_words == 1) {
              __builtin_memcpy(words, codes + step, 4);
            } else {
              const int8_t* x = codes + step;
              words[0] = static_cast<uint16_t>(x[0]) | static_cast<uint32_t>(x[2]) << 16;
              words[1] = static_cast<uint16_t>(x[1]) | static_cast<uint32_t>(x[3]) << 16;
            }
        },
        [&](int64_t group, float scale, float sum) {
          rows.scale[group * m + i] = scale;
          rows.sum[group * m + i] = sum;
        });
}

// c[m][32] += the sums of a group, times their scales, for n registers of columns. scale, x_sum: of
// x, [m]. factors, minima: of the weights, from the first column on.
template <int m, int n, int kGroup, bool kMin>
BW_INLINE void add_group(const IVec (&sum)[m][n], const float* scale, const float* x_sum,
                         const float* factors, const float* minima, float* c) {
#pragma GCC unroll 4
  for (int v = 0; v < n; ++v) {
    const Vec factor = kGroup == 0 ? Vec{} : load(factors + v * kLanes);
    const Vec minimum = kMin ? load(minima + v * kLanes) : Vec{};
#pragma GCC unroll 16
    for (int i = 0; i < m; ++i) {
      float* out = c + i * kPanelWidth + v * kLanes;
      Vec product = __builtin_convertvector(sum[i][v], Vec);
      if constexpr (kGroup != 0) product *= factor;
      Vec total = fma(product, splat(scale[i]), load(out));
      if constexpr (kMin) total = fma(minimum, splat(x_sum[i]), total);
      store(out, total);
    }
  }
}

// c[m][32] += m rows times a slice. Kind: a Dot of code_dot.h. kGroup: steps of k in a group, 0 as
// in QuantisedFormat. kInPlace: the slice is where the panel is; ahead: bytes to the weights to
// fetch.
template <typename Kind, int m, int kGroup, bool kMin, bool kInPlace>
void micro(const Rows& x, const Slice& slice, int64_t ahead, float* c) {
  // Few rows are bound by reading: best from end to end, all columns at once.
  constexpr int n = m <= 2 ? kPanelWidth / kLanes : 2, n_loaded = m <= 2 ? 1 : 2;
  const int64_t group = kGroup == 0 ? slice.steps : kGroup, n_groups = slice.steps / group;
  for (int column = 0; column < kPanelWidth; column += n * kLanes) {
    const int32_t* words = x.words;
    for (int64_t g = 0; g < n_groups; ++g) {
      const float *scale = x.scale + g * m, *x_sum = x.sum + g * m;
      const uint8_t* codes = slice.codes + g * slice.group_bytes + 4 * column;
      IVec sum[m][n];
#pragma GCC unroll 16
      for (int i = 0; i < m; ++i)
#pragma GCC unroll 4
        for (int v = 0; v < n; ++v)
          sum[i][v] = kMin ? IVec{} : __builtin_bit_cast(int32_t, x_sum[i]) - IVec{};
      for (int64_t k = 0; k < group; k += 4 * Kind::kRun) {
        IVec part[m][n];
#pragma GCC unroll 16
        for (int i = 0; i < m; ++i)
#pragma GCC unroll 4
          for (int v = 0; v < n; ++v) part[i][v] = Kind::open(sum[i][v]);
#pragma GCC unroll 1
        for (int step = 0; step < Kind::kRun;
             ++step, words += m * Kind::kWords, codes += 4 * kPanelWidth) {
          if constexpr (kInPlace)
            for (int line = 0; line < 4 * kPanelWidth; line += 64)
              __builtin_prefetch(codes + ahead + line, 0, 2);
#pragma GCC unroll 4
          for (int v = 0; v < n; v += n_loaded) {
            decltype(Kind::weight(UVec{})) w[n_loaded];
#pragma GCC unroll 2
            for (int j = 0; j < n_loaded; ++j)
              w[j] = Kind::weight(*reinterpret_cast<const UVecAt*>(codes + 4 * (v + j) * kLanes));
#pragma GCC unroll 16
            for (int i = 0; i < m; ++i) {
              const auto a = Kind::x(words + i * Kind::kWords);
#pragma GCC unroll 2
              for (int j = 0; j < n_loaded; ++j) Kind::add(part[i][v + j], w[j], a);
            }
          }
        }
#pragma GCC unroll 16
        for (int i = 0; i < m; ++i)
#pragma GCC unroll 4
          for (int v = 0; v < n; ++v) sum[i][v] = Kind::close(sum[i][v], part[i][v]);
      }
      const int64_t at = g * kPanelWidth + column;
      add_group<m, n, kGroup, kMin>(sum, scale, x_sum, kGroup == 0 ? nullptr : slice.scales + at,
                                    kMin ? slice.minima + at : nullptr, c + column);
    }
  }
}

template <typename Kind, int kGroup, bool kMin, bool kInPlace, int m = Kind::kRows>
BW_INLINE void dispatch(int64_t rows, const Rows& x, const Slice& slice, int64_t ahead, float* c) {
  if (rows == m) return micro<Kind, m, kGroup, kMin, kInPlace>(x, slice, ahead, c);
  if constexpr (m > 1) dispatch<Kind, kGroup, kMin, kInPlace, m - 1>(rows, x, slice, ahead, c);
}

template <int bits>
void multiply_bits(bool has_min, int group, int64_t m, const Rows& x, const Slice& slice,
                   int64_t ahead, float* c) {
  if (group == 0) return dispatch<CodeDot<8, 0>, 0, false, true>(m, x, slice, ahead, c);
  if (group == 16) return dispatch<CodeDot<bits, 16>, 16, false, false>(m, x, slice, ahead, c);
  has_min ? dispatch<CodeDot<bits, 32>, 32, true, bits == 8>(m, x, slice, ahead, c)
          : dispatch<CodeDot<bits, 32>, 32, false, bits == 8>(m, x, slice, ahead, c);
}

void multiply(const QuantisedFormat format, int64_t m, const Rows& x, const Slice& slice,
              int64_t ahead, float* c) {
  if (format.bits == 4)
    return multiply_bits<4>(format.has_min, format.group, m, x, slice, ahead, c);
  if (format.bits == 5)
    return multiply_bits<5>(format.has_min, format.group, m, x, slice, ahead, c);
  if (format.bits == 6)
    return multiply_bits<6>(format.has_min, format.group, m, x, slice, ahead, c);
  multiply_bits<8>(format.has_min, format.group, m, x, slice, ahead, c);
}

// c[m][32] = m rows times a panel, of no more than few_rows(format).
void multiply_few(const QuantisedFormat format, int64_t m, const Rows& x, const uint8_t* panel,
                  int64_t n_blocks, float* c) {
  const auto multiply = [&](auto of_bits) {
    of_bits.multiply(format, m, x.words, x.scale, x.sum, panel, n_blocks, c);
  };
  if (format.bits == 4) return multiply(FewRows<4>{});
  if (format.bits == 5) return multiply(FewRows<5>{});
  if (format.bits == 6) return multiply(FewRows<6>{});
  multiply(FewRows<8>{});
}

template <typename X>
void quantised_gemm_typed(const QuantisedGemmArgs& args) {
  const QuantisedFormat format = args.format;
  const Layout layout = layout_of(format);
  const Parts groups(args.rows, layout.rows), tasks(groups.count, kBlockGroups);
  const int64_t k_padded = format.padded(args.k), x_groups = format.x_groups(args.k);
  const int64_t n_units = unit_count(args), n_blocks = k_padded / kBlockSteps;
  const int panels = unit_panels(args);
  int32_t* words = reinterpret_cast<int32_t*>(args.scratch);
  const int64_t row_words = k_padded / 4 * layout.words;
  float* scales = args.scratch + args.rows * row_words;
  float* sums = scales + args.rows * x_groups;
  // The rows from `begin` on, from step k on; m of them lie together.
  const auto rows_at = [&](int64_t begin, int64_t m, int64_t k) {
    const int64_t group = begin * x_groups + k / format.x_group() * m;
    return Rows{words + begin * row_words + k / 4 * layout.words * m, scales + group, sums + group};
  };
#pragma omp for schedule(static)
  for (int64_t g = 0; g < groups.count; ++g) {
    const int64_t begin = groups.begin(g), m = groups.begin(g + 1) - begin;
    pack_rows<X>(args, begin, m, layout.words, rows_at(begin, m, 0));
  }
  Room room;
  constexpr int64_t kTask = kBlockGroups * kMostRows * kPanelWidth;
  alignas(64) float c[2 * kTask];
#pragma omp for collapse(2) schedule(static)
  for (int64_t task = 0; task < tasks.count; ++task)
    for (int64_t unit = 0; unit < n_units; ++unit) {
      const int64_t first = tasks.begin(task), last = tasks.begin(task + 1);
      const int64_t row_begin = groups.begin(first), row_end = groups.begin(last);
      for (int j = 0; j < panels; ++j) {
        const int64_t p = unit * panels + j;
        const uint8_t* panel = args.panels + p * n_blocks * block_bytes(format);
        float* sums = c + j * kTask;
        for (int64_t i = 0; i < (row_end - row_begin) * kPanelWidth; ++i) sums[i] = 0;
        if (kFewInRegisters && args.rows <= few_rows(format)) {
          for (int64_t g = first; g < last; ++g) {
            const int64_t begin = groups.begin(g), m = groups.begin(g + 1) - begin;
            multiply_few(format, m, rows_at(begin, m, 0), panel, n_blocks,
                         sums + (begin - row_begin) * kPanelWidth);
          }
          continue;
        }
        for (int64_t b = 0; b < n_blocks; b += kSliceBlocks) {
          const int64_t count = n_blocks - b < kSliceBlocks ? n_blocks - b : kSliceBlocks;
          const uint8_t* block = panel + b * block_bytes(format);
          const Slice slice = format.group == 0
                                  ? Slice{block, nullptr, nullptr, count * kBlockSteps, 0}
                                  : unpack<false>(format, block, count, room);
          for (int64_t g = first; g < last; ++g) {
            const int64_t begin = groups.begin(g), m = groups.begin(g + 1) - begin;
            multiply(format, m, rows_at(begin, m, b * kBlockSteps), slice,
                     g == first ? kCodesAhead : 0, sums + (begin - row_begin) * kPanelWidth);
          }
        }
      }
      write_unit<X>(args, args.column_scale, c, kTask, unit, row_begin, row_end);
    }
}

template <typename X>
void quantised_gemm_of(const QuantisedGemmArgs& args) {
#if defined(__AMX_INT8__)
  if (args.rows >= kMinTiledRows) return quantised_gemm_tiles<X>(args);
#endif
  quantised_gemm_typed<X>(args);
}

}  // namespace

void quantised_gemm(const QuantisedGemmArgs& args) {
  args.dtype == Real::f32 ? quantised_gemm_of<float>(args) : quantised_gemm_of<Bf16>(args);
}

}  // namespace branchwise::BRANCHWISE_ISA
