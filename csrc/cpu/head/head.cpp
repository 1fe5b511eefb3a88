// One chunk of a row's logits: logsumexp parts, mean and largest of them, arg max, Gumbel-max draw,
// candidates of a filter.
//
// A chunk is kHeadChunk words of the vocabulary at a fixed place, so that sums never depend on how
// the vocabulary was cut into tiles. A word's noise is g = -log(-log(u)), u from Philox; since
// -log(u) >= 1 - u, g is bounded by the exponent of 1 - u, and by kMaxGumbel for every u: words
// that cannot win are passed over without logarithms, or without any noise, and the draw is exact.
#include "core/rng.h"
#include "cpu/isa/isa_entry.h"
#include "cpu/isa/vmath.h"

namespace branchwise::BRANCHWISE_ISA {
namespace {

constexpr float kNegInf = -__builtin_inff();
constexpr float kMaxGumbel = 16.64f;  // -log(-log(1 - 2^-24)) = 16.6355
constexpr float kSlack = 1e-3f;       // more than the rounding of a bound
constexpr int kGroup = 4 * kLanes;    // words of one vector of Philox counters

struct UVec2 {
  UVec low, high;
};

// 32 x 32 -> 64 bit products of each lane.
BW_INLINE UVec2 multiply(UVec a, uint32_t b) {
#if defined(__AVX512F__)
  const __m512i x = (__m512i)a, y = _mm512_set1_epi32(static_cast<int>(b));
  const __m512i even = _mm512_mul_epu32(x, y);
  const __m512i odd = _mm512_mul_epu32(_mm512_srli_epi64(x, 32), y);
  return {(UVec)_mm512_mask_blend_epi32(0xaaaa, even, _mm512_slli_epi64(odd, 32)),
          (UVec)_mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64(even, 32), odd)};
#elif defined(__AVX2__)
  const __m256i x = (__m256i)a, y = _mm256_set1_epi32(static_cast<int>(b));
  const __m256i even = _mm256_mul_epu32(x, y);
  const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(x, 32), y);
  return {(UVec)_mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa),
          (UVec)_mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa)};
#else
  UVec2 product;
  for (int i = 0; i < kLanes; ++i) {
    const uint64_t wide = static_cast<uint64_t>(a[i]) * b;
    product.low[i] = static_cast<uint32_t>(wide);
    product.high[i] = static_cast<uint32_t>(wide >> 32);
  }
  return product;
#endif
}

