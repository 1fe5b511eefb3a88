// Plans of random trees cover every visible (row, key) pair exactly once, root to leaf.
#include "core/attention_plan.h"

#include <random>

#include "core/kv_tree.h"
#include "test.h"

namespace branchwise {
namespace {

struct Forest {
  KvTree tree{4000, 4};
  std::vector<NodeHandle> nodes;
};

// Up to `n` nodes with random parents and lengths, some empty; all sealed.
void grow(Forest& forest, std::mt19937& random, int n) {
  const auto below = [&](int limit) { return static_cast<int>(random() % limit); };
  for (int i = 0; i < n; ++i) {
    const bool is_root = forest.nodes.empty() || below(10) == 0;
    const NodeHandle node =
        is_root
            ? forest.tree.add_root()
            : forest.tree.fork(forest.nodes[below(static_cast<int>(forest.nodes.size()))], 1)[0];
    forest.tree.append(node, below(4) == 0 ? below(40) : below(7));
    forest.tree.seal(node);
    forest.nodes.push_back(node);
  }
}

// Every slot that a row must read, root to leaf.
std::vector<int32_t> path_slots(const KvTree& tree, NodeHandle node, int32_t last_position) {
  std::vector<int32_t> slots;
  NodeHandle parent{};
  if (tree.find_parent(node, parent)) slots = path_slots(tree, parent, last_position);
  for (int32_t token = 0; token < tree.length(node) && tree.start(node) + token <= last_position;
       ++token)
    slots.push_back(to_int(tree.blocks(node)[token / tree.block_size()]) * tree.block_size() +
                    token % tree.block_size());
  return slots;
}

// What the plan makes a row read, in the order of its partials.
std::vector<int32_t> planned_slots(const AttentionPlan& plan, int32_t row) {
  std::vector<int32_t> slots;
  for (int32_t i = plan.row_partial_begin[row]; i < plan.row_partial_begin[row + 1]; ++i)
    for (const WorkItem& item : plan.items) {
      const int32_t offset = plan.row_partials[i] - item.partial_begin;
      if (offset < 0 || offset >= item.row_end - item.row_begin) continue;
      EXPECT_EQ(item.row_begin + offset, row);
      EXPECT(item.key_position <= plan.positions[row]);  // sees at least one key
      for (int32_t key = 0; key < item.key_count; ++key) {
        const bool is_after = item.key_position + key > plan.positions[row];
        EXPECT(item.causal || !is_after);
        if (!is_after)
          slots.push_back(plan.block_ids[item.block_begin + key / plan.block_size] *
                              plan.block_size +
                          key % plan.block_size);
      }
    }
  return slots;
}

TEST(random_plans_cover_every_pair_once) {
  std::mt19937 random(1);
  for (int round = 0; round < 60; ++round) {
    Forest forest;
    grow(forest, random, 1 + round % 25);
    std::vector<int64_t> nodes;
    std::vector<int32_t> counts;
    for (NodeHandle node : forest.nodes)
      if (const int32_t length = forest.tree.length(node); length > 0 && random() % 2) {
        nodes.push_back(to_int(node));
        counts.push_back(1 + static_cast<int32_t>(random() % length));
      }
    Planner planner(forest.tree, 8, 1 + round % 5);
    const AttentionPlan plan = planner.build(nodes, counts);
    int32_t row = 0;
    for (int64_t input : plan.order) {
      const NodeHandle node{nodes[input]};
      const int32_t end = forest.tree.start(node) + forest.tree.length(node);
      for (int32_t position = end - counts[input]; position < end; ++position, ++row) {
        const std::vector<int32_t> expected = path_slots(forest.tree, node, position);
        EXPECT_EQ(plan.positions[row], position);
        EXPECT_EQ(plan.slots[row], expected.back());
        EXPECT(planned_slots(plan, row) == expected);
      }
    }
    EXPECT_EQ(plan.n_rows, row);
    EXPECT_EQ(plan.n_items, static_cast<int32_t>(plan.items.size()));
    EXPECT_EQ(plan.n_partials, static_cast<int32_t>(plan.row_partials.size()));
  }
}

TEST(rows_under_a_node_share_its_items) {
  KvTree tree(100, 4);
  const NodeHandle root = tree.add_root();
  tree.append(root, 20);
  tree.seal(root);
  std::vector<int64_t> nodes;
  for (NodeHandle child : tree.fork(root, 5)) {
    tree.append(child, 3);
    nodes.insert(nodes.begin(), to_int(child));  // youngest first: the plan restores creation order
  }
  const AttentionPlan plan = Planner(tree, 8, 64).build(nodes, std::vector<int32_t>(5, 1));
  EXPECT(plan.order == (std::vector<int64_t>{4, 3, 2, 1, 0}));
  EXPECT_EQ(plan.n_items, 3 + 5);
  EXPECT_EQ(plan.n_partials, 5 * 3 + 5);
  EXPECT_EQ(plan.kv_slots_read, 20 + 5 * 3);
  EXPECT_EQ(plan.kv_slots_unshared, 5 * 23);
  for (const WorkItem& item : plan.items) EXPECT(!item.causal);
}

TEST(an_empty_plan_is_possible) {
  KvTree tree(4, 4);
  const AttentionPlan plan = Planner(tree, 8).build({}, {});
  EXPECT_EQ(plan.n_rows, 0);
  EXPECT_EQ(plan.n_items, 0);
  EXPECT_EQ(plan.row_partial_begin.size(), 1u);
}

TEST(wrong_arguments_are_refused) {
  KvTree tree(4, 4);
  const NodeHandle root = tree.add_root();
  tree.append(root, 2);
  const int64_t node = to_int(root);
  Planner planner(tree, 8);
  using Nodes = std::vector<int64_t>;
  using Counts = std::vector<int32_t>;
  EXPECT_THROWS(std::invalid_argument, "one count for each", planner.build(Nodes{node}, Counts{}));
  EXPECT_THROWS(std::invalid_argument, "counts[0] is 0", planner.build(Nodes{node}, Counts{0}));
  EXPECT_THROWS(std::invalid_argument, "length 2", planner.build(Nodes{node}, Counts{3}));
  EXPECT_THROWS(std::invalid_argument, "nodes[1] is listed twice",
                planner.build(Nodes{node, node}, Counts{1, 1}));
  EXPECT_THROWS(StaleNode, "not in this KV tree", planner.build(Nodes{77}, Counts{1}));
  EXPECT_THROWS(std::invalid_argument, "multiple of the block size 4", Planner(tree, 6));
  EXPECT_THROWS(std::invalid_argument, "max_item_rows", Planner(tree, 8, 0));
  EXPECT_EQ(planner.build(Nodes{node}, Counts{2}).n_rows, 2);
}

}  // namespace
}  // namespace branchwise
