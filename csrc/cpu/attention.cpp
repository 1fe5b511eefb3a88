// Attention over a tree of KV segments: items score their rows against one chunk, then rows merge.
//
// Phase A: for an item and a kv head, all rows times the heads of the group are the queries; K is
// stored transposed per block, so scores are an outer-product GEMM and each loaded K or V vector
// serves up to kMaxQueries queries. Softmax is in base 2 over the whole chunk, fp32 throughout.
// Phase B: a row's partials (o, m, d) merge from root to leaf. A partial of which the row sees no
// key has m = -inf and d = 0 and weighs nothing.
// A query's arithmetic runs over its keys in order, so how queries are grouped does not matter.
#include "core/attention_plan.h"
#include "cpu/isa_entry.h"
#include "cpu/vmath.h"

namespace branchwise::BRANCHWISE_ISA {
namespace {

constexpr int kMaxQueries = kRegisters == 32 ? 8 : 6;  // times two accumulators each
constexpr int kTaskQueries = 8 * kMaxQueries;          // queries of one parallel task
constexpr float kLog2e = 1.44269504f;
constexpr float kNegInf = -__builtin_inff();

// The queries [0, n) of a micro tile and the keys [low, high) that each may see.
struct Tile {
  float q[kMaxHeadDim * kMaxQueries];           // [head_dim][n], scaled
  float p[kMaxQueries][kMaxItemKeys + kLanes];  // scores, then weights; rows off the same cache set
  int32_t low[kMaxQueries], high[kMaxQueries];
};

// s[n][32] = q * K of one block.
template <int n, typename T>
void score_block(const float* q, const T* keys, int head_dim, float* s, int64_t stride) {
  constexpr int kWidth = 2 * kLanes < kBlockSlots ? 2 * kLanes : kBlockSlots;
  for (int begin = 0; begin < kBlockSlots; begin += kWidth) {
    Vec sum[n][2] = {};
    for (int d = 0; d < head_dim; ++d) {
      const Vec k0 = load(keys + d * kBlockSlots + begin);
      const Vec k1 = load(keys + d * kBlockSlots + begin + kLanes);
#pragma GCC unroll 8
      for (int i = 0; i < n; ++i) {
        const Vec a = splat(q[d * n + i]);
        sum[i][0] = fma(a, k0, sum[i][0]);
        sum[i][1] = fma(a, k1, sum[i][1]);
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < n; ++i) {
      store(s + i * stride + begin, sum[i][0]);
      store(s + i * stride + begin + kLanes, sum[i][1]);
    }
  }
}

// o[n][kVecs * kLanes] += p * V over keys [begin, end) of one block; the last vector has `lanes`.
template <int n, int kVecs, typename T>
BW_INLINE void weigh_values(const float* p, int64_t stride, const T* values, int head_dim,
                            int begin, int end, int lanes, Vec (&sum)[n][kVecs]) {
  for (int j = begin; j < end; ++j) {
    Vec v[kVecs];
#pragma GCC unroll 2
    for (int c = 0; c < kVecs; ++c)
      v[c] = load_up_to(values + j * head_dim + c * kLanes, c == kVecs - 1 ? lanes : kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < n; ++i) {
      const Vec a = splat(p[i * stride + j]);
#pragma GCC unroll 2
      for (int c = 0; c < kVecs; ++c) sum[i][c] = fma(a, v[c], sum[i][c]);
    }
  }
}

struct Chunk {
  const AttentionArgs* args;
  const WorkItem* item;
  int32_t kv_head;
};

template <typename T>
BW_INLINE const T* block_of(const Chunk& chunk, int64_t block, int half) {
  const int64_t size = static_cast<int64_t>(kBlockSlots) * chunk.args->head_dim;
  const int64_t id = chunk.args->block_ids[chunk.item->block_begin + block];
  const int64_t head = id * chunk.args->n_kv_heads + chunk.kv_head;
  return static_cast<const T*>(chunk.args->kv) + (2 * head + half) * size;
}

// o[i][column ...] of all queries over keys [low, high) of the chunk.
template <int n, int kVecs, typename T>
void value_columns(const Chunk& chunk, const Tile& tile, int low, int high, int column, int lanes,
                   float* const* out) {
  const int head_dim = chunk.args->head_dim;
  constexpr int64_t kStride = kMaxItemKeys + kLanes;
  Vec sum[n][kVecs] = {};
  for (int first = low / kBlockSlots * kBlockSlots; first < high; first += kBlockSlots) {
    const T* values = block_of<T>(chunk, first / kBlockSlots, 1) + column;
    const int begin = low > first ? low - first : 0;
    const int end = high - first < kBlockSlots ? high - first : kBlockSlots;
    if (lanes == kLanes)  // a constant inside: no test per load
      weigh_values<n, kVecs>(tile.p[0] + first, kStride, values, head_dim, begin, end, kLanes, sum);
    else
      weigh_values<n, kVecs>(tile.p[0] + first, kStride, values, head_dim, begin, end, lanes, sum);
  }
  for (int i = 0; i < n; ++i)
    for (int c = 0; c < kVecs; ++c)
      store_up_to(out[i] + column + c * kLanes, sum[i][c], c == kVecs - 1 ? lanes : kLanes);
}

// Turns the scores of keys [begin, end) into weights 2^(s - m); keys outside [low, high) get 0.
BW_INLINE void softmax(float* s, int begin, int end, int low, int high, float softcap,
                       float* stats) {
  Vec top = splat(kNegInf);
  for (int j = begin; j < end; j += kLanes) {
    Vec score = load(s + j);
    if (softcap > 0) score = tanh(score) * (softcap * kLog2e);
    const IVec key = iota() + j;
    score = ((key >= low) & (key < high)) ? score : splat(kNegInf);
    store(s + j, score);
    top = vmax(score, top);
  }
  const float m = reduce_max(top);
  const float base = m == kNegInf ? 0.0f : m;  // nothing visible: every weight is 2^-inf = 0
  Vec sum = {};
  for (int j = begin; j < end; j += kLanes) {
    const Vec weight = exp2(load(s + j) - base);
    store(s + j, weight);
    sum += weight;
  }
  stats[0] = m;
  stats[1] = reduce_add(sum);
}

BW_INLINE int clamp_key(int64_t key, int count) {
  return key < 0 ? 0 : key > count ? count : static_cast<int>(key);
}

// Queries [first, first + n) of the item: query i is row i / group, head i % group.
template <int n, typename T>
void attend(const Chunk& chunk, int first, Tile& tile) {
  const AttentionArgs& args = *chunk.args;
  const WorkItem& item = *chunk.item;
  const int head_dim = args.head_dim, group = args.n_heads / args.n_kv_heads;
  const float q_scale = args.softcap > 0 ? args.scale / args.softcap : args.scale * kLog2e;
  float *out[n], *stats[n];
  int low = kMaxItemKeys, high = 0;
  for (int i = 0; i < n; ++i) {
    const int row = item.row_begin + (first + i) / group;
    const int head = chunk.kv_head * group + (first + i) % group;
    const T* q = static_cast<const T*>(args.q) +
                 (static_cast<int64_t>(row) * args.n_heads + head) * head_dim;
    for (int d = 0; d < head_dim; ++d) tile.q[d * n + i] = to_float(q[d]) * q_scale;
    const int64_t distance = static_cast<int64_t>(args.positions[row]) - item.key_position;
    tile.high[i] = item.causal ? clamp_key(distance + 1, item.key_count) : item.key_count;
    tile.low[i] = args.window > 0 ? clamp_key(distance - args.window + 1, tile.high[i]) : 0;
    if (tile.low[i] < low) low = tile.low[i];
    if (tile.high[i] > high) high = tile.high[i];
    const int64_t partial = item.partial_begin + (row - item.row_begin);
    out[i] = args.partials + (partial * args.n_heads + head) * head_dim;
    stats[i] = args.stats + (partial * args.n_heads + head) * 2;
  }
  const int begin = low / kBlockSlots * kBlockSlots;
  const int end = (high + kBlockSlots - 1) / kBlockSlots * kBlockSlots;
  constexpr int64_t kStride = kMaxItemKeys + kLanes;
  for (int key = begin; key < end; key += kBlockSlots)
    score_block<n>(tile.q, block_of<T>(chunk, key / kBlockSlots, 0), head_dim, tile.p[0] + key,
                   kStride);
  for (int i = 0; i < n; ++i)
    softmax(tile.p[i], begin, end, tile.low[i], tile.high[i], args.softcap, stats[i]);
  int column = 0;
  for (; column + 2 * kLanes <= head_dim; column += 2 * kLanes)
    value_columns<n, 2, T>(chunk, tile, low, high, column, kLanes, out);
  for (; column < head_dim; column += kLanes) {
    const int lanes = head_dim - column < kLanes ? head_dim - column : kLanes;
    value_columns<n, 1, T>(chunk, tile, low, high, column, lanes, out);
  }
}

template <typename T>
void attend_n(int n, const Chunk& chunk, int first, Tile& tile) {
  switch (n) {
    case 1:
      return attend<1, T>(chunk, first, tile);
    case 2:
      return attend<2, T>(chunk, first, tile);
    case 3:
      return attend<3, T>(chunk, first, tile);
    case 4:
      return attend<4, T>(chunk, first, tile);
    case 5:
      return attend<5, T>(chunk, first, tile);
    case 6:
      return attend<6, T>(chunk, first, tile);
#if defined(__AVX512F__)
    case 7:
      return attend<7, T>(chunk, first, tile);
    case 8:
      return attend<8, T>(chunk, first, tile);
#endif
  }
}

// Cuts [0, count) into the fewest micro tiles, of nearly equal size.
template <typename T>
void attend_task(const Chunk& chunk, int begin, int count) {
  Tile tile;
  const int n_tiles = (count + kMaxQueries - 1) / kMaxQueries;
  for (int t = 0; t < n_tiles; ++t) {
    const int first = t * count / n_tiles, last = (t + 1) * count / n_tiles;
    attend_n<T>(last - first, chunk, begin + first, tile);
  }
}

template <typename T>
void merge_head(const AttentionArgs& args, int64_t row, int head) {
  const int32_t* begin = args.row_partials + args.row_partial_begin[row];
  const int32_t* end = args.row_partials + args.row_partial_begin[row + 1];
  const auto stats_of = [&](int32_t partial) {
    return args.stats + (static_cast<int64_t>(partial) * args.n_heads + head) * 2;
  };
  float top = kNegInf;
  for (const int32_t* p = begin; p < end; ++p) top = vmax(splat(stats_of(*p)[0]), splat(top))[0];
  float total = 0;
  for (const int32_t* p = begin; p < end; ++p) {
    const float* stats = stats_of(*p);
    total += stats[1] > 0 ? stats[1] * exp2(splat(stats[0] - top))[0] : stats[1];
  }
  const float inverse = total == 0 ? 0.0f : 1.0f / total;
  T* out = static_cast<T*>(args.out) + (row * args.n_heads + head) * args.head_dim;
  for_lanes(args.head_dim, [&](int64_t column, int lanes) {
    Vec sum = {};
    for (const int32_t* p = begin; p < end; ++p) {
      const float* stats = stats_of(*p);
      if (stats[1] == 0) continue;  // sees nothing: o is 0, m is -inf
      const float* o =
          args.partials + (static_cast<int64_t>(*p) * args.n_heads + head) * args.head_dim + column;
      sum = fma(load_up_to(o, lanes), exp2(splat(stats[0] - top)), sum);
    }
    store_up_to(out + column, sum * inverse, lanes);
  });
}

template <typename T>
void tree_attention_typed(const AttentionArgs& args) {
  const int group = args.n_heads / args.n_kv_heads;
  int64_t max_tasks = 1, work = 0;  // tasks of an item: its queries, kTaskQueries at a time
  for (int64_t i = 0; i < args.n_items; ++i) {
    const WorkItem& item = args.items[i];
    const int64_t queries = static_cast<int64_t>(item.row_end - item.row_begin) * group;
    const int64_t tasks = (queries + kTaskQueries - 1) / kTaskQueries;
    if (tasks > max_tasks) max_tasks = tasks;
    work += queries * item.key_count;
  }
  const bool parallel = work * args.n_kv_heads * args.head_dim >= 1 << 16;
#pragma omp parallel if (parallel)
  {
#pragma omp for collapse(3) schedule(dynamic)
    for (int64_t i = 0; i < args.n_items; ++i)
      for (int head = 0; head < args.n_kv_heads; ++head)
        for (int64_t task = 0; task < max_tasks; ++task) {
          const WorkItem& item = args.items[i];
          const int queries = (item.row_end - item.row_begin) * group;
          const int begin = static_cast<int>(task) * kTaskQueries;
          const int left = queries - begin;
          if (left <= 0) continue;
          attend_task<T>({&args, &item, head}, begin, left < kTaskQueries ? left : kTaskQueries);
        }
#pragma omp for collapse(2) schedule(static)
    for (int64_t row = 0; row < args.n_rows; ++row)
      for (int head = 0; head < args.n_heads; ++head) merge_head<T>(args, row, head);
  }
}

}  // namespace

void tree_attention(const AttentionArgs& args) {
  args.dtype == Real::f32 ? tree_attention_typed<float>(args) : tree_attention_typed<Bf16>(args);
}

}  // namespace branchwise::BRANCHWISE_ISA
