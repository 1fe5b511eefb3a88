// A fixed set of KV blocks and a stack of the free ones.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/types.h"

namespace branchwise {

class BlockPool {
 public:
  explicit BlockPool(int32_t n_blocks);

  int32_t n_blocks() const { return static_cast<int32_t>(is_held_.size()); }
  int32_t n_free() const { return static_cast<int32_t>(free_.size()); }

  // Appends `n` blocks to `out`, the most recently released first; on failure (fewer are free)
  // returns false and changes nothing.
  bool allocate(int32_t n, std::vector<BlockId>& out);

  // Takes blocks back. Each must be held: a double release is a broken invariant.
  void release(std::span<const BlockId> blocks);

  // Verifies that free + held = total and that `held` lists each held block exactly once.
  void check(std::span<const BlockId> held) const;

 private:
  friend struct BlockPoolTest;  // plants corruption

  std::vector<BlockId> free_;
  std::vector<uint8_t> is_held_;  // by block
};

}  // namespace branchwise
