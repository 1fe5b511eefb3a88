// Attention over a tree of KV segments: items score their rows against one chunk, then rows merge.
//
// Phase A: for an item and a kv head, the queries are all rows times the heads of the group. Keys
// and values lie as the panels of a matrix product (see kv_width), so scores and weighted sums are
// small products in which each loaded key or value serves a whole tile of queries. Softmax is in
// base 2 over the whole chunk, in fp32; where bf16 is multiplied in pairs or in AMX tiles, weights
// are rounded to bf16, and summed as rounded.
// Phase B: a row's partials (o, m, d) merge from root to leaf. A partial of which the row sees no
// key has m = -inf and d = 0 and weighs nothing.
// A query's arithmetic runs over its keys in order, so how queries are grouped does not matter.
#include <vector>

#include "core/attention_plan.h"
#include "cpu/gemm_micro.h"
#include "cpu/isa_entry.h"
#include "cpu/vmath.h"
#if defined(__AMX_BF16__)
#include "cpu/gemm_amx.h"
#endif

namespace branchwise::BRANCHWISE_ISA {
namespace {

#if defined(__AMX_BF16__)
constexpr int kTileQueries = kPairRows;
#else
constexpr int kTileQueries = 2 * kMaxRows;
#endif
constexpr int kTaskQueries = 2 * kTileQueries;  // of one parallel task
constexpr int kItemBlocks = kMaxItemKeys / kBlockSlots;
constexpr float kLog2e = 1.44269504f;
constexpr float kNegInf = -__builtin_inff();

// The keys and values of one item and kv head.
struct Chunk {
  const AttentionArgs* args;
  const WorkItem* item;
  int32_t kv_head;

  int64_t width() const { return kv_width(args->head_dim); }
  template <typename T>
  const T* keys(int block) const {
    const int64_t id = args->block_ids[item->block_begin + block];
    return static_cast<const T*>(args->kv) + (id * args->n_kv_heads + kv_head) * 2 * width();
  }
  template <typename T>
  const T* values(int block) const {
    return keys<T>(block) + width();
  }
};

// Some queries and their keys [low, high) of a chunk: scores, then weights, in place.
struct Tile {
  alignas(64) float q[kMaxHeadDim * kTileQueries];  // packed as rows of a matrix product
  alignas(64) float s[kItemBlocks][kTileQueries][kBlockSlots];
  alignas(64) float o[kTileQueries][kPanelWidth];
  int32_t low[kTileQueries], high[kTileQueries];
  float *out[kTileQueries], *stats[kTileQueries];
  int n, block_begin, block_end;
};

// --- products: `Product` says how x, scores and weights are laid out and multiplied
// ----------------

// In vector registers. Weight lanes are of `Format`.
template <typename Format, typename Element>
struct VectorProduct {
  using T = Element;
  struct Scope {};
  static constexpr bool kPairs = Format::kPairs;

  static void pack_query(Tile& tile, int i, const T* q, int head_dim) {
    const int group = i / kMaxRows * kMaxRows;
    const int m = tile.n - group < kMaxRows ? tile.n - group : kMaxRows;
    float* a = tile.q + group * words(head_dim) + (i - group);
    if constexpr (kPairs)
      for (int w = 0; w < head_dim / 2; ++w) __builtin_memcpy(a + w * m, q + 2 * w, sizeof(float));
    else
      for (int d = 0; d < head_dim; ++d) a[d * m] = to_float(q[d]);
  }
  static void score(Tile& tile, int block, const T* keys, int head_dim) {
    for (int group = 0; group < tile.n; group += kMaxRows) {
      const int m = tile.n - group < kMaxRows ? tile.n - group : kMaxRows;
      float* s = tile.s[block][group];
      for (int i = 0; i < m * kBlockSlots; i += kLanes) store(s + i, Vec{});
      multiply_rows<Format>(m, tile.q + group * words(head_dim), keys, head_dim, s);
    }
  }
  // tile.o = weights * panel `panel` of the values
  template <typename Values>
  static void weigh(Tile& tile, Values values, int panel) {
    for (int group = 0; group < tile.n; group += kMaxRows) {
      const int m = tile.n - group < kMaxRows ? tile.n - group : kMaxRows;
      float* o = tile.o[group];
      for (int i = 0; i < m * kPanelWidth; i += kLanes) store(o + i, Vec{});
      for (int block = tile.block_begin; block < tile.block_end; ++block)
        multiply_rows<Format, kBlockSlots>(m, tile.s[block][group],
                                           values(block) + panel * kPanelWidth * kBlockSlots,
                                           kBlockSlots, o);
    }
  }

