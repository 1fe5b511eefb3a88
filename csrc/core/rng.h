// Counter-based random numbers: Philox4x32-10 and the lineage hashes that key it.
//
// Philox: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
// Everything is `static inline` over plain structs: this header is compiled once per instruction
// set, and internal linkage keeps the linker from mixing those copies.
#pragma once

#include <cstdint>

namespace branchwise {

struct Philox4 {
  uint32_t lane[4];
};

// Ten rounds over a 128-bit counter with a 64-bit key.
static inline constexpr Philox4 philox4x32(Philox4 counter, uint64_t key) {
  constexpr uint64_t kMultiplier0 = 0xD2511F53, kMultiplier1 = 0xCD9E8D57;
  constexpr uint32_t kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;
  uint32_t key0 = static_cast<uint32_t>(key), key1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = kMultiplier0 * counter.lane[0];
    const uint64_t product1 = kMultiplier1 * counter.lane[2];
    counter = {{static_cast<uint32_t>(product1 >> 32) ^ counter.lane[1] ^ key0,
                static_cast<uint32_t>(product1),
                static_cast<uint32_t>(product0 >> 32) ^ counter.lane[3] ^ key1,
                static_cast<uint32_t>(product0)}};
    key0 += kWeyl0;
    key1 += kWeyl1;
  }
  return counter;
}

// The four draws of words [4*group, 4*group + 4) at `position` of the branch `lineage`.
static inline constexpr Philox4 philox_group(uint64_t seed, uint64_t lineage, uint32_t position,
                                             uint32_t group) {
  return philox4x32(
      {{static_cast<uint32_t>(lineage), static_cast<uint32_t>(lineage >> 32), position, group}},
      seed);
}

// Maps 32 bits to (0, 1), both ends excluded: the odd multiples of 2^-24, all exact in fp32, so
// that -log(-log(u)) is finite.
static inline constexpr float unit_float(uint32_t bits) {
  return static_cast<float>((bits >> 9) * 2 + 1) * 0x1p-24f;
}

static inline constexpr float philox_uniform(uint64_t seed, uint64_t lineage, uint32_t position,
                                             uint32_t word) {
  return unit_float(philox_group(seed, lineage, position, word / 4).lane[word % 4]);
}

// SplitMix64's finaliser (Stafford's mix 13): a bijection in which every input bit flips every
// output bit with probability 1/2 within 1 %.
static inline constexpr uint64_t mix64(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
  return x ^ (x >> 31);
}

// Lineage of a problem's root. Distinct keys give distinct lineages.
static inline constexpr uint64_t lineage_root(uint64_t problem_key) {
  return mix64(problem_key +
               0x6A09E667F3BCC909);  // sqrt(2): keeps key 0 away from the fixed point 0
}

// Lineage of child `index`. Siblings never collide: the step is odd, hence injective mod 2^64, and
// mix64 is a bijection. Unrelated branches collide with probability 2^-64.
static inline constexpr uint64_t lineage_child(uint64_t lineage, uint64_t index) {
  return mix64(lineage + 0x9E3779B97F4A7C15 * (index + 1));
}

}  // namespace branchwise
