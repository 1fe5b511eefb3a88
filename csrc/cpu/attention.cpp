// Attention over a tree of KV segments: a task takes a tile of queries along their paths, root
// first.
//
// The queries of a kv head are all rows times the heads of its group. A task folds item after item
// into the state (m, d, o) of its queries: the largest score, the sum of weights and the weighted
// sum of values so far. Items lie in depth-first order, so every query meets its path from root to
// leaf. Keys and values lie as the panels of a matrix product (see kv_width): scores and weighted
// sums are small products in which each loaded key or value serves the whole tile. Softmax is in
// base 2 and fp32; where bf16 is multiplied in pairs or in AMX tiles, weights are rounded to bf16,
// and summed as rounded. A query's arithmetic runs over its keys in order: how queries are grouped
// does not matter.
#include <omp.h>

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
constexpr int kItemBlocks = kMaxItemKeys / kBlockSlots;
constexpr int kQueryWords = kMaxHeadDim + 16;  // from one query to the next: off the same cache set
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

// Queries of a kv head, and what they have seen so far.
struct Tile {
  int64_t first;  // query i is first + i: row (first + i) / group, head (first + i) % group
  int n;
  alignas(
      64) float q[2 * kTileQueries][kQueryWords];  // the second half: AMX reads 32 from anywhere
  alignas(64) float o[kTileQueries][kQueryWords];
  float m[kTileQueries], d[kTileQueries];
};

// Some of a tile's queries before the keys of a chunk.
struct View {
  int first, n;                                   // of the tile
  int block_begin, block_end;                     // that some of them see
  int32_t low[kTileQueries], high[kTileQueries];  // the keys that each sees
  alignas(
      64) float s[kItemBlocks][kTileQueries][kBlockSlots];  // scores, then weights in their place
  alignas(64) float o[kTileQueries][kPanelWidth];           // sums of one panel of the values
  float keep[kTileQueries];                                 // the share of what was seen before
};

// --- products: how queries, scores and weights are laid out and multiplied
// --------------------------

// In vector registers. Weight lanes are of `Format`.
template <typename Format, typename Element>
struct VectorProduct {
  using T = Element;
  struct Scope {};
  static constexpr bool kPairs = Format::kPairs;
  static constexpr bool kFetches = true;  // the keys and values that come next, while it multiplies

  static void pack_query(Tile& tile, int i, const T* q, int head_dim) {
    if constexpr (kPairs)
      __builtin_memcpy(tile.q[i], q, head_dim * sizeof(T));
    else
      for (int d = 0; d < head_dim; ++d) tile.q[i][d] = to_float(q[d]);
  }
  // The scores of a block. keys: its own, and what is multiplied next
  static void score(const Tile& tile, View& view, int block, const void* const* keys,
                    int head_dim) {
    const Pieces pieces{keys, 1, head_dim, 0};
    for (int i = 0; i < view.n; i += kMaxRows) {
      const int m = view.n - i < kMaxRows ? view.n - i : kMaxRows;
      multiply_rows<Format, kQueryWords>(m, tile.q[view.first + i], pieces, view.s[block][i]);
    }
  }
  // view.o = weights * one panel of the values. values: of the view's blocks, and what is
  // multiplied next
  static void weigh(View& view, const void* const* values) {
    const Pieces pieces{values, view.block_end - view.block_begin, kBlockSlots,
                        kTileQueries * kBlockSlots};
    for (int i = 0; i < view.n; i += kMaxRows) {
      const int m = view.n - i < kMaxRows ? view.n - i : kMaxRows;
      multiply_rows<Format, kBlockSlots>(m, view.s[view.block_begin][i], pieces, view.o[i]);
    }
  }
};

#if defined(__AMX_BF16__)
// In AMX tiles: 32 queries by 32 keys or columns at once. Rows beyond the view's hold anything.
struct TileProduct {
  using T = Bf16;
  using Scope = TileScope;
  static constexpr bool kPairs = true, kFetches = false;

  static void pack_query(Tile& tile, int i, const T* q, int head_dim) {
    T* out = reinterpret_cast<T*>(tile.q[i]);
    for (int d = 0; d < head_dim; d += kTileSteps) store_steps(q + d, head_dim - d, out + d);
  }
  static void score(const Tile& tile, View& view, int block, const void* const* keys,
                    int head_dim) {
    view.n > kTileRows ? score_tiles<true>(tile, view, block, *keys, head_dim)
                       : score_tiles<false>(tile, view, block, *keys, head_dim);
  }
  static void weigh(View& view, const void* const* values) {
    view.n > kTileRows ? weigh_tiles<true>(view, values) : weigh_tiles<false>(view, values);
  }