 private:
  static constexpr int words(int head_dim) { return kPairs ? head_dim / 2 : head_dim; }
};

#if defined(__AMX_BF16__)
// In AMX tiles: 32 queries by 32 keys or columns at once. What fills up the last tile of queries is
// undefined.
struct TileProduct {
  using T = Bf16;
  using Scope = TileScope;
  static constexpr bool kPairs = true;

  static void pack_query(Tile& tile, int i, const T* q, int head_dim) {
    char* a = reinterpret_cast<char*>(tile.q);
    pack_tile_row(q, head_dim,
                  a + i / kTileRows * group_bytes(head_dim) + i % kTileRows * kTileBytes);
  }
  static void score(Tile& tile, int block, const T* keys, int head_dim) {
    const auto multiply = tile.n > kTileRows ? tiles_times_slice<Dot::bf16, true, 0>
                                             : tiles_times_slice<Dot::bf16, false, 0>;
    multiply(reinterpret_cast<const char*>(tile.q), group_bytes(head_dim),
             reinterpret_cast<const char*>(keys), group_bytes(head_dim) / kATile, true, nullptr,
             tile.s[block]);
  }
  template <typename Values>
  static void weigh(Tile& tile, Values values, int panel) {
    tile.n > kTileRows ? weigh_tiles<true>(tile, values, panel)
                       : weigh_tiles<false>(tile, values, panel);
  }

