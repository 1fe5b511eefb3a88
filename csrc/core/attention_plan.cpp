// Planning: mark the paths, visit them depth-first, lay out rows, cut items, link partials.
#include "core/attention_plan.h"

#include <algorithm>

#include "core/check.h"
#include "core/kv_tree.h"

namespace branchwise {

Planner::Planner(const KvTree& tree, int32_t chunk_slots, int32_t max_item_rows)
    : tree_(tree), chunk_slots_(chunk_slots), max_item_rows_(max_item_rows) {
  CHECK_ARG(chunk_slots >= 1 && chunk_slots % tree.block_size() == 0, "chunk_slots is ",
            chunk_slots, ", expected a multiple of the block size ", tree.block_size());
  CHECK_ARG(max_item_rows >= 1, "max_item_rows is ", max_item_rows, ", expected at least 1");
}

AttentionPlan Planner::build(std::span<const int64_t> nodes, std::span<const int32_t> counts) {
  CHECK_ARG(nodes.size() == counts.size(), nodes.size(), " nodes and ", counts.size(),
            " counts: expected one count for each node");
  AttentionPlan plan;
  plan.block_size = tree_.block_size();
  mark_paths(nodes, counts);
  sort_depth_first();
  lay_out_rows(counts, plan);
  for (int32_t node : depth_first_) add_items(node, counts, plan);
  plan.n_items = static_cast<int32_t>(plan.items.size());
  link_partials(plan);
  return plan;
}

// Marks every node on a path from an input to its root, as a tree of marks.
void Planner::mark_paths(std::span<const int64_t> nodes, std::span<const int32_t> counts) {
  ++epoch_;
  marks_.resize(tree_.index_count());
  roots_.clear();
  for (size_t input = 0; input < nodes.size(); ++input) {
    int32_t node = tree_.find(NodeHandle{nodes[input]});
    const int32_t length = tree_.at(node).length;
    CHECK_ARG(counts[input] >= 1 && counts[input] <= length, "counts[", input, "] is ",
              counts[input], ", expected 1 to the node's length ", length);
    const bool is_new = marks_[node].epoch != epoch_;
    CHECK_ARG(is_new || marks_[node].input < 0, "nodes[", input, "] is listed twice");
    if (is_new) marks_[node] = {.epoch = epoch_};
    marks_[node].input = static_cast<int32_t>(input);
    for (bool go_on = is_new; go_on;) {
      const int32_t parent = tree_.at(node).parent;
      if (parent < 0) {
        roots_.push_back(node);
        break;
      }
      go_on = marks_[parent].epoch != epoch_;
      if (go_on) marks_[parent] = {.epoch = epoch_};
      marks_[node].next_sibling = marks_[parent].first_child;
      marks_[parent].first_child = node;
      node = parent;
    }
  }
}

// Lists the marked nodes parents first, siblings by creation.
void Planner::sort_depth_first() {
  const auto youngest_first = [this](int32_t a, int32_t b) {
    return tree_.at(a).serial > tree_.at(b).serial;
  };
  depth_first_.clear();
  stack_ = roots_;
  std::sort(stack_.begin(), stack_.end(), youngest_first);
  while (!stack_.empty()) {
    const int32_t node = stack_.back();
    stack_.pop_back();
    depth_first_.push_back(node);
    const size_t first = stack_.size();
    for (int32_t child = marks_[node].first_child; child >= 0; child = marks_[child].next_sibling)
      stack_.push_back(child);
    if (stack_.size() - first > 1) std::sort(stack_.begin() + first, stack_.end(), youngest_first);
  }
}

// Gives every input its rows, in depth-first order, and every marked node the interval below it.
void Planner::lay_out_rows(std::span<const int32_t> counts, AttentionPlan& plan) {
  const int32_t block_size = tree_.block_size();
  plan.order.reserve(counts.size());
  plan.last_rows.reserve(counts.size());
  for (int32_t index : depth_first_) {
    Mark& mark = marks_[index];
    mark.row_begin = static_cast<int32_t>(plan.positions.size());
    if (mark.input >= 0) {
      plan.order.push_back(mark.input);
      const KvNode& node = tree_.at(index);
      for (int32_t token = node.length - counts[mark.input]; token < node.length; ++token) {
        plan.positions.push_back(node.start + token);
        plan.slots.push_back(to_int(node.blocks[token / block_size]) * block_size +
                             token % block_size);
        plan.kv_slots_unshared += node.start + token + 1;
      }
      plan.last_rows.push_back(static_cast<int32_t>(plan.positions.size()) - 1);
    }
    mark.row_end = static_cast<int32_t>(plan.positions.size());
  }
  for (auto node = depth_first_.rbegin(); node != depth_first_.rend(); ++node) {
    const int32_t parent = tree_.at(*node).parent;
    if (parent >= 0)
      marks_[parent].row_end = std::max(marks_[parent].row_end, marks_[*node].row_end);
  }
  plan.n_rows = static_cast<int32_t>(plan.positions.size());
}

// Cuts one node into chunks of keys and groups of rows.
void Planner::add_items(int32_t index, std::span<const int32_t> counts, AttentionPlan& plan) {
  const KvNode& node = tree_.at(index);
  const Mark& mark = marks_[index];
  const int32_t block_base = static_cast<int32_t>(plan.block_ids.size());
  for (BlockId block : node.blocks) plan.block_ids.push_back(to_int(block));
  // Own rows come first and are the node's last tokens; the rows of descendants see all of it.
  const int32_t own_rows = mark.input < 0 ? 0 : counts[mark.input];
  const int32_t first_own_token = node.length - own_rows;
  const auto visible_tokens = [&](int32_t row) {
    return std::min(first_own_token + (row - mark.row_begin) + 1, node.length);
  };
  for (int32_t key_begin = 0; key_begin < node.length; key_begin += chunk_slots_) {
    const int32_t key_end = std::min(key_begin + chunk_slots_, node.length);
    const int32_t blind_rows = std::clamp(key_begin - first_own_token, 0, own_rows);
    for (int32_t row = mark.row_begin + blind_rows; row < mark.row_end; row += max_item_rows_) {
      const int32_t row_end = std::min(row + max_item_rows_, mark.row_end);
      const int32_t keys_end = std::min(key_end, visible_tokens(row_end - 1));
      plan.items.push_back({.row_begin = row,
                            .row_end = row_end,
                            .block_begin = block_base + key_begin / tree_.block_size(),
                            .key_count = keys_end - key_begin,
                            .key_position = node.start + key_begin,
                            .partial_begin = plan.n_partials,
                            .causal = visible_tokens(row) < keys_end});
      plan.n_partials += row_end - row;
      plan.kv_slots_read += keys_end - key_begin;
    }
  }
}

// Lists the partials of every row. Items come ancestors first, so each list runs root to leaf.
void Planner::link_partials(AttentionPlan& plan) const {
  plan.row_partial_begin.assign(plan.n_rows + 1, 0);
  for (const WorkItem& item : plan.items)
    for (int32_t row = item.row_begin; row < item.row_end; ++row) ++plan.row_partial_begin[row + 1];
  for (int32_t row = 0; row < plan.n_rows; ++row)
    plan.row_partial_begin[row + 1] += plan.row_partial_begin[row];
  plan.row_partials.resize(plan.n_partials);
  std::vector<int32_t> next(plan.row_partial_begin.begin(), plan.row_partial_begin.end() - 1);
  for (const WorkItem& item : plan.items)
    for (int32_t row = item.row_begin; row < item.row_end; ++row)
      plan.row_partials[next[row]++] = item.partial_begin + (row - item.row_begin);
}

}  // namespace branchwise
