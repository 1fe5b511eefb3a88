// out = x * W^T + bias with W as small integers (csrc/cpu/kernels.h: CodeFormat).
//
// x is quantised on the way in: int8, one scale per row and group of k. Products are summed as
// integers within a group, exactly; groups are summed in fp32, in order of k. So the bits of an
// output depend on its row alone, and are the same on every instruction set with fused
// multiply-adds.
//
// A slice of a panel is unpacked to bytes in L1 and serves all rows of the task.
#include "cpu/gemm_parts.h"
#include "cpu/isa_entry.h"

namespace branchwise::BRANCHWISE_ISA {
namespace {

constexpr int kMaxRows = kRegisters == 32 ? 12 : 4;  // rows of a micro tile: x 2 accumulators
constexpr int kSliceBlocks = 8;                      // blocks of k per pass over the rows
constexpr int kBlockGroups = 8;                      // micro tiles of rows in one parallel task
constexpr int kBlockCodes = kPanelWidth * kBlockSteps;
constexpr int64_t kFetchAhead = 8192;          // bytes of weights: prefetchers stop at a page
constexpr int64_t kMinParallelWork = 1 << 17;  // multiply-adds
constexpr float kRound = 12582912.0f;          // 1.5 * 2^23: adding it rounds to an integer
typedef int8_t BVec __attribute__((vector_size(kLanes)));

// A group of m rows of x, quantised. The codes' offset, or their minimum, needs the sum over x.
struct Rows {
  int32_t* words;  // [k / 4][m], four codes each
  float* scale;    // [group of k][m]
  float* sum;      // [group of k][m]: fp32 sum of x for minima, else int32: what offsets add
};

// codes[0, size) of x[0, n): zeros beyond. Returns the scale; NaN if x holds NaN or infinity.
template <typename X>
BW_INLINE float quantise(const X* x, int64_t n, int size, int8_t* codes, int32_t& sum) {
  alignas(64) float values[CodeFormat::kWholeGroup];
  Vec top = {}, poison = {};
  for (int i = 0; i < size; i += kLanes) {
    const int64_t left = n - i;
    const Vec v = left >= kLanes ? load(x + i) : left > 0 ? load_n(x + i, left) : Vec{};
    store(values + i, v);
    poison += v - v;
    top = vmax(absolute(v), top);
  }
  const float largest = reduce_max(top);
  const float inverse = largest > 0 ? 127.0f / largest : 0.0f;
  IVec total = {};
  for (int i = 0; i < size; i += kLanes) {
    const Vec rounded = load(values + i) * inverse + kRound;
    const IVec code = (IVec)rounded - 0x4b400000;
    total += code;
    *reinterpret_cast<BVec*>(codes + i) = __builtin_convertvector(code, BVec);
  }
  sum = 0;
  for (int lane = 0; lane < kLanes; ++lane) sum += total[lane];
  return largest / 127.0f + reduce_add(poison);
}

template <typename X>
void pack_rows(const CodeGemmArgs& args, int64_t begin, int64_t m, Rows rows) {
  const int size = args.format.x_group();
  const int32_t offset = args.format.has_min ? 0 : -(1 << (args.format.bits - 1));
  const int64_t n_groups = args.format.padded(args.k) / size;
  alignas(64) int8_t codes[CodeFormat::kWholeGroup];
  for (int64_t i = 0; i < m; ++i) {
    const X* x = static_cast<const X*>(args.x) + (begin + i) * args.k;
    for (int64_t g = 0; g < n_groups; ++g) {
      int32_t sum;
      const float scale = quantise(x + g * size, args.k - g * size, size, codes, sum);
      rows.scale[g * m + i] = scale;
      rows.sum[g * m + i] = args.format.has_min ? scale * static_cast<float>(sum)
                                                : __builtin_bit_cast(float, sum* offset);
      int32_t* words = rows.words + g * (size / 4) * m + i;
      for (int step = 0; step < size / 4; ++step)
        __builtin_memcpy(words + step * m, codes + 4 * step, 4);
    }
  }
}

// A slice of a panel, unpacked. scales, minima: [group][32]
struct Slice {
  const uint8_t* codes;  // [k / 4][32][4]
  const float *scales, *minima;
  int64_t n_groups;
};

// Word w of the 256 words of a block: the low nibbles of words 0 to 127 share bytes with those of
// 128 to 255; further bits lie in planes of 32 words a bit.
template <int bits>
BW_INLINE void unpack_codes(const uint8_t* block, uint8_t* codes) {
  constexpr int kWords = kBlockCodes / 4, kHigh = bits - 4, kPlane = 32 * kHigh;
  const auto at = [](const uint8_t* p, int word) {
    return *reinterpret_cast<const UVecAt*>(p + 4 * word);
  };
  for (int i = 0; i < kWords / 2; i += kLanes) {
    const UVec low = at(block, i);
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      UVec code = low >> (4 * half) & 0x0f0f0f0fu;
      const int word = i + half * kWords / 2;
      if constexpr (kHigh > 0) {
        const UVec plane = at(block + kBlockCodes / 2, word % kPlane);
        const uint32_t mask = kHigh == 1 ? 0x01010101u : 0x03030303u;
        code |= (plane >> (kHigh * (word / kPlane)) & mask) << 4;
      }
      *reinterpret_cast<UVecAt*>(codes + 4 * word) = code;
    }
  }
}

// Room for an unpacked slice.
struct Room {
  alignas(64) uint8_t codes[kSliceBlocks * kBlockCodes];
  alignas(64) float scales[2 * kSliceBlocks * kPanelWidth];
  alignas(64) float minima[2 * kSliceBlocks * kPanelWidth];
};

BW_INLINE Slice unpack(const CodeFormat format, const uint8_t* block, int64_t n_blocks,
                       Room& room) {
  const int64_t size = block_bytes(format), n_scales = block_scales(format);
  for (int64_t b = 0; b < n_blocks; ++b, block += size) {
    for (int64_t line = 0; line < size; line += 64)
      __builtin_prefetch(block + kFetchAhead + line, 0, 2);
    uint8_t* codes = room.codes + b * kBlockCodes;
    if (format.bits == 4) unpack_codes<4>(block, codes);
    if (format.bits == 5) unpack_codes<5>(block, codes);
    if (format.bits == 6) unpack_codes<6>(block, codes);
    if (format.bits == 8) __builtin_memcpy(codes, block, kBlockCodes);
    const uint16_t* scales = reinterpret_cast<const uint16_t*>(block + code_bytes(format));
    for (int64_t i = 0; i < n_scales; i += kLanes) {
      store(room.scales + b * n_scales + i, load_half(scales + i));
      if (format.has_min) store(room.minima + b * n_scales + i, load_half(scales + n_scales + i));
    }
  }
  return {room.codes, room.scales, room.minima, n_blocks * kBlockSteps / format.group};
}

// c[m][32] += m rows times a slice. kGroup: steps of k in a group, 0 as in CodeFormat.
template <int m, int kGroup, bool kMin>
void micro(const Rows& x, const Slice& slice, int64_t ahead, float* c) {
  constexpr int kSteps = (kGroup == 0 ? CodeFormat::kWholeGroup : kGroup) / 4;
  for (int column = 0; column < kPanelWidth; column += 2 * kLanes) {
    const int32_t* words = x.words;
    const uint8_t* codes = slice.codes + 4 * column;
    for (int64_t g = 0; g < slice.n_groups; ++g) {
      IVec sum[m][2];
#pragma GCC unroll 16
      for (int i = 0; i < m; ++i)
        sum[i][0] = sum[i][1] =
            kMin ? IVec{} : __builtin_bit_cast(int32_t, x.sum[g * m + i]) - IVec{};
      for (int step = 0; step < kSteps; ++step, words += m, codes += 4 * kPanelWidth) {
        if constexpr (kGroup == 0) {
          __builtin_prefetch(codes + ahead, 0, 2);
          __builtin_prefetch(codes + ahead + 64, 0, 2);
        }
        const UVec w0 = *reinterpret_cast<const UVecAt*>(codes);
        const UVec w1 = *reinterpret_cast<const UVecAt*>(codes + 4 * kLanes);
#pragma GCC unroll 16
        for (int i = 0; i < m; ++i) {
          const IVec a = words[i] - IVec{};
          sum[i][0] = dot4(sum[i][0], w0, a);
          sum[i][1] = dot4(sum[i][1], w1, a);
        }
      }
#pragma GCC unroll 2
      for (int v = 0; v < 2; ++v) {
        const int64_t at = g * kPanelWidth + column + v * kLanes;
        const Vec scale = kGroup == 0 ? Vec{} : load(slice.scales + at);
        const Vec minimum = kMin ? load(slice.minima + at) : Vec{};
#pragma GCC unroll 16
        for (int i = 0; i < m; ++i) {
          float* out = c + i * kPanelWidth + column + v * kLanes;
          Vec product = __builtin_convertvector(sum[i][v], Vec);
          if constexpr (kGroup != 0) product *= scale;
          Vec total = fma(product, splat(x.scale[g * m + i]), load(out));
          if constexpr (kMin) total = fma(minimum, splat(x.sum[g * m + i]), total);
          store(out, total);
        }
      }
    }
  }
}

template <int kGroup, bool kMin, int m = kMaxRows>
BW_INLINE void dispatch(int64_t rows, const Rows& x, const Slice& slice, int64_t ahead, float* c) {
  if (rows == m) return micro<m, kGroup, kMin>(x, slice, ahead, c);
  if constexpr (m > 1) dispatch<kGroup, kMin, m - 1>(rows, x, slice, ahead, c);
}

void multiply(const CodeFormat format, int64_t m, const Rows& x, const Slice& slice, int64_t ahead,
              float* c) {
  if (format.group == 0) return dispatch<0, false>(m, x, slice, ahead, c);
  if (format.group == 16) return dispatch<16, false>(m, x, slice, ahead, c);
  format.has_min ? dispatch<32, true>(m, x, slice, ahead, c)
                 : dispatch<32, false>(m, x, slice, ahead, c);
}

template <typename X, typename Out>
void code_gemm_typed(const CodeGemmArgs& args) {
  const CodeFormat format = args.format;
  const Parts groups(args.rows, kMaxRows), tasks(groups.count, kBlockGroups);
  const int64_t k_padded = format.padded(args.k), x_groups = k_padded / format.x_group();
  const int64_t n_panels = (args.n + kPanelWidth - 1) / kPanelWidth;
  const int64_t n_blocks = k_padded / kBlockSteps;
  int32_t* words = reinterpret_cast<int32_t*>(args.scratch);
  float* scales = args.scratch + args.rows * k_padded / 4;
  float* sums = scales + args.rows * x_groups;
  // The rows from `begin` on, from step k on; m of them lie together.
  const auto rows_at = [&](int64_t begin, int64_t m, int64_t k) {
    const int64_t group = begin * x_groups + k / format.x_group() * m;
    return Rows{words + begin * k_padded / 4 + k / 4 * m, scales + group, sums + group};
  };
#pragma omp parallel if (args.rows * args.n * args.k >= kMinParallelWork)
  {
#pragma omp for schedule(static)
    for (int64_t g = 0; g < groups.count; ++g) {
      const int64_t begin = groups.begin(g), m = groups.begin(g + 1) - begin;
      pack_rows<X>(args, begin, m, rows_at(begin, m, 0));
    }
    Room room;
    alignas(64) float c[kBlockGroups * kMaxRows * kPanelWidth];
#pragma omp for collapse(2) schedule(static)
    for (int64_t task = 0; task < tasks.count; ++task)
      for (int64_t p = 0; p < n_panels; ++p) {
        const uint8_t* panel = args.panels + p * n_blocks * block_bytes(format);
        const int64_t first = tasks.begin(task), last = tasks.begin(task + 1);
        const int64_t row_begin = groups.begin(first), row_end = groups.begin(last);
        for (int64_t i = 0; i < (row_end - row_begin) * kPanelWidth; ++i) c[i] = 0;
        for (int64_t b = 0; b < n_blocks; b += kSliceBlocks) {
          const int64_t count = n_blocks - b < kSliceBlocks ? n_blocks - b : kSliceBlocks;
          const uint8_t* block = panel + b * block_bytes(format);
          const Slice slice = format.group == 0 ? Slice{block, nullptr, nullptr,
                                                        count * kBlockSteps / format.x_group()}
                                                : unpack(format, block, count, room);
          for (int64_t g = first; g < last; ++g) {
            const int64_t begin = groups.begin(g), m = groups.begin(g + 1) - begin;
            multiply(format, m, rows_at(begin, m, b * kBlockSteps), slice,
                     g == first ? kFetchAhead : 0, c + (begin - row_begin) * kPanelWidth);
          }
        }
        for (int64_t row = row_begin; row < row_end; ++row)
          write_row<X, Out>(args, args.column_scale, c + (row - row_begin) * kPanelWidth, row,
                            p * kPanelWidth);
      }
  }
}

template <typename X>
void code_gemm_out(const CodeGemmArgs& args) {
  args.out_dtype == Real::f32 ? code_gemm_typed<X, float>(args) : code_gemm_typed<X, Bf16>(args);
}

}  // namespace

void code_gemm(const CodeGemmArgs& args) {
  args.x_dtype == Real::f32 ? code_gemm_out<float>(args) : code_gemm_out<Bf16>(args);
}

}  // namespace branchwise::BRANCHWISE_ISA
