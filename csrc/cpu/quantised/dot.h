// Dot products of codes with x: the ways of multiplying bytes that instruction sets have.
//
// A Dot takes four steps of k at a time, for the codes of a register of columns. It opens a part of
// a sum, adds kRun times to it and closes it. kRows: rows of a micro tile, each of which has two
// sums. All sums are exact.
#pragma once

#include "cpu/isa/simd.h"

namespace branchwise::BRANCHWISE_ISA {
namespace {

#if defined(__AVX2__) && !defined(__AVX512VNNI__)
#if !defined(BW_MULTIPLY_ADD)  // by tests/emulation
// As a product and a sum that stay together: left to itself, GCC takes all products first and runs
// out of registers.
#define BW_MULTIPLY_ADD(multiply, add, sum, a, b)    \
  do {                                               \
    IVec product;                                    \
    asm(multiply " %3, %2, %1\n\t" add " %1, %0, %0" \
        : "+v"(sum), "=&v"(product)                  \
        : "v"(a), "v"(b));                           \
  } while (false)
#endif

// Codes of eight bits as 16-bit numbers: their even and odd bytes, each with the same of x.
struct WideDot {
  static constexpr int kRun = 1, kRows = kRegisters == 32 ? 12 : 4, kWords = 2;
  struct Weight {
    IVec even, odd;
  };
  struct X {
    IVec even, odd;
  };
  static BW_INLINE Weight weight(UVec codes) {
    typedef uint16_t Halves __attribute__((vector_size(4 * kLanes)));
    return {(IVec)(codes & 0x00ff00ffu), (IVec)((Halves)codes >> 8)};
  }
  static BW_INLINE X x(const int32_t* words) { return {words[0] - IVec{}, words[1] - IVec{}}; }
  static BW_INLINE IVec open(IVec sum) { return sum; }
  static BW_INLINE void add(IVec& part, const Weight& w, const X& x) {
    BW_MULTIPLY_ADD("vpmaddwd", "vpaddd", part, w.even, x.even);
    BW_MULTIPLY_ADD("vpmaddwd", "vpaddd", part, w.odd, x.odd);
  }
  static BW_INLINE IVec close(IVec, IVec part) { return part; }
};

// Codes of fewer bits: pairs of products are summed in 16 bits for as long as these can hold them.
template <int bits, int kGroup>
struct RunDot {
  static constexpr int kMost = 32767 / (2 * 127 * ((1 << bits) - 1));  // pairs
  static constexpr int kRun = kMost < kGroup / 4 ? kMost : kGroup / 4;
  static constexpr int kRows = kRegisters == 32 ? 12 : 6, kWords = 1;
  static_assert(kGroup / 4 % kRun == 0);
  static BW_INLINE UVec weight(UVec codes) { return codes; }
  static BW_INLINE IVec x(const int32_t* words) { return words[0] - IVec{}; }
  static BW_INLINE IVec open(IVec) { return IVec{}; }
  static BW_INLINE void add(IVec& part, UVec w, IVec x) {
    BW_MULTIPLY_ADD("vpmaddubsw", "vpaddw", part, w, x);
  }
  static BW_INLINE IVec close(IVec sum, IVec part) {
    const UVec ones = splat_bits(0x00010001);
#if defined(__AVX512F__)
    return sum + (IVec)_mm512_madd_epi16((__m512i)part, (__m512i)ones);
#else
    return sum + (IVec)_mm256_madd_epi16((__m256i)part, (__m256i)ones);
#endif
  }
};
template <int bits, int kGroup>
struct CodeDotOf {
  using Type = RunDot<bits, kGroup>;
};
template <int kGroup>
struct CodeDotOf<8, kGroup> {
  using Type = WideDot;
};
#else
// Straight to 32 bits.
struct LaneDot {
  static constexpr int kRun = 1, kRows = kRegisters == 32 ? 12 : 4, kWords = 1;
  static BW_INLINE UVec weight(UVec codes) { return codes; }
  static BW_INLINE IVec x(const int32_t* words) { return words[0] - IVec{}; }
  static BW_INLINE IVec open(IVec sum) { return sum; }
  static BW_INLINE void add(IVec& part, UVec w, IVec x) {
#if defined(__AVX512VNNI__)
    part = (IVec)_mm512_dpbusd_epi32((__m512i)part, (__m512i)w, (__m512i)x);
#else
    for (int byte = 0; byte < 4; ++byte)
      part += (IVec)(w >> (8 * byte) & 0xffu) * ((x << (24 - 8 * byte)) >> 24);
#endif
  }
  static BW_INLINE IVec close(IVec, IVec part) { return part; }
};
template <int bits, int kGroup>
struct CodeDotOf {
  using Type = LaneDot;
};
#endif
template <int bits, int kGroup>
using CodeDot = typename CodeDotOf<bits, kGroup>::Type;

}  // namespace
}  // namespace branchwise::BRANCHWISE_ISA
