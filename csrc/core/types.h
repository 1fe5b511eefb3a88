// Strong ids: a block and a node cannot be mistaken for an index or for each other.
#pragma once

#include <cstdint>

namespace branchwise {

// Index of a block in the pool, in [0, n_blocks).
enum class BlockId : int32_t {};

// Generation in the high 32 bits, index in the low 32: a freed node's handle never comes back.
enum class NodeHandle : int64_t {};

constexpr int32_t to_int(BlockId id) { return static_cast<int32_t>(id); }
constexpr int64_t to_int(NodeHandle handle) { return static_cast<int64_t>(handle); }

}  // namespace branchwise
