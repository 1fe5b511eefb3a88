// The plan of one forward pass: which rows read which blocks, and how their partials combine.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "core/types.h"

namespace branchwise {

class KvTree;

// Rows [row_begin, row_end) attend to the slots [0, key_count) of the blocks that start at
// block_ids[block_begin]. Row r writes its partial (o, m, d) to partial_begin + (r - row_begin).
// Every row of an item sees at least its first key (before any sliding window).
struct WorkItem {
  int32_t row_begin;
  int32_t row_end;
  int32_t block_begin;
  int32_t key_count;
  int32_t key_position;  // absolute position of key 0; key j is at key_position + j
  int32_t partial_begin;
  bool causal;  // some key lies after some row: mask key_position + j > positions[row]
};

// All a kernel needs to know. The arithmetic of a row depends on its own path only: chunks are cut
// at fixed offsets from a node's start, and partials combine from root to leaf. How rows are
// grouped into items, and where an item's last key lies beyond a row, does not enter its result.
struct AttentionPlan {
  std::vector<WorkItem> items;
  std::vector<int32_t> block_ids;          // blocks of every planned node, node after node
  std::vector<int32_t> row_partial_begin;  // [n_rows + 1]
  std::vector<int32_t> row_partials;       // [n_partials], of each row from root to leaf
  std::vector<int32_t> positions;          // [n_rows] absolute position of the row's token
  std::vector<int32_t> slots;              // [n_rows] block * block_size + offset of its K and V
  std::vector<int64_t> order;              // [n] planned inputs in depth-first order
  std::vector<int32_t> last_rows;          // [n] the last row of each, ascending

  int32_t block_size = 0;
  int32_t n_rows = 0;
  int32_t n_items = 0;
  int32_t n_partials = 0;
  int64_t kv_slots_read = 0;      // sum of key_count over the items
  int64_t kv_slots_unshared = 0;  // sum over the rows of the keys on their path: no sharing at all
};

// Builds plans for a tree. Keeps scratch memory between calls; one planner serves one thread.
class Planner {
 public:
  // `chunk_slots` must be a multiple of the tree's block size. The tree must outlive the planner.
  explicit Planner(const KvTree& tree, int32_t chunk_slots = 256, int32_t max_item_rows = 64);

  // The last counts[i] tokens of nodes[i] become query rows. Nodes must be live and distinct, and
  // 1 <= counts[i] <= length. Siblings are visited in order of their creation.
  AttentionPlan build(std::span<const int64_t> nodes, std::span<const int32_t> counts);

  int32_t chunk_slots() const { return chunk_slots_; }

 private:
  // Scratch of a node that lies on a planned path, by node index.
  struct Mark {
    int64_t epoch = 0;  // valid only if equal to epoch_
    int32_t input = -1;
    int32_t first_child = -1;  // most recently marked child; the list runs over next_sibling
    int32_t next_sibling = -1;
    int32_t row_begin = 0;
    int32_t row_end = 0;
  };

  void mark_paths(std::span<const int64_t> nodes, std::span<const int32_t> counts);
  void sort_depth_first();
  void lay_out_rows(std::span<const int32_t> counts, AttentionPlan& plan);
  void add_items(int32_t node, std::span<const int32_t> counts, AttentionPlan& plan);
  void link_partials(AttentionPlan& plan) const;

  const KvTree& tree_;
  int32_t chunk_slots_;
  int32_t max_item_rows_;
  int64_t epoch_ = 0;
  std::vector<Mark> marks_;
  std::vector<int32_t> roots_;
  std::vector<int32_t> depth_first_;
  std::vector<int32_t> stack_;
};

}  // namespace branchwise
