// Life of a node: created open, appended to, sealed, forked from, pruned, freed.
#include "core/kv_tree.h"

#include <limits>

#include "core/check.h"

namespace branchwise {

namespace {

constexpr uint32_t kLastGeneration = std::numeric_limits<int32_t>::max();  // handles stay positive

// Checks before the pool takes any memory.
int32_t checked_block_count(int32_t n_blocks, int32_t block_size) {
  CHECK_ARG(block_size >= 1, "block_size is ", block_size, ", expected at least 1");
  CHECK_ARG(int64_t{n_blocks} * block_size <= std::numeric_limits<int32_t>::max(), n_blocks,
            " blocks of ", block_size, " slots are too many: slots are numbered in int32");
  return n_blocks;
}

}  // namespace

KvTree::KvTree(int32_t n_blocks, int32_t block_size)
    : block_size_(block_size), pool_(checked_block_count(n_blocks, block_size)) {}

NodeHandle KvTree::add_root() { return create(-1); }

std::vector<NodeHandle> KvTree::fork(NodeHandle node, int32_t n) {
  const int32_t index = find_held(node, "fork");
  CHECK_ARG(nodes_[index].is_sealed, "cannot fork an open node: seal it first");
  CHECK_ARG(n >= 1, "fork into ", n, " children, expected at least 1");
  std::vector<NodeHandle> children;
  children.reserve(n);
  for (int32_t i = 0; i < n; ++i) children.push_back(create(index));
  return children;
}

void KvTree::append(NodeHandle node, int32_t n_tokens) {
  CHECK_ARG(n_tokens >= 0, "append ", n_tokens, " tokens, expected at least 0");
  KvNode& target = nodes_[find_open(node, "append to")];
  const int64_t slots_left = int64_t{static_cast<int32_t>(target.blocks.size())} * block_size_ -
                             target.length + int64_t{pool_.n_free()} * block_size_;
  if (n_tokens > slots_left)
    throw OutOfBlocks(concat("the KV pool cannot hold ", n_tokens, " more tokens in this node: ",
                             slots_left, " slots are left of ", int64_t{n_blocks()} * block_size_,
                             "; prune branches or give the pool more memory"));
  const int32_t n_new =
      blocks_for(target.length + n_tokens) - static_cast<int32_t>(target.blocks.size());
  const bool allocated = pool_.allocate(n_new, target.blocks);
  CHECK_STATE(allocated, "the pool refused ", n_new, " blocks that are free");
  target.length += n_tokens;
}

void KvTree::truncate(NodeHandle node, int32_t length) {
  KvNode& target = nodes_[find_open(node, "truncate")];
  CHECK_ARG(length >= 0 && length <= target.length, "truncate to ", length,
            " tokens, expected 0 to ", target.length);
  target.length = length;
  release_blocks(target, blocks_for(length));
}

void KvTree::seal(NodeHandle node) { nodes_[find_open(node, "seal")].is_sealed = true; }

void KvTree::hold(NodeHandle node) { ++nodes_[find_held(node, "hold")].n_holds; }

void KvTree::prune(NodeHandle node) {
  int32_t index = find_held(node, "prune");
  --nodes_[index].n_holds;
  while (index >= 0 && nodes_[index].n_holds == 0 && nodes_[index].n_children == 0) {
    KvNode& freed = nodes_[index];
    release_blocks(freed, 0);
    freed.is_live = false;
    --n_nodes_;
    // An index whose generations are used up is retired, so that no handle ever comes back.
    if (freed.generation++ < kLastGeneration) free_indices_.push_back(index);
    index = freed.parent;
    if (index >= 0) --nodes_[index].n_children;
  }
}

NodeHandle KvTree::split(NodeHandle node, int32_t length) {
  const int32_t index = find_held(node, "split");
  CHECK_ARG(nodes_[index].is_sealed, "cannot split an open node: seal it first");
  CHECK_ARG(length > 0 && length < nodes_[index].length && length % block_size_ == 0,
            "split behind ", length, " tokens, expected a multiple of the block size ", block_size_,
            " from ", block_size_, " to less than the node's ", nodes_[index].length);
  const NodeHandle front = create(nodes_[index].parent);
  const int32_t front_index = find(front);
  KvNode& head = nodes_[front_index];
  KvNode& tail = nodes_[index];
  head.serial = tail.serial;  // its place among siblings; those of the tail come later
  head.length = length;
  head.is_sealed = true;
  head.n_children = 1;
  const auto border = tail.blocks.begin() + length / block_size_;
  head.blocks.assign(tail.blocks.begin(), border);
  tail.blocks.erase(tail.blocks.begin(), border);
  if (tail.parent >= 0) --nodes_[tail.parent].n_children;  // `create` has counted the head
  tail.parent = front_index;
  tail.start += length;
  tail.length -= length;
  return front;
}

int32_t KvTree::releasable_blocks(std::span<const int64_t> nodes) const {
  // What keeps each node alive, holds and children, with fewer of them as holds are dropped.
  std::vector<int32_t> needs(nodes_.size());
  for (int32_t index = 0; index < index_count(); ++index)
    needs[index] = nodes_[index].n_holds + nodes_[index].n_children;
  int32_t n_blocks = 0;
  for (int64_t node : nodes) {
    int32_t index = find_held(NodeHandle{node}, "release");
    for (; index >= 0 && --needs[index] == 0; index = nodes_[index].parent)
      n_blocks += static_cast<int32_t>(nodes_[index].blocks.size());
  }
  return n_blocks;
}

bool KvTree::find_parent(NodeHandle node, NodeHandle& parent) const {
  const int32_t index = nodes_[find(node)].parent;
  if (index >= 0) parent = handle(index);
  return index >= 0;
}

int32_t KvTree::find(NodeHandle node) const {
  const uint64_t bits = static_cast<uint64_t>(to_int(node));
  const uint32_t index = static_cast<uint32_t>(bits);
  if (index >= nodes_.size() || !nodes_[index].is_live ||
      nodes_[index].generation != static_cast<uint32_t>(bits >> 32))
    throw StaleNode(concat("node ", to_int(node),
                           " is not in this KV tree: it was pruned and freed"
                           " earlier, or belongs to another tree"));
  return static_cast<int32_t>(index);
}

int32_t KvTree::find_held(NodeHandle node, const char* verb) const {
  const int32_t index = find(node);
  CHECK_ARG(nodes_[index].n_holds > 0, "cannot ", verb, " node ", to_int(node),
            ": it was pruned and lives only until its children are freed");
  return index;
}

int32_t KvTree::find_open(NodeHandle node, const char* verb) const {
  const int32_t index = find_held(node, verb);
  CHECK_ARG(!nodes_[index].is_sealed, "cannot ", verb, " node ", to_int(node),
            ": it is sealed; fork it and use the child");
  return index;
}

NodeHandle KvTree::handle(int32_t index) const {
  return NodeHandle{static_cast<int64_t>(uint64_t{nodes_[index].generation} << 32 | index)};
}

NodeHandle KvTree::create(int32_t parent) {
  int32_t index = index_count();
  if (free_indices_.empty()) {
    nodes_.emplace_back();
  } else {
    index = free_indices_.back();
    free_indices_.pop_back();
  }
  KvNode& node = nodes_[index];
  DCHECK(!node.is_live && node.blocks.empty());
  node.serial = next_serial_++;
  node.parent = parent;
  node.start = parent < 0 ? 0 : nodes_[parent].start + nodes_[parent].length;
  node.length = 0;
  node.n_children = 0;
  node.n_holds = 1;
  node.is_live = true;
  node.is_sealed = false;
  if (parent >= 0) ++nodes_[parent].n_children;
  ++n_nodes_;
  return handle(index);
}

// The only place that gives blocks back.
void KvTree::release_blocks(KvNode& node, int32_t first) {
  pool_.release(std::span(node.blocks).subspan(first));
  node.blocks.resize(first);
}

void KvTree::check() const {
  std::vector<BlockId> held;
  std::vector<int32_t> n_children(nodes_.size(), 0);
  int32_t n_live = 0;
  for (int32_t index = 0; index < index_count(); ++index) {
    const KvNode& node = nodes_[index];
    if (!node.is_live) {
      CHECK_STATE(node.blocks.empty(), "freed node ", index, " holds blocks");
      continue;
    }
    ++n_live;
    held.insert(held.end(), node.blocks.begin(), node.blocks.end());
    CHECK_STATE(static_cast<int32_t>(node.blocks.size()) == blocks_for(node.length), "node ", index,
                " holds ", node.blocks.size(), " blocks for ", node.length, " tokens");
    CHECK_STATE(node.n_holds >= 0, "node ", index, " has ", node.n_holds, " holds");
    CHECK_STATE(node.n_holds > 0 || node.n_children > 0, "nothing needs node ", index);
    CHECK_STATE(node.is_sealed || node.n_children == 0, "open node ", index, " has children");
    CHECK_STATE(node.parent < index_count(), "node ", index, " has a parent out of range");
    if (node.parent < 0) {
      CHECK_STATE(node.start == 0, "root ", index, " starts at ", node.start);
      continue;
    }
    const KvNode& parent = nodes_[node.parent];
    ++n_children[node.parent];
    CHECK_STATE(parent.is_live, "the parent of node ", index, " was freed");
    CHECK_STATE(parent.serial <= node.serial, "node ", index, " is older than its parent");
    CHECK_STATE(parent.serial < node.serial || parent.length % block_size_ == 0, "node ", index,
                " was split behind ", parent.length, " tokens, within a block");
    CHECK_STATE(node.start == parent.start + parent.length, "node ", index, " starts at ",
                node.start, ", its parent ends at ", parent.start + parent.length);
  }
  CHECK_STATE(n_live == n_nodes_, n_live, " live nodes, ", n_nodes_, " counted");
  for (int32_t index = 0; index < index_count(); ++index)
    if (nodes_[index].is_live)
      CHECK_STATE(nodes_[index].n_children == n_children[index], "node ", index, " counts ",
                  nodes_[index].n_children, " children, it has ", n_children[index]);
  pool_.check(held);
}

}  // namespace branchwise
