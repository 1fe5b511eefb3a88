// The table of kernels: one function pointer each, filled once per instruction set.
//
// Arguments are raw pointers to contiguous memory that the caller has checked. fp32 accumulation
// everywhere; the bits of a row depend on that row alone, never on other rows or on the threads.
#pragma once

#include <cstdint>

namespace branchwise {

struct TwelveBitTables;
struct WorkItem;

enum class Real : uint8_t { f32, bf16 };

inline constexpr int kBlockSlots = 32;    // KV slots of a block: keys are scored 32 at a time
inline constexpr int kMaxItemKeys = 256;  // keys of one attention work item
inline constexpr int kMaxHeadDim = 512;
inline constexpr int kPanelWidth = 32;  // output columns of a packed weight panel
// Panels are kept in files, too: raise this whenever their layout or the rounding of codes changes.
inline constexpr int kPanelFormat = 3;
inline constexpr int kHeadChunk = 1024;  // words whose logits are reduced as one unit

// Elements of the keys, or of the values, of one block and head. Both lie as the panels of a matrix
// product: keys as one panel [head_dim][slot], values as panels [slot][32] of 32 columns each; of
// bf16 a lane holds two steps (of head_dim or of slots). head_dim is padded to whole panels.
static inline constexpr int64_t kv_width(int64_t head_dim) {
  return (head_dim + 31) / 32 * 32 * kBlockSlots;
}

// out = norm(x), or with a residual: residual += x, out = norm(residual). x: [rows, dim]
struct NormArgs {
  const void* x;
  void* residual;  // null: plain norm
  const void* weight;
  void* out;
  int64_t rows, dim;
  float eps;
  bool add_one;  // the weight is stored as w - 1
  Real dtype;
};

// out = act(gate) * up; gate_up: [rows, 2 * dim], gate first.
enum class Act : uint8_t { none, silu, gelu_tanh };
struct ActArgs {
  const void* gate_up;
  void* out;
  int64_t rows, dim;
  Act act;
  Real dtype;
};

// Splits qkv into q (rotated, to q_out) and K, V (K rotated, both to the pool at slots[row]).
struct RopeArgs {
  const void* qkv;
  const int32_t* positions;
  const int32_t* slots;
  const float *cos, *sin;  // [max_positions, head_dim / 2]
  void* q_out;
  void* kv;                     // [block, kv_head, 2, kv_width(head_dim)]
  const void *q_norm, *k_norm;  // [head_dim] or null
  int64_t rows;
  int32_t n_heads, n_kv_heads, head_dim;
  float eps;
  bool norm_add_one;
  Real dtype;
};

struct AttentionArgs {
  const void* q;
  const void* kv;
  void* out;
  const WorkItem* items;
  const int32_t *block_ids, *positions;
  int64_t n_rows, n_items;
  int32_t n_heads, n_kv_heads, head_dim;
  float scale;
  int32_t window;  // 0: no limit
  float softcap;   // 0: none
  Real dtype;
};

// Row last_rows[i] of x moves to row i, for each i < n; last_rows ascends.
struct LastRowsArgs {
  void* x;
  const int32_t* last_rows;
  int64_t rows, n, row_bytes;
};

// out[rows, n] = x[rows, k] * weight[n, k]^T + bias
static inline constexpr int64_t round_up(int64_t n, int64_t unit) {
  return (n + unit - 1) / unit * unit;
}
// Rows of 32 lanes of a panel. bf16: a lane holds two steps of k, padded to what an AMX tile holds.
static inline constexpr int64_t panel_depth(Real dtype, int64_t k) {
  return dtype == Real::f32 ? k : round_up(k, 32) / 2;
}
// Floats of scratch memory that a call needs.
static inline constexpr int64_t gemm_scratch(int64_t rows, int64_t k) {
  return round_up(rows, 16) * round_up(k, 32);
}
struct GemmArgs {
  const void* x;
  const void* panels;
  const void* bias;  // [n], or null
  void* out;
  float* scratch;  // [gemm_scratch(rows, k)]
  int64_t rows, n, k;
  int64_t out_stride;  // elements from one row of out to the next
  Real dtype;          // of all of them
  // Unless none: panels alternate between gate and up, and out = act(gate) * up has n / 2 columns.
  Act act = Act::none;
  const TwelveBitTables* twelve_bit = nullptr;  // bf16 panels may be twelve-bit: see twelve_bit.h
};

// Weights as small integers: w = scale * (code - 2^(bits - 1)), or scale * code + minimum.
struct QuantisedFormat {
  int32_t bits;   // of a code: 4, 5, 6 or 8
  int32_t group;  // steps of k that share a scale: 16 or 32; 0: one scale for all of an output
  bool has_min;

