// The life of nodes, every refusal, and a check() that notices planted corruption.
#include "core/kv_tree.h"

#include <functional>

#include "test.h"

namespace branchwise {

struct KvTreeTest {
  static KvNode& node(KvTree& tree, NodeHandle handle) { return tree.nodes_[tree.find(handle)]; }
  static int32_t& n_nodes(KvTree& tree) { return tree.n_nodes_; }
  static BlockPool& pool(KvTree& tree) { return tree.pool_; }
};

namespace {

// A sealed root of `length` tokens.
NodeHandle sealed_root(KvTree& tree, int32_t length) {
  const NodeHandle root = tree.add_root();
  tree.append(root, length);
  tree.seal(root);
  return root;
}

TEST(children_start_where_their_parent_ends_on_fresh_blocks) {
  KvTree tree(10, 4);
  const NodeHandle root = sealed_root(tree, 5);
  const auto children = tree.fork(root, 2);
  for (NodeHandle child : children) {
    tree.append(child, 4);
    EXPECT_EQ(tree.start(child), 5);
    EXPECT_EQ(tree.blocks(child).size(), 1u);
    NodeHandle parent{};
    EXPECT(tree.find_parent(child, parent) && parent == root);
  }
  EXPECT(tree.blocks(children[0])[0] != tree.blocks(children[1])[0]);
  EXPECT_EQ(tree.n_children(root), 2);
  EXPECT_EQ(tree.n_nodes(), 3);
  EXPECT_EQ(tree.held_slots(), 16);
  NodeHandle parent{};
  EXPECT(!tree.find_parent(root, parent));
  tree.check();
}

TEST(truncate_gives_whole_blocks_back) {
  KvTree tree(4, 4);
  const NodeHandle root = tree.add_root();
  tree.append(root, 13);
  EXPECT_EQ(tree.n_free_blocks(), 0);
  tree.truncate(root, 8);
  EXPECT_EQ(tree.n_free_blocks(), 2);
  tree.truncate(root, 8);
  tree.check();
  tree.truncate(root, 0);
  EXPECT_EQ(tree.n_free_blocks(), 4);
  tree.check();
}

TEST(a_pruned_node_lives_while_children_need_it) {
  KvTree tree(10, 4);
  const NodeHandle root = sealed_root(tree, 4);
  const NodeHandle middle = tree.fork(root, 1)[0];
  tree.append(middle, 4);
  tree.seal(middle);
  const auto leaves = tree.fork(middle, 2);
  tree.prune(root);
  tree.prune(middle);
  EXPECT_EQ(tree.length(middle), 4);
  EXPECT_THROWS(std::invalid_argument, "was pruned", tree.fork(middle, 1));
  EXPECT_THROWS(std::invalid_argument, "was pruned", tree.prune(middle));
  tree.prune(leaves[0]);
  EXPECT_EQ(tree.n_nodes(), 3);
  tree.check();
  tree.prune(leaves[1]);
  EXPECT_EQ(tree.n_nodes(), 0);
  EXPECT_EQ(tree.n_free_blocks(), 10);
  EXPECT_THROWS(StaleNode, "freed", tree.length(root));
  tree.check();
}

TEST(a_handle_never_comes_back) {
  KvTree tree(2, 4);
  const NodeHandle first = tree.add_root();
  tree.prune(first);
  const NodeHandle second = tree.add_root();
  EXPECT(first != second);
  EXPECT_THROWS(StaleNode, "freed", tree.append(first, 1));
  EXPECT_EQ(tree.length(second), 0);
  for (int64_t never : {int64_t{0}, int64_t{-1}, int64_t{1} << 32 | 99})
    EXPECT_THROWS(StaleNode, "not in this KV tree", tree.length(NodeHandle{never}));
}

TEST(an_index_out_of_generations_is_retired) {
  KvTree tree(2, 4);
  const NodeHandle root = tree.add_root();
  KvTreeTest::node(tree, root).generation = 0x7fffffff;
  const NodeHandle last{int64_t{0x7fffffff} << 32};
  tree.prune(last);
  EXPECT_THROWS(StaleNode, "freed", tree.length(last));
  EXPECT_EQ(to_int(tree.add_root()) & 0xffffffff, 1);
}

TEST(append_is_all_or_nothing) {
  KvTree tree(3, 4);
  const NodeHandle root = tree.add_root();
  tree.append(root, 6);
  EXPECT_THROWS(OutOfBlocks, "6 slots are left of 12", tree.append(root, 7));
  EXPECT_EQ(tree.length(root), 6);
  EXPECT_EQ(tree.n_free_blocks(), 1);
  EXPECT_THROWS(OutOfBlocks, "cannot hold", tree.append(root, 0x7fffffff));
  tree.append(root, 6);
  tree.append(root, 0);
  EXPECT_THROWS(OutOfBlocks, "0 slots are left", tree.append(root, 1));
  tree.check();
}

TEST(wrong_states_and_arguments_are_refused) {
  KvTree tree(4, 4);
  const NodeHandle root = tree.add_root();
  EXPECT_THROWS(std::invalid_argument, "seal it first", tree.fork(root, 1));
  EXPECT_THROWS(std::invalid_argument, "at least 0", tree.append(root, -1));
  EXPECT_THROWS(std::invalid_argument, "expected 0 to 0", tree.truncate(root, 1));
  EXPECT_THROWS(std::invalid_argument, "expected 0 to 0", tree.truncate(root, -1));
  tree.seal(root);
  EXPECT_THROWS(std::invalid_argument, "is sealed", tree.seal(root));
  EXPECT_THROWS(std::invalid_argument, "is sealed", tree.append(root, 1));
  EXPECT_THROWS(std::invalid_argument, "is sealed", tree.truncate(root, 0));
  EXPECT_THROWS(std::invalid_argument, "at least 1", tree.fork(root, 0));
  EXPECT_THROWS(std::invalid_argument, "block_size", KvTree(4, 0));
  EXPECT_THROWS(std::invalid_argument, "too many", KvTree(1 << 30, 4));
  tree.check();
}

TEST(check_notices_planted_corruption) {
  const auto plant =
      [](const std::function<void(KvTree&, KvNode & root, KvNode & child)>& corrupt) {
        KvTree tree(8, 4);
        const NodeHandle root = sealed_root(tree, 6);
        const NodeHandle child = tree.fork(root, 2)[1];
        tree.append(child, 3);
        tree.check();
        corrupt(tree, KvTreeTest::node(tree, root), KvTreeTest::node(tree, child));
        return test::message_of<BrokenInvariant>([&] { tree.check(); });
      };
  const auto expect_found = [](const std::string& message, const std::string& part) {
    test::expect(message.find(part) != std::string::npos, __FILE__, __LINE__,
                 "got \"" + message + "\", expected \"" + part + "\"");
  };
  expect_found(plant([](auto&, auto& root, auto& child) { child.blocks[0] = root.blocks[0]; }),
               "listed twice");
  expect_found(plant([](auto& tree, auto&, auto&) {
                 std::vector<BlockId> lost;
                 KvTreeTest::pool(tree).allocate(1, lost);
               }),
               "expected 8");
  expect_found(plant([](auto&, auto&, auto& child) { child.length = 5; }), "blocks for 5 tokens");
  expect_found(plant([](auto&, auto& root, auto&) { root.n_children = 1; }), "it has 2");
  expect_found(plant([](auto&, auto&, auto& child) { child.start = 5; }), "its parent ends at 6");
  expect_found(plant([](auto&, auto& root, auto&) { root.start = 1; }), "starts at 1");
  expect_found(plant([](auto&, auto& root, auto&) { root.is_sealed = false; }), "has children");
  expect_found(plant([](auto&, auto&, auto& child) { child.is_owned = false; }), "nothing needs");
  expect_found(plant([](auto&, auto& root, auto&) { root.is_live = false; }), "holds blocks");
  expect_found(plant([](auto&, auto&, auto& child) { child.parent = 70; }), "out of range");
  expect_found(plant([](auto&, auto& root, auto&) { root.serial = 9; }), "older than its parent");
  expect_found(plant([](auto& tree, auto&, auto&) { ++KvTreeTest::n_nodes(tree); }), "4 counted");
}

}  // namespace
}  // namespace branchwise
