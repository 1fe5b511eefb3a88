// Which of many scored words form the top k or the smallest set of a given mass: radix selection.
#pragma once

#include <bit>
#include <cstdint>
#include <span>

namespace branchwise {

// Order-preserving map of floats to integers; NaN is not allowed.
inline uint32_t order_key(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x == 0 ? 0.0f : x);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// Probabilities as integers, so that their sums do not depend on the order: units of 2^-40.
inline constexpr double kMassUnit = 0x1p-40;
inline uint64_t mass_of(float weight) {
  return static_cast<uint64_t>(static_cast<int64_t>(weight / static_cast<float>(kMassUnit)));
}

// A set in descending order of keys, ties in order of index: all above `key`, and the first `ties`
// of those equal to it.
struct Cut {
  uint32_t key;
  int64_t ties;
};

// The smallest such set whose weights sum to `target` or more; weights empty: each counts 1.
// If all together weigh less, everything of positive weight. Three passes over the keys.
Cut select(std::span<const uint32_t> keys, std::span<const uint64_t> weights, uint64_t target);

}  // namespace branchwise