 private:
  static void store_steps(const T* q, int n, T* out) {
    if (n >= kTileSteps) return static_cast<void>(__builtin_memcpy(out, q, kTileBytes));
    __builtin_memset(out, 0, kTileBytes);
    __builtin_memcpy(out, q, n * sizeof(T));
  }
  template <bool kTwo>
  static void score_tiles(const Tile& tile, View& view, int block, const void* keys, int head_dim) {
    constexpr int kStride = kQueryWords * sizeof(float);
    const char* q = reinterpret_cast<const char*>(tile.q[view.first]);
    const char* panel = static_cast<const char*>(keys);
    zero_sums<kTwo>();
    for (int d = 0; d < head_dim; d += kTileSteps, q += kTileBytes, panel += kPanelTile)
      tile_step<Dot::bf16, kTwo>(q, q + kTileRows * kStride, kStride, panel);
    store_sums<kTwo>(view.s[block]);
  }
  template <bool kTwo>
  static void weigh_tiles(View& view, const void* const* values) {
    constexpr int kStride = kBlockSlots * sizeof(float);
    zero_sums<kTwo>();
    for (int block = view.block_begin; block < view.block_end; ++block, ++values) {
      const char* p = reinterpret_cast<const char*>(view.s[block]);
      tile_step<Dot::bf16, kTwo>(p, p + kTileRows * kStride, kStride,
                                 static_cast<const char*>(*values));
    }
    store_sums<kTwo>(view.o);
  }
};
#endif

// --- softmax
// -----------------------------------------------------------------------------------------

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

// --- a task
// ------------------------------------------------------------------------------------------

BW_INLINE int clamp_key(int64_t key, int count) {
  return key < 0 ? 0 : key > count ? count : static_cast<int>(key);
}

// The first item from `item` on that serves queries of the tile, or null.
BW_INLINE const WorkItem* next_item(const AttentionArgs& args, const WorkItem* item,
                                    const Tile& tile) {
  const int64_t group = args.n_heads / args.n_kv_heads, end = tile.first + tile.n;
  for (; item < args.items + args.n_items; ++item)
    if (item->row_begin * group < end && item->row_end * group > tile.first) return item;
  return nullptr;
}

// Which queries of the tile an item serves, and which of its keys they see.
BW_INLINE bool look_at(const AttentionArgs& args, const WorkItem& item, const Tile& tile,
                       View& view) {
  const int64_t group = args.n_heads / args.n_kv_heads;
  const int64_t begin = item.row_begin * group - tile.first,
                end = item.row_end * group - tile.first;
  view.first = clamp_key(begin, tile.n);
  view.n = clamp_key(end, tile.n) - view.first;
  int low = kMaxItemKeys, high = 0;
  for (int i = 0; i < view.n; ++i) {
    const int64_t row = (tile.first + view.first + i) / group;
    const int64_t distance = static_cast<int64_t>(args.positions[row]) - item.key_position;
    view.high[i] = item.causal ? clamp_key(distance + 1, item.key_count) : item.key_count;
    view.low[i] = args.window > 0 ? clamp_key(distance - args.window + 1, view.high[i]) : 0;
    if (view.low[i] < low) low = view.low[i];
    if (view.high[i] > high) high = view.high[i];
  }
  view.block_begin = low / kBlockSlots;
  view.block_end = (high + kBlockSlots - 1) / kBlockSlots;
  return low < high;
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
        const T* from = values + slot * kPanelWidth + i;  // `auto` would lose UVecAt's alignment
        *reinterpret_cast<UVecAt*>(out + slot * kPanelWidth + i) =
            *reinterpret_cast<const UVecAt*>(from) & keep;
      }
    }
}

// Folds a chunk into the state of the view's queries. next: the chunk that comes after it
template <typename Product>
void attend(const Chunk& chunk, const Chunk& next, Tile& tile, View& view) {
  using T = typename Product::T;
  const AttentionArgs& args = *chunk.args;
  const int begin = view.block_begin, n = view.block_end - begin;
  const int last = chunk.item->key_count / kBlockSlots - begin;  // if only partly written
  const void* pieces[kItemBlocks + 1];
  for (int i = 0; i < n; ++i) pieces[i] = chunk.keys<T>(begin + i);
  pieces[n] = chunk.values<T>(begin);
  for (int i = 0; i < n; ++i) Product::score(tile, view, begin + i, pieces + i, args.head_dim);
  softmax<Product>(tile, view, args.scale, args.softcap, next);
  alignas(64) T written[kMaxHeadDim * kBlockSlots];
  if (last < n)
    copy_written(chunk.values<T>(begin + last), chunk.width(), chunk.item->key_count % kBlockSlots,
                 written);
  for (int column = 0; column < args.head_dim; column += kPanelWidth) {
    const int64_t at = column * kBlockSlots;
    for (int i = 0; i < n; ++i) pieces[i] = (i == last ? written : chunk.values<T>(begin + i)) + at;
    pieces[n] = column + kPanelWidth < args.head_dim
                    ? chunk.values<T>(begin) + at + kPanelWidth * kBlockSlots
                    : next.keys<T>(0);
    Product::weigh(view, pieces);
    for (int i = 0; i < view.n; ++i) {
      float* o = tile.o[view.first + i] + column;
      for (int j = 0; j < kPanelWidth; j += kLanes)
        store(o + j, fma(load(o + j), splat(view.keep[i]), load(view.o[i] + j)));
    }
  }
}