// Philox4x32-10 of core/rng.h, one counter per lane: lane i of out[j] is draw j of groups[i].
BW_INLINE void philox(const HeadRow& row, UVec groups, UVec (&out)[4]) {
  uint32_t key0 = static_cast<uint32_t>(row.seed), key1 = static_cast<uint32_t>(row.seed >> 32);
  UVec c0 = splat_bits(static_cast<uint32_t>(row.lineage));
  UVec c1 = splat_bits(static_cast<uint32_t>(row.lineage >> 32));
  UVec c2 = splat_bits(row.position), c3 = groups;
#pragma GCC unroll 10
  for (int round = 0; round < 10; ++round) {
    const UVec2 p0 = multiply(c0, 0xD2511F53), p1 = multiply(c2, 0xCD9E8D57);
    c0 = p1.high ^ c1 ^ key0;
    c1 = p1.low;
    c2 = p0.high ^ c3 ^ key1;
    c3 = p0.low;
    key0 += 0x9E3779B9;
    key1 += 0xBB67AE85;
  }
  out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

BW_INLINE Vec unit(UVec bits) {  // unit_float of core/rng.h
  const IVec odd = (IVec)((bits >> 9) * 2 + 1);
  return __builtin_convertvector(odd, Vec) * 0x1p-24f;
}
BW_INLINE Vec gumbel(Vec u) { return -log(-log(u)); }

// Never below gumbel(u): log2 of a float is at least its bits read as a fixed-point number.
BW_INLINE Vec gumbel_bound(Vec u) {
  const IVec bits = (IVec)(1.0f - u);
  const Vec log2_low = __builtin_convertvector(bits, Vec) * 0x1p-23f - 127.0f;
  return log2_low * -0.69314718f + kSlack;
}

// The noise of kGroup words in order, from the four draws of each counter.
BW_INLINE void noise_bits(const HeadRow& row, uint32_t first_group, uint32_t* out) {
  UVec draws[4];
  philox(row, (UVec)iota() + first_group, draws);
#if defined(__AVX512F__)
  const auto pair = [](UVec a, UVec b, bool high) {  // interleaves halves of 128-bit lanes
    return high ? _mm512_unpackhi_epi32((__m512i)a, (__m512i)b)
                : _mm512_unpacklo_epi32((__m512i)a, (__m512i)b);
  };
  const __m512i a = pair(draws[0], draws[1], false), b = pair(draws[2], draws[3], false);
  const __m512i c = pair(draws[0], draws[1], true), d = pair(draws[2], draws[3], true);
  // quad j holds, in 128-bit lane l, the draws of counter 4 * l + j
  const __m512i quad[4] = {_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b),
                           _mm512_unpacklo_epi64(c, d), _mm512_unpackhi_epi64(c, d)};
  const __m512i low01 = _mm512_shuffle_i32x4(quad[0], quad[1], 0x44);
  const __m512i low23 = _mm512_shuffle_i32x4(quad[2], quad[3], 0x44);
  const __m512i high01 = _mm512_shuffle_i32x4(quad[0], quad[1], 0xee);
  const __m512i high23 = _mm512_shuffle_i32x4(quad[2], quad[3], 0xee);
  _mm512_storeu_si512(out, _mm512_shuffle_i32x4(low01, low23, 0x88));
  _mm512_storeu_si512(out + 16, _mm512_shuffle_i32x4(low01, low23, 0xdd));
  _mm512_storeu_si512(out + 32, _mm512_shuffle_i32x4(high01, high23, 0x88));
  _mm512_storeu_si512(out + 48, _mm512_shuffle_i32x4(high01, high23, 0xdd));
#else
  for (int i = 0; i < kLanes; ++i)
    for (int j = 0; j < 4; ++j) out[4 * i + j] = draws[j][i];
#endif
}

// Logits of the chunk in fp32, soft-capped, padded with -inf to whole groups; returns the maximum.
template <typename T>
BW_INLINE float read_logits(const T* logits, int n, float softcap, float* out) {
  Vec top = splat(kNegInf);
  for (int i = 0; i < n; i += kLanes) {
    Vec x;
    if (n - i >= kLanes) {
      x = load(logits + i);
    } else {
      float part[kLanes];
      for (int j = 0; j < kLanes; ++j) part[j] = i + j < n ? to_float(logits[i + j]) : kNegInf;
      x = load(part);
    }
    if (softcap > 0) x = tanh(x / softcap) * softcap;
    store(out + i, x);
    top = vmax(x, top);
  }
  for (int i = (n + kLanes - 1) / kLanes * kLanes; i % kGroup != 0; i += kLanes)
    store(out + i, splat(kNegInf));
  return reduce_max(top);
}

// Sum of exp(x * scale - top * scale).
BW_INLINE float sum_exp(const float* x, int n, float scale, float top) {
  Vec sum[2] = {};
  for (int i = 0; i < n; i += 2 * kLanes) {
    sum[0] += exp(load(x + i) * scale - top);
    sum[1] += exp(load(x + i + kLanes) * scale - top);
  }
  return reduce_add(sum[0] + sum[1]);
}

// Writes the logits above a floor to `out`, of one vector; returns how many.
BW_INLINE int keep_above(Vec x, float floor, float* out) {
  const uint32_t hits = lane_bits((IVec)(x > floor));
#if defined(__AVX512F__)
  _mm512_storeu_ps(out, _mm512_maskz_compress_ps(static_cast<__mmask16>(hits), x));
#else
  float* end = out;
  for (uint32_t left = hits; left; left &= left - 1) *end++ = x[__builtin_ctz(left)];
#endif
  return __builtin_popcount(hits);
}

