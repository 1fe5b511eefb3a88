// Attention over a tree of KV segments: a task takes a tile of queries along their paths, root
// first.
//
// The queries of a kv head are all rows times the heads of its group. A task folds item after item
// into the state (m, d, o) of its queries: the largest score, the sum of weights and the weighted
// sum of values so far. Items lie in depth-first order, so every query meets its path from root to
// leaf. Keys and values lie as the panels of a matrix product (see kv_width): scores and weighted
// sums are small products in which each loaded key or value serves the whole tile. A query's
// arithmetic runs over its keys in order: how queries are grouped does not matter.
#include <omp.h>

#include <vector>

#include "cpu/attention/products.h"
#include "cpu/attention/softmax.h"
#include "cpu/isa/isa_entry.h"

namespace branchwise::BRANCHWISE_ISA {
namespace {

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
