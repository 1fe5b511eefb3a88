// Allocation from the stack of free blocks.
#include "core/block_pool.h"

#include "core/check.h"

namespace branchwise {

BlockPool::BlockPool(int32_t n_blocks) {
  CHECK_ARG(n_blocks >= 1, "n_blocks is ", n_blocks, ", expected at least 1");
  is_held_.assign(n_blocks, 0);
  free_.reserve(n_blocks);
  for (int32_t block = n_blocks - 1; block >= 0; --block) free_.push_back(BlockId{block});
}

bool BlockPool::allocate(int32_t n, std::vector<BlockId>& out) {
  DCHECK(n >= 0);
  if (n > n_free()) return false;
  out.reserve(out.size() + n);
  for (int32_t i = 0; i < n; ++i) {
    const BlockId block = free_.back();
    free_.pop_back();
    is_held_[to_int(block)] = 1;
    out.push_back(block);
  }
  return true;
}

void BlockPool::release(std::span<const BlockId> blocks) {
  // Backwards, so that allocating again gives the same blocks in the same order.
  for (auto block = blocks.rbegin(); block != blocks.rend(); ++block) {
    const int32_t id = to_int(*block);
    CHECK_STATE(id >= 0 && id < n_blocks() && is_held_[id], "block ", id, " is released twice");
    is_held_[id] = 0;
    free_.push_back(*block);
  }
}

void BlockPool::check(std::span<const BlockId> held) const {
  CHECK_STATE(free_.size() + held.size() == is_held_.size(), free_.size(), " free + ", held.size(),
              " held blocks, expected ", is_held_.size());
  std::vector<uint8_t> seen(is_held_.size(), 0);
  const auto visit = [&](BlockId block, bool expect_held) {
    const int32_t id = to_int(block);
    CHECK_STATE(id >= 0 && id < n_blocks(), "block ", id, " does not exist");
    CHECK_STATE(!seen[id], "block ", id, " is listed twice");
    CHECK_STATE(is_held_[id] == expect_held, "block ", id, " is marked ",
                is_held_[id] ? "held" : "free", ", but listed otherwise");
    seen[id] = 1;
  };
  for (BlockId block : free_) visit(block, false);
  for (BlockId block : held) visit(block, true);
}

}  // namespace branchwise
