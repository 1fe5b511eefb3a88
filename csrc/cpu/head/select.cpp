// Radix selection from the most significant digit, by counts or by masses.
#include "cpu/head/select.h"

#include <algorithm>
#include <array>

namespace branchwise {

Cut select(std::span<const uint32_t> keys, std::span<const uint64_t> weights, uint64_t target) {
  constexpr int kShifts[] = {21, 10, 0}, kBits[] = {11, 11, 10};
  const auto weight_of = [&](size_t i) { return weights.empty() ? uint64_t{1} : weights[i]; };
  uint64_t total = 0;
  for (size_t i = 0; i < keys.size(); ++i) total += weight_of(i);
  target = std::clamp<uint64_t>(target, 1, std::max<uint64_t>(total, 1));

  uint32_t prefix = 0;  // the digits of the cut found so far
  uint64_t above = 0;   // weight of all keys above every key with that prefix
  uint64_t tied = 1;    // weight of one key equal to the cut
  std::array<uint64_t, 2048> histogram;
  for (int digit = 0; digit < 3; ++digit) {
    const int shift = kShifts[digit], bits = kBits[digit];
    histogram.fill(0);
    for (size_t i = 0; i < keys.size(); ++i)
      if (digit == 0 || keys[i] >> (shift + bits) == prefix)
        histogram[keys[i] >> shift & ((1u << bits) - 1)] += weight_of(i);
    uint32_t bin = (1u << bits) - 1;
    while (bin > 0 && above + histogram[bin] < target) above += histogram[bin--];
    prefix = prefix << bits | bin;
  }
  for (size_t i = 0; i < keys.size(); ++i)
    if (keys[i] == prefix) {
      tied = std::max<uint64_t>(weight_of(i), 1);
      break;
    }
  return {prefix, static_cast<int64_t>((target - above + tied - 1) / tied)};
}

}  // namespace branchwise