// Sum and number of finite logits, and those above the row's floor. Logits of -inf count nowhere: a
// policy that rules a word out would else be infinitely sure of all others.
BW_INLINE void reduce_top(const HeadRow& row, const float* x, int n, float* top, HeadChunk& out) {
  constexpr int kPair = 2 * kLanes;
  const int whole = n / kPair * kPair;
  Vec sum[2] = {};
  int kept = 0;
  for (int i = 0; i < whole; i += kPair) {
    const Vec a = load(x + i), b = load(x + i + kLanes);
    sum[0] += a, sum[1] += b;
    if (!lane_bits((IVec)(vmax(a, b) > row.top_floor))) continue;
    kept += keep_above(a, row.top_floor, top + kept);
    kept += keep_above(b, row.top_floor, top + kept);
  }
  out.total = reduce_add(sum[0] + sum[1]);
  for (int i = whole; i < n; ++i) {
    out.total += x[i];
    if (x[i] > row.top_floor) top[kept++] = x[i];
  }
  out.n_finite = n, out.n_top = kept;
  if (out.total != kNegInf) return;
  double total = 0;
  out.n_finite = 0;
  for (int i = 0; i < n; ++i)
    if (x[i] > kNegInf) total += x[i], ++out.n_finite;
  out.total = static_cast<float>(total);
}

// Penalises the words that the row has seen, and keeps what their logits were; the new maximum.
BW_INLINE float penalise(const HeadRow& row, const HeadChunkArgs& args, int padded, float* x) {
  for (SeenWord* seen = args.seen; seen < args.seen + args.n_seen; ++seen) {
    float& logit = x[seen->word - args.first_word];
    seen->logit = logit;
    if (seen->count == kBanned) {
      logit = kNegInf;
      continue;
    }
    logit = logit > 0 ? logit / row.repetition : logit * row.repetition;
    logit -= row.frequency * static_cast<float>(seen->count);
    if (seen->count > 0) logit -= row.presence;
  }
  Vec top = splat(kNegInf);
  for (int i = 0; i < padded; i += kLanes) top = vmax(load(x + i), top);
  return reduce_max(top);
}

BW_INLINE void arg_max(const float* x, int n, float top, int first_word, HeadChunk& out) {
  for (int i = 0; i < n; i += kLanes) {
    const uint32_t hits = lane_bits((IVec)(load(x + i) == top));
    if (!hits) continue;
    out.word = first_word + i + __builtin_ctz(hits);
    out.score = out.logit = top;
    return;
  }
}

BW_INLINE void draw_gumbel(const HeadRow& row, const float* x, int n, int first_word,
                           HeadChunk& out) {
  const float scale = row.inv_temperature;
  float best = row.floor;
  for (int i = 0; i < n; i += kGroup) {
    Vec top = load(x + i);
    for (int j = kLanes; j < kGroup; j += kLanes) top = vmax(load(x + i + j), top);
    if (!lane_bits((IVec)(top * scale + kMaxGumbel >= best))) continue;
    uint32_t bits[kGroup];
    noise_bits(row, static_cast<uint32_t>(first_word + i) / 4, bits);
    for (int j = 0; j < kGroup; j += kLanes) {
      const Vec z = load(x + i + j) * scale;
      const Vec u = unit(*reinterpret_cast<const UVecAt*>(bits + j));
      if (!lane_bits((IVec)(z + gumbel_bound(u) >= best))) continue;
      const Vec score = z + gumbel(u);
      for (uint32_t hits = lane_bits((IVec)(score >= best)); hits; hits &= hits - 1) {
        const int lane = __builtin_ctz(hits);
        if (out.word >= 0 && !(score[lane] > out.score)) continue;  // ties: the lowest word
        if (score[lane] == kNegInf) continue;
        out.word = first_word + i + j + lane;
        out.score = best = score[lane];
        out.logit = x[i + j + lane];
      }
    }
  }
}

