// The tree of reasoning steps that share one KV pool: every node owns its blocks, paths share them.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/block_pool.h"
#include "core/types.h"

namespace branchwise {

// One node. A node is kept while somebody holds it or a child needs it.
struct KvNode {
  std::vector<BlockId> blocks;  // ceil(length / block_size); of no other node
  int64_t serial = 0;       // order of creation, never reused; the parts of a split node share it
  int32_t parent = -1;      // index; -1 for a root
  int32_t start = 0;        // absolute position of the first token
  int32_t length = 0;       // tokens
  int32_t n_children = 0;   // live children
  int32_t n_holds = 0;      // one for whoever made it, and each `hold`, until `prune`
  uint32_t generation = 1;  // of this index; grows when the node is freed
  bool is_live = false;
  bool is_sealed = false;
};

// Throws StaleNode for handles of freed nodes, OutOfBlocks when the pool is too small, and
// std::invalid_argument for calls that a node's state forbids; after a throw nothing has changed.
class KvTree {
 public:
  explicit KvTree(int32_t n_blocks, int32_t block_size = 32);

  NodeHandle add_root();
  // `n` open, empty children of a sealed node.
  std::vector<NodeHandle> fork(NodeHandle node, int32_t n);
  // Reserves slots for `n_tokens` more tokens at the end of an open node.
  void append(NodeHandle node, int32_t n_tokens);
  // Forgets the tokens of an open node from `length` on.
  void truncate(NodeHandle node, int32_t length);
  // Ends a step: the tokens of a sealed node never change again.
  void seal(NodeHandle node);
  // One more hold on a node, for one more `prune`.
  void hold(NodeHandle node);
  // Drops a hold. With the last one the node is freed, and then its ancestors, unless children need
  // them: a node that lives for its children alone cannot be held, changed, forked or split again.
  void prune(NodeHandle node);
  // Cuts a sealed node behind its first `length` tokens, a positive multiple of the block size and
  // not all of them. They become a sealed node of their own in front of it, with one hold, whose
  // handle is returned; the node itself keeps its handle, holds and children, and the rest of its
  // tokens. No KV moves, and every path reads what it read before.
  NodeHandle split(NodeHandle node, int32_t length);

  int32_t length(NodeHandle node) const { return nodes_[find(node)].length; }
  int32_t start(NodeHandle node) const { return nodes_[find(node)].start; }
  bool is_sealed(NodeHandle node) const { return nodes_[find(node)].is_sealed; }
  int32_t n_holds(NodeHandle node) const { return nodes_[find(node)].n_holds; }
  int32_t n_children(NodeHandle node) const { return nodes_[find(node)].n_children; }
  std::span<const BlockId> blocks(NodeHandle node) const { return nodes_[find(node)].blocks; }
  // Blocks that would be free if one hold of each of these nodes, held and distinct, were dropped.
  int32_t releasable_blocks(std::span<const int64_t> nodes) const;
  // False if the node is a root; else sets `parent`.
  bool find_parent(NodeHandle node, NodeHandle& parent) const;

  int32_t block_size() const { return block_size_; }
  int32_t n_blocks() const { return pool_.n_blocks(); }
  int32_t n_free_blocks() const { return pool_.n_free(); }
  int32_t n_nodes() const { return n_nodes_; }
  int64_t held_slots() const { return int64_t{n_blocks() - n_free_blocks()} * block_size_; }

  // Verifies every invariant from scratch: conservation of blocks, counts equal to holders, starts,
  // states. Linear in the tree; throws BrokenInvariant.
  void check() const;

  // For the planner: the index of a live node, and nodes by index.
  int32_t find(NodeHandle node) const;
  const KvNode& at(int32_t index) const { return nodes_[index]; }
  int32_t index_count() const { return static_cast<int32_t>(nodes_.size()); }

 private:
  friend struct KvTreeTest;  // plants corruption

  int32_t find_held(NodeHandle node, const char* verb) const;
  int32_t find_open(NodeHandle node, const char* verb) const;
  NodeHandle handle(int32_t index) const;
  NodeHandle create(int32_t parent);
  void release_blocks(KvNode& node, int32_t first);
  int32_t blocks_for(int32_t n_tokens) const {
    return static_cast<int32_t>((int64_t{n_tokens} + block_size_ - 1) / block_size_);
  }

  int32_t block_size_;
  BlockPool pool_;
  std::vector<KvNode> nodes_;
  std::vector<int32_t> free_indices_;
  int64_t next_serial_ = 0;
  int32_t n_nodes_ = 0;
};

}  // namespace branchwise
