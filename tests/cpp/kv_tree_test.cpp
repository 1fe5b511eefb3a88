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

TEST(a_node_lives_until_the_last_of_its_holds_is_dropped) {
  KvTree tree(4, 4);
  const NodeHandle root = sealed_root(tree, 4);
  tree.hold(root);
  tree.hold(root);
  EXPECT_EQ(tree.n_holds(root), 3);
  tree.prune(root);
  tree.prune(root);
  const NodeHandle child = tree.fork(root, 1)[0];
  tree.prune(root);
  tree.check();
  EXPECT_THROWS(std::invalid_argument, "was pruned", tree.hold(root));
  tree.prune(child);
  EXPECT_EQ(tree.n_nodes(), 0);
  EXPECT_THROWS(StaleNode, "freed", tree.hold(root));
  tree.check();
}

TEST(what_dropping_holds_would_free_is_told_before) {
  KvTree tree(10, 4);
  const NodeHandle root = sealed_root(tree, 9);
  const auto children = tree.fork(root, 2);
  for (NodeHandle child : children) tree.append(child, 5);
  tree.hold(children[0]);
  const auto told = [&](std::vector<int64_t> nodes) { return tree.releasable_blocks(nodes); };
  const int64_t top = to_int(root), held = to_int(children[0]), other = to_int(children[1]);
  EXPECT_EQ(told({}), 0);
  EXPECT_EQ(told({top}), 0);
  EXPECT_EQ(told({top, held, other}), 2);
  tree.prune(children[0]);
  EXPECT_EQ(told({held, other}), 4);
  EXPECT_EQ(told({other, top, held}), 7);
  tree.prune(root);
  EXPECT_EQ(told({held, other}), 7);
  EXPECT_THROWS(std::invalid_argument, "cannot release", tree.releasable_blocks(std::vector{top}));
}

TEST(a_split_moves_no_block_and_keeps_the_handle_of_the_rest) {
  KvTree tree(10, 4);
  const NodeHandle root = sealed_root(tree, 4);
  const auto siblings = tree.fork(root, 2);
  const NodeHandle node = siblings[0];
  tree.append(node, 11);
  tree.seal(node);
  tree.hold(node);
  const NodeHandle child = tree.fork(node, 1)[0];
  const std::vector<BlockId> before(tree.blocks(node).begin(), tree.blocks(node).end());
  const NodeHandle head = tree.split(node, 8);
  tree.check();
  EXPECT(std::vector<BlockId>(tree.blocks(head).begin(), tree.blocks(head).end()) ==
         std::vector<BlockId>(before.begin(), before.begin() + 2));
  EXPECT_EQ(tree.blocks(node).size(), 1u);
  EXPECT(tree.blocks(node)[0] == before[2]);
  EXPECT_EQ(tree.start(head), 4);
  EXPECT_EQ(tree.length(head), 8);
  EXPECT_EQ(tree.start(node), 12);
  EXPECT_EQ(tree.length(node), 3);
  EXPECT_EQ(tree.start(child), 15);
  EXPECT_EQ(tree.n_holds(head), 1);
  EXPECT_EQ(tree.n_holds(node), 2);
  EXPECT_EQ(tree.n_children(root), 2);
  EXPECT_EQ(tree.n_children(head), 1);
  EXPECT(tree.is_sealed(head));
  NodeHandle parent{};
  EXPECT(tree.find_parent(node, parent) && parent == head);
  EXPECT(tree.find_parent(head, parent) && parent == root);
  EXPECT(tree.at(tree.find(head)).serial < tree.at(tree.find(siblings[1])).serial);
  const NodeHandle other = tree.fork(head, 1)[0];
  EXPECT_EQ(tree.start(other), 12);
  for (NodeHandle each : {head, child, other, node, node, root, siblings[1]}) tree.prune(each);
  EXPECT_EQ(tree.n_free_blocks(), 10);
  EXPECT_THROWS(StaleNode, "freed", tree.split(node, 4));
  tree.check();
}

TEST(a_root_is_split_again_and_again) {
  KvTree tree(8, 4);
  const NodeHandle root = sealed_root(tree, 30);
  const NodeHandle second = tree.split(root, 16);
  const NodeHandle first = tree.split(second, 4);
  const NodeHandle third = tree.split(root, 4);
  tree.check();
  NodeHandle parent{};
  EXPECT(!tree.find_parent(first, parent));
  EXPECT(tree.find_parent(root, parent) && parent == third);
  EXPECT_EQ(tree.start(root), 20);
  tree.prune(root);
  EXPECT_EQ(tree.n_free_blocks(), 3);
  for (NodeHandle each : {first, second, third}) tree.prune(each);
  EXPECT_EQ(tree.n_nodes(), 0);
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
  EXPECT_THROWS(std::invalid_argument, "seal it first", tree.split(root, 4));
  tree.append(root, 8);
  tree.seal(root);
  for (int32_t wrong : {-4, 0, 3, 8, 12})
    EXPECT_THROWS(std::invalid_argument, "from 4 to less than the node's 8",
                  tree.split(root, wrong));
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
  expect_found(plant([](auto&, auto&, auto& child) { child.n_holds = 0; }), "nothing needs");
  expect_found(plant([](auto&, auto& root, auto&) { root.n_holds = -1; }), "has -1 holds");
  expect_found(plant([](auto&, auto& root, auto& child) { child.serial = root.serial; }),
               "within a block");
  expect_found(plant([](auto&, auto& root, auto&) { root.is_live = false; }), "holds blocks");
  expect_found(plant([](auto&, auto&, auto& child) { child.parent = 70; }), "out of range");
  expect_found(plant([](auto&, auto& root, auto&) { root.serial = 9; }), "older than its parent");
  expect_found(plant([](auto& tree, auto&, auto&) { ++KvTreeTest::n_nodes(tree); }), "4 counted");
}

}  // namespace
}  // namespace branchwise
