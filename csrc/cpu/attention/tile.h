// What a task of attention works on: a tile of queries, and the keys and values of an item.
#pragma once

#include "core/attention_plan.h"
#include "cpu/isa/kernels.h"
#include "cpu/products/micro_tile.h"
#if defined(__AMX_BF16__)
#include "cpu/products/amx.h"
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
  // The second half is there because AMX reads 32 queries from anywhere.
  alignas(64) float q[2 * kTileQueries][kQueryWords];
  alignas(64) float o[kTileQueries][kQueryWords];
  float m[kTileQueries], d[kTileQueries];
};

// Some of a tile's queries before the keys of a chunk.
struct View {
  int first, n;                                   // of the tile
  int block_begin, block_end;                     // that some of them see
  int32_t low[kTileQueries], high[kTileQueries];  // the keys that each sees
  // Scores, then weights in their place.
  alignas(64) float s[kItemBlocks][kTileQueries][kBlockSlots];
  alignas(64) float o[kTileQueries][kPanelWidth];  // sums of one panel of the values
  float keep[kTileQueries];                        // the share of what was seen before
};

}  // namespace
}  // namespace branchwise::BRANCHWISE_ISA
