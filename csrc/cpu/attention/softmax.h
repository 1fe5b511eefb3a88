// Softmax of attention, a chunk of keys at a time: scores become weights in their place.
//
// In base 2 and fp32. Where bf16 is multiplied in pairs or in AMX tiles, weights are rounded to
// bf16, and summed as rounded.
#pragma once

#include "cpu/attention/tile.h"
#include "cpu/isa/vmath.h"

namespace branchwise::BRANCHWISE_ISA {
namespace {

#if defined(__AVX512BF16__)
// Two vectors rounded to bf16, at p; gives sum + both, as rounded, pair by pair.
BW_INLINE Vec store_rounded(Vec low, Vec high, void* p, Vec sum) {
  const __m512bh rounded = _mm512_cvtne2ps_pbh(high, low);
  _mm512_store_si512(p, (__m512i)rounded);
  return _mm512_dpbf16_ps(sum, rounded, (__m512bh)_mm512_set1_epi32(0x3f803f80));
}
#else
BW_INLINE Vec store_rounded(Vec, Vec, void*, Vec sum) { return sum; }  // weights stay fp32
#endif

// Masks the scores of query i of the view, caps them, and gives the largest, in base 2.
BW_INLINE float top_score(View& view, int i, float scale, float softcap) {
  const int low = view.low[i], high = view.high[i];
  Vec top = splat(kNegInf);
  for (int block = view.block_begin; block < view.block_end; ++block) {
    float* s = view.s[block][i];
    const int first = block * kBlockSlots;
    const bool inside = low <= first && first + kBlockSlots <= high;
    for (int j = 0; j < kBlockSlots; j += kLanes) {
      Vec score = load(s + j);
      if (softcap > 0) score = tanh(score * (scale / softcap));
      if (!inside) {
        const IVec key = iota() + (first + j);
        score = ((key >= low) & (key < high)) ? score : splat(kNegInf);
      }
      if (softcap > 0 || !inside) store(s + j, score);
      top = vmax(score, top);
    }
  }
  return reduce_max(top) * ((softcap > 0 ? softcap : scale) * kLog2e);
}

// Scores of query i become weights 2^(unit * s - base), of fp32 or rounded to bf16; gives their
// sum.
template <bool kPairs>
BW_INLINE float weights_of(View& view, int i, float unit, float base) {
  Vec sum = {};
  for (int block = view.block_begin; block < view.block_end; ++block) {
    float* s = view.s[block][i];
    const auto exponent = [&](int j) { return fma(load(s + j), splat(unit), splat(-base)); };
    if constexpr (kPairs) {
      sum = store_rounded(rough_exp2(exponent(0)), rough_exp2(exponent(kLanes)), s, sum);
    } else {
      for (int j = 0; j < kBlockSlots; j += kLanes) {
        const Vec weight = exp2(exponent(j));
        store(s + j, weight);
        sum += weight;
      }
    }
  }
  return reduce_add(sum);
}

// Fetches the keys and values of a chunk bit by bit, while others compute: blocks lie anywhere in
// the pool, where no processor guesses them, and only so many lines can be on their way at once.
template <typename T>
class NextChunk {
 public:
  // In `parts` parts.
  NextChunk(const Chunk& chunk, int parts)
      : chunk_(chunk),
        blocks_((chunk.item->key_count + kBlockSlots - 1) / kBlockSlots),
        block_lines_(static_cast<int>(2 * chunk.width() * sizeof(T) / 64)),
        part_lines_((blocks_ * block_lines_ + parts - 1) / parts) {}
  void fetch_part() {
    for (int left = part_lines_; left > 0 && block_ < blocks_; line_ = 0, ++block_) {
      const char* lines = reinterpret_cast<const char*>(chunk_.keys<T>(block_));
      for (; left > 0 && line_ < block_lines_; --left, ++line_)
        __builtin_prefetch(lines + 64 * line_, 0, 2);  // to L2
      if (line_ < block_lines_) return;
    }
  }

 private:
  const Chunk& chunk_;
  const int blocks_, block_lines_, part_lines_;
  int block_ = 0, line_ = 0;
};

// Turns scores into weights and brings m and d of all queries of the view up to date.
template <typename Product>
void softmax(Tile& tile, View& view, float scale, float softcap, const Chunk& next) {
  [[maybe_unused]] NextChunk<typename Product::T> fetch(next, view.n);
  const float unit = (softcap > 0 ? softcap : scale) * kLog2e;
  float top[kTileQueries], base[kTileQueries];
  for (int i = 0; i < view.n; ++i) {
    if constexpr (!Product::kFetches) fetch.fetch_part();
    top[i] = top_score(view, i, scale, softcap);
  }
  float *m = tile.m + view.first, *d = tile.d + view.first;
  for_lanes(view.n, [&](int64_t i, int lanes) {
    const Vec before = load_up_to(m + i, lanes), now = load_up_to(top + i, lanes);
    const Vec most = (now <= before) ? before : now;    // NaN gets through
    const Vec from = (most == kNegInf) ? Vec{} : most;  // nothing visible: all weights are 0
    store_up_to(m + i, most, lanes);
    store_up_to(base + i, from, lanes);
    store_up_to(view.keep + i, exp2(before - from), lanes);
  });
  for (int i = 0; i < view.n; ++i)
    d[i] = d[i] * view.keep[i] + weights_of<Product::kPairs>(view, i, unit, base[i]);
}

}  // namespace
}  // namespace branchwise::BRANCHWISE_ISA