// Queries [tile.first, tile.first + tile.n) of a kv head, from the root to the end of their paths.
template <typename Product>
void attend_tile(const AttentionArgs& args, int kv_head, Tile& tile) {
  using T = typename Product::T;
  const int64_t group = args.n_heads / args.n_kv_heads;
  const auto offset_of = [&](int i) {  // of query i in q and out
    const int64_t row = (tile.first + i) / group, head = kv_head * group + (tile.first + i) % group;
    return (row * args.n_heads + head) * args.head_dim;
  };
  for (int i = 0; i < tile.n; ++i) {
    Product::pack_query(tile, i, static_cast<const T*>(args.q) + offset_of(i), args.head_dim);
    tile.m[i] = kNegInf, tile.d[i] = 0;
    for (int j = 0; j < args.head_dim; j += kLanes) store(tile.o[i] + j, Vec{});
  }
  View view;
  for (const WorkItem* item = next_item(args, args.items, tile); item;) {
    const WorkItem* next = next_item(args, item + 1, tile);
    if (look_at(args, *item, tile, view))
      attend<Product>({&args, item, kv_head}, {&args, next ? next : item, kv_head}, tile, view);
    item = next;
  }
  for (int i = 0; i < tile.n; ++i) {
    const float inverse = tile.d[i] == 0 ? 0.0f : 1.0f / tile.d[i];
    T* out = static_cast<T*>(args.out) + offset_of(i);
    for_lanes(args.head_dim, [&](int64_t j, int lanes) {
      store_up_to(out + j, load(tile.o[i] + j) * inverse, lanes);
    });
  }
}

struct Span {
  int64_t begin, end;  // of queries
};
struct Edges {
  int32_t begins = 0, ends = 0;  // items that begin at a row, and that end before it
};

// Cuts the queries of a kv head into tiles. A row joins the one before it if at least half of the
// items on its path are the same: a tile of rows that share little would go through the items of
// all of them with few queries each. `share`: queries that leave work for every thread.
std::vector<Span> cut_tiles(const AttentionArgs& args, int64_t group, int64_t share) {
  std::vector<Edges> edges(args.n_rows + 1);
  for (const WorkItem* item = args.items; item < args.items + args.n_items; ++item)
    ++edges[item->row_begin].begins, ++edges[item->row_end].ends;
  const int64_t limit = share < group ? group : share < kTileQueries ? share : kTileQueries;
  std::vector<Span> tiles;
  const auto add_run = [&](int64_t begin, int64_t end) {
    const Parts parts((end - begin) * group, limit < kTileQueries ? limit : kTileQueries);
    for (int64_t part = 0; part < parts.count; ++part)
      tiles.push_back({begin * group + parts.begin(part), begin * group + parts.begin(part + 1)});
  };
  int64_t run = 0, on_path = 0;
  for (int64_t row = 0; row < args.n_rows; ++row) {
    on_path += edges[row].begins - edges[row].ends;
    if (row == run || 2 * edges[row].begins <= on_path) continue;
    add_run(run, row);
    run = row;
  }
  if (args.n_rows > 0) add_run(run, args.n_rows);
  return tiles;
}

template <typename Product>
void tree_attention_with(const AttentionArgs& args) {
  const int64_t group = args.n_heads / args.n_kv_heads;
  const int64_t share = args.n_rows * args.n_heads / omp_get_num_threads();
  const std::vector<Span> tiles = cut_tiles(args, group, share);
  const int64_t n_tiles = static_cast<int64_t>(tiles.size());
  [[maybe_unused]] const typename Product::Scope scope;
  Tile tile;
#pragma omp for collapse(2) schedule(dynamic)
  for (int head = 0; head < args.n_kv_heads; ++head)
    for (int64_t t = 0; t < n_tiles; ++t) {
      tile.first = tiles[t].begin, tile.n = static_cast<int>(tiles[t].end - tiles[t].begin);
      attend_tile<Product>(args, head, tile);
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