 private:
  static constexpr int64_t group_bytes(int head_dim) {
    return round_up(head_dim, 32) / 32 * kATile;
  }
  template <bool kTwo, typename Values>
  static void weigh_tiles(Tile& tile, Values values, int panel) {
    constexpr int kStride = kBlockSlots * sizeof(float);
    zero_sums<kTwo>();
    for (int block = tile.block_begin; block < tile.block_end; ++block) {
      const char* p = reinterpret_cast<const char*>(tile.s[block]);
      tile_step<Dot::bf16, kTwo, kTileBytes, kStride>(
          p, p + kTileRows * kStride,
          reinterpret_cast<const char*>(values(block)) + panel * kPanelTile);
    }
    store_sums<kTwo>(tile.o);
  }
};
#endif

// --- softmax
// -----------------------------------------------------------------------------------------

// Query i: raw scores become weights 2^(s - m), of fp32 or rounded to bf16; keys outside [low,
// high) get 0.
template <bool kPairs>
BW_INLINE void softmax(Tile& tile, int i, float scale, float softcap) {
  const int low = tile.low[i], high = tile.high[i];
  Vec top = splat(kNegInf);
  for (int block = tile.block_begin; block < tile.block_end; ++block) {
    float* s = tile.s[block][i];
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
  const float unit = (softcap > 0 ? softcap : scale) * kLog2e;
  const float m = reduce_max(top) * unit;
  const float base = m == kNegInf ? 0.0f : m;  // nothing visible: every weight is 2^-inf = 0
  Vec sum = {};
  for (int block = tile.block_begin; block < tile.block_end; ++block) {
    float* s = tile.s[block][i];
    for (int j = 0; j < kBlockSlots; j += kLanes) {
      const Vec x = fma(load(s + j), splat(unit), splat(-base));
      if constexpr (kPairs) {
        const UVec rounded = (UVec)rough_exp2(x) + 0x8000u;  // half up: never negative, NaN stays
        *reinterpret_cast<HVecAt*>(reinterpret_cast<uint16_t*>(s) + j) =
            __builtin_convertvector(rounded >> 16, HVec);
        sum += (Vec)(rounded & 0xffff0000u);
      } else {
        const Vec weight = exp2(x);
        store(s + j, weight);
        sum += weight;
      }
    }
  }
  tile.stats[i][0] = m;
  tile.stats[i][1] = reduce_add(sum);
}

// --- a task: some tiles of queries of an item
// --------------------------------------------------------

BW_INLINE int clamp_key(int64_t key, int count) {
  return key < 0 ? 0 : key > count ? count : static_cast<int>(key);
}

// Queries [first, first + n) of the item: query i is row i / group, head i % group.
template <typename Product>
void load_queries(const Chunk& chunk, int first, int n, Tile& tile) {
  using T = typename Product::T;
  const AttentionArgs& args = *chunk.args;
  const WorkItem& item = *chunk.item;
  const int head_dim = args.head_dim, group = args.n_heads / args.n_kv_heads;
  int low = kMaxItemKeys, high = 0;
  tile.n = n;
  for (int i = 0; i < n; ++i) {
    const int row = item.row_begin + (first + i) / group;
    const int head = chunk.kv_head * group + (first + i) % group;
    const int64_t query = static_cast<int64_t>(row) * args.n_heads + head;
    Product::pack_query(tile, i, static_cast<const T*>(args.q) + query * head_dim, head_dim);
    const int64_t distance = static_cast<int64_t>(args.positions[row]) - item.key_position;
    tile.high[i] = item.causal ? clamp_key(distance + 1, item.key_count) : item.key_count;
    tile.low[i] = args.window > 0 ? clamp_key(distance - args.window + 1, tile.high[i]) : 0;
    if (tile.low[i] < low) low = tile.low[i];
    if (tile.high[i] > high) high = tile.high[i];
    const int64_t partial = item.partial_begin + (row - item.row_begin);
    tile.out[i] = args.partials + (partial * args.n_heads + head) * head_dim;
    tile.stats[i] = args.stats + (partial * args.n_heads + head) * 2;
  }
  tile.block_begin = low / kBlockSlots;
  tile.block_end = (high + kBlockSlots - 1) / kBlockSlots;
}

// Fetches the values of a block and the keys of the next one: blocks lie anywhere in the pool,
// where no processor guesses them.
template <typename T>
BW_INLINE void fetch_ahead(const Chunk& chunk, int block, int end) {
  const auto fetch = [&](const T* half) {
    for (int64_t i = 0; i < chunk.width(); i += 64 / sizeof(T)) __builtin_prefetch(half + i);
  };
  fetch(chunk.values<T>(block));
  if (block + 1 < end) fetch(chunk.keys<T>(block + 1));
}

// is_first: of its item and head, to read the chunk from memory
// values(block): the values of a block, in which slots that were never written are 0
template <typename Product, typename Values>
void attend(const Chunk& chunk, bool is_first, Values values, Tile& tile) {
  const AttentionArgs& args = *chunk.args;
  const int head_dim = args.head_dim;
  for (int block = tile.block_begin; block < tile.block_end; ++block) {
    if (is_first) fetch_ahead<typename Product::T>(chunk, block, tile.block_end);
    Product::score(tile, block, chunk.keys<typename Product::T>(block), head_dim);
  }
  for (int i = 0; i < tile.n; ++i) softmax<Product::kPairs>(tile, i, args.scale, args.softcap);
  for (int column = 0; column < head_dim; column += kPanelWidth) {
    Product::weigh(tile, values, column / kPanelWidth);
    const int width = head_dim - column < kPanelWidth ? head_dim - column : kPanelWidth;
    for (int i = 0; i < tile.n; ++i)
      for_lanes(width, [&](int64_t j, int lanes) {
        store_up_to(tile.out[i] + column + j, load(tile.o[i] + j), lanes);
      });
  }
}

// The values of a block of which only the first `count` slots were written, 0 elsewhere: what
// memory holds there may be NaN, and 0 * NaN is no 0.
template <typename T>
void copy_written(const T* values, int64_t width, int count, T* out) {
  constexpr int kStep = 4 / sizeof(T);                    // slots of a word
  constexpr int kRow = kStep * kPanelWidth;               // elements
  constexpr int kPanel = kBlockSlots * kPanelWidth;       // elements
  const uint32_t half = count % kStep == 0 ? 0 : 0xffff;  // the first of a pair
  for (int64_t panel = 0; panel < width; panel += kPanel, out += kPanel, values += kPanel)
    for (int slot = 0; slot < kBlockSlots; slot += kStep) {
      const uint32_t keep = slot + kStep <= count ? 0xffffffffu : slot < count ? half : 0;
      for (int i = 0; i < kRow; i += kLanes * kStep) {
        const auto* from = reinterpret_cast<const UVecAt*>(values + slot * kPanelWidth + i);
        *reinterpret_cast<UVecAt*>(out + slot * kPanelWidth + i) = *from & keep;
      }
    }
}

template <typename Product>
void attend_task(const Chunk& chunk, int begin, int count) {
  using T = typename Product::T;
  const int last_block = chunk.item->key_count / kBlockSlots;  // if only partly written
  alignas(64) T last[kMaxHeadDim * kBlockSlots];
  if (const int written = chunk.item->key_count % kBlockSlots; written != 0)
    copy_written(chunk.values<T>(last_block), chunk.width(), written, last);
  const auto values = [&](int block) {
    return block == last_block ? static_cast<const T*>(last) : chunk.values<T>(block);
  };
  Tile tile;
  for (int first = 0; first < count; first += kTileQueries) {
    const int n = count - first < kTileQueries ? count - first : kTileQueries;
    load_queries<Product>(chunk, begin + first, n, tile);
    attend<Product>(chunk, begin + first == 0, values, tile);
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
  float sum[kMaxHeadDim];
  for_lanes(args.head_dim,
            [&](int64_t column, int lanes) { store_up_to(sum + column, Vec{}, lanes); });
  for (const int32_t* p = begin; p < end; ++p) {
    const float* stats = stats_of(*p);
    if (stats[1] == 0) continue;  // sees nothing: o is 0, m is -inf
    const Vec weight = exp2(splat(stats[0] - top));
    const float* o =
        args.partials + (static_cast<int64_t>(*p) * args.n_heads + head) * args.head_dim;
    for_lanes(args.head_dim, [&](int64_t column, int lanes) {
      const Vec part = load_up_to(o + column, lanes);
      store_up_to(sum + column, fma(part, weight, load_up_to(sum + column, lanes)), lanes);
    });
  }
  T* out = static_cast<T*>(args.out) + (row * args.n_heads + head) * args.head_dim;
  for_lanes(args.head_dim, [&](int64_t column, int lanes) {
    store_up_to(out + column, load_up_to(sum + column, lanes) * inverse, lanes);
  });
}

// Queries [begin, begin + count) of an item.
struct Task {
  const WorkItem* item;
  int32_t begin, count;
};

template <typename Product>
void tree_attention_with(const AttentionArgs& args) {
  using T = typename Product::T;
  const int32_t group = args.n_heads / args.n_kv_heads;
  std::vector<Task> tasks;
  int64_t work = 0;
  for (const WorkItem* item = args.items; item < args.items + args.n_items; ++item) {
    const int32_t queries = (item->row_end - item->row_begin) * group;
    for (int32_t begin = 0; begin < queries; begin += kTaskQueries)
      tasks.push_back(
          {item, begin, queries - begin < kTaskQueries ? queries - begin : kTaskQueries});
    work += static_cast<int64_t>(queries) * item->key_count;
  }
  const int64_t n_tasks = static_cast<int64_t>(tasks.size());
  const bool parallel = work * args.n_kv_heads * args.head_dim >= 1 << 16;
#pragma omp parallel if (parallel)
  {
    [[maybe_unused]] const typename Product::Scope scope;
#pragma omp for collapse(2) schedule(dynamic)
    for (int64_t i = 0; i < n_tasks; ++i)
      for (int head = 0; head < args.n_kv_heads; ++head)
        attend_task<Product>({&args, tasks[i].item, head}, tasks[i].begin, tasks[i].count);
#pragma omp for collapse(2) schedule(static)
    for (int64_t row = 0; row < args.n_rows; ++row)
      for (int head = 0; head < args.n_heads; ++head) merge_head<T>(args, row, head);
  }
}

}  // namespace

void tree_attention(const AttentionArgs& args) {
  if (args.dtype == Real::f32) return tree_attention_with<VectorProduct<Fp32Weights, float>>(args);
#if defined(__AMX_BF16__)
  tree_attention_with<TileProduct>(args);
#elif defined(__AVX512BF16__)
  tree_attention_with<VectorProduct<Bf16Pairs, Bf16>>(args);
#else
  tree_attention_with<VectorProduct<Bf16Weights, Bf16>>(args);
#endif
}

}  // namespace branchwise::BRANCHWISE_ISA