// Appends the words whose logit / T is at least row.floor, in order.
BW_INLINE void keep_candidates(const HeadRow& row, const float* x, int n, const HeadChunkArgs& args,
                               HeadChunk& out) {
  int kept = 0;
  for (int i = 0; i < n; i += kLanes) {
    const Vec value = load(x + i);
    const IVec word = iota() + (args.first_word + i);
    uint32_t hits =
        lane_bits((IVec)((value * row.inv_temperature >= row.floor) & (value > kNegInf)));
    if (!hits) continue;
#if defined(__AVX512F__)
    const __mmask16 mask = static_cast<__mmask16>(hits);
    _mm512_storeu_ps(args.candidate_logits + kept, _mm512_maskz_compress_ps(mask, value));
    _mm512_storeu_si512(args.candidate_words + kept,
                        _mm512_maskz_compress_epi32(mask, (__m512i)word));
    kept += __builtin_popcount(hits);
#else
    for (; hits; hits &= hits - 1, ++kept) {
      const int lane = __builtin_ctz(hits);
      args.candidate_logits[kept] = x[i + lane];
      args.candidate_words[kept] = word[lane];
    }
#endif
  }
  out.n_candidates = kept;
}

}  // namespace

void head_chunk(const HeadRow& row, const HeadChunkArgs& args, HeadChunk& out) {
  float x[kHeadChunk];
  const int n = args.n_words, padded = (n + kGroup - 1) / kGroup * kGroup;
  float top = args.dtype == Real::f32
                  ? read_logits(static_cast<const float*>(args.logits), n, args.softcap, x)
                  : read_logits(static_cast<const Bf16*>(args.logits), n, args.softcap, x);
  out = {top, 0, kNegInf, 0, kNegInf, kNegInf, -1, 0, 0, 0, 0};
  // A chunk without a finite logit adds nothing, but NaN must show.
  out.sum = sum_exp(x, padded, 1.0f, top == kNegInf ? 0.0f : top);
  if (row.wants_top) reduce_top(row, x, n, args.top_logits, out);
  if (args.n_seen > 0) top = penalise(row, args, padded, x);
  if (top == kNegInf) return;
  switch (row.draw) {
    case Draw::greedy:
      return arg_max(x, padded, top, args.first_word, out);
    case Draw::gumbel:
      return draw_gumbel(row, x, padded, args.first_word, out);
    case Draw::candidates:
      out.z_max = top * row.inv_temperature;
      if (row.wants_mass) out.z_sum = sum_exp(x, padded, row.inv_temperature, out.z_max);
      return keep_candidates(row, x, padded, args, out);
  }
}

void head_weights(const HeadRow& row, const float* logits, int64_t n, float z_max, float* weights) {
  for_lanes(n, [&](int64_t i, int lanes) {
    const Vec z = load_up_to(logits + i, lanes) * row.inv_temperature;
    store_up_to(weights + i, exp(z - z_max), lanes);
  });
}

int64_t head_gumbel(const HeadRow& row, const float* logits, const int32_t* words, int64_t n) {
  float best = kNegInf;
  int64_t index = -1;
  for_lanes(n, [&](int64_t i, int lanes) {
    IVec word = {};
    for (int j = 0; j < lanes; ++j) word[j] = words[i + j];
    UVec draws[4];
    philox(row, (UVec)(word >> 2), draws);
    const IVec lane_of = word & 3;
    UVec bits = draws[0];
    for (int j = 1; j < 4; ++j) bits = (lane_of == j) ? draws[j] : bits;
    const Vec score = load_up_to(logits + i, lanes) * row.inv_temperature + gumbel(unit(bits));
    for (int j = 0; j < lanes; ++j)
      if (score[j] > best) best = score[j], index = i + j;
  });
  return index;
}

}  // namespace branchwise::BRANCHWISE_ISA