  // x is quantised to int8 in groups, too: the same ones, or these (the last one of a row may be
  // shorter) where the weights have none.
  static constexpr int kWholeGroup = 256;
  constexpr int32_t x_group() const { return group == 0 ? kWholeGroup : group; }
  constexpr int64_t padded(int64_t k) const { return round_up(k, group == 0 ? 64 : 32); }
  constexpr int64_t x_groups(int64_t k) const { return (padded(k) + x_group() - 1) / x_group(); }
  constexpr int32_t offset() const { return has_min ? 0 : 1 << (bits - 1); }  // of a code
};
// A panel is a row of blocks: 32 columns x 32 steps of k. A block holds the codes (as bytes
// [k / 4][32][4], their low four bits in pairs and the high ones in planes; see unpack_codes), then
// fp16 scales [32 / group][32] and as many minima.
inline constexpr int kBlockSteps = 32;
static inline constexpr int64_t code_bytes(QuantisedFormat format) {
  return kPanelWidth * kBlockSteps * format.bits / 8;
}
static inline constexpr int64_t block_scales(QuantisedFormat format) {
  return format.group == 0 ? 0 : kBlockSteps / format.group * kPanelWidth;
}
static inline constexpr int64_t block_bytes(QuantisedFormat format) {
  return code_bytes(format) + block_scales(format) * (format.has_min ? 4 : 2);
}
static inline constexpr int64_t quantised_gemm_scratch(QuantisedFormat format, int64_t rows,
                                                       int64_t k) {
  const int64_t words = format.padded(k) / 4 * (format.bits == 8 ? 2 : 1);  // see code_dot.h
  return round_up(rows, 16) * (words + 2 * format.x_groups(k));
}
struct QuantisedGemmArgs {
  const void* x;
  const uint8_t* panels;
  const float* column_scale;  // [n], where the format has one scale for all of an output
  const void* bias;           // [n], or null
  void* out;
  float* scratch;  // [quantised_gemm_scratch(format, rows, k)]
  int64_t rows, n, k, out_stride;
  QuantisedFormat format;
  Real dtype;           // of x, bias and out
  Act act = Act::none;  // as in GemmArgs
};

// What a row of the head looks for.
enum class Draw : uint8_t {
  greedy,      // the largest logit
  gumbel,      // the largest logit / T + Gumbel noise
  candidates,  // the words that a filter may keep, for the exact choice at the end
};
struct HeadRow {
  uint64_t seed, lineage;
  uint32_t position;
  Draw draw;
  bool wants_mass;  // also reduce exp(logit / T)
  float inv_temperature;
  float floor;  // gumbel: scores below cannot win; candidates: logits / T below cannot matter
  float repetition, presence, frequency;  // penalties, of the words in HeadChunkArgs::seen
  bool wants_top;   // also collect the largest logits and reduce the mean, before penalties
  float top_floor;  // logits that are not above it are not among the largest
};

// A word that a row was given or has written, or that it may not write.
constexpr int32_t kBanned = -1;
struct SeenWord {
  int32_t word;
  int32_t count;  // times that it was written; 0: only given; kBanned
  float logit;    // out: before the penalties
};

// What up to kHeadChunk words contribute to a row.
struct HeadChunk {
  float max, sum;      // of raw logits: sum of exp(logit - max)
  float z_max, z_sum;  // the same for logits / T, if wants_mass or candidates (z_max only)
  float score;         // greedy and gumbel: the best word, or word = -1
  float logit;
  int32_t word;
  int32_t n_candidates;
  float
      total;  // of finite logits, if wants_top: their sum, their number, and how many may be large
  int32_t n_finite, n_top;
};

struct HeadChunkArgs {
  const void* logits;
  Real dtype;
  int32_t n_words, first_word;
  float softcap;
  float* candidate_logits;  // [kHeadChunk + 64]
  int32_t* candidate_words;
  float* top_logits;  // [kHeadChunk + 64], if wants_top
  SeenWord* seen;     // [n_seen], those of this chunk
  int64_t n_seen;
};

// The vector functions the kernels are made of, for tests of their error bounds.
enum class Function : uint8_t { exp2, exp, log, tanh };

struct Kernels {
  void (*rms_norm)(const NormArgs&);
  void (*act_mul)(const ActArgs&);
  void (*rope_store)(const RopeArgs&);
  void (*tree_attention)(const AttentionArgs&);
  void (*gemm)(const GemmArgs&);
  void (*quantised_gemm)(const QuantisedGemmArgs&);
  void (*head_chunk)(const HeadRow&, const HeadChunkArgs&, HeadChunk&);
  // weights[i] = exp(logits[i] / T - z_max)
  void (*head_weights)(const HeadRow&, const float* logits, int64_t n, float z_max, float* weights);
  // Index of the largest logits[i] / T + noise of words[i]; the first such if tied; -1 if none.
  int64_t (*head_gumbel)(const HeadRow&, const float* logits, const int32_t* words, int64_t n);
  void (*apply)(Function, const float* x, int64_t n, float* out);
};

}  // namespace branchwise
