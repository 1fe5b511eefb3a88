// What products with small integers share: x on its way to int8, and codes on their way to bytes.
#pragma once

#include "cpu/isa/kernels.h"
#include "cpu/isa/simd.h"

namespace branchwise::BRANCHWISE_ISA {
namespace {

constexpr int kSliceBlocks = 8;  // blocks of k that are unpacked at once
constexpr int kBlockCodes = kPanelWidth * kBlockSteps;
constexpr int64_t kCodesAhead = 16384;  // bytes of weights: prefetchers stop at a page
constexpr int kPiece = 64;              // values of x that are rounded at once
constexpr float kRound = 12582912.0f;   // 1.5 * 2^23: adding it rounds to an integer
typedef int8_t BVec __attribute__((vector_size(kLanes)));
typedef uint8_t ByteVec __attribute__((vector_size(4 * kLanes)));

struct Scale {
  float scale, inverse;  // scale is NaN if x holds NaN or infinity
};

template <typename X>
BW_INLINE Scale scale_of(const X* x, int64_t n) {
  Vec top = {}, poison = {};
  for_lanes(n, [&](int64_t i, int lanes) {
    const Vec v = load_up_to(x + i, lanes);
    poison += v - v;
    top = vmax(absolute(v), top);
  });
  const float largest = reduce_max(top);
  return {largest / 127.0f + reduce_add(poison), largest > 0 ? 127.0f / largest : 0.0f};
}

// codes[0, size) of x[0, n): zeros beyond. Adds them to `sum`.
template <typename X>
BW_INLINE void round_codes(const X* x, int64_t n, int size, float inverse, int8_t* codes,
                           IVec& sum) {
  for (int i = 0; i < size; i += kLanes) {
    const int64_t left = n - i;
    const Vec v = left >= kLanes ? load(x + i) : left > 0 ? load_n(x + i, left) : Vec{};
    const IVec code = (IVec)(v * inverse + kRound) - 0x4b400000;
    sum += code;
    *reinterpret_cast<BVec*>(codes + i) = __builtin_convertvector(code, BVec);
  }
}

// Hands out a row of x: put_codes(k, n, codes) in pieces of a group, put_scale(group, scale, sum)
// of every group. sum: what minima or the codes' offset multiply, or add: fp32 sum of x, or an
// int32.
template <typename X, typename PutCodes, typename PutScale>
BW_INLINE void quantise_row(const QuantisedGemmArgs& args, int64_t row, PutCodes put_codes,
                            PutScale put_scale) {
  const QuantisedFormat format = args.format;
  const int64_t padded = format.padded(args.k), group = format.x_group();
  const int piece = group < kPiece ? static_cast<int>(group) : kPiece;
  const X* x = static_cast<const X*>(args.x) + row * args.k;
  for (int64_t begin = 0; begin < padded; begin += group) {
    const int64_t left = args.k - begin, end = begin + group < padded ? begin + group : padded;
    const Scale scale = scale_of(x + begin, left < group ? left : group);
    IVec sums = {};
    for (int64_t k = begin; k < end; k += piece) {
      alignas(64) int8_t codes[kPiece];
      round_codes(x + k, args.k - k, piece, scale.inverse, codes, sums);
      put_codes(k, piece, codes);
    }
    int32_t sum = 0;
    for (int lane = 0; lane < kLanes; ++lane) sum += sums[lane];
    put_scale(begin / group, scale.scale,
              format.has_min ? scale.scale * static_cast<float>(sum)
                             : __builtin_bit_cast(float, -format.offset() * sum));
  }
}

// A slice of a panel as bytes: whole groups. scales, minima: [group][32]
struct Slice {
  const uint8_t* codes;  // of a group: [k / 4][32][4]
  const float *scales, *minima;
  int64_t steps;        // of k
  int64_t group_bytes;  // from the codes of one group to those of the next
};
static_assert(kSliceBlocks * kBlockSteps == QuantisedFormat::kWholeGroup);

// Word w of the 256 words of a block: the low nibbles of words 0 to 127 share bytes with those of
// 128 to 255; further bits lie in planes of 32 words a bit. kCentred: `offset` is taken off.
template <int bits, bool kCentred>
BW_INLINE void unpack_codes(const uint8_t* block, uint8_t offset, uint8_t* codes) {
  constexpr int kWords = kBlockCodes / 4, kHigh = bits - 4, kPlane = 32 * kHigh;
  const auto at = [](const uint8_t* p, int word) {
    return *reinterpret_cast<const UVecAt*>(p + 4 * word);
  };
  const auto put = [&](int word, UVec code) {
    if constexpr (kHigh > 0) {
      const UVec plane = at(block + kBlockCodes / 2, word % kPlane);
      const int up = 4 - kHigh * (word / kPlane);  // to where the low four bits end
      code |= (up >= 0 ? plane << up : plane >> -up) & ((1 << kHigh) - 1) * 0x10101010u;
    }
    if constexpr (kCentred) code = (UVec)((ByteVec)code - (offset - ByteVec{}));
    *reinterpret_cast<UVecAt*>(codes + 4 * word) = code;
  };
#pragma GCC unroll 16  // so that shifts are by constants
  for (int i = 0; i < kWords / 2; i += kLanes) {
    const UVec low = at(block, i);
    put(i, low & 0x0f0f0f0fu);
    put(i + kWords / 2, low >> 4 & 0x0f0f0f0fu);
  }
}

// Room for an unpacked slice.
struct Room {
  alignas(64) uint8_t codes[kSliceBlocks * kBlockCodes];
  alignas(64) float scales[2 * kSliceBlocks * kPanelWidth];
  alignas(64) float minima[2 * kSliceBlocks * kPanelWidth];
};

// kCentred: codes become signed, with their offset taken off.
template <bool kCentred>
BW_INLINE Slice unpack(const QuantisedFormat format, const uint8_t* block, int64_t n_blocks,
                       Room& room) {
  const int64_t size = block_bytes(format), n_scales = block_scales(format);
  const uint8_t offset = kCentred ? static_cast<uint8_t>(format.offset()) : 0;
  // Blocks of bytes that are one group each stay where they are.
  const bool in_place = format.bits == 8 && format.group == kBlockSteps && !kCentred;
  const Slice slice{in_place ? block : room.codes, room.scales, room.minima, n_blocks * kBlockSteps,
                    in_place ? size : format.group * kPanelWidth};
  for (int64_t b = 0; b < n_blocks; ++b, block += size) {
    for (int64_t line = in_place ? code_bytes(format) : 0; line < size; line += 64)
      __builtin_prefetch(block + kCodesAhead + line, 0, 2);
    uint8_t* codes = room.codes + b * kBlockCodes;
    if (format.bits == 4) unpack_codes<4, kCentred>(block, offset, codes);
    if (format.bits == 5) unpack_codes<5, kCentred>(block, offset, codes);
    if (format.bits == 6) unpack_codes<6, kCentred>(block, offset, codes);
    if (format.bits == 8 && !in_place)
      for (int i = 0; i < kBlockCodes; i += 4 * kLanes)
        *reinterpret_cast<UVecAt*>(codes + i) =
            (UVec)((ByteVec) * reinterpret_cast<const UVecAt*>(block + i) - (offset - ByteVec{}));
    const uint16_t* scales = reinterpret_cast<const uint16_t*>(block + code_bytes(format));
    for (int64_t i = 0; i < n_scales; i += kLanes) {
      store(room.scales + b * n_scales + i, load_half(scales + i));
      if (format.has_min) store(room.minima + b * n_scales + i, load_half(scales + n_scales + i));
    }
  }
  return slice;
}

}  // namespace
}  // namespace branchwise::BRANCHWISE_ISA
